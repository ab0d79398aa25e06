"""Grade a folder or zip of submissions: `python -m xcnn.grade SUBMISSIONS --out grades.csv`.

For the instructor, who needs `pip install 'xcnn[coursework]'`; students need nothing of it. Each
notebook is repaired by the release, run in a locked room, and scored by its test cells. Each
student is one row of the table, which is written after every student.
Statuses: ok, repaired, timeout, crashed, not a notebook, missing. Points earned before a crash or a
timeout count.
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
from .feedback import page, short_number

FIRST_COLUMNS = ["student", "number", "status", "score", "max"]
LAST_COLUMNS = ["detail", "file", "hash"]  # those of the tests are in between
MAX_REASON_LENGTH = 120  # characters of an error that the table quotes
HASH_LENGTH = 16


def grade(submission, graded_cells, limits, sandboxed=True, hide=()):
    """Run and score one submission: (row of the table, cells for the feedback)."""
    row = empty_row(submission, graded_cells)
    if submission.data is None:
        row["status"] = "not a notebook" if submission.problem else "missing"
        row["detail"] = submission.problem or "nothing handed in"
        return row, []
    try:
        cells, notes = mend.parse(submission.data)
    except mend.NotANotebook as error:
        row["status"] = "not a notebook"
        row["detail"] = str(error)
        return row, []
    pairs, repairs = mend.mend(cells, graded_cells)
    notes += repairs
    code, parents, shown = lay_out(pairs)
    outcome = sandbox.run_cells(code, parents, limits, sandboxed, hide)
    failures = []
    for part in shown:
        graded_cell = part["graded_cell"]
        if graded_cell and graded_cell.test:
            points, part["why"], reason = score(graded_cell, part, code, outcome.replies)
            part["points"] = short_number(points)
            row[graded_cell.id] = part["points"]
            if reason:
                failures.append(f"{graded_cell.id}: {reason}")
    details = [*outcome.detail]
    if notes:
        details.append("repaired: " + "; ".join(notes))
    if outcome.cut:
        details.append(f"output cut at {limits.output / 1e6:g} MB")
    details += [
        f"to be read by hand: {graded_cell.id}"
        for graded_cell in graded_cells
        if graded_cell.solution and graded_cell.node.metadata.nbgrader.grade
    ]
    details += failures
    row["score"] = short_number(sum(row[test.id] for test in graded_cells if test.test))
    row["status"] = outcome.status or ("repaired" if notes else "ok")
    row["detail"] = safe(" | ".join(details))
    return row, shown


def empty_row(submission, graded_cells):
    """The row of a submission before it is scored: 0 points, no status."""
    tests = [graded_cell for graded_cell in graded_cells if graded_cell.test]
    return {test.id: 0 for test in tests} | {
        "student": submission.student,
        "number": submission.number,
        "score": 0,
        "max": short_number(sum(test.points for test in tests)),
        "file": submission.file,
    }


def lay_out(pairs):
    """What to run of a repaired notebook: (code cells, parents, parts of the page of feedback).

    A hidden test is a code cell of its own, below the visible part of its test. `parents` is the
    argument `tests` of `sandbox.run_cells`: positions of tests -> positions of their visible parts.
    A part of the page is a dictionary: `node` is the cell, `graded_cell` what it is graded by or
    None, `visible` and `hidden` the positions of its code, None where there is none.
    """
    code = []
    parents = {}
    shown = []
    code_cells = 0
    for cell, graded_cell in pairs:
        source = graded_cell.public if graded_cell and graded_cell.fixed else cell["source"]
        node = new_cell(cell["kind"], source)
        part = {"node": node, "graded_cell": graded_cell, "visible": None, "hidden": None}
        shown.append(part)
        if cell["kind"] != "code":
            continue
        code_cells += 1
        is_test = graded_cell and graded_cell.test
        node.metadata.name = f"test {graded_cell.id}" if is_test else f"code cell {code_cells}"
        part["visible"] = len(code)
        code.append(node)
        if is_test:
            parents[part["visible"]] = part["visible"]
        if is_test and graded_cell.hidden:
            part["hidden"] = len(code)
            parents[part["hidden"]] = part["visible"]
            hidden_node = new_cell("code", graded_cell.hidden)
            hidden_node.metadata.name = node.metadata.name
            code.append(hidden_node)
    return code, parents, shown


def score(graded_cell, part, code, replies):
    """The points of one test by nbgrader's rule: (points, why for the student, for the instructor).

    Both reasons are empty where nothing went wrong.
    """
    from nbgrader.utils import determine_grade

    positions = [part[key] for key in ("visible", "hidden") if part[key] is not None]
    for position in positions:
        reply = replies.get(position)
        if reply is None:
            return 0, "This test did not run.", "did not run"
        # The reply says how a cell ended, even if its code kept the error from being shown.
        if reply["status"] != "ok":
            error = f"{reply.get('ename', reply['status'])}: {reply.get('evalue', '')}"
            reason = sandbox.first_line(error, MAX_REASON_LENGTH)
            if position == part["hidden"]:
                return 0, "A hidden test failed.", f"hidden: {reason}"
            return 0, "The test failed.", reason
    node = new_cell("code", "")
    node.metadata.nbgrader = dict(graded_cell.node.metadata.nbgrader, points=graded_cell.points)
    # A warning is not a failure, and the value of a test is that of its last part.
    outputs = code[positions[-1]].outputs
    node.outputs = [output for output in outputs if output.output_type != "stream"]
    for output in node.outputs:
        if output.output_type == "execute_result":
            if not within(output.data.get("text/plain"), graded_cell.points):
                reason = "its value is not a number of points"
                return 0, "This test did not give a number of points.", reason
    return determine_grade(node)[0], "", ""


def within(value, points):
    """Is the text of a result a number between 0 and the points of its test?"""
    try:
        return 0 <= float(value) <= points
    except (TypeError, ValueError):
        return False


def new_cell(kind, source):
    from nbformat import v4

    make = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell, "raw": v4.new_raw_cell}
    return make[kind](source)


def safe(value):
    """The text on one line that a spreadsheet does not take for a formula."""
    line = " ".join(str(value).split())
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


# --- the table ---


def load_table(out, columns):
    """The rows of an earlier run, by student, number and hash; none if there is no table."""
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


def save_table(out, rows, columns):
    """Write the table to another file and rename it, so that `out` is whole at every moment."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["student"], str(row["number"]))))
    part = out.with_name(out.name + ".part")
    part.write_text(text.getvalue(), encoding="utf-8")
    os.replace(part, out)


