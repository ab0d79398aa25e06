"""Read a problem set, derive the students' notebook from it, and repair what they hand in."""

import copy
import difflib
import json
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

BEGIN = "### BEGIN HIDDEN TESTS"
END = "### END HIDDEN TESTS"
WIDGETS = "application/vnd.jupyter.widget-state+json"
MIN_LIKENESS = 0.9  # share of equal text above which a cell counts as a changed copy


class NotANotebook(Exception):
    """The file cannot be graded; the message says why."""


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
        self.fixed = not info.solution and (info.grade or info.get("locked", False))
        definitions = re.findall(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=", self.public, re.M)
        self.names = {name for pair in definitions for name in pair if name}

    def untouched(self, source):
        """Is this source the one that students got?"""
        return any(same_source(source, released) for released in (self.public, *self.released))


# --- the problem set ---


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
    """Raise InputError if two cells of the problem set share a grade_id."""
    names = [
        cell.metadata.nbgrader.get("grade_id") for cell in book.cells if "nbgrader" in cell.metadata
    ]
    repeated = {str(name) for name in names if names.count(name) > 1}
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


# --- the handed-in notebook ---


def as_text(value):
    """The text of a cell, which a notebook stores as one string or as a list of lines.

    A lone half of a surrogate pair becomes "?", because a kernel refuses it.
    """
    joined = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return joined.replace("\r\n", "\n").encode("utf-8", "replace").decode()


def dictionary(parent, key):
    """The dictionary under this key; an empty one if something else, or nothing, is there."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def parse(data):
    """Read a notebook: (its cells as plain dictionaries, notes on what was left out).

    Raises NotANotebook.
    """
    if not data.strip():
        raise NotANotebook("the file is empty")
    try:
        book = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NotANotebook("the file is not a notebook: it is not JSON") from error
    if isinstance(book, dict) and isinstance(book.get("worksheets"), list):  # format before 2015
        book["cells"] = [cell for sheet in book["worksheets"] for cell in sheet.get("cells", [])]
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise NotANotebook("the file is not a notebook: it has no list of cells")
    cells = [
        plain_cell(cell)
        for cell in book["cells"]
        if isinstance(cell, dict) and cell.get("cell_type") in ("code", "markdown", "raw")
    ]
    widgets = dictionary(book, "metadata").get("widgets")
    usable = widgets is None or (
        isinstance(widgets, dict) and "state" in (widgets.get(WIDGETS) or {})
    )
    return cells, [] if usable else ["broken widget state left out"]


def plain_cell(cell):
    """What the grader needs of a notebook's cell."""
    metadata = dictionary(cell, "metadata")
    info = dictionary(metadata, "nbgrader")
    return {
        "kind": cell["cell_type"],
        "source": as_text(cell.get("source", cell.get("input"))),
        "grade_id": str(info.get("grade_id", "")),
        "ids": {str(cell.get("id")), str(metadata.get("id"))},  # Colab has it in the metadata
    }


def same_source(source, other):
    """Are two sources the same, apart from blanks at the ends of lines?"""
    lines = [line.rstrip() for line in source.strip().splitlines()]
    other_lines = [line.rstrip() for line in other.strip().splitlines()]
    return lines == other_lines


def nearly_same(source, other):
    """Are two sources the same, apart from a word or two?"""
    matcher = difflib.SequenceMatcher(None, source, other, autojunk=False)
    return (
        matcher.real_quick_ratio() > MIN_LIKENESS  # an upper bound that costs next to nothing
        and matcher.quick_ratio() > MIN_LIKENESS
        and matcher.ratio() > MIN_LIKENESS
    )


def defines(source, names):
    """Does the source define all of these names at its top level?"""
    return bool(names) and all(
        re.search(rf"^(?:(?:def|class)\s+{name}\b|{name}\s*=)", source, re.M) for name in names
    )


# --- which handed-in cell is which graded cell ---


def match(cells, graded_cells):
    """Find the graded cell that each handed-in cell is: (graded cells or None, in order; names).

    The names are the grade_ids of cells whose metadata was gone.
    """
    by_id = {graded_cell.id: graded_cell for graded_cell in graded_cells}
    matched = [by_id.get(cell["grade_id"]) for cell in cells]
    stripped = []
    for recognises in (has_same_id, has_released_source, answers, resembles):
        for graded_cell in graded_cells:
            if graded_cell in matched:
                continue
            for position, cell in enumerate(cells):
                if matched[position] is None and recognises(graded_cell, cell):
                    matched[position] = graded_cell
                    stripped.append(graded_cell.id)
                    break
    # A further copy of a fixed cell is recognised without metadata, too.
    for position, cell in enumerate(cells):
        if matched[position] is None:
            copied = (
                graded_cell
                for graded_cell in graded_cells
                if graded_cell.fixed and graded_cell.untouched(cell["source"])
            )
            matched[position] = next(copied, None)
    return matched, stripped


def has_same_id(graded_cell, cell):
    return bool(cell["ids"] & graded_cell.ids)


def has_released_source(graded_cell, cell):
    return graded_cell.untouched(cell["source"])


def answers(graded_cell, cell):
    """Is this code that defines what the graded cell asks for?"""
    return (
        graded_cell.solution
        and cell["kind"] == "code"
        and defines(cell["source"], graded_cell.names)
    )


def resembles(graded_cell, cell):
    """Is this a slightly changed copy of a fixed cell?"""
    return graded_cell.fixed and nearly_same(cell["source"], graded_cell.public)


# --- repair ---


def mend(cells, graded_cells):
    """Repair a handed-in notebook: (pairs to run, notes on what was repaired).

    A pair is a cell and its graded cell, or None. The instructor's source replaces that of a test
    cell or a locked cell when it runs. One copy of a cell counts. A test that is missing, or stands
    above its answer, goes below the answer.
    """
    matched, stripped = match(cells, graded_cells)
    notes = [f"metadata put back: {', '.join(stripped)}"] if stripped else []
    pairs = list(zip(cells, matched, strict=True))
    changed = []
    copied = []
    retyped = []
    for graded_cell in graded_cells:
        places = [i for i, (_, other) in enumerate(pairs) if other is graded_cell]
        sources = {i: pairs[i][0]["source"] for i in places}
        if graded_cell.fixed:
            chosen, dropped = choose_fixed(graded_cell, sources)
            if places and not any(map(graded_cell.untouched, sources.values())):
                changed.append(graded_cell.id)
        else:
            chosen, dropped = choose_answer(graded_cell, sources)
        if len(places) > 1:
            copied.append(graded_cell.id)
        cell_type = graded_cell.node.cell_type
        if chosen is not None and pairs[chosen][0]["kind"] != cell_type:
            pairs[chosen] = ({**pairs[chosen][0], "kind": cell_type}, graded_cell)
            retyped.append(graded_cell.id)
        # A copy that differs stays, as a cell of the student's own.
        pairs = [
            (cell, other if other is not graded_cell or i == chosen else None)
            for i, (cell, other) in enumerate(pairs)
            if i not in dropped
        ]
    put_back, moved = place_fixed_cells(pairs, graded_cells)
    for words, names in (
        ("changed cells put back", changed),
        ("cells that were there more than once", copied),
        ("type of cell put back", retyped),
        ("missing cells put back", put_back),
        ("moved below the answer", moved),
    ):
        if names:
            notes.append(f"{words}: {', '.join(names)}")
    return pairs, notes


def choose_fixed(graded_cell, sources):
    """Which copy of a fixed cell counts, and which copies go: (position or None, positions).

    `sources` maps the positions of the copies to their sources. An untouched copy comes before a
    changed one. The last copy of a test sees the whole answer; the first copy of a set-up cell is
    early enough for the code that needs it.
    """
    untouched = [i for i, source in sources.items() if graded_cell.untouched(source)]
    candidates = untouched or list(sources)
    if not candidates:
        return None, set()
    chosen = candidates[-1] if graded_cell.test else candidates[0]
    return chosen, set(untouched) - {chosen}


def choose_answer(graded_cell, sources):
    """Which copy of an answer counts, and which copies go: (position or None, positions).

    `sources` maps the positions of the copies to their sources. Stubs go if there is an answer, and
    so does an answer that repeats an earlier one. The last of the others counts.
    """
    answered = [i for i, source in sources.items() if not graded_cell.untouched(source)]
    candidates = answered or list(sources)[:1]
    dropped = set(sources) - set(candidates)
    for number, i in enumerate(candidates):
        if any(same_source(sources[i], sources[earlier]) for earlier in candidates[:number]):
            dropped.add(i)
    chosen = max((i for i in candidates if i not in dropped), default=None)
    return chosen, dropped


def positions(pairs):
    """Where each graded cell stands: grade_id -> position."""
    return {graded_cell.id: i for i, (_, graded_cell) in enumerate(pairs) if graded_cell}


def place_fixed_cells(pairs, graded_cells):
    """Insert missing fixed cells and move tests below their answers, in place.

    Returns the grade_ids of the inserted cells and of the moved ones.
    """
    put_back = []
    moved = []
    answer = None  # the question's answer cell: the last one of the assignment so far
    before = None  # the graded cell below which the next one belongs
    for graded_cell in graded_cells:
        at = positions(pairs)
        if graded_cell.solution:
            answer = graded_cell
        elif graded_cell.fixed:
            missing = graded_cell.id not in at
            early = (
                not missing
                and graded_cell.test
                and answer
                and at.get(answer.id, -1) > at[graded_cell.id]
            )
            if early:
                del pairs[at[graded_cell.id]]
                at = positions(pairs)
            if missing or early:
                target = at[before.id] + 1 if before else 0
                if graded_cell.test and answer and answer.id not in at:
                    target = len(pairs)  # the answer may be in any cell
                cell = {"kind": graded_cell.node.cell_type, "source": graded_cell.public}
                pairs.insert(target, (cell, graded_cell))
                names = moved if early else put_back
                names.append(graded_cell.id)
        if graded_cell.fixed or graded_cell.id in at:
            before = graded_cell
    return put_back, moved
