"""What the locked room, the watch and the feedback add to executing 20 notebooks."""

import time

import nbformat
import pytest
from nbclient import NotebookClient
from xcnn import grade
from xcnn.errors import InputError
from xcnn.grade import sandbox

from tests.grade.submitted import TINY, answered

STUDENTS = 20
MAX_TIMES = 2  # the cost of grading, as a multiple of executing


def seconds(action):
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    answer = action()
    return time.perf_counter() - start, answer


def test_grading_costs_at_most_twice_the_execution(tmp_path):
    try:
        sandbox.check_room()
    except InputError as error:
        pytest.skip(str(error))
    folder = tmp_path / "handed_in"
    folder.mkdir()
    for number in range(STUDENTS):
        nbformat.write(answered(), folder / f"student{number:02d}.ipynb")

    def execute_all():
        for path in sorted(folder.iterdir()):
            NotebookClient(nbformat.read(path, 4)).execute()

    def grade_all():
        return grade.grade_all(folder, tmp_path / "grades.csv", TINY, pages=tmp_path / "feedback")

    executing, _ = seconds(execute_all)
    grading, rows = seconds(grade_all)
    print(
        f"\n{STUDENTS} notebooks: executing {executing:.1f} s, grading {grading:.1f} s, "
        f"ratio {grading / executing:.2f}"
    )
    assert all(row["score"] == row["max"] for row in rows)
    assert grading <= MAX_TIMES * executing
