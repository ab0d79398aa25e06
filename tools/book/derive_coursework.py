"""Turn problem sets (.md, with solutions) into what students get (.ipynb): `make coursework`.

Solutions become stubs, hidden tests are left out and the other cells are locked. The same text
gives the same bytes every time.
"""

import sys
from pathlib import Path

import nbformat
from xcnn.grade.problem_set import release

from tools import ROOT
from tools.book.derive_notebooks import notebook


def student(text, address=None):
    """The text of the student's notebook from the text of a problem set.

    :param text: Markdown with cells
    :param address: of the repository, as in `derive_notebooks.notebook`
    """
    solved = nbformat.reads(notebook(text, address), 4)
    return nbformat.writes(release(solved)) + "\n"


def main(paths):
    """Write the student's notebook beside each problem set."""
    for path in map(Path, paths):
        path.with_suffix(".ipynb").write_text(student(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted((ROOT / "notebooks" / "coursework").glob("*.md")))
