"""Grade a folder or zip of submissions: `python -m xcnn.grade SUBMISSIONS --out grades.csv`.

For the instructor, who needs `pip install 'xcnn[coursework]'`; students need nothing. Each notebook is mended from the
release, run in a locked room, and scored by its test cells; each student is one row of the table, written at once.
Statuses: ok, repaired, timeout, crashed, not a notebook, missing. Points earned before a crash or a timeout count.
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter
from pathlib import Path

from ..errors import InputError
from . import mend, sandbox, submissions
from .feedback import page, tidy

FIRST, LAST = ["student", "number", "status", "score", "max"], ["detail", "file", "hash"]


def grade(submission, graded, limits, sandboxed=True, hide=()):
    """Run and score one submission: (row of the table, cells for the feedback)."""
    tests = [want for want in graded if want.test]
    row = dict.fromkeys([want.id for want in tests], 0) | {
        "student": submission.student,
        "number": submission.number,
    }
    row |= {"score": 0, "max": total(tests), "file": submission.file}
    if submission.data is None:
        status = "not a notebook" if submission.problem else "missing"
        return row | {"status": status, "detail": submission.problem or "nothing handed in"}, []
    try:
        handed, notes = mend.parse(submission.data)
    except mend.NotANotebook as error:
        return row | {"status": "not a notebook", "detail": str(error)}, []
    pairs, more = mend.mend(handed, graded)
    notes += more
    code, parents, shown, count = [], {}, [], 0
    for cell, want in pairs:
        source = want.public if want and want.fixed else cell["source"]
        node = new_cell(cell["kind"], source)
        part = {"node": node, "want": want, "visible": None, "hidden": None}
        if cell["kind"] == "code":
            count += 1
            node.metadata.name = f"test {want.id}" if want and want.test else f"code cell {count}"
            part["visible"] = len(code)
            code.append(node)
            if want and want.test:
                parents[part["visible"]] = part["visible"]
                if want.hidden:
                    part["hidden"] = len(code)
                    parents[len(code)] = part["visible"]
                    code.append(new_cell("code", want.hidden))
                    code[-1].metadata.name = node.metadata.name
        shown.append(part)
    outcome = sandbox.run(code, parents, limits, sandboxed, hide)
    failures = []
    for part in shown:
        if part["want"] and part["want"].test:
            points, part["why"], said = score(part["want"], part, code, outcome.replies)
            row[part["want"].id] = part["points"] = tidy(points)
            failures += [f"{part['want'].id}: {said}"] if said else []
    notes = ["repaired: " + "; ".join(notes)] if notes else []
    cut = [f"output cut at {limits.output / 1e6:g} MB"] if outcome.cut else []
    by_hand = [
        f"to be read by hand: {want.id}"
        for want in graded
        if want.solution and want.node.metadata.nbgrader.grade
    ]
    row["score"] = tidy(sum(row[want.id] for want in tests))
    row["status"] = outcome.status or ("repaired" if notes else "ok")
    row["detail"] = safe(" | ".join([*outcome.detail, *notes, *cut, *by_hand, *failures]))
    return row, shown


def score(want, part, code, replies):
    """Points of one test by nbgrader's rule, why for the student, and why for the instructor."""
    from nbgrader.utils import determine_grade

    runs = [place for place in (part["visible"], part["hidden"]) if place is not None]
    for place in runs:
        reply = replies.get(place)
        hidden = place == part["hidden"]
        if reply is None:
            return 0, "This test did not run.", "did not run"
        # The reply tells how a cell ended even where its error was kept from being shown.
        if reply["status"] != "ok":
            said = sandbox.first_line(
                f"{reply.get('ename', reply['status'])}: {reply.get('evalue', '')}", 120
            )
            return (
                0,
                "A hidden test failed." if hidden else "The test failed.",
                "hidden: " * hidden + said,
            )
    node = new_cell("code", "")
    node.metadata.nbgrader = dict(want.node.metadata.nbgrader, points=want.points)
    # A warning is no failure, and the value of a test is that of its last part.
    node.outputs = [out for out in code[runs[-1]].outputs if out.output_type != "stream"]
    for out in node.outputs:
        if out.output_type == "execute_result" and not within(
            out.data.get("text/plain"), want.points
        ):
            return 0, "This test gave no number of points.", "its value is no number of points"
    return determine_grade(node)[0], "", ""


def within(value, points):
    """Is the text of a result between 0 and the points of its test?"""
    try:
        return 0 <= float(value) <= points
    except (TypeError, ValueError):
        return False


def new_cell(kind, source):
    from nbformat import v4

    make = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell, "raw": v4.new_raw_cell}
    return make[kind](source)


