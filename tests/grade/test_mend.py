"""Problem sets and their releases, and the repair of what students hand in."""

import copy
import json
import re

import nbformat
import pytest
from xcnn.errors import InputError
from xcnn.grade import mend, problem_set

from tests.grade.submitted import SETS, TINY, answered, release
from tools.book import derive_coursework

RIGHT_ORDER = ["setup", "step", "step-test", "perceptron", "perceptron-test"]


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_release_is_in_step(path):
    derived = path.with_suffix(".ipynb").read_text()
    assert derived == derive_coursework.student(path.read_text()), (
        "run `make coursework` and commit the result"
    )


@pytest.mark.parametrize("path", [TINY, *SETS], ids=lambda path: path.stem)
def test_release_keeps_secrets(path):
    released = release(path)
    source = nbformat.reads(derive_coursework.notebook(path.read_text()), 4)
    assert not re.search("(BEGIN|END) (SOLUTION|HIDDEN)", nbformat.writes(released))
    for cell, whole in zip(released.cells, source.cells, strict=True):
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and cell.cell_type == "code":
            assert "raise NotImplementedError" in cell.source and cell.metadata.deletable is False
            assert cell.source != whole.source
        elif marks.get("locked"):
            assert cell.metadata.editable is False


@pytest.mark.parametrize(
    "old, new, count, said",
    [
        ("grade_id: perceptron,", "grade_id: step,", -1, "step"),
        ("    ### END SOLUTION\n", "", 1, "solution"),
        ("### END HIDDEN TESTS", "### END HIDDEN TESTS\nx = 1", 1, "last line"),
        ("grade: true", "grade: false", -1, "marked up wrongly|no test cells"),
    ],
)
def test_wrong_markup_is_told(tmp_path, old, new, count, said):
    path = tmp_path / "set.md"
    text = TINY.read_text().replace(old, new, count)
    assert text != TINY.read_text()
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        problem_set.read_assignment(path)


def test_mending_leaves_a_good_notebook_alone(tiny):
    graded_cells = problem_set.read_assignment(tiny)
    cells, notes = mend.parse(nbformat.writes(answered()).encode())
    pairs, repairs = mend.mend(cells, graded_cells)
    assert notes + repairs == [] and [cell for cell, _ in pairs] == cells


def order(book, tiny):
    """The code cells of a repaired notebook in order (names, or sources), and the notes."""
    cells, _ = mend.parse(json.dumps(book).encode())
    pairs, notes = mend.mend(cells, problem_set.read_assignment(tiny))
    names = [
        graded_cell.id if graded_cell else cell["source"][:20]
        for cell, graded_cell in pairs
        if cell["kind"] == "code"
    ]
    return names, notes


def test_mending_moves_tests_below_answers(tiny):
    book = answered()
    book.cells.reverse()
    names, notes = order(book, tiny)
    for test in ("step", "perceptron"):
        assert names.index(test) < names.index(f"{test}-test")
    assert any("moved" in note for note in notes)


def test_mending_keeps_what_a_student_wrote_in_a_copy(tiny):
    book = answered()
    scratch = copy.deepcopy(book.cells[4])  # the test, copied and used for something else
    assert scratch.metadata.nbgrader.grade_id == "step-test"
    scratch.source = "mine = 3"
    book.cells.insert(4, scratch)
    names, notes = order(book, tiny)
    assert names == ["setup", "step", "mine = 3", "step-test", "perceptron", "perceptron-test"]
    assert notes == ["cells that were there more than once: step-test"]


def test_mending_drops_a_stub_beside_its_answer(tiny):
    book = answered()
    book.cells.append(copy.deepcopy(release().cells[3]))
    names, notes = order(book, tiny)
    assert names == RIGHT_ORDER and notes == ["cells that were there more than once: step"]


def test_mending_finds_stripped_cells_by_id(tiny):
    book = answered(step="step = np.sign")  # only the id tells which cell this is
    for cell in book.cells:
        cell.metadata = {}
    book.cells = book.cells[:-1]
    names, notes = order(book, tiny)
    assert names == RIGHT_ORDER and "missing cells put back: perceptron-test" in notes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b"\xff\xfe\x00",
        b'{"cells": 3}',
        b"[" * 100_000,
        b'"\\ud800"',
        b"{}",
        b"PK\x03\x04",
    ],
)
def test_what_is_no_notebook(data):
    with pytest.raises(mend.NotANotebook):
        mend.parse(data)


def test_odd_notebooks_are_read():
    cell = {"cell_type": "code", "input": "x = 1\n", "metadata": None}
    old = {"worksheets": [{"cells": [cell, 3]}], "nbformat": 3}
    cells, _ = mend.parse(json.dumps(old).encode())
    assert [cell["source"] for cell in cells] == ["x = 1\n"]
    half_character = {"cell_type": "code", "source": ["a = '\ud800'\r\n"]}
    odd = {"cells": [half_character], "metadata": {"widgets": 3}}
    cells, notes = mend.parse(json.dumps(odd).encode())
    assert cells[0]["source"] == "a = '?'\n" and notes
