"""The chapters: notebooks in step, short cells, open exercises, and solutions that are right."""

import re
import statistics

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tools import ROOT
from tools.book import reading_time
from tools.book.derive_notebooks import (
    PLACEHOLDER,
    RIGHT_ANSWERS,
    WRONG_ANSWERS,
    config,
    notebook,
    without_solutions,
)

NOTEBOOKS = ROOT / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9]*.md"))
EACH = pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
WIDTH = 88  # characters: more would be cut off in the book at 1200 pixels
DRAWS_OR_CHECKS = re.compile(r"^with check\(|^(?:\w+ = )?explore\(|\bplt\.|^show\.|^figure$", re.M)
MIN_WRONG = 13  # answers to the exercises of a chapter that its checks refuse
MIN_UNUSUAL = 5  # right ones besides the solutions
STUB = "raise NotImplementedError"
SETUP_LINES = 9  # at the start of the first cell, the same in all chapters
CELL_TIMEOUT = 600  # seconds
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.S)
PYTHON = re.compile(r"```python\n(.*?)```", re.S)


def cells(path, kind="code"):
    """The cells of one kind in a chapter."""
    chapter = nbformat.reads(notebook(path.read_text()), 4)
    return [cell for cell in chapter.cells if cell.cell_type == kind]


def student(path):
    """The path of the notebook without solutions."""
    return NOTEBOOKS / "student" / f"{path.stem}.ipynb"


@EACH
def test_notebooks_are_in_step(path):
    text = path.read_text()
    derived = path.with_suffix(".ipynb")
    advice = "run `make notebooks` and commit the result"
    assert derived.read_text() == notebook(text), advice
    assert student(path).read_text() == notebook(without_solutions(text)), advice
    for written in derived, student(path):
        assert "<!-- wrong answers" not in written.read_text()
        assert "<!-- right answers" not in written.read_text()
        assert all(not cell.get("outputs") for cell in nbformat.read(written, 4).cells)


@EACH
def test_student_notebook_has_stubs_and_no_solutions(path):
    text = student(path).read_text()
    assert text.count(STUB) == path.read_text().count(STUB) >= 3
    assert "Solution</summary>" not in text and "Hint</summary>" in text
    for link in re.findall(r"\]\((\.\./[^)#]*)", text):
        assert (NOTEBOOKS / "student" / link).exists()


@EACH
def test_cells_are_short(path):
    sources = [cell.source.splitlines() for cell in cells(path)]
    assert max(map(len, sources)) <= 25
    lengths = [sum(bool(re.match(r"\s*[^\s#]", line)) for line in lines) for lines in sources]
    assert statistics.median(lengths) <= 8 and sum(n <= 15 for n in lengths) >= 0.9 * len(lengths)


@EACH
def test_cells_have_air(path):
    codes = cells(path)
    assert statistics.median(len(cell.source) for cell in codes) <= 500
    everything = [cell.source for cell in codes] + PYTHON.findall(path.read_text())
    lines = "\n".join(everything).splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []


@EACH
def test_cells_that_set_up_draw_or_check_are_folded(path):
    setup, *others = cells(path)
    must = [setup, *(cell for cell in others if DRAWS_OR_CHECKS.search(cell.source))]
    assert [c.source for c in must if "hide-input" not in c.metadata.get("tags", [])] == []


@EACH
def test_the_stated_time_is_the_counted_one(path):
    text = path.read_text()
    assert abs(int(reading_time.STATED.search(text)[1]) - reading_time.minutes(text)) <= 7.5
    spent = sum(map(int, reading_time.MINUTES.findall(text)))
    assert f" minutes, {spent} of them for the exercises." in text


def test_setup_cell_is_the_same_everywhere():
    setups = [cells(path)[0].source.splitlines() for path in CHAPTERS]
    common = {"\n".join(lines[:SETUP_LINES]) for lines in setups}
    assert len(common) == 1


def test_figures_have_alt_text():
    for path in CHAPTERS:
        for cell in cells(path):
            last = cell.source.rstrip().splitlines()[-1]
            if last.startswith(("show.", "figure")):
                assert cell.metadata["mystnb"]["image"]["alt"], cell.source


