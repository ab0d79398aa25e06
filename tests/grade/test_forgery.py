"""Forged points: the tests that must fail, and what an answer has no reason to name."""

import nbformat
import numpy
import pytest
import torch
from xcnn.grade import forgery, judge, mend, problem_set
from xcnn.grade.outputs import Reply

from tests.grade.submitted import SETS, TINY
from tests.grade.test_grade import solved


def parts_of(path):
    """The parts of a page for a problem set with its solutions, and replies that all passed."""
    graded_cells = problem_set.read_assignment(path)
    pairs = [
        ({"kind": "code", "source": graded_cell.node.source}, graded_cell)
        for graded_cell in graded_cells
        if graded_cell.node.cell_type == "code"
    ]
    code, _, shown = judge.lay_out(pairs)
    return pairs, shown, {position: Reply("ok") for position in range(len(code))}


@pytest.mark.parametrize("path", [TINY, *SETS], ids=lambda path: path.stem)
def test_each_passed_test_has_cells_that_must_fail(path):
    _, shown, replies = parts_of(path)
    tests = [part for part in shown if part["graded_cell"].test]
    canaries = forgery.canaries(shown, replies)
    assert len(canaries) >= len(forgery.CANARIES) + len(tests)
    for source in canaries:
        compile(source, "canary", "exec")


@pytest.mark.parametrize("source", forgery.CANARIES)
def test_canaries_fail(source):
    """They fail where they run, also without the imports of a notebook."""
    with pytest.raises((AssertionError, NameError, KeyError)):
        exec(source, {})
    with pytest.raises(AssertionError):
        exec(source, {"np": numpy, "torch": torch})


def test_canaries_from_a_test_fail_for_right_answers_only_by_their_expectation():
    test = "got = step(3)\nassert got == 1, 'one'\nassert got < 2"
    (changed,) = forgery.expect_the_impossible(test)
    with pytest.raises(AssertionError):
        exec(changed, {"step": lambda z: 1})
    always = type("Always", (), {"__eq__": lambda *a: True, "__lt__": lambda *a: True})
    exec(changed, {"step": lambda z: always()})  # what claims to equal all is found out
    (changed,) = forgery.with_other_values(test)
    with pytest.raises(AssertionError):
        exec(changed, {"step": lambda z: 1})
    number = type("Number", (int,), {"__eq__": lambda self, other: type(other) is int})
    exec(changed.replace("< -", ">= -"), {"step": lambda z: number()})
    assert forgery.expect_the_impossible("print(3)") == []
    assert forgery.expect_the_impossible("%matplotlib inline") == []


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_solutions_name_nothing_of_the_machinery(path):
    """Honest answers are not looked at for what they name."""
    cells, _ = mend.parse(nbformat.writes(solved(path)).encode())
    pairs, _ = mend.mend(cells, problem_set.read_assignment(path))
    assert forgery.traces(pairs) == []


@pytest.mark.parametrize(
    "code",
    [
        "import builtins",
        "x = get_ipython().ast_transformers",
        "np.allclose = print",
        "np.testing.assert_allclose=print",
        "setattr(np, 'all', print)",
        "import sys; sys.modules['numpy'] = 3",
        "def __eq__(self, other): return True",
        "open('/proc/self/fd/5', 'w')",
        "import ctypes",
        "f = sys._getframe(1)",
        "gc.get_objects()",
        "x = 1\n" * 600_000,
    ],
)
def test_traces(code):
    assert forgery.traces([({"kind": "code", "source": code}, None)])
    assert not forgery.traces([({"kind": "markdown", "source": code}, None)])


@pytest.mark.parametrize(
    "code",
    ["ok = np.allclose(a, b)", "import sys\nprint(sys.version)", "if np.all(x == 3): pass"],
)
def test_honest_code_leaves_no_trace(code):
    assert not forgery.traces([({"kind": "code", "source": code}, None)])


@pytest.mark.parametrize(
    "piece", ["np.", "setattr(", "get_ipython()", "__", "/proc/", "assert_", "np.all ", "\\x"]
)
def test_traces_are_found_in_linear_time(piece, processor_time):
    """A second is 100 times what it takes; a quadratic search would take hours."""
    code = piece * (forgery.MAX_CODE // len(piece))
    with processor_time(most=20):
        forgery.traces([({"kind": "code", "source": code}, None)])
