"""Read the notebook that a student handed in, and repair it by the problem set's release."""

import difflib
import json
import re

from .problem_set import as_text, same_source

WIDGETS = "application/vnd.jupyter.widget-state+json"
MIN_LIKENESS = 0.9  # share of equal text above which a cell counts as a changed copy
KINDS = ("code", "markdown", "raw")
MAX_CELLS = 5000  # comparing more of them with the problem set takes minutes


class NotANotebook(Exception):
    """The file cannot be graded; the message says why."""


# --- the handed-in notebook ---


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
    if not isinstance(book, dict):
        raise NotANotebook("the file is not a notebook: it has no list of cells")
    found = listed_cells(book)
    if len(found) > MAX_CELLS:
        raise NotANotebook(f"the notebook has more than {MAX_CELLS} cells")
    cells = [
        plain_cell(cell)
        for cell in found
        if isinstance(cell, dict) and cell.get("cell_type") in KINDS
    ]
    widgets = dictionary(book, "metadata").get("widgets")
    state = widgets.get(WIDGETS) if isinstance(widgets, dict) else None
    usable = widgets is None or (isinstance(state, dict) and "state" in state)
    return cells, [] if usable else ["broken widget state left out"]


def listed_cells(book):
    """The list of cells of a notebook; also in the format from before 2015, in sheets."""
    sheets = book.get("worksheets")
    if isinstance(sheets, list):
        parts = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
        return [cell for part in parts if isinstance(part, list) for cell in part]
    if not isinstance(book.get("cells"), list):
        raise NotANotebook("the file is not a notebook: it has no list of cells")
    return book["cells"]


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
