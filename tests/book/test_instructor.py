"""The instructor's page says what the chapters, the problem sets and the Makefile say."""

import pathlib
import re

import pytest
import xcnn

from tools import ROOT

PAGE = (ROOT / "book/instructor.md").read_text()
CHAPTERS = {int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("[0-9]*.md"))}


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


def rows(text):
    """The rows of all tables in a text, without their heads."""
    table = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in table if row[0] not in ("chapter", "week") and row[0].strip("-")]


def linked(cell):
    """The numbers of the chapters to which a cell links."""
    return [int(number) for number in re.findall(r"\(\.\./notebooks/(\d\d)_\w+\.ipynb\)", cell)]


@pytest.mark.parametrize("number", CHAPTERS)
def test_times_are_those_of_the_chapter(number):
    text = CHAPTERS[number].read_text()
    minutes = re.findall(r"^\*\*Exercise \d · [\w, ]+\*\* \((\d+) minutes", text, re.M)
    [(name, time, exercises)] = [
        row for row in rows(section("How long a chapter takes")) if linked(row[0]) == [number]
    ]
    assert f"\n# {name[1 : name.index(']')]}\n" in text
    assert re.search(rf"\*\*Time\*\* about {time}[.,]", text)
    assert exercises == f"{' + '.join(minutes)} minutes"


@pytest.mark.parametrize("number", CHAPTERS)
def test_outcomes_are_those_of_the_chapter(number):
    text = CHAPTERS[number].read_text()
    promise = text.split("you will be able to")[1].split("```")[0]
    promised = re.findall(r"^\d\. (.+)[,.]$", promise, re.M)
    outcomes = [
        row for row in rows(section("Learning outcomes")) if re.match(rf"\[?{number}\b", row[0])
    ]
    assert [row[1] for row in outcomes] == promised
    for _, _, practised, _ in outcomes:
        exercises = numbers_after("exercises?", practised)
        quiz = numbers_after("quiz", practised)
        parts = re.findall(r"section \*(.+?)\*", practised)
        assert exercises or quiz or parts
        assert all(f"**Exercise {k} · " in text for k in exercises)
        assert all(f"<summary>{k}. " in text for k in quiz)
        assert all(re.search(rf"^##+ {re.escape(title)}$", text, re.M) for title in parts)


def numbers_after(word, text):
    """The numbers in "WORD 1, 2 and 3"; the word is a regular expression."""
    lists = re.findall(rf"{word} ([\d and]+)", text)
    return [int(digit) for numbers in lists for digit in re.findall(r"\d", numbers)]


def test_questions_of_problem_sets_exist():
    graded = [
        part
        for row in rows(section("Learning outcomes"))
        if row[3] != "–"
        for part in row[3].split("; ")
    ]
    asked = [
        re.fullmatch(r"set (\d), questions? (\d(?: and \d)?)", part).groups() for part in graded
    ]
    assert {number for number, _ in asked} == set("12345")
    for number, questions in asked:
        [source] = (ROOT / "notebooks/coursework").glob(f"ps{number}_*.md")
        for k in questions.split(" and "):
            assert re.search(rf"^## {k} · ", source.read_text(), re.M), (
                f"{source.name} has no question {k}"
            )


@pytest.mark.parametrize(
    "title, weeks, chapters",
    [("Twelve weeks", 12, range(1, 17)), ("Six weeks", 6, [*range(1, 12), 14, 15, 16])],
)
def test_syllabus_is_complete(title, weeks, chapters):
    table = rows(section(title))
    assert [int(row[0]) for row in table] == list(range(1, weeks + 1))
    order = [n for row in table for n in linked(row[1])]
    assert order == sorted(order) and set(order) == set(chapters)
    events = [event for row in table for event in re.findall(r"(\d) (out|due)", row[3])]
    every = [(str(k), what) for k in range(1, 5) for what in ("out", "due")]
    assert sorted(events) == sorted([*every, ("5", "out")])
    assert "Set 5 asks for judgement, and is due after the last meeting." in PAGE
    assert all(events.index((str(k), "out")) < events.index((str(k), "due")) for k in range(1, 5))


def test_the_example_of_readers_codes_runs():
    code = re.search(r"```python\n(table = .*?)```", PAGE, re.S)[1]
    names = {"xcnn": xcnn}
    exec(code, names)
    assert names["table"]["difference"].gt(0).any() and len(names["table"]) == 2


def test_the_codes_of_submissions_are_found(tmp_path, monkeypatch):
    code = re.search(r"```python\n(found = .*?)```", PAGE, re.S)[1]
    for name, text in (("Ada", 'return \\"0c1234-dcd8dc-f1\\"'), ("Max", "nothing")):
        (tmp_path / "submissions" / name).mkdir(parents=True)
        (tmp_path / "submissions" / name / f"{name}.ipynb").write_text(text)
    monkeypatch.chdir(tmp_path)
    names = {"pathlib": pathlib, "re": re}
    exec(code, names)
    assert names["found"] == {"Ada": "0c1234-dcd8dc-f1"}


def test_commands_on_the_page_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    called = {
        target
        for line in re.findall(r"(?:^ *|`)make ([a-z][a-z -]*)", PAGE, re.M)
        for target in line.split()
    }
    assert {"lab", "notebooks", "coursework"} <= called <= targets


def test_address_stands_on_the_page_as_in_the_settings():
    assert '[project.urls]\n   Repository = "https://github.com/' in PAGE
    assert re.search(
        r'^\[project\.urls\]\n(#.*\n)*Repository = "https://github\.com/',
        (ROOT / "pyproject.toml").read_text(),
        re.M,
    )
