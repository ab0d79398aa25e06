"""The test of readers: fair in a browser, readable by its codes, and plain about bad input."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xcnn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from scipy import stats
from xcnn import InputError, Question, read_codes, reader_test
from xcnn.readers import mean_difference

from tests.helpers.browser import chromium

PLAIN = Image.new("RGB", (64, 48), "white")
MAP = Image.new("RGB", (64, 48), "red")
OPTIONS = ("yes", "no </script>")


def question(k, **changes):
    arguments = {
        "prompt": f"Question <b>{k}</b>?",
        "picture": PLAIN,
        "map_picture": MAP,
        "options": OPTIONS,
        "answer": OPTIONS[k % 2],
        "alt": f"Scene {k}.",
    }
    return Question(**{**arguments, **changes})


QUESTIONS = [question(k) for k in range(5)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, tmp_path):
    """A page with the test; at the end nothing may have gone wrong, or left the page."""
    address = tmp_path / "page.html"
    html = reader_test(QUESTIONS)._repr_html_()
    address.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>A test</title>'
        f"<main><h1>A test</h1>{html}</main></html>",
        encoding="utf-8",
    )
    page = browser.new_page()
    trouble = []
    asked = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address.as_uri())
    yield page
    page.close()
    assert not trouble
    assert all(url.startswith(("file:", "data:")) for url in asked)


def run_through(page, choose):
    """Answer all questions; (number of the question, with the map?, right?) in the order asked."""
    answers = []
    for _ in QUESTIONS:
        legend = page.locator("legend").inner_text()
        number = int(re.search(r"<b>(\d)</b>", legend)[1])
        with_map = ", with the map." in legend
        alt = page.locator("img").get_attribute("alt")
        assert alt == f"Scene {number}." + " A heat map lies over it." * with_map
        answer = choose(number, with_map)
        answers.append((number, with_map, answer == QUESTIONS[number].answer))
        page.get_by_role("button", name=answer, exact=True).click()
    return answers


def the_code(page):
    return page.locator("section code").inner_text()


def test_the_code_says_what_the_reader_did(page):
    page.get_by_role("button", name="Start").click()
    answers = run_through(page, lambda number, with_map: OPTIONS[0])
    row = read_codes([the_code(page)]).loc[1]
    for name, kind in (("map", True), ("plain", False)):
        judged = [right for _, with_map, right in answers if with_map is kind]
        assert row[f"{name}_asked"] == len(judged) in (2, 3)
        assert row[f"{name}_right"] == sum(judged)
    said = f"With the map {row['map_right']:.0f} of {row['map_asked']:.0f} right"
    assert page.locator(".result").inner_text().startswith(said)
    page.locator("details summary").click()
    assert page.locator("ol li").count() == len(QUESTIONS)
    wrong = sum(not right for *_, right in answers)
    assert page.get_by_text("the answer is: no </script>").count() == wrong == 2


def test_order_and_half_are_drawn_anew(page):
    page.get_by_role("button", name="Start").click()
    seen = set()
    halves = set()
    for _ in range(8):
        answers = run_through(page, lambda number, with_map: QUESTIONS[number].answer)
        seen.add(tuple(number for number, *_ in answers))
        halves.add(frozenset(number for number, with_map, _ in answers if with_map))
        assert sorted(number for number, *_ in answers) == list(range(5))
        row = read_codes([the_code(page)]).loc[1]
        assert row["map_right"] + row["plain_right"] == 5 and row["difference"] == 0
        page.get_by_role("button", name="Start again").click()
    assert len(seen) > 2 and len(halves) > 2  # less has a chance of two in a million


def test_the_keyboard_alone_is_enough(page):
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for _ in QUESTIONS:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    assert page.locator(".result").evaluate("title => title === document.activeElement")
    assert page.locator("[role=status]").inner_text() == page.locator(".result").inner_text()


@pytest.mark.parametrize("answered", [0, 2, 5])
def test_axe_finds_nothing(page, answered):
    page.get_by_role("button", name="Start").click()
    for _ in range(answered):
        page.get_by_role("button", name="yes").click()
    assert Axe().run(page).response["violations"] == []


def test_figures_are_drawn_and_closed():
    figure = plt.figure(figsize=(2, 1))
    test = reader_test([question(0, picture=figure), question(1)])
    assert 'width=\\"260\\" height=\\"130\\"' in test.html and not plt.get_fignums()


def test_the_book_keeps_the_pictures_in_files(monkeypatch, tmp_path):
    monkeypatch.setenv("XCNN_EXPLORER", "baked")
    monkeypatch.setenv("XCNN_FRAMES", str(tmp_path / "frames"))
    monkeypatch.setenv("XCNN_FRAMES_URL", "../_static/frames")
    test = reader_test(QUESTIONS)
    names = {path.name for path in (tmp_path / "frames").iterdir()}
    assert len(names) == 2 and "data:image" not in test.html
    assert all(f'src=\\"../_static/frames/{name}\\"' in test.html for name in names)


# ---- codes


def code(key, *pairs):
    """A code made by hand, from the text above `xcnn/readers/codes.py`."""
    bits = "".join(f"{int(with_map)}{int(right)}" for with_map, right in pairs)
    bits += "00" * (len(pairs) % 2)
    body = f"{key}-" + "".join(f"{int(bits[k : k + 4], 2):x}" for k in range(0, len(bits), 4))
    total = sum((k + 1) * ord(letter) for k, letter in enumerate(body))
    return f"{body}-{total % 251:02x}"


GOOD = code("03abcd", (1, 1), (0, 0), (1, 0))
BETTER = code("03abcd", (1, 1), (0, 0), (1, 1))


def test_codes_by_hand():
    table = read_codes({"one": GOOD, "two": f" {BETTER.upper()}\n"})
    assert table.loc["one"].tolist() == [1, 2, 0, 1, 0.5]
    assert table.loc["two"].tolist() == [2, 2, 0, 1, 1]
    mean = mean_difference(table)
    expected = stats.ttest_1samp([0.5, 1], 0).confidence_interval(0.95)
    assert mean["mean"] == 0.75 and mean["readers"] == 2
    assert np.allclose([mean["low"], mean["high"]], expected)


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_a_wrong_character_is_noticed(place):
    for character in "0f-":
        if character != GOOD[place]:
            damaged = GOOD[:place] + character + GOOD[place + 1 :]
            with pytest.raises(InputError, match=r"reader 'ann'.* is damaged: ask for it again"):
                read_codes({"ann": damaged})


def test_exchanged_characters_are_noticed():
    for place in range(len(GOOD) - 1):
        if GOOD[place] != GOOD[place + 1]:
            first, second = GOOD[place : place + 2]
            damaged = GOOD[:place] + second + first + GOOD[place + 2 :]
            with pytest.raises(InputError, match="damaged"):
                read_codes([damaged])


@pytest.mark.parametrize("bad", ["", None, 7, GOOD[:-1], GOOD + "0", code("04abcd", (1, 1))])
def test_what_is_not_a_code(bad):
    with pytest.raises(InputError, match="damaged"):
        read_codes([bad])


def test_codes_of_two_tests_do_not_mix():
    other = code("03dcba", (1, 1), (0, 0), (1, 0))
    with pytest.raises(InputError, match="03abcd: 1, 2; 03dcba: 3; read each alone"):
        read_codes([GOOD, BETTER, other])
    with pytest.raises(InputError, match="not a single code"):
        read_codes([])


def test_one_reader_has_no_interval():
    with pytest.raises(InputError, match="an interval needs two or more"):
        mean_difference(read_codes([GOOD]))


# ---- questions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "prompt is ' ': give a sentence"),
        ({"alt": None}, "alt is None: give a sentence"),
        ({"options": ("yes",), "answer": "yes"}, "two or more different texts"),
        ({"options": ("yes", "yes")}, "two or more different texts"),
        ({"answer": "maybe"}, "answer is 'maybe', which is not one of"),
        ({"picture": np.zeros((3, 3))}, "picture is a ndarray: give a PIL image"),
        ({"map_picture": None}, "map_picture is a NoneType: give a PIL image"),
    ],
)
def test_bad_questions(changes, message):
    with pytest.raises(InputError, match=message):
        question(0, **changes)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "0 questions: give from 2 to 60"),
        ([QUESTIONS[0]] * 61, "61 questions: give from 2 to 60"),
        ([QUESTIONS[0], "Will it fall?"], "'Will it fall\\?' is not a question"),
    ],
)
def test_bad_tests(questions, message):
    with pytest.raises(InputError, match=message):
        reader_test(questions)


def test_the_key_names_the_questions():
    def key(*questions):
        return re.search(r'"key": "(\w+)"', reader_test(questions).html)[1]

    same = key(*QUESTIONS)
    assert same == key(*QUESTIONS) and same.startswith("05")
    assert same != key(*QUESTIONS[:4], question(0))
    assert xcnn.reader_test(QUESTIONS).html.count("</script>") == 2
