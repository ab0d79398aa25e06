"""What the locked room, the watch and the feedback add to executing 20 notebooks."""

import time

import nbformat
from nbclient import NotebookClient
from xcnn import grade

from tests.grade.test_grade import TINY, answered, locked_room  # noqa: F401


def test_grading_costs_at_most_twice_the_execution(tmp_path, locked_room):  # noqa: F811
    folder = tmp_path / "handed_in"
    folder.mkdir()
    for number in range(20):
        nbformat.write(answered(), folder / f"student{number:02d}.ipynb")
    start = time.perf_counter()
    for path in sorted(folder.iterdir()):
        NotebookClient(nbformat.read(path, 4)).execute()
    executing = time.perf_counter() - start
    start = time.perf_counter()
    rows = grade.batch(folder, tmp_path / "grades.csv", TINY, pages=tmp_path / "feedback")
    grading = time.perf_counter() - start
    print(
        f"\n20 notebooks: executing {executing:.1f} s, grading {grading:.1f} s, ratio {grading / executing:.2f}"
    )
    assert all(row["score"] == row["max"] for row in rows)
    assert grading <= 2 * executing