def test_address_is_stamped_once():
    address = "https://github.com/someone/book"
    text = CHAPTERS[0].read_text()
    derived = notebook(text, address)
    assert PLACEHOLDER in text and PLACEHOLDER not in derived and address in derived
    settings = (ROOT / "book" / "_config.yml").read_text()
    stamped = config(settings, address)
    assert f"url: {address}" in stamped and "colab_url" in stamped
    assert config(stamped, PLACEHOLDER) == settings == config(settings, PLACEHOLDER)


def answered(path):
    """The chapter with answers for stubs, each with the check: wrong, right, and the solution.

    :return: the chapter as a notebook; for each stub the number of wrong answers and of right ones
    """
    chapter = jupytext.reads(path.read_text(), fmt="md:myst")
    stubs = [k for k, cell in enumerate(chapter.cells) if STUB in cell.source]
    ends = [*stubs[1:], None]
    tried = []
    for stub, end in reversed(list(zip(stubs, ends, strict=True))):
        tried.insert(0, answer(chapter, stub, end))
    return chapter, tried


def answer(chapter, stub, end):
    """Put the answers to one exercise in the place of its stub.

    :param stub: position of the stub's cell
    :param end: position of the next stub, or None
    :return: the number of wrong answers, and of right ones with the solution
    """
    texts = [cell.source + "\n" for cell in chapter.cells[stub:end] if cell.cell_type == "markdown"]
    text = "".join(texts)
    checking = [cell.source for cell in chapter.cells[stub + 1 : end] if cell.cell_type == "code"]
    check = "\n".join(checking[: 1 + next(k for k, s in enumerate(checking) if "check(" in s)])
    chapter.cells[stub].source = SOLUTION.search(text)[1]
    wrong, right = (
        PYTHON.findall("".join(kind.findall(text))) for kind in (WRONG_ANSWERS, RIGHT_ANSWERS)
    )
    assert len(wrong) >= 3, (
        f"the exercise at {check.splitlines()[0]} needs three plausible wrong answers"
    )
    tagged = {"tags": ["raises-exception"]}
    new = nbformat.v4.new_code_cell
    chapter.cells[stub:stub] = [
        *(new(f"{answer}\n{check}", metadata=tagged) for answer in wrong),
        *(new(f"{answer}\n{check}") for answer in right),
    ]
    return len(wrong), len(right) + 1


@EACH
def test_checks_pass_solutions_and_catch_wrong_answers(path, monkeypatch):
    monkeypatch.setenv("XCNN_EXPLORER", "snapshot")
    monkeypatch.setenv("TQDM_DISABLE", "1")  # bars are for those who wait
    monkeypatch.setenv("XCNN_STUDY", str(ROOT / "_build" / "study"))  # the records of the book
    chapter, tried = answered(path)
    folder = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(chapter, timeout=CELL_TIMEOUT, resources=folder).execute()
    said = "".join(out.get("text", "") for cell in chapter.cells for out in cell.get("outputs", []))
    assert len(tried) >= 3
    for n, (_, right) in enumerate(tried, start=1):
        assert said.count(f"Exercise {n}: right.") == right
    assert "still open" not in said
    failing = [
        cell for cell in chapter.cells if "raises-exception" in cell.metadata.get("tags", [])
    ]
    for cell in failing:
        caught = [(out.ename, out.evalue) for out in cell.outputs if out.output_type == "error"]
        assert caught and caught[0][0] == "AssertionError" and caught[0][1], (
            f"{caught} for\n{cell.source}"
        )
    assert len(failing) == sum(wrong for wrong, _ in tried)
    assert len(failing) >= MIN_WRONG
    assert sum(right - 1 for _, right in tried) >= MIN_UNUSUAL


@EACH
def test_exercises_are_open_in_the_book(path):
    page = (ROOT / "_build" / "html" / "notebooks" / f"{path.stem}.html").read_text()
    assert page.count("is still open") == path.read_text().count(STUB)
