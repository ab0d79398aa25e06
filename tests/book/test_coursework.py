"""The problem sets: solutions pass, stubs fail, points add up, and wrong answers are caught.

Wrong answers stand in the source, in a comment below the question's tests, each in its own block of
code.
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
each_set = pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])


def cells(path):
    return jupytext.reads(path.read_text(), fmt="md:myst").cells


def role(cell):
    """What a code cell is for nbgrader: "answer", "test", or "setup" for any other."""
    marks = cell.metadata.get("nbgrader", {})
    if marks.get("solution"):
        return "answer"
    return "test" if marks.get("grade") else "setup"


def is_written(cell):
    """Is this a text that students write and somebody reads?"""
    return cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("grade", False)


def written_cells(path):
    return [cell for cell in cells(path) if is_written(cell)]


def code_cells(path, wanted=None):
    """The code cells of a problem set; with a role, only those that have it."""
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    return [cell for cell in code if wanted in (None, role(cell))]


def run(source, names):
    """Run a cell with these names, in place."""
    exec(compile(TransformerManager().transform_cell(source), "cell", "exec"), names)


def fails(sources, names):
    """Does one of these cells fail in a copy of these names? Changes to the networks are undone."""
    own_names = dict(names)
    modules = [xcnn.load(name).module for name in xcnn.loading.SMALL]
    weights_before = [copy.deepcopy(module.state_dict()) for module in modules]
    try:
        for source in sources:
            run(source, own_names)
    except Exception as error:
        assert not isinstance(error, NotImplementedError | SyntaxError | NameError), (
            f"not a fair wrong answer: {error}"
        )
        return True
    finally:
        for module, weights in zip(modules, weights_before, strict=True):
            module.load_state_dict(weights)
    return False


@cache
def marked(path):
    """Run the set with its solutions and try its wrong answers.

    Returns, for each question, which tests catch each of its wrong answers.
    """
    names = {"__name__": "__main__"}
    caught = {}
    for cell in cells(path):
        if cell.cell_type == "code":
            if role(cell) == "answer":
                answer = cell.metadata["nbgrader"]["grade_id"]
                tests = []
                names_before = dict(names)
                caught[answer] = []
            elif role(cell) == "test":
                tests.append(cell.source)
            run(cell.source, names)
        elif cell.cell_type == "markdown":
            for wrong in wrong_answers(cell):
                caught[answer].append(verdict(wrong, tests, names_before))
    return caught


def wrong_answers(cell):
    """The wrong answers that a text cell holds in comments."""
    comments = WRONG_ANSWERS.findall(cell.source)
    return [
        wrong for comment in comments for wrong in re.findall(r"```python\n(.*?)```", comment, re.S)
    ]


def verdict(wrong, tests, names):
    """Which tests catch a wrong answer: "public", "hidden", or "not at all"."""
    public = [HIDDEN.sub("", test) for test in tests]
    if fails([wrong, *public], names):
        return "public"
    return "hidden" if fails([wrong, *tests], names) else "not at all"


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
    names = {"__name__": "__main__"}
    tests = 0
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
    assert tests == len(code_cells(path, "test")) >= 7


@each_set
def test_points_add_up(path):
    """The title says the points of all questions, a question those of its tests, a part its own."""
    questions = []
    parts = []
    for cell in cells(path):
        for said in re.findall(r"^## .* \((\d+) points\)$", cell.source, re.M):
            questions.append([int(said), 0])
        parts += map(int, re.findall(r"\*\*[a-z]\*\* \((\d+) points?\)", cell.source, re.M))
        if cell.cell_type == "code" and role(cell) == "test":
            points = cell.metadata["nbgrader"]["points"]
            questions[-1][1] += points
            assert not parts or parts.pop() == points
        if is_written(cell):
            questions[-1][1] += cell.metadata["nbgrader"]["points"]
    assert len(questions) >= 5 and all(said == summed for said, summed in questions), questions
    title_points = int(re.search(r"\*\*Points\*\* (\d+)", path.read_text())[1])
    assert sum(said for said, _ in questions) == title_points == 20


@each_set
def test_cells_are_marked_for_nbgrader(path):
    code = code_cells(path)
    names = [cell.metadata["nbgrader"]["grade_id"] for cell in code]
    assert len(set(names)) == len(names)
    assert all(name.startswith(path.stem[:3] + "-") for name in names)
    for cell in code:
        marks = cell.metadata["nbgrader"]
        is_test = role(cell) == "test"
        assert marks["locked"] == (role(cell) != "answer")
        assert ("points" in marks) == is_test
        assert len(HIDDEN.findall(cell.source)) == is_test
        assert HIDDEN.sub("", cell.source).rstrip().count("HIDDEN") == 0
        assert not is_test or cell.source.rstrip().endswith("### END HIDDEN TESTS")


@pytest.mark.parametrize("number, texts", [(3, 1), (4, 1), (5, 2)])
def test_these_sets_ask_for_judgement_in_writing(number, texts):
    (path,) = (path for path in SETS if path.stem.startswith(f"ps{number}"))
    for cell in written_cells(path):
        marks = cell.metadata["nbgrader"]
        assert marks["solution"] and not marks["locked"] and marks["points"] == 3
        assert marks["grade_id"].startswith(f"ps{number}-") and 70 < len(cell.source.split()) <= 155
    assert len(written_cells(path)) == texts
    points = sum(cell.metadata["nbgrader"]["points"] for cell in written_cells(path))
    assert re.search(rf"\*\*Points\*\* 20, of which {points} are for ", path.read_text())


def test_setup_cell_is_that_of_the_chapters():
    from tests.book.test_notebooks import CHAPTERS
    from tests.book.test_notebooks import cells as chapter_cells

    common = chapter_cells(CHAPTERS[0])[0].source.splitlines()[:9]
    for path in SETS:
        first = code_cells(path)[0]
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
    for cell in written_cells(path):
        assert cell.source not in shown and "YOUR ANSWER HERE" in shown
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
