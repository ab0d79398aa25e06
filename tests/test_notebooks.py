"""The chapters: derived notebooks in step, short cells, exercises that are open, and solutions that are right."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import notebooks
from notebooks import PLACEHOLDER, ROOT, config, notebook

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.md"))
ids = [path.stem for path in CHAPTERS]


def cells(path, kind="code"):
    return [cell for cell in nbformat.reads(notebook(path.read_text()), 4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_notebook_is_in_step(path):
    derived = path.with_suffix(".ipynb").read_text()
    assert derived == notebook(path.read_text()), "run `make notebooks` and commit the result"
    assert all(not cell.get("outputs") for cell in nbformat.reads(derived, 4).cells)


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_cells_are_short(path):
    assert max(len(cell.source.splitlines()) for cell in cells(path)) <= 25
    lengths = [sum(bool(re.match(r"\s*[^\s#]", line)) for line in cell.source.splitlines()) for cell in cells(path)]
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
    assert PLACEHOLDER in text and PLACEHOLDER not in notebook(text, address) and address in notebook(text, address)
    settings = (ROOT / "book" / "_config.yml").read_text()
    stamped = config(settings, address)
    assert f"url: {address}" in stamped and "colab_url" in stamped
    assert config(stamped, PLACEHOLDER) == settings == config(settings, PLACEHOLDER)


def solved(path):
    """The chapter with each stub replaced by the first Python block of the solution that follows it."""
    book = nbformat.reads(notebook(path.read_text()), 4)
    stubs = [
        k
        for k, cell in enumerate(book.cells)
        if cell.cell_type == "code" and "raise NotImplementedError" in cell.source
    ]
    for stub in stubs:
        after = "".join(cell.source + "\n" for cell in book.cells[stub:] if cell.cell_type == "markdown")
        book.cells[stub].source = re.search(r"<summary>Solution</summary>.*?```python\n(.*?)```", after, re.S)[1]
    return book, len(stubs)


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_solutions_pass_their_checks(path, monkeypatch):
    monkeypatch.setenv("XCNN_EXPLORER", "snapshot")
    monkeypatch.setenv("XCNN_STUDY", str(ROOT / "_build" / "study"))  # the records of the book
    book, stubs = solved(path)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    said = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    assert stubs >= 3
    assert [f"Exercise {n}: right." in said for n in range(1, stubs + 1)] == [True] * stubs
    assert "still open" not in said


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_exercises_are_open_in_the_book(path):
    page = (ROOT / "_build" / "html" / "notebooks" / f"{path.stem}.html").read_text()
    assert page.count("is still open") == path.read_text().count("raise NotImplementedError")


def test_a_broken_chapter_is_caught(tmp_path):
    """The check of the built book can fail: a missing page, picture or frame is a fault."""
    import check_book

    assert check_book.faults("notebooks/99_none") == ["notebooks/99_none: the page was not built"]
    assert Path(notebooks.__file__).parent == ROOT / "tools"
