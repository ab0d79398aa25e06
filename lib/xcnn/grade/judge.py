"""Judge a student's notebook: lay out its cells, and score its tests."""

import math

from .page import short_number


def lay_out(pairs):
    """What to run of a repaired notebook: (code cells, parents, parts of the page of feedback).

    A hidden test is a code cell of its own, below the visible part of its test. `parents` is the
    argument `tests` of `run.run_cells`: positions of tests -> positions of their visible parts. A
    part of the page is a dictionary: `node` is the cell, `graded_cell` what it is graded by or
    None, `visible` and `hidden` the positions of its code, None where there is none.
    """
    code = []
    parents = {}
    shown = []
    code_cells = 0
    for cell, graded_cell in pairs:
        source = graded_cell.public if graded_cell and graded_cell.fixed else cell["source"]
        node = new_cell(cell["kind"], source)
        part = {"node": node, "graded_cell": graded_cell, "visible": None, "hidden": None}
        shown.append(part)
        if cell["kind"] != "code":
            continue
        code_cells += 1
        is_test = graded_cell and graded_cell.test
        node.metadata.name = f"test {graded_cell.id}" if is_test else f"code cell {code_cells}"
        part["visible"] = len(code)
        code.append(node)
        if is_test:
            parents[part["visible"]] = part["visible"]
        if is_test and graded_cell.hidden:
            part["hidden"] = len(code)
            parents[part["hidden"]] = part["visible"]
            hidden_node = new_cell("code", graded_cell.hidden)
            hidden_node.metadata.name = node.metadata.name
            code.append(hidden_node)
    return code, parents, shown


def new_cell(kind, source):
    """A cell of a notebook, empty but for its source."""
    from nbformat import v4

    make = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell, "raw": v4.new_raw_cell}
    return make[kind](source)


# --- points ---


def score(graded_cell, part, replies):
    """The points of one test by nbgrader's rule: (points, why for the student, for the instructor).

    A test that passes gives all its points, or those that its last line's value says. Both reasons
    are empty where nothing went wrong.
    """
    positions = [part[key] for key in ("visible", "hidden") if part[key] is not None]
    for position in positions:
        reply = replies.get(position)
        if reply is None:
            return 0, "This test did not run.", "did not run"
        # The reply says how a cell ended, even if its code kept the error from being shown.
        if reply.status != "ok":
            reason = f"{reply.ename}: {reply.evalue}"
            if position == part["hidden"]:
                return 0, "A hidden test failed.", f"hidden: {reason}"
            return 0, "The test failed.", reason
    value = replies[positions[-1]].value
    if value is None:
        return graded_cell.points, "", ""
    points = as_points(value, graded_cell.points)
    if points is None:
        reason = "its value is not a number of points"
        return 0, "This test did not give a number of points.", reason
    return points, "", ""


def as_points(value, most):
    """The number that a text holds, if it lies between 0 and the points of its test."""
    try:
        points = float(value)
    except ValueError:
        return None
    return points if math.isfinite(points) and 0 <= points <= most else None


def judge(shown, replies, row):
    """Enter the points of all tests into the row and the parts: the reasons of lost points."""
    failures = []
    total = 0
    for part in shown:
        graded_cell = part["graded_cell"]
        if not graded_cell or not graded_cell.test:
            continue
        points, part["why"], reason = score(graded_cell, part, replies)
        part["points"] = short_number(points)
        row[graded_cell.id] = part["points"]
        total += points
        if reason:
            failures.append(f"{graded_cell.id}: {reason}")
    row["score"] = short_number(total)
    return failures
