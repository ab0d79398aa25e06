"""The problem sets: solutions pass, stubs fail as stubs, points add up, and wrong answers are caught.

Wrong answers stand in the source, in a comment below the question's tests: one block of code for each.
"""

import copy
import re
from functools import cache

import jupytext
import nbformat
import pytest
import xcnn
from IPython.core.inputtransformer2 import TransformerManager

from tools import ROOT
from tools.book import derive_coursework as coursework
from tools.book.derive_notebooks import WRONG_ANSWERS

SETS = sorted((ROOT / "notebooks" / "coursework").glob("*.md"))
SOLUTION = re.compile(r"### BEGIN SOLUTION\n.*?### END SOLUTION", re.S)
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.S)
ids = [path.stem for path in SETS]
each_set = pytest.mark.parametrize("path", SETS, ids=ids)


def cells(path):
    return jupytext.reads(path.read_text(), fmt="md:myst").cells


def role(cell):
    """What nbgrader takes a code cell for: an answer, a test, or one that is given."""
    marks = cell.metadata.get("nbgrader", {})
    return "answer" if marks.get("solution") else "test" if marks.get("grade") else "given"


def run(source, names):
    exec(compile(TransformerManager().transform_cell(source), "cell", "exec"), names)


def fails(sources, names):
    """Does one of these cells fail in a copy of these names? What it does to the networks is undone."""
    names, modules = dict(names), [xcnn.load(name).module for name in xcnn.loading.SMALL]
    kept = [copy.deepcopy(module.state_dict()) for module in modules]
    try:
        for source in sources:
            run(source, names)
    except Exception as error:
        assert not isinstance(error, NotImplementedError | SyntaxError | NameError), (
            f"not a fair wrong answer: {error}"
        )
        return True
    finally:
        for module, weights in zip(modules, kept, strict=True):
            module.load_state_dict(weights)
    return False


@cache
def marked(path):
    """Runs the set with its solutions; for each question which tests catch each of its wrong answers."""
    names, answer, tests, caught = {"__name__": "__main__"}, None, [], {}
    for cell in cells(path):
        if cell.cell_type == "code":
            if role(cell) == "answer":
                answer, tests, before = cell.metadata["nbgrader"]["grade_id"], [], dict(names)
                caught[answer] = []
            elif role(cell) == "test":
                tests.append(cell.source)
            run(cell.source, names)
        for comment in WRONG_ANSWERS.findall(cell.source if cell.cell_type == "markdown" else ""):
            for wrong in re.findall(r"```python\n(.*?)```", comment, re.S):
                if fails([wrong, *(HIDDEN.sub("", test) for test in tests)], before):
                    caught[answer].append("public")
                else:
                    caught[answer].append(
                        "hidden" if fails([wrong, *tests], before) else "not at all"
                    )
    return caught


@each_set
def test_solutions_pass_and_wrong_answers_do_not(path):
    caught = marked(path)
    verdicts = {verdict for each in caught.values() for verdict in each}
    assert all(caught.values()), "every question needs a wrong answer"
    assert "not at all" not in verdicts, caught
    assert {"public", "hidden"} <= verdicts, "each set needs one that only a hidden test catches"


@each_set
def test_stubs_fail_as_stubs(path):
    """What students get runs from top to bottom, except that every test stops at a stub."""
    names, tests = {"__name__": "__main__"}, 0
    for cell in nbformat.reads(coursework.student(path.read_text()), 4).cells:
        if cell.cell_type == "code" and role(cell) == "test":
            tests += 1
            with pytest.raises(NotImplementedError):
                run(cell.source, names)
        elif cell.cell_type == "code":
            assert ("raise NotImplementedError" in cell.source) == (role(cell) == "answer"), (
                cell.source
            )
            run(cell.source, names)
    assert (
        tests
        == len([cell for cell in cells(path) if cell.cell_type == "code" and role(cell) == "test"])
        >= 7
    )


@each_set
def test_points_add_up(path):
    """The title says what the questions are worth together, a question what its tests are, a part what its test is."""
    questions, parts = [], []
    for cell in cells(path):
        questions += [
            [int(said), 0] for said in re.findall(r"^## .* \((\d+) points\)$", cell.source, re.M)
        ]
        parts += map(int, re.findall(r"\*\*[a-z]\*\* \((\d+) points?\)", cell.source, re.M))
        if cell.cell_type == "code" and role(cell) == "test":
            points = cell.metadata["nbgrader"]["points"]
            questions[-1][1] += points
            assert not parts or parts.pop() == points
    assert len(questions) >= 5 and all(said == given for said, given in questions), questions
    assert (
        sum(said for said, _ in questions)
        == int(re.search(r"\*\*Points\*\* (\d+)", path.read_text())[1])
        == 20
    )


@each_set
def test_cells_are_marked_for_nbgrader(path):
    marks = [cell.metadata["nbgrader"] for cell in cells(path) if cell.cell_type == "code"]
    names = [mark["grade_id"] for mark in marks]
    assert len(set(names)) == len(names) and all(
        name.startswith(path.stem[:3] + "-") for name in names
    )
    for cell in cells(path):
        if cell.cell_type == "code":
            mark = cell.metadata["nbgrader"]
            assert mark["locked"] == (role(cell) != "answer") and ("points" in mark) == (
                role(cell) == "test"
            )
            assert len(HIDDEN.findall(cell.source)) == (role(cell) == "test")
            assert HIDDEN.sub("", cell.source).rstrip().count("HIDDEN") == 0
            assert role(cell) != "test" or cell.source.rstrip().endswith("### END HIDDEN TESTS")


def test_setup_cell_is_that_of_the_chapters():
    from test_notebooks import CHAPTERS
    from test_notebooks import cells as chapter_cells

    common = chapter_cells(CHAPTERS[0])[0].source.splitlines()[:9]
    for path in SETS:
        first = next(cell for cell in cells(path) if cell.cell_type == "code")
        assert first.source.splitlines()[:9] == common, path.stem


@each_set
def test_nothing_is_given_away(path):
    derived = coursework.student(path.read_text())
    assert not any(mark in derived for mark in ("wrong answers", "BEGIN SOLUTION", "HIDDEN TESTS"))
    shown = [cell.source for cell in nbformat.reads(derived, 4).cells]
    secrets = [
        secret
        for cell in cells(path)
        for secret in (SOLUTION.findall(cell.source) + HIDDEN.findall(cell.source))
    ]
    for secret in secrets:
        inside = "\n".join(secret.splitlines()[1:-1]).strip()
        assert len(inside) > 5 and not any(inside in source for source in shown), secret


def test_a_wrong_answer_that_passes_is_noticed(tmp_path):
    """The test above can fail: the right answer, given as a wrong one, is caught not at all."""
    right = "def step(z):\n    return (np.asarray(z) > 0).astype(int)\n"
    text = (ROOT / "tests" / "coursework" / "tiny.md").read_text()
    broken = tmp_path / "tiny.md"
    for sign, verdict in ((">", "not at all"), (">=", "hidden"), ("<", "public")):
        wrong = right.replace(">", sign)
        broken.write_text(
            text.replace("## 2", f"<!-- wrong answers\n```python\n{wrong}```\n-->\n\n## 2")
        )
        marked.cache_clear()
        assert marked(broken)["step"] == [verdict]
    marked.cache_clear()
