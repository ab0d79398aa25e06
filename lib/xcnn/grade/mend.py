"""A problem set, what students get of it, and a handed-in notebook put right by it."""

import copy
import difflib
import json
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
WIDGETS = "application/vnd.jupyter.widget-state+json"


class NotANotebook(Exception):
    """The file cannot be graded; the message says why."""


@dataclass
class Graded:
    """A cell of the assignment with a grade_id: what students are given, and the hidden part of its test."""

    node: dict
    public: str
    hidden: str
    given: list = field(default_factory=list)  # its source in the release too, which may be older
    ids: set = field(default_factory=set)

    def __post_init__(self):
        info = self.node.metadata.nbgrader
        self.id, self.points = info.grade_id, float(info.get("points", 0))
        self.test = info.grade and not info.solution
        self.solution = info.solution
        self.fixed = not info.solution and (info.grade or info.get("locked", False))
        stub = re.findall(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=", self.public, re.M)
        self.names = {name for pair in stub for name in pair if name}

    def untouched(self, source):
        """Is this the cell as students were given it?"""
        return any(same(source, given) for given in (self.public, *self.given))


def release(book):
    """The student's notebook, in place: stubs for solutions, no hidden tests, cells that cannot be deleted."""
    from nbgrader import preprocessors as steps

    chain = (
        steps.CheckCellMetadata(),
        steps.ClearSolutions(code_stub={"python": "raise NotImplementedError"}),
        steps.ClearHiddenTests(),
        steps.LockCells(),
        steps.ComputeChecksums(),
    )
    for step in chain:
        step.log.disabled = True  # what it would log, it raises as well
        book, _ = step.preprocess(book, {})
    return book


def assignment(path):
    """The graded cells of an assignment, in order: a list of `Graded`.

    The release is the notebook beside it, where there is one. Raises InputError where the file is missing or marked
    up wrongly.
    """
    import jupytext

    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no assignment {path}; name the source of a problem set, a .md file with solutions"
        )
    book = jupytext.read(path)
    names = [
        cell.metadata.nbgrader.get("grade_id") for cell in book.cells if "nbgrader" in cell.metadata
    ]
    if twice := {str(name) for name in names if names.count(name) > 1}:
        raise InputError(
            f"{path} has two cells called {', '.join(sorted(twice))}; give each its own grade_id"
        )
    try:
        shown = release(copy.deepcopy(book))
    except Exception as error:  # nbgrader's steps raise errors of many kinds
        raise InputError(f"{path} is marked up wrongly: {error}") from error
    graded = {}
    for node, public in zip(book.cells, shown.cells, strict=True):
        if info := node.metadata.get("nbgrader"):
            graded[info.grade_id] = Graded(node, public.source, hidden(node.source, info.grade_id))
    if not any(cell.test for cell in graded.values()):
        raise InputError(
            f"{path} has no test cells: no cell has grade: true in its nbgrader metadata"
        )
    beside = path.with_suffix(".ipynb")
    if beside.is_file() and beside != path:
        for cell in json.loads(beside.read_text())["cells"]:
            if mine := graded.get(cell["metadata"].get("nbgrader", {}).get("grade_id")):
                mine.ids.add(cell["id"])
                mine.given.append(text(cell["source"]))
    return list(graded.values())


def hidden(source, name):
    """A test's hidden lines, which must stand at its end."""
    _, begun, rest = source.partition(BEGIN)
    lines, closed, after = rest.partition(END)
    if begun and (not closed or after.strip()):
        raise InputError(
            f"the hidden tests of cell {name} must end with '{END}', as the last line of the cell"
        )
    return textwrap.dedent(lines).strip("\n")


def text(value):
    """A notebook's text, be it one string or a list of lines; half characters, which no kernel takes, are replaced."""
    value = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return value.replace("\r\n", "\n").encode("utf-8", "replace").decode()


def parse(data):
    """The cells of a notebook as plain dictionaries, and what had to be left out. Raises NotANotebook."""
    if not data.strip():
        raise NotANotebook("the file is empty")
    try:
        book = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NotANotebook("the file is no notebook: it is not JSON") from error
    if isinstance(book, dict) and isinstance(book.get("worksheets"), list):  # before 2015
        book["cells"] = [cell for sheet in book["worksheets"] for cell in sheet.get("cells", [])]
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise NotANotebook("the file is no notebook: it has no list of cells")
    cells = []
    for cell in book["cells"]:
        if isinstance(cell, dict) and cell.get("cell_type") in ("code", "markdown", "raw"):
            about = cell["metadata"] if isinstance(cell.get("metadata"), dict) else {}
            info = about.get("nbgrader") if isinstance(about.get("nbgrader"), dict) else {}
            cells.append(
                {
                    "kind": cell["cell_type"],
                    "source": text(cell.get("source", cell.get("input"))),
                    "grade_id": str(info.get("grade_id", "")),
                    "ids": {
                        str(cell.get("id")),
                        str(about.get("id")),
                    },  # Colab keeps it in the metadata
                }
            )
    about = book["metadata"] if isinstance(book.get("metadata"), dict) else {}
    widgets = about.get("widgets")
    whole = widgets is None or (
        isinstance(widgets, dict) and "state" in (widgets.get(WIDGETS) or {})
    )
    return cells, [] if whole else ["broken widget state left out"]


