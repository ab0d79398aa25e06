"""The chapters: derived notebooks in step, short cells, exercises that are open, and solutions that are right."""

import re
import statistics

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tools import ROOT
from tools.book.derive_notebooks import (
    PLACEHOLDER,
    WRONG_ANSWERS,
    config,
    notebook,
    without_solutions,
)

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.md"))
ids = [path.stem for path in CHAPTERS]


def cells(path, kind="code"):
    return [
        cell
        for cell in nbformat.reads(notebook(path.read_text()), 4).cells
        if cell.cell_type == kind
    ]


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_notebooks_are_in_step(path):
    derived, student = (
        path.with_suffix(".ipynb"),
        ROOT / "notebooks" / "student" / f"{path.stem}.ipynb",
    )
    assert derived.read_text() == notebook(path.read_text()), (
        "run `make notebooks` and commit the result"
    )
    assert student.read_text() == notebook(without_solutions(path.read_text())), (
        "run `make notebooks` and commit it"
    )
    for one in derived, student:
        assert "wrong answers" not in one.read_text()
        assert all(not cell.get("outputs") for cell in nbformat.read(one, 4).cells)


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_student_notebook_has_stubs_and_no_solutions(path):
    given = (ROOT / "notebooks" / "student" / f"{path.stem}.ipynb").read_text()
    assert (
        given.count("raise NotImplementedError")
        == path.read_text().count("raise NotImplementedError")
        >= 3
    )
    assert "Solution</summary>" not in given and "Hint</summary>" in given
    for link in re.findall(r"\]\((\.\./[^)#]*)", given):
        assert (ROOT / "notebooks" / "student" / link).exists()


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_cells_are_short(path):
    assert max(len(cell.source.splitlines()) for cell in cells(path)) <= 25
    lengths = [
        sum(bool(re.match(r"\s*[^\s#]", line)) for line in cell.source.splitlines())
        for cell in cells(path)
    ]
    assert len(lengths) <= 30
    assert statistics.median(lengths) <= 8 and sum(n <= 15 for n in lengths) >= 0.9 * len(lengths)


def test_setup_cell_is_the_same_everywhere():
    common = {"\n".join(cells(path)[0].source.splitlines()[:9]) for path in CHAPTERS}
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
    assert (
        PLACEHOLDER in text
        and PLACEHOLDER not in notebook(text, address)
        and address in notebook(text, address)
    )
    settings = (ROOT / "book" / "_config.yml").read_text()
    stamped = config(settings, address)
    assert f"url: {address}" in stamped and "colab_url" in stamped
    assert config(stamped, PLACEHOLDER) == settings == config(settings, PLACEHOLDER)


def answered(path):
    """The chapter with each stub replaced by its wrong answers, each with the check after it, and then its solution."""
    book, wrong = jupytext.reads(path.read_text(), fmt="md:myst"), 0
    stubs = [k for k, cell in enumerate(book.cells) if "raise NotImplementedError" in cell.source]
    for stub, end in reversed(list(zip(stubs, [*stubs[1:], None], strict=True))):
        text = "".join(
            cell.source + "\n" for cell in book.cells[stub:end] if cell.cell_type == "markdown"
        )
        check = next(cell.source for cell in book.cells[stub + 1 :] if cell.cell_type == "code")
        book.cells[stub].source = re.search(
            r"<summary>Solution</summary>.*?```python\n(.*?)```", text, re.S
        )[1]
        answers = re.findall(r"```python\n(.*?)```", "".join(WRONG_ANSWERS.findall(text)), re.S)
        assert len(answers) >= 3, (
            f"the exercise at {check.splitlines()[0]} needs three plausible wrong answers"
        )
        tagged = {"tags": ["raises-exception"]}
        book.cells[stub:stub] = [
            nbformat.v4.new_code_cell(f"{one}\n{check}", metadata=tagged) for one in answers
        ]
        wrong += len(answers)
    return book, len(stubs), wrong


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_checks_pass_solutions_and_catch_wrong_answers(path, monkeypatch):
    monkeypatch.setenv("XCNN_EXPLORER", "snapshot")
    monkeypatch.setenv("XCNN_STUDY", str(ROOT / "_build" / "study"))  # the records of the book
    book, stubs, wrong = answered(path)
    NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    ).execute()
    said = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    assert stubs >= 3
    assert [said.count(f"Exercise {n}: right.") for n in range(1, stubs + 1)] == [1] * stubs
    assert "still open" not in said
    tried = [cell for cell in book.cells if "raises-exception" in cell.metadata.get("tags", [])]
    for cell in tried:
        caught = [(out.ename, out.evalue) for out in cell.outputs if out.output_type == "error"]
        assert caught and caught[0][0] == "AssertionError" and caught[0][1], (
            f"{caught} for\n{cell.source}"
        )
    assert len(tried) == wrong


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_exercises_are_open_in_the_book(path):
    page = (ROOT / "_build" / "html" / "notebooks" / f"{path.stem}.html").read_text()
    assert page.count("is still open") == path.read_text().count("raise NotImplementedError")
