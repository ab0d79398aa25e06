"""What the locked room, the watch and the feedback add to executing 20 notebooks."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.grade.ordinary_user import as_user, can_change_user, own
from tests.grade.submitted import TINY, answered, read_table
from tools import ROOT

STUDENTS = 20
MAX_TIMES = 2  # the cost of grading, as a multiple of executing


def seconds(action):
    """How long a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.fixture
def folder():
    """A folder with the submissions, which an ordinary user owns."""
    if not can_change_user() or not shutil.which("bwrap"):
        pytest.skip("bubblewrap is missing, or tests run as root without setpriv")
    with tempfile.TemporaryDirectory(prefix="xcnn-bench-") as name:
        handed_in = Path(name, "in")
        handed_in.mkdir()
        for number in range(STUDENTS):
            nbformat.write(answered(), handed_in / f"student{number:02d}.ipynb")
        yield own(Path(name))


def test_grading_costs_at_most_twice_the_execution(folder):
    def execute_all():
        for path in sorted((folder / "in").iterdir()):
            NotebookClient(nbformat.read(path, 4)).execute()

    def grade_all():
        options = ["--out", folder / "g.csv", "--feedback", folder / "pages", "--assignment", TINY]
        call = [sys.executable, "-m", "xcnn.grade", folder / "in", *options]
        subprocess.run(as_user("env", f"HOME={folder}", *call), cwd=ROOT, check=True)

    executing = seconds(execute_all)
    grading = seconds(grade_all)
    print(
        f"\n{STUDENTS} notebooks: executing {executing:.1f} s, grading {grading:.1f} s, "
        f"ratio {grading / executing:.2f}"
    )
    rows = read_table(folder / "g.csv").values()
    assert len(rows) == STUDENTS and all(row["score"] == row["max"] for row in rows)
    assert grading <= MAX_TIMES * executing