def same(one, other):
    """Do two sources differ in blanks at the ends of lines at most?"""
    return [line.rstrip() for line in one.strip().splitlines()] == [
        line.rstrip() for line in other.strip().splitlines()
    ]


def match(cells, graded):
    """For each handed-in cell the graded cell that it is, or None; and the grade_ids whose metadata was gone."""
    known = {cell.id: cell for cell in graded}
    found = [known.get(cell["grade_id"]) for cell in cells]
    stripped = []
    tests = (
        lambda cell, want: bool(cell["ids"] & want.ids),
        lambda cell, want: want.untouched(cell["source"]),
        lambda cell, want: (
            want.solution and cell["kind"] == "code" and defines(cell["source"], want.names)
        ),
        lambda cell, want: want.fixed and alike(cell["source"], want.public),
    )
    for test in tests:
        for want in graded:
            if want in found:
                continue
            for position, cell in enumerate(cells):
                if found[position] is None and test(cell, want):
                    found[position] = want
                    stripped.append(want.id)
                    break
    # Copies of a cell that has no metadata are copies all the same.
    for position, cell in enumerate(cells):
        if found[position] is None:
            found[position] = next(
                (want for want in graded if want.fixed and want.untouched(cell["source"])), None
            )
    return found, stripped


def alike(one, other):
    """Are two sources the same but for a word or two?"""
    pair = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return pair.real_quick_ratio() > 0.9 and pair.quick_ratio() > 0.9 and pair.ratio() > 0.9


def defines(source, names):
    """Does the source define all of these names at its top level?"""
    return bool(names) and all(
        re.search(rf"^(?:(?:def|class)\s+{n}\b|{n}\s*=)", source, re.M) for n in names
    )


def mend(cells, graded):
    """The cells to run, as pairs (source and kind, graded cell or None), and notes on what was mended.

    The instructor's test cells and locked cells stand in the place of the student's. A test that is missing, or that
    stands above its answer, comes after the answer. Of copies one counts.
    """
    found, stripped = match(cells, graded)
    notes = [f"metadata put back: {', '.join(stripped)}"] if stripped else []
    keep = list(zip(cells, found, strict=True))
    changed, copies, kind = [], [], []
    for want in graded:
        places = [i for i, (_, other) in enumerate(keep) if other is want]
        if want.fixed:
            true = [i for i in places if want.untouched(keep[i][0]["source"])]
            if places and not true:
                changed.append(want.id)
            # The last copy of a test sees all of the answer; of a set-up cell the first comes in time.
            chosen = (true or places)[-1 if want.test else 0] if places else None
            gone = set(true) - {chosen}
        else:
            fresh = [i for i in places if not want.untouched(keep[i][0]["source"])]
            useful, sources, gone = fresh or places[:1], [], set(places) - set(fresh or places[:1])
            for i in useful:
                if any(same(keep[i][0]["source"], source) for source in sources):
                    gone.add(i)
                sources.append(keep[i][0]["source"])
            chosen = max((i for i in useful if i not in gone), default=None)
        if len(places) > 1:
            copies.append(want.id)
        if chosen is not None and keep[chosen][0]["kind"] != want.node.cell_type:
            keep[chosen] = ({**keep[chosen][0], "kind": want.node.cell_type}, want)
            kind.append(want.id)
        keep = [
            (cell, other if other is not want or i == chosen else None)
            for i, (cell, other) in enumerate(keep)
            if i not in gone
        ]
    back, moved = place(keep, graded)
    for words, names in (
        ("changed cells put back", changed),
        ("cells that were there more than once", copies),
        ("type of cell put back", kind),
        ("missing cells put back", back),
        ("moved below the answer", moved),
    ):
        notes += [f"{words}: {', '.join(names)}"] if names else []
    return keep, notes


def place(keep, graded):
    """Put in the missing fixed cells, and move tests below their answers, in place; say which."""
    back, moved = [], []
    answer, before = None, None
    for want in graded:
        where = {other.id: i for i, (_, other) in enumerate(keep) if other}
        if want.solution:
            answer = want
        elif want.fixed:
            lost = want.id not in where
            early = not lost and want.test and answer and where.get(answer.id, -1) > where[want.id]
            if lost or early:
                cell = {"kind": want.node.cell_type, "source": want.public}
                if early:
                    del keep[where[want.id]]
                    where = {other.id: i for i, (_, other) in enumerate(keep) if other}
                after = where[before.id] + 1 if before else 0
                if want.test and answer and answer.id not in where:
                    after = len(keep)  # the answer may be in any cell
                keep.insert(after, (cell, want))
                (moved if early else back).append(want.id)
        if want.fixed or want.id in where:
            before = want
    return back, moved
