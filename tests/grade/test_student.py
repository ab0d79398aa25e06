"""The process of one student: whatever ends it, the parent has a row with a reason.

Each test runs in a process of its own, because a test's process has threads and must not fork.
"""

import json
import subprocess
import sys

import pytest

from tests.grade.submitted import TINY, answered
from tools import ROOT

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from xcnn.grade import mend, page, problem_set, student, watch
from xcnn.grade.find import Submission
from xcnn.grade.limits import Limits

tiny, book, folder, harm = sys.argv[1:]
student.SLACK = 3
exec(harm)
submission = Submission("ann", file="ann.ipynb", key="k", read=lambda: Path(book).read_bytes())
options = student.Options(Limits(own=1, timeout=60), sandboxed=False, pages=True)
row = student.grade_apart(submission, problem_set.read_assignment(tiny), options, folder)
page_is_there = Path(folder, student.PAGE_FILE).exists()
student.remove(folder)
print(json.dumps([row, page_is_there, Path(folder).exists()]))
"""
WHILE_READING = "mend.parse = lambda data: "
WHILE_DRAWING = "page.page = lambda *given: "


@pytest.fixture
def graded(tmp_path):
    """graded(harm): (row, is there a page?), where the code `harm` was done to the grader."""

    def grade(harm=""):
        book = tmp_path / "book.ipynb"
        book.write_text(json.dumps(answered()))
        (tmp_path / "work").mkdir()
        words = [sys.executable, "-c", PROGRAM, TINY, book, tmp_path / "work", harm]
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        row, page_is_there, folder_is_there = json.loads(run.stdout)
        assert not folder_is_there
        return row, page_is_there

    return grade


def test_nothing_goes_wrong(graded):
    row, page_is_there = graded()
    assert (row["score"], row["status"], row["step-test"]) == (5, "ok", 2)
    assert page_is_there


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("sum(range(10**12))", "reading and mending the file (more than 1 s of processor time)"),
        ("os.kill(os.getpid(), 9)", "reading and mending the file (ended by signal 9)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "(ended by signal 11)"),
        ("os._exit(7)", "(exit code 7)"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "took too long by the clock"),
        ("bytes(3 * 2**30)", "the grader failed: MemoryError"),
        ("json.loads('[' * 10**6)", "the grader failed: maximum recursion"),
        ("sys.exit(3)", "the grader failed: 3"),
        ("''.join(chr(0xd800)).encode()", "the grader failed: 'utf-8' codec"),
    ],
)
def test_a_death_while_reading_is_a_row(graded, harm, said):
    row, page_is_there = graded(WHILE_READING + harm)
    assert row["status"] == "crashed" and said in row["detail"]
    assert row["score"] == 0 and not page_is_there


@pytest.mark.parametrize("harm", ["sum(range(10**12))", "os.kill(os.getpid(), 9)", "1 / 0"])
def test_a_death_while_drawing_costs_the_page_only(graded, harm):
    row, page_is_there = graded(WHILE_DRAWING + harm)
    assert (row["score"], row["status"]) == (5, "ok")
    assert not page_is_there


def test_a_death_while_it_is_told_why(graded):
    """The pipe on which the verdict goes may be closed at the other end."""
    row, _ = graded(
        "def look(self, running):\n"
        "    for process in running[0].parents()[:1]: process.kill(); time.sleep(1)\n"
        "    return 'crashed', 'x' * 10\n"
        "watch.Watch.look = look"
    )
    assert row["status"] == "crashed" and "running it (ended by signal 9)" in row["detail"]


@pytest.mark.parametrize(
    "written", ["'[1, 2'", "'x' * 10**6", "'[]'", "'null'", "json.dumps({'score': 99})"]
)
def test_a_row_that_is_not_one(graded, written):
    harm = (
        "plain = Path.write_text\n"
        "Path.write_text = lambda path, text, **options: plain(\n"
        f"    path, {written} if path.name == student.ROW else text, **options)"
    )
    row, _ = graded(harm)
    assert (row["score"], row["max"], row["status"]) == (0, 5, "crashed")
    assert "the grader gave up" in row["detail"]