def total(tests):
    return tidy(sum(want.points for want in tests))


def safe(value):
    """One line that no spreadsheet takes for a formula."""
    value = " ".join(str(value).split())
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


# --- the table -------------------------------------------------------------------------------------------------------


def load(out, columns):
    """Rows of an earlier run by student, number and hash; nothing where there is no table."""
    if not out.exists():
        return {}
    with out.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"student", "hash"} <= set(reader.fieldnames or ()):
            raise InputError(f"{out} is not a table of grades; choose another name with --out")
        return {
            (row["student"], row["number"], row["hash"]): row
            for row in reader
            if set(columns) == set(row)
        }


def save(out, rows, columns):
    """Write the table so that there is always a whole one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["student"], str(row["number"]))))
    part = out.with_name(out.name + ".part")
    part.write_text(text.getvalue(), encoding="utf-8")
    os.replace(part, out)


def fingerprint(submission, source):
    """What a grade depends on: the file handed in and the assignment."""
    return hashlib.sha256(b"%r|" % submission.file + (submission.data or b"") + source).hexdigest()[
        :16
    ]


def guess(found, folder="notebooks/coursework"):
    """The problem set whose cells most submissions hold."""
    held = Counter()
    for one in found:
        held.update(set(re.findall(rb'"grade_id":\s*"([^"]+)"', one.data or b"")))
    best, most = None, 0
    for path in sorted(Path(folder).glob("*.md")):
        count = sum(held[want.id.encode()] for want in mend.assignment(path))
        if count > most:
            best, most = path, count
    if best is None:
        raise InputError(
            "cannot tell which problem set this is; name its source: --assignment notebooks/coursework/X.md"
        )
    return best


def batch(
    path,
    out,
    assignment=None,
    limits=None,
    sandboxed=True,
    roster=None,
    pages=None,
    fresh=False,
    retry=False,
):
    """Grade everything in a folder or zip, one student at a time, and write the table after each: its rows."""
    from tqdm.auto import tqdm

    path, out = Path(path).resolve(), Path(out).resolve()
    limits = limits or sandbox.Limits()
    if not path.exists():
        raise InputError(f"there is no {path}; name the folder or zip with the submissions")
    mine = [out] + ([Path(pages).resolve()] if pages else [])
    stem = Path(assignment).stem if assignment else ""
    found = submissions.find(path, stem, mine)
    if not assignment:
        assignment = guess(found)
        print(f"assignment: {assignment}")
        found = submissions.find(path, Path(assignment).stem, mine)
    graded = mend.assignment(assignment)
    found += submissions.absent(roster, found) if roster else []
    if not found:
        raise InputError(
            f"there are no submissions in {path}; name the folder or zip that holds the .ipynb files"
        )
    if sandboxed:
        sandbox.check()
    source = Path(assignment).read_bytes()
    columns = [*FIRST, *[want.id for want in graded if want.test], *LAST]
    earlier = {} if fresh else load(out, columns)
    if retry:
        earlier = {
            key: row for key, row in earlier.items() if row["status"] not in ("timeout", "crashed")
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    hide = {path if path.is_dir() else path.parent, Path(assignment).resolve().parent, out.parent}
    rows = []
    with tqdm(found, unit="student", disable=None) as bar:
        for one in bar:
            bar.set_postfix_str(one.student)
            one.student = safe(one.student)
            key = one.student, one.number, fingerprint(one, source)
            if key in earlier:
                rows.append(earlier[key])
                continue
            try:
                row, shown = grade(one, graded, limits, sandboxed, hide)
            except (
                Exception
            ) as error:  # one student's notebook must not cost the others their grades
                row = dict.fromkeys(columns, 0) | {
                    "student": one.student,
                    "number": one.number,
                    "file": one.file,
                }
                row |= {"max": total([want for want in graded if want.test]), "status": "crashed"}
                row["detail"], shown = safe(f"the grader failed: {sandbox.first_line(error)}"), []
            row["hash"] = key[2]
            rows.append(row)
            waiting = [
                earlier[key] for key in earlier if not any(same(earlier[key], row) for row in rows)
            ]
            save(out, rows + waiting, columns)
            if pages:
                Path(pages).mkdir(parents=True, exist_ok=True)
                name = re.sub(r"[^\w.-]+", "_", f"{one.student}_{one.number}".strip("_"))
                try:
                    text = page(row, shown, graded)
                except Exception:  # what cannot be drawn is left out; the points are there
                    text = page(row, [], graded)
                Path(pages, f"{name}.html").write_text(text, encoding="utf-8", errors="replace")
    save(out, rows, columns)
    return rows


def same(one, other):
    return (one["student"], one["number"]) == (other["student"], other["number"])
