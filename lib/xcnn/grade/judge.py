"""Judge a student's notebook: lay out its cells, score its tests, and look for forged points."""

import ast
import copy
import math
import re

from .page import short_number

# Cells that must fail, sent like hidden tests. Where one passes, the notebook has changed what
# Python, IPython or a library do with a test.
CANARIES = (
    "assert [1, 2] == [1, 3]",
    "raise AssertionError('this test fails')",
    "import math\nassert math.isclose(1.0, 2.0)",
    "import numpy as np\nassert np.array_equal([1], [2])",
    "import numpy as np\nassert np.allclose([1.0, 2.0], [1.0, 2.5])",
    "import numpy as np\nnp.testing.assert_allclose([1.0], [2.0])",
)
# For networks; only where the notebook has imported torch, which takes seconds.
TORCH_CANARIES = (
    "import torch\nassert torch.equal(torch.ones(2), torch.zeros(2))",
    "import torch\nassert torch.allclose(torch.ones(2), torch.zeros(2))",
)
WRONG_VALUE = 97531.25  # what a wrong answer gives, which no test may accept
MAX_CODE = 1_000_000  # characters of a notebook's code in which traces are looked for
# What an answer has no reason to name: it belongs to Python, to IPython or to the grader. The page
# for instructors says the same in words.
MACHINERY = {
    "Python's own functions": r"\b(__builtins__|builtins|__debug__|__import__)\b",
    "frames and code objects": r"\b(_getframe|f_back|f_locals|f_globals|f_code|tb_frame|gi_frame"
    r"|currentframe|getouterframes|co_consts|co_code|settrace|setprofile|NodeTransformer)\b",
    "objects that are not the notebook's": r"\b(get_objects|get_referrers|get_referents"
    r"|__subclasses__|__globals__|linecache|ctypes|cffi)\b",
    "how IPython runs cells": r"\b(input_transformers?\w*|ast_transformers|ast_node_interactivity"
    r"|run_cell\w*|run_code|run_ast_nodes|do_execute|(?:pre|post)_(?:run_cell|execute)"
    r"|displayhook|display_pub|_?showtraceback|showsyntaxerror|set_custom_exc|excepthook"
    r"|InteractiveTB|InteractiveShell)\b|get_ipython\(\)\.kernel\b",
    "the line to the grader": r"/proc/(?:self|\d+)/(?:fd|mem|maps|task)\b|\bos\.fdopen\b"
    r"|\bxcnn\.grade\b",
    "functions that tests use": r"\b(?:np|numpy|torch|math|operator)(?:\.\w{1,20}){0,2}\."
    r"(?:array_equal|array_equiv|allclose|isclose|all|any|equal|assert_\w{1,40})\s{0,9}=(?!=)"
    r"|\bsetattr\(\s{0,9}(?:np|numpy|torch|math|sys|operator|get_ipython)\b"
    r"|\bsys\.modules\b|\b__(?:eq|ne|lt|le|gt|ge|bool|array_function|array_ufunc)__\b",
}


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


# --- forged points ---


def canaries(shown, replies):
    """Cells that must fail: their sources. Some for all notebooks, others from the passed tests."""
    sources = [part["node"].source for part in shown if part["node"].cell_type == "code"]
    general = [*CANARIES]
    if any(re.search(r"\bimport torch\b|\bxcnn\b", source) for source in sources):
        general += TORCH_CANARIES
    impossible = []
    wrong = []
    answer = None
    for part in shown:
        graded_cell = part["graded_cell"]
        if graded_cell and graded_cell.solution:
            answer = graded_cell
        if graded_cell and graded_cell.test and score(graded_cell, part, replies)[0]:
            test = f"{graded_cell.public}\n{graded_cell.hidden}"
            impossible += expect_the_impossible(test)
            wrong += answer_wrongly(test, answer)
    # The wrong answers come last, because they replace the notebook's own.
    return [*general, *impossible, *wrong]


def expect_the_impossible(test):
    """The test with another expectation in each comparison; a list, empty if it compares nothing.

    An answer that claims to equal everything passes it.
    """
    try:
        tree = ast.parse(test)
    except SyntaxError:  # a test with magic commands
        return []
    changed = False
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare):
            continue
        if isinstance(node.test.ops[0], ast.Eq | ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            node.test = copy.deepcopy(node.test)
            node.test.comparators[0] = ast.parse("object()", mode="eval").body
            changed = True
    return [ast.unparse(tree)] if changed else []


def answer_wrongly(test, answer):
    """The test below a wrong answer to its question; a list, empty if it does not use the answer.

    Where a library's functions were replaced by ones that accept everything, it passes.
    """
    if answer is None:
        return []
    functions = set(re.findall(r"^(?:def|class)\s+(\w+)", answer.public, re.M))
    used = [name for name in sorted(functions) if re.search(rf"\b{name}\(", test)]
    if not used:
        return []
    lines = [f"{name} = lambda *args, **options: {WRONG_VALUE}" for name in used]
    return ["\n".join([*lines, test])]


def traces(pairs):
    """What the student's own cells name of the machinery: a list of words, often empty."""
    code = "\n".join(
        cell["source"]
        for cell, graded_cell in pairs
        if cell["kind"] == "code" and not (graded_cell and graded_cell.fixed)
    )
    named = [what for what, pattern in MACHINERY.items() if re.search(pattern, code[:MAX_CODE])]
    if len(code) > MAX_CODE:
        named.append(f"more than {MAX_CODE} characters of code")
    return named
