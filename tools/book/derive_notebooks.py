"""Turn chapters (.md) into notebooks (.ipynb), the same bytes every time: `make notebooks`.

Each chapter gives two: the one that the book shows, and one without solutions, to assign, in
notebooks/student. Outputs and the state of widgets are left out, and so are the wrong and unusual
right answers that the tests try. The id of a cell is a hash of its position and source. Only
pyproject.toml knows the address of the repository; it is written into the set-up cell of each
chapter and, unless it is still the placeholder, into the launch buttons of the book.
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
RIGHT_ANSWERS = re.compile(r"<!-- right answers\n(.*?)\n-->\n*", re.S)
SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\n*", re.S)
LAUNCH_BUTTONS = re.compile(r"(# >>> launch buttons.*\n)(?:.*\n)*?(# <<<)")
COLAB = "https://colab.research.google.com"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def repository():
    """The address of the repository, from pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings["project"]["urls"]["Repository"]


def notebook(text, address=None):
    """The text of a notebook from the text of a chapter.

    :param text: Markdown with cells, in jupytext's MyST format
    :param address: of the repository; None: the one in pyproject.toml
    """
    address = address or repository()
    shown = RIGHT_ANSWERS.sub("", WRONG_ANSWERS.sub("", text))
    chapter = jupytext.reads(shown, fmt="md:myst")
    for position, cell in enumerate(chapter.cells):
        cell.source = cell.source.replace(PLACEHOLDER, address)
        cell.id = hashlib.sha1(f"{position}\n{cell.source}".encode()).hexdigest()[:12]
        cell.metadata.pop("id", None)
    chapter.metadata = METADATA
    chapter.nbformat = 4
    chapter.nbformat_minor = 5
    nbformat.validate(chapter)
    return nbformat.writes(chapter) + "\n"


def config(text, address=None):
    """The text of book/_config.yml with launch buttons for this address; the placeholder has none.

    :param text: of the file as it is
    :param address: of the repository; None: the one in pyproject.toml
    """
    address = address or repository()
    buttons = "" if address == PLACEHOLDER else _launch_buttons(address)
    return LAUNCH_BUTTONS.sub(rf"\g<1>{buttons}\g<2>", text)


def _launch_buttons(address):
    """The lines of book/_config.yml that make launch buttons."""
    return f"repository:\n  url: {address}\n  branch: main\nlaunch_buttons:\n  colab_url: {COLAB}\n"


def without_solutions(text):
    """The text of a chapter without solutions, with relative links for a folder one level down."""
    return SOLUTION.sub("", text).replace("](../", "](../../")


def main(paths):
    """Write both notebooks of each chapter, and the launch buttons into book/_config.yml."""
    for path in map(Path, paths):
        text = path.read_text()
        path.with_suffix(".ipynb").write_text(notebook(text))
        student = path.parent / "student" / f"{path.stem}.ipynb"
        student.write_text(notebook(without_solutions(text)))
    settings = ROOT / "book" / "_config.yml"
    settings.write_text(config(settings.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted((ROOT / "notebooks").glob("*.md")))
