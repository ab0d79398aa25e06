"""Problem sets (.md, with solutions) -> what students get (.ipynb): `make coursework`.

Solutions become stubs, hidden tests go, the other cells are locked; the same bytes every time.
"""

import sys
from pathlib import Path

import nbformat
from xcnn.grade.mend import release

from tools import ROOT
from tools.book.derive_notebooks import notebook


def student(text, address=None):
    """The text of the student's notebook from the text of a problem set."""
    return nbformat.writes(release(nbformat.reads(notebook(text, address), 4))) + "\n"


def main(paths):
    for path in map(Path, paths):
        path.with_suffix(".ipynb").write_text(student(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted((ROOT / "notebooks" / "coursework").glob("*.md")))
