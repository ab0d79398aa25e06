"""Points of a test, by how it ended and what its last line says."""

from nbformat.v4 import new_code_cell
from xcnn.grade import judge, problem_set
from xcnn.grade.outputs import Reply


def points_of(reply, points=2):
    """The points of one test that ends with this reply."""
    marks = {"grade": True, "solution": False, "grade_id": "t", "points": points}
    graded_cell = problem_set.GradedCell(new_code_cell("", metadata={"nbgrader": marks}), "", "")
    part = {"visible": 0, "hidden": None}
    return judge.score(graded_cell, part, {0: reply} if reply else {})[0]


def test_points():
    assert points_of(Reply("ok")) == 2
    assert points_of(Reply("ok", value="1.5")) == 1.5
    assert points_of(Reply("ok", value="0")) == 0
    for value in ("nan", "inf", "7", "-1", "two", "", "1e400", "0x1"):
        assert points_of(Reply("ok", value=value)) == 0, value
    assert points_of(Reply("error")) == points_of(Reply("error", value="2")) == 0
    assert points_of(None) == 0
