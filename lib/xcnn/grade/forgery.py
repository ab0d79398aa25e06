"""Tell forged points: cells that must fail, and names that an answer has no reason to use.

The student's code and the tests share a process, so forging cannot be prevented.
"""

import ast
import random
import re

from .judge import score

# Cells that must fail, sent like hidden tests. Where one passes, the notebook has changed what
# Python, IPython or a library do with a test. They use the notebook's own `np` and `torch`, and the
# real ones.
CANARIES = (
    "assert [1, 2] == [1, 3]",
    "raise AssertionError('this test fails')",
    "import math\nassert math.isclose(1.0, 2.0)",
    "assert np.array_equal([1, 2], [1, 3])",
    "assert np.allclose([1.0, 2.0], [1.0, 2.5])",
    "assert torch.equal(torch.ones(2), torch.zeros(2))",
    "assert torch.allclose(torch.ones(2), torch.zeros(2))",
    "import numpy\nassert numpy.array_equal([1, 2], [1, 3])",
    "import numpy\nassert numpy.allclose([1.0, 2.0], [1.0, 2.5])",
    "import numpy\nnumpy.testing.assert_allclose([1.0], [2.0])",
    # PyTorch takes seconds to import, so this one takes it where the notebook has it.
    "import sys\nreal = sys.modules['torch']\nassert real.allclose(real.ones(2), real.zeros(2))",
)
COMPARISONS = ("array_equal", "array_equiv", "allclose", "isclose", "equal", "assert_allclose")
EXPECTING = (ast.Eq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is)
MAX_CODE = 1_000_000  # characters of a notebook's code in which traces are looked for
# What an answer has no reason to name: it belongs to Python, to IPython or to the grader. The page
# for instructors says the same in words.
MACHINERY = {
    "Python's own functions": r"\b(__builtins__|builtins|__debug__|__import__)\b",
    "frames and code objects": r"\b(_getframe|f_back|f_locals|f_globals|f_code|tb_frame|gi_frame"
    r"|currentframe|_current_frames|inspect|extract_stack|walk_stack|format_stack|print_stack"
    r"|co_consts|co_code|settrace|setprofile|NodeTransformer|__closure__|cell_contents)\b",
    "objects that are not the notebook's": r"\b(get_objects|get_referrers|get_referents"
    r"|__subclasses__|__globals__|linecache|ctypes|cffi)\b",
    "IPython": r"\b(get_ipython|_ip|displayhook|excepthook)\b|\bIPython\b(?!\.display\b)",
    "the line to the grader": r"/proc/(?:self|\d+)/(?:fd|mem|maps|task)\b|\bos\.fdopen\b"
    r"|\bxcnn\.grade\b|\bsys\.std(?:out|err)\.(?!write\b|flush\b|isatty\b|encoding\b)\w",
    "functions that tests use": r"\b(?:np|numpy|torch|math|operator)(?:\.\w{1,20}){0,2}\."
    r"(?:array_equal|array_equiv|allclose|isclose|all|any|equal|assert_\w{1,40})\s{0,9}=(?!=)"
    r"|\bsetattr\(|\bvars\(|\.__dict__\b|\bsys\.modules\b"
    r"|\b__(?:eq|ne|lt|le|gt|ge|bool|array_function|array_ufunc)__\b"
    r"|^\s{0,20}(?:np|numpy|torch)\s{0,9}=(?!=)|^\s{0,20}class\s{1,9}(?:np|numpy|torch)\b",
}


def canaries(shown, replies):
    """Cells that must fail: their sources; none where not a single point was gained.

    Some are for all notebooks, others are made from the tests that passed.
    """
    from_tests = []
    wrong = []
    answer = None
    has_points = False
    for part in shown:
        graded_cell = part["graded_cell"]
        if graded_cell and graded_cell.solution:
            answer = graded_cell
        if graded_cell and graded_cell.test and score(graded_cell, part, replies)[0]:
            test = f"{graded_cell.public}\n{graded_cell.hidden}"
            from_tests += with_other_values(test) + expect_the_impossible(test)
            wrong += answer_wrongly(test, answer)
            has_points = True
    mixed = [*CANARIES, *from_tests]
    random.shuffle(mixed)
    # The wrong answers come last, because they replace the notebook's own.
    return [*mixed, *wrong] if has_points else []


def expect_the_impossible(test):
    """The test with something that nothing equals in each comparison; a list, at most one.

    An answer that claims to equal everything passes it.
    """
    return changed_test(test, lambda expected, is_more: ast.parse("object()", mode="eval").body)


def with_other_values(test):
    """The test with another constant in each comparison; a list, empty if it compares with none.

    Answers that equal all numbers pass it, and so does a comparison that was replaced.
    """
    return changed_test(test, other_value)


def changed_test(test, change):
    """The test with `change` applied to what its assertions expect; a list, at most one."""
    try:
        tree = ast.parse(test)
    except SyntaxError:  # a test with magic commands
        return []
    changed = False
    for assertion in ast.walk(tree):
        if not isinstance(assertion, ast.Assert):
            continue
        for values, index, is_more in expectations(assertion.test):
            other = change(values[index], is_more)
            if other is not None:
                values[index] = other
                changed = True
    return [ast.unparse(ast.fix_missing_locations(tree))] if changed else []


def expectations(node):
    """Where the condition of an assertion holds what is expected: (list, index, is it exceeded?).

    What stands below `not`, or chooses the elements of a list, is left as it is: a change there
    could make the assertion pass.
    """
    found = []
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return found
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], EXPECTING):
        found.append((node.comparators, 0, isinstance(node.ops[0], ast.Gt | ast.GtE)))
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    if is_call and node.func.attr in COMPARISONS and len(node.args) > 1:
        found.append((node.args, 1, False))
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, ast.comprehension):
            found += expectations(inner)
    return found


def other_value(expected, is_more):
    """A constant of the same kind with another value; None where the test expects no constant."""
    try:
        value = ast.literal_eval(expected)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    return ast.parse(repr(another(value, is_more)), mode="eval").body


def another(value, is_more=False):
    """A value of the same kind that is not equal to this one, and that no right answer passes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        far = abs(value) + random.randint(50, 90)
        return type(value)(far if is_more else -far)
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, list | tuple) and value:
        return type(value)([*value[:-1], another(value[-1])])
    return [value]


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
    # Other names and numbers each time, so that code cannot know the cell by them.
    one, two = random.sample(("args", "words", "values", "inputs", "given", "kept"), 2)
    value = random.randint(10_000, 90_000) / 8
    lines = [f"{name} = lambda *{one}, **{two}: {value}" for name in used]
    return ["\n".join([*lines, test])]


def traces(pairs):
    """What the student's own cells name of the machinery: a list of words, often empty."""
    code = "\n".join(
        cell["source"]
        for cell, graded_cell in pairs
        if cell["kind"] == "code" and not (graded_cell and graded_cell.fixed)
    )
    named = [
        what for what, pattern in MACHINERY.items() if re.search(pattern, code[:MAX_CODE], re.M)
    ]
    if len(code) > MAX_CODE:
        named.append(f"more than {MAX_CODE} characters of code")
    return named
