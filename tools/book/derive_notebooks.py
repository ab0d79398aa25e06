"""Chapters (.md) -> notebooks (.ipynb), the same bytes every time: `make notebooks`.

Each chapter gives two: the one that the book shows, and one without solutions in notebooks/student/, to assign. Cell
ids are a hash of position and source; outputs and widget state are left out, and so are the wrong answers that the
tests try. The repository's address, which pyproject.toml alone knows, is stamped into the set-up cell and, unless it is
still the placeholder, into the book's launch buttons.
"""

import hashlib
import re
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat

from tools import ROOT

PLACEHOLDER = "https://github.com/OWNER/xcnn"
WRONG_ANSWERS = re.compile(r"<!-- wrong answers\n(.*?)\n-->\n*", re.S)
SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\n*", re.S)


def repository():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def notebook(text, address=None):
    """The text of a notebook from the text of a chapter."""
    book = jupytext.reads(WRONG_ANSWERS.sub("", text), fmt="md:myst")
    for position, cell in enumerate(book.cells):
        cell.source = cell.source.replace(PLACEHOLDER, address or repository())
        cell.id = hashlib.sha1(f"{position}\n{cell.source}".encode()).hexdigest()[:12]
        cell.metadata.pop("id", None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def config(text, address=None):
    """book/_config.yml with launch buttons for this address; without any while it is the placeholder."""
    address = address or repository()
    buttons = "" if address == PLACEHOLDER else (
        f"repository:\n  url: {address}\n  branch: main\nlaunch_buttons:\n  colab_url: https://colab.research.google.com\n"
    )  # fmt: skip
    return re.sub(r"(# >>> launch buttons.*\n)(?:.*\n)*?(# <<<)", rf"\g<1>{buttons}\g<2>", text)


def without_solutions(text):
    """The text of a chapter without the solutions of its exercises, for a folder one deeper."""
    return SOLUTION.sub("", text).replace("](../", "](../../")


def main(paths):
    for path in map(Path, paths):
        text = path.read_text()
        path.with_suffix(".ipynb").write_text(notebook(text))
        (path.parent / "student" / f"{path.stem}.ipynb").write_text(
            notebook(without_solutions(text))
        )
    settings = ROOT / "book" / "_config.yml"
    settings.write_text(config(settings.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted((ROOT / "notebooks").glob("*.md")))
