"""Read a problem set, and derive from it what students get."""

import copy
import json
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .table import FIRST_COLUMNS, LAST_COLUMNS

BEGIN = "### BEGIN HIDDEN TESTS"
END = "### END HIDDEN TESTS"


@dataclass
class GradedCell:
    """A cell of the assignment that has a grade_id.

    `node` is the cell with its solution, `public` the source that students get, `hidden` the hidden
    part of its test.
    """

    node: dict
    public: str
    hidden: str
    released: list = field(default_factory=list)  # sources in the release, which may be older
    ids: set = field(default_factory=set)  # ids of this cell in the release

    def __post_init__(self):
        info = self.node.metadata.nbgrader
        self.id = info.grade_id
        self.points = float(info.get("points", 0))
        self.test = info.grade and not info.solution
        self.solution = info.solution
        self.written = info.grade and info.solution  # a text, which somebody reads
        self.fixed = not info.solution and (info.grade or info.get("locked", False))
        definitions = re.findall(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=", self.public, re.M)
        self.names = {name for pair in definitions for name in pair if name}

    def untouched(self, source):
        """Is this source the one that students got?"""
        return any(same_source(source, released) for released in (self.public, *self.released))


def release(book):
    """Turn a problem set into the student's notebook, in place.

    Solutions become stubs, hidden tests go, and the graded cells can no longer be deleted.
    """
    from nbgrader import preprocessors

    steps = (
        preprocessors.CheckCellMetadata(),
        preprocessors.ClearSolutions(code_stub={"python": "raise NotImplementedError"}),
        preprocessors.ClearHiddenTests(),
        preprocessors.LockCells(),
        preprocessors.ComputeChecksums(),
    )
    for step in steps:
        step.log.disabled = True  # a step raises what it logs, too
        book, _ = step.preprocess(book, {})
    return book


def read_assignment(path):
    """The graded cells of an assignment, in order: a list of `GradedCell`.

    The notebook beside the file is its release, where there is one. Raises InputError if the file
    is missing or marked up wrongly.
    """
    import jupytext

    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no assignment {path}; "
            "name the source of a problem set, a .md file with solutions"
        )
    book = jupytext.read(path)
    refuse_repeated_ids(book, path)
    try:
        public_book = release(copy.deepcopy(book))
    except Exception as error:  # nbgrader's steps raise errors of many kinds
        raise InputError(f"{path} is marked up wrongly: {error}") from error
    by_id = {}
    for node, public in zip(book.cells, public_book.cells, strict=True):
        info = node.metadata.get("nbgrader")
        if info:
            hidden = hidden_tests(node.source, info.grade_id)
            by_id[info.grade_id] = GradedCell(node, public.source, hidden)
    if not any(graded_cell.test for graded_cell in by_id.values()):
        raise InputError(
            f"{path} has no test cells: no cell has grade: true in its nbgrader metadata"
        )
    release_path = path.with_suffix(".ipynb")
    if release_path.is_file() and release_path != path:
        add_release(by_id, json.loads(release_path.read_text()))
    return list(by_id.values())


def refuse_repeated_ids(book, path):
    """Raise InputError if two cells share a grade_id, or one has the name of a column."""
    names = [
        cell.metadata.nbgrader.get("grade_id") for cell in book.cells if "nbgrader" in cell.metadata
    ]
    repeated = {str(name) for name in names if names.count(name) > 1}
    taken = {*FIRST_COLUMNS, *LAST_COLUMNS} & set(map(str, names))
    if taken:
        raise InputError(
            f"{path} has a cell called {taken.pop()}, as a column of the table of grades is; "
            "give it another grade_id"
        )
    if repeated:
        raise InputError(
            f"{path} has two cells called {', '.join(sorted(repeated))}; give each its own grade_id"
        )


def add_release(by_id, book):
    """Add to each graded cell its id and its source in the released notebook."""
    for cell in book["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        graded_cell = by_id.get(name)
        if graded_cell:
            graded_cell.ids.add(cell["id"])
            graded_cell.released.append(as_text(cell["source"]))


def hidden_tests(source, name):
    """The hidden lines of a test, without their marks. They must stand at its end."""
    _, begin_mark, rest = source.partition(BEGIN)
    lines, end_mark, after = rest.partition(END)
    if begin_mark and (not end_mark or after.strip()):
        raise InputError(
            f"the hidden tests of cell {name} must end with '{END}', as the last line of the cell"
        )
    return textwrap.dedent(lines).strip("\n")


# --- sources of cells ---


def as_text(value):
    """The text of a cell, which a notebook stores as one string or as a list of lines.

    A lone half of a surrogate pair becomes "?", because a kernel refuses it.
    """
    joined = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return joined.replace("\r\n", "\n").encode("utf-8", "replace").decode()


def same_source(source, other):
    """Are two sources the same, apart from blanks at the ends of lines?"""
    lines = [line.rstrip() for line in source.strip().splitlines()]
    other_lines = [line.rstrip() for line in other.strip().splitlines()]
    return lines == other_lines
