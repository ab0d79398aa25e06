"""Grading: every kind of submission gets its score and status, and none reaches out of its room."""

import ast
import html
import re
import select
import socket
from pathlib import Path

import nbformat
import psutil
import pytest
from xcnn import grade
from xcnn.errors import InputError
from xcnn.grade import mend, sandbox
from xcnn.grade.__main__ import main

from tests.grade.submitted import (
    SETS,
    answered,
    read_table,
    release,
    running_children,
    write_batch,
)
from tools import ROOT
from tools.book import derive_coursework


def listing(folder):
    """The files in a folder and when they changed."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("*.*")}


@pytest.fixture
def bait():
    """A file in the library that a submission tries to delete: if it can, nothing else is lost."""
    path = ROOT / "lib" / "xcnn" / "__pycache__" / "bait.pyc"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    yield path
    path.unlink()  # it is still there


def test_batch(locked_room, bait, tiny, tmp_path, capsys):
    """One batch of everything that students hand in. Nothing stops it, and nothing gets out."""
    folder = tmp_path / "handed_in"
    out = tmp_path / "grades.csv"
    pages = tmp_path / "feedback"
    folder.mkdir()
    gigabytes = 4 if psutil.virtual_memory().available > 10e9 else 1
    before = listing(bait.parents[1]), listing(tiny.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        expected = write_batch(folder, tiny.parent, server.getsockname()[1], gigabytes)
        assert len(expected) >= 16
        limits = ["--timeout", "20", "--cell-timeout", "6", "--memory", str(gigabytes)]
        where = ["--assignment", str(tiny), "--out", str(out), "--feedback", str(pages)]
        assert main([str(folder), *where, *limits]) == 0
        assert not select.select([server], [], [], 0)[0], (
            "a submission connected to a port of this machine"
        )
    table = read_table(out)
    with capsys.disabled():
        show(table)
    got = {name: (float(row["score"]), row["status"]) for name, row in table.items()}
    assert got == {name: (score, status) for name, (score, status, _) in expected.items()}
    for name, (_, _, said) in expected.items():
        assert said in table[name]["detail"], name
    assert not running_children(), "a child process outlived its grading"
    assert (listing(bait.parents[1]), listing(tiny.parent)) == before
    check_pages(pages, table, tiny)


def show(table):
    """Print a table of grades."""
    print()
    for name, row in table.items():
        points = f"{row['score']:>4s} of {row['max']}"
        print(f"{name:13s}{points}  {row['status']:15s}{row['detail'][:110]}")


def check_pages(pages, table, tiny):
    """Each page says the score, and none has a line of a hidden test."""
    hidden = [
        line.strip()
        for graded_cell in mend.read_assignment(tiny)
        for line in graded_cell.hidden.splitlines()
    ]
    assert len(hidden) == 3
    for name in table:
        text = html.unescape(re.sub(r"<[^>]*>", "", (pages / f"{name}.html").read_text()))
        assert f"{name}: {table[name]['score']} of 5 points" in text
        assert not any(line in text for line in hidden), name
    leaks = html.unescape((pages / "leaks.html").read_text())
    assert leaks.count("this output held text of a hidden test") == 2


def test_unsandboxed(tiny, tmp_path, capsys):
    """Without a room there are no walls, which shows that the batch above could have failed."""
    folder = tmp_path / "handed_in"
    out = tmp_path / "grades.csv"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        write_batch(folder, tiny.parent, server.getsockname()[1], 1)
        keep_only(folder, ("perfect", "reads", "connects", "children", "os_exit"))
        where = ["--assignment", str(tiny), "--out", str(out)]
        assert main([str(folder), *where, "--unsandboxed"]) == 0
        assert select.select([server], [], [], 0)[0]
    assert "WARNING" in capsys.readouterr().err
    got = {name: (row["score"], row["status"]) for name, row in read_table(out).items()}
    assert got == dict.fromkeys(("perfect", "reads", "connects", "children"), ("5", "ok")) | {
        "os_exit": ("2", "crashed")
    }
    assert not running_children()


def keep_only(folder, names):
    """Delete the submissions with other names."""
    for path in folder.iterdir():
        if path.stem in names:
            continue
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_problem_set(path, tmp_path, locked_room):
    """Solutions get every point, stubs none.

    The stubs of the other sets are run in test_coursework.py, which is faster.
    """
    folder = tmp_path / "handed_in"
    folder.mkdir()
    if path == SETS[0]:
        (folder / "stub.ipynb").write_text(derive_coursework.student(path.read_text()))
    (folder / "solved.ipynb").write_text(nbformat.writes(solved(path)))
    rows = grade.grade_all(folder, tmp_path / "grades.csv", path)
    table = {row["student"]: row for row in rows}
    assert table["solved"]["score"] == table["solved"]["max"] > 0, table["solved"]["detail"]
    if path == SETS[0]:
        assert (table["stub"]["score"], table["stub"]["status"]) == (0, "ok"), table["stub"][
            "detail"
        ]


def solved(path):
    """The release of a problem set, with the solutions as answers."""
    book = release(path)
    source = nbformat.reads(derive_coursework.notebook(path.read_text()), 4)
    for cell, whole in zip(book.cells, source.cells, strict=True):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = whole.source
    return book


# --- without a kernel ---


def test_goes_on_where_it_stopped(fake, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "handed_in"
    out = tmp_path / "grades.csv"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.ipynb").write_text(nbformat.writes(answered()))
    unbroken = sandbox.run_cells

    def broken(*args):
        if len(fake) == 2:
            raise KeyboardInterrupt
        return unbroken(*args)

    monkeypatch.setattr(sandbox, "run_cells", broken)
    with pytest.raises(KeyboardInterrupt):
        grade.grade_all(folder, out, tiny)
    assert sorted(read_table(out)) == ["a", "b"]
    monkeypatch.setattr(sandbox, "run_cells", unbroken)
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 4 and sorted(read_table(out)) == list("abcd")
    whole = out.read_bytes()
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 4 and out.read_bytes() == whole, "nothing changed, nothing runs"
    (folder / "b.ipynb").write_text(nbformat.writes(answered(step="def step(z):\n    return 1")))
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 5, "only the changed one runs"
    tiny.write_text(tiny.read_text() + "\n")
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 9, "another assignment, other grades"
    out.write_text("name,age\nx,3\n")
    with pytest.raises(InputError, match="not a table of grades"):
        grade.grade_all(folder, out, tiny)


def test_needs_an_assignment_or_a_folder_of_them(fake, tiny, tmp_path):
    folder = tmp_path / "handed_in"
    out = tmp_path / "grades.csv"
    folder.mkdir()
    (folder / "a.ipynb").write_text(nbformat.writes(answered()))
    with pytest.raises(InputError, match="name the assignment"):
        grade.grade_all(folder, out)
    (row,) = grade.grade_all(folder, out, problem_sets=tiny.parent)
    assert row["score"] == 5


def score_of(outputs, status="ok", points=2):
    """The points of one test that ends with these outputs and this status."""
    marks = {
        "grade": True,
        "solution": False,
        "grade_id": "t",
        "locked": True,
        "points": points,
        "schema_version": 3,
        "task": False,
    }
    node = nbformat.v4.new_code_cell("", metadata={"nbgrader": marks})
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    graded_cell = mend.GradedCell(node, "", "")
    part = {"visible": 0, "hidden": None}
    return grade.score(graded_cell, part, [cell], {0: {"status": status}})[0]


def test_points():
    def result(value):
        return nbformat.v4.new_output("execute_result", data={"text/plain": value})

    warned = nbformat.v4.new_output("stream", name="stderr", text="RuntimeWarning: divide by zero")
    assert score_of([]) == 2 and score_of([warned]) == 2, "a warning is not a failure"
    assert score_of([result("1.5")]) == 1.5 and score_of([result("0")]) == 0
    assert score_of([result("nan")]) == score_of([result("7")]) == score_of([result("-1")]) == 0
    assert score_of([], status="error") == score_of([result("2")], status="error") == 0


def test_no_formulas_for_spreadsheets():
    assert grade.safe("=cmd()") == "'=cmd()" and grade.safe("a\n b") == "a b"


def test_students_need_nothing_installed():
    """No module of the library imports the grader's tools when it is imported."""
    extra = {
        "nbgrader",
        "jupytext",
        "nbclient",
        "nbconvert",
        "nbformat",
        "psutil",
        "zmq",
        "jupyter_client",
    }
    library = ROOT / "lib" / "xcnn"
    for path in library.rglob("*.py"):
        if path.is_relative_to(library / "grade"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            assert not {name.split(".")[0] for name in names} & extra, path