def fingerprint(submission, source):
    """A hash of what a grade depends on: the file handed in and the assignment."""
    content = b"%r|" % submission.file + (submission.data or b"") + source
    return hashlib.sha256(content).hexdigest()[:HASH_LENGTH]


def same_student(row, other):
    return (row["student"], row["number"]) == (other["student"], other["number"])


# --- all submissions ---


def guess_assignment(handed_in, folder):
    """The problem set in this folder (a .md file) whose cells most submissions hold."""
    held = Counter()
    for submission in handed_in:
        held.update(set(re.findall(rb'"grade_id":\s*"([^"]+)"', submission.data or b"")))
    best = None
    best_count = 0
    for path in sorted(Path(folder).glob("*.md")):
        graded_cells = mend.read_assignment(path)
        count = sum(held[graded_cell.id.encode()] for graded_cell in graded_cells)
        if count > best_count:
            best = path
            best_count = count
    if best is None:
        raise InputError(
            "cannot tell which problem set this is; "
            f"name its source: --assignment {Path(folder, 'X.md').as_posix()}"
        )
    return best


def grade_all(
    path,
    out,
    assignment=None,
    limits=None,
    sandboxed=True,
    roster=None,
    pages=None,
    fresh=False,
    retry=False,
    problem_sets=None,
):
    """Grade everything in a folder or zip, one student at a time: the rows of the table.

    The table is written after each student. `problem_sets` is the folder in which to look for the
    assignment if none is named; `pages` the folder for the feedback, if any.
    """
    from tqdm.auto import tqdm

    path = Path(path).resolve()
    out = Path(out).resolve()
    limits = limits or sandbox.Limits()
    if not path.exists():
        raise InputError(f"there is no {path}; name the folder or zip with the submissions")
    leave_out = [out, Path(pages).resolve()] if pages else [out]
    handed_in, assignment = find_submissions(path, assignment, problem_sets, leave_out)
    graded_cells = mend.read_assignment(assignment)
    if roster:
        handed_in += submissions.absent(roster, handed_in)
    if not handed_in:
        raise InputError(
            f"there are no submissions in {path}; "
            "name the folder or zip that holds the .ipynb files"
        )
    if sandboxed:
        sandbox.check_room()
    source = Path(assignment).read_bytes()
    test_columns = [graded_cell.id for graded_cell in graded_cells if graded_cell.test]
    columns = [*FIRST_COLUMNS, *test_columns, *LAST_COLUMNS]
    earlier = {} if fresh else load_table(out, columns)
    if retry:
        earlier = {
            key: row for key, row in earlier.items() if row["status"] not in ("timeout", "crashed")
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    hide = {path if path.is_dir() else path.parent, Path(assignment).resolve().parent, out.parent}
    rows = []
    with tqdm(handed_in, unit="student", disable=None) as bar:
        for submission in bar:
            bar.set_postfix_str(submission.student)
            submission.student = safe(submission.student)
            key = submission.student, submission.number, fingerprint(submission, source)
            if key in earlier:
                rows.append(earlier[key])
                continue
            try:
                row, shown = grade(submission, graded_cells, limits, sandboxed, hide)
            except Exception as error:  # one notebook must not cost the others their grades
                row = empty_row(submission, graded_cells)
                row["status"] = "crashed"
                row["detail"] = safe(f"the grader failed: {sandbox.first_line(error)}")
                shown = []
            row["hash"] = key[-1]
            rows.append(row)
            waiting = [
                old_row
                for old_row in earlier.values()
                if not any(same_student(old_row, row) for row in rows)
            ]
            save_table(out, rows + waiting, columns)
            if pages:
                write_page(pages, row, shown, graded_cells)
    save_table(out, rows, columns)
    return rows


def find_submissions(path, assignment, problem_sets, leave_out):
    """The submissions and the path of their assignment, which is guessed if it is not named."""
    stem = Path(assignment).stem if assignment else ""
    handed_in = submissions.find(path, stem, leave_out)
    if assignment:
        return handed_in, assignment
    if not problem_sets:
        raise InputError("name the assignment, or the folder of problem sets in which to look")
    assignment = guess_assignment(handed_in, problem_sets)
    print(f"assignment: {assignment}")
    return submissions.find(path, assignment.stem, leave_out), assignment


def write_page(folder, row, shown, graded_cells):
    """Write the student's page of feedback into the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", f"{row['student']}_{row['number']}".strip("_"))
    try:
        text = page(row, shown, graded_cells)
    except Exception:  # a cell cannot be drawn: the page then has the points only
        text = page(row, [], graded_cells)
    Path(folder, f"{name}.html").write_text(text, encoding="utf-8", errors="replace")
