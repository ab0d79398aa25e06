"""Running the chapters is quiet, but errors and real warnings are seen."""

import nbformat
import pytest

from tools import ROOT
from tools.book import run_chapters
from tools.book.check_book import pages

WITH_CELLS = ("bench", "report", "which_method")  # pages that are not chapters
WARN = """from ipykernel.kernelapp import IPKernelApp

IPKernelApp.instance().log.warning("a real warning")"""


@pytest.fixture
def run(tmp_path):
    """run(name=source) runs a notebook of one cell each; returns the names of those that failed."""

    def run_cells(**sources):
        paths = [tmp_path / f"{name}.ipynb" for name in sources]
        for path, source in zip(paths, sources.values(), strict=True):
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
            nbformat.write(notebook, path)
        return [path.stem for path in run_chapters.run(paths, tmp_path / "cache")]

    return run_cells


def test_without_a_terminal_there_is_a_line_per_chapter(run, capfd):
    assert run(tiny="1 + 1") == []
    assert capfd.readouterr() == ("", "tiny ran\n")
    assert run(tiny="1 + 1") == []  # from the cache
    assert capfd.readouterr() == ("", "")


def test_errors_and_warnings_are_seen(run, capfd):
    assert run(good="'fine'", failing="1 / 0", warning=WARN) == ["failing"]
    said = capfd.readouterr().err
    assert "failing.ipynb: CellExecutionError" in said
    assert "ZeroDivisionError" in said and "failing failed\n" in said
    assert "WARNING | a real warning" in said
    assert "encryption" not in said


def test_a_kernel_that_dies_is_an_error(run, capfd):
    assert run(dying="import os\n\nos._exit(1)") == ["dying"]
    assert "DeadKernelError" in capfd.readouterr().err


def test_a_failing_chapter_ends_with_a_sentence(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # `main` sets it, and it must not stay
    monkeypatch.setattr(run_chapters, "run", lambda paths: paths[:1])
    monkeypatch.setattr(run_chapters, "chapters", lambda: ["a.ipynb", "b.ipynb"])
    assert run_chapters.main() == "these chapters do not run: a.ipynb"  # status 1, by sys.exit
    monkeypatch.setattr(run_chapters, "run", lambda paths: [])
    assert run_chapters.main() == 0


def test_all_pages_with_cells_are_run():
    names = {str(path.relative_to(ROOT).with_suffix("")) for path in run_chapters.chapters()}
    with_cells = {name for name in pages() if (ROOT / f"{name}.ipynb").exists()}
    assert names == with_cells | {f"book/{name}" for name in WITH_CELLS}
    for path in run_chapters.chapters():
        assert any(cell.cell_type == "code" for cell in run_chapters.read(path).cells), path
