"""Grade a folder or zip of submissions: `python -m xcnn.grade SUBMISSIONS --out grades.csv`.

For the instructor, who needs `pip install 'xcnn[coursework]'`; students need nothing of it. Each
file here is one step:

    find.py     whose file is which, by the names that platforms give
    student.py  one process per student, in which all steps below happen
    mend.py     reads the notebook and repairs it by the problem set (problem_set.py)
    run.py      runs it in a locked room (room.py), whose Python is inside.py
    judge.py    gives points; forgery.py tells forged ones
    page.py     draws the page of feedback
    table.py    writes the table, after each student

watch.py keeps a notebook within its limits; check.py tries the walls. Statuses: ok, repaired, look,
timeout, crashed, not a notebook, missing. Points earned before a crash or a timeout count.
"""

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from ..errors import InputError

if os.name != "posix":
    raise ImportError("xcnn.grade needs Linux; on Windows use WSL, the Windows Subsystem for Linux")

from . import find, page, problem_set, room, student, table
from .limits import Limits

VERSION = 2  # of the grader: rows of another one are graded again
HASH_LENGTH = 16
WORKPLACE = "xcnn-grade-"  # the beginning of the names of temporary folders
MAX_GUESSED = 40  # submissions that are looked into to guess the assignment
NAME_LENGTH = 60  # characters of the student's name in the name of a page


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
    assignment if none is named; `pages` the folder for the feedback, if any. Raises InputError
    where grading cannot start, and TableNotWritten at the end if the table could not be written.
    """
    if sandboxed:
        room.check_room()
    path = Path(path).resolve()
    out = Path(out).resolve()
    pages = Path(pages).resolve() if pages else None
    if not path.exists():
        raise InputError(f"there is no {path}; name the folder or zip with the submissions")
    leave_out = [out, pages] if pages else [out]
    handed_in, assignment = find_submissions(path, assignment, problem_sets, leave_out)
    if roster:
        handed_in += find.absent(roster, handed_in)
    if not handed_in:
        raise InputError(
            f"there are no submissions in {path}; "
            "name the folder or zip that holds the .ipynb files"
        )
    folders = {path if path.is_dir() else path.parent, Path(assignment).parent, out.parent}
    folders |= {Path(other).resolve().parent for other in (roster, pages) if other}
    options = student.Options(limits or Limits(), sandboxed, tuple(folders), bool(pages))
    batch = Batch(assignment, out, pages, options)
    if not fresh:
        batch.load_earlier(retry)
    return batch.grade(handed_in)


def find_submissions(path, assignment, problem_sets, leave_out):
    """The submissions and the path of their assignment, which is guessed if it is not named."""
    stem = Path(assignment).stem if assignment else ""
    handed_in = find.find(path, stem, leave_out)
    if assignment:
        return handed_in, Path(assignment).resolve()
    if not problem_sets:
        raise InputError("name the assignment, or the folder of problem sets in which to look")
    assignment = guess_assignment(handed_in, problem_sets)
    print(f"assignment: {assignment}")
    return find.find(path, assignment.stem, leave_out), assignment.resolve()


def guess_assignment(handed_in, folder):
    """The problem set in this folder (a .md file) whose cells most submissions hold."""
    paths = sorted(Path(folder).glob("*.md"))
    ids = {
        path: {graded_cell.id for graded_cell in problem_set.read_assignment(path)}
        for path in paths
    }
    held = Counter()
    for submission in handed_in[:MAX_GUESSED]:
        try:
            data = submission.read() if submission.read else b""
        except find.Unreadable:
            continue
        held.update(find.held_ids(data, set().union(*ids.values())))
    counts = {path: sum(held[name] for name in ids[path]) for path in paths}
    best = max(counts, key=counts.get, default=None)
    if best is None or not counts[best]:
        raise InputError(
            "cannot tell which problem set this is; "
            f"name its source: --assignment {Path(folder, 'X.md').as_posix()}"
        )
    return best


class Batch:
    """The grading of one assignment into one table.

    :param assignment: the source of the problem set
    :param out: the table
    :param pages: the folder for the feedback, or None
    :param options: `student.Options`
    """

    def __init__(self, assignment, out, pages, options):
        self.graded_cells = problem_set.read_assignment(assignment)
        self.source = Path(assignment).read_bytes()
        self.out = out
        self.pages = pages
        self.options = options
        self.columns = table.columns(self.graded_cells)
        self.earlier = {}
        self.rows = []
        self.trouble = None  # why something could not be written
        self.stopped = None  # the number of the signal that ends the run

    def load_earlier(self, retry):
        """Take over the rows of an earlier run; with `retry`, not those that did not end."""
        again = ("timeout", "crashed") if retry else ()
        rows = table.load_table(self.out, self.columns)
        self.earlier = {key: row for key, row in rows.items() if row["status"] not in again}

    def grade(self, handed_in):
        """Grade all submissions: the rows."""
        from tqdm.auto import tqdm

        tqdm.monitor_interval = 0  # a process with a thread must not fork
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self.stop)
        remove_leftovers()
        workplace = tempfile.mkdtemp(prefix=f"{WORKPLACE}{os.getpid()}-")
        try:
            with tqdm(handed_in, unit="student", disable=None) as bar:
                for submission in bar:
                    self.end_if_stopped()
                    bar.set_postfix_str(submission.student)
                    self.take(submission, Path(workplace, submission.key))
        finally:
            student.remove(workplace)
        self.save(self.rows)
        if self.trouble:
            raise self.trouble
        return self.rows

    def stop(self, number, frame):
        """End at a signal as at Ctrl+C: what was begun is cleaned up."""
        self.stopped = number
        self.end_if_stopped()

    def end_if_stopped(self):
        """Raise SystemExit after a signal; Python may drop an exception of the handler's own."""
        if self.stopped:
            raise SystemExit(128 + self.stopped)

    def take(self, submission, folder):
        """Grade one submission, or take over its earlier row, and write the table."""
        key = self.fingerprint(submission)
        name = page_name(submission)
        earlier = self.earlier.get(key)
        if earlier and (not self.pages or Path(self.pages, name).exists()):
            # A spreadsheet may have changed these texts.
            own = {"student": submission.student, "number": submission.number}
            own |= {"file": submission.file, "page": name if self.pages else earlier["page"]}
            self.rows.append(earlier | {column: table.safe(text) for column, text in own.items()})
            return
        row = self.row_of(submission, folder)
        row["hash"] = key
        row["page"] = name if self.pages else ""
        row |= {column: table.safe(row[column]) for column in table.TEXT_COLUMNS}
        # First the page: a row without its page would tell the next run that all is done.
        if self.pages:
            self.attempt(self.write_page, row, folder / student.PAGE_FILE)
        self.rows.append(row)
        self.attempt(self.save, self.rows + self.waiting())
        student.remove(folder)

    def row_of(self, submission, folder):
        """The row of a submission, in whose folder its page may be."""
        row = student.empty_row(submission, self.graded_cells)
        if submission.read is None:
            row["status"] = "not a notebook" if submission.problem else "missing"
            row["detail"] = submission.problem or "nothing handed in"
            return row
        try:
            folder.mkdir()
            return student.grade_apart(submission, self.graded_cells, self.options, folder)
        except OSError as error:  # the machine has no room for a folder or a process
            return row | {"status": "crashed", "detail": f"the grader failed: {error}"}

    def waiting(self):
        """The rows of the earlier table whose students have not had their turn yet."""
        graded = {(row["student"], row["number"]) for row in self.rows}
        return [
            row for row in self.earlier.values() if (row["student"], row["number"]) not in graded
        ]

    def attempt(self, write, *arguments):
        """Write something; where that fails, say so once and go on with the next student."""
        try:
            write(*arguments)
        except (InputError, OSError) as error:
            if self.trouble is None:
                print(f"xcnn: {error}; grading goes on", file=sys.stderr)
            self.trouble = InputError(f"not everything was written: {error}; run it again")

    def save(self, rows):
        """Write the table."""
        table.save_table(self.out, rows, self.columns)

    def write_page(self, row, drawn):
        """Move the drawn page to its place; where there is none, write one with the points only."""
        self.pages.mkdir(parents=True, exist_ok=True)
        target = Path(self.pages, row["page"])
        part = target.with_suffix(".part")
        try:
            if drawn.is_file():
                shutil.copyfile(drawn, part)
            else:
                part.write_text(page.points_page(row, self.graded_cells), encoding="utf-8")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    def fingerprint(self, submission):
        """A hash of what a grade depends on: the file, whose it is, the assignment, the grader."""
        about = f"{VERSION}|{self.options.sandboxed}|{submission.key}|{submission.file}|"
        content = hashlib.sha256(about.encode("utf-8", "replace") + self.source)
        try:
            content.update(submission.read() if submission.read else submission.problem.encode())
        except find.Unreadable as error:
            content.update(str(error).encode("utf-8", "replace"))
        return content.hexdigest()[:HASH_LENGTH]


def remove_leftovers():
    """Delete the folders of earlier runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{WORKPLACE}*"):
        number = folder.name.removeprefix(WORKPLACE).split("-")[0]
        if number.isdigit() and not os.path.exists(f"/proc/{number}"):
            student.remove(folder)


def page_name(submission):
    """The name of a student's page; the key makes it this student's only."""
    words = re.sub(r"[^\w.-]+", "_", f"{submission.student}_{submission.number}").strip("_.")
    return f"{words[:NAME_LENGTH]}_{submission.key}.html"
