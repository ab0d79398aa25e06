"""The tour plays, has captions, and says nothing that the records do not."""

import json
import re

import pytest
from xcnn import report
from xcnn.paths import data_folder

from tests.helpers.browser import chromium
from tools import ROOT
from tools.book import make_tour
from tools.book.check_book import HTML, contents

TEXTS = make_tour.paragraphs()
RESULTS = data_folder() / "results"
FIRST, SECOND, THIRD = (text for text in TEXTS if re.match(r"The \w+ finding\.", text))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The folder with the tour, recorded from the built book."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        for name in "FILM", "CAPTIONS", "PLAYER":
            patch.setattr(make_tour, name, folder / getattr(make_tour, name).name)
        patch.setattr(make_tour, "ROOT", folder)
        make_tour.main()
        make_tour.show()
    return folder


def test_it_plays_with_captions_from_a_file(film):
    page_of_film = film / "book" / "page.html"
    page_of_film.parent.mkdir()
    (film / "_static").symlink_to(film)
    page_of_film.write_text("<!doctype html>" + (film / "tour.html").read_text())
    with chromium() as browser:
        page = browser.new_page()
        page.goto(page_of_film.as_uri())
        video = page.locator("video")
        video.evaluate("v => { v.muted = true; return v.play() }")
        page.wait_for_function("document.querySelector('video').currentTime > 0.2")
        seconds = video.evaluate("v => v.duration")
        page.wait_for_function("document.querySelector('video').textTracks[0].cues?.length > 0")
        cues = video.evaluate("v => [...v.textTracks[0].cues].map(c => [c.text, c.endTime])")
        size = video.evaluate("v => [v.videoWidth, v.videoHeight]")
    assert size == list(make_tour.SIZE.values())
    assert 90 < seconds < 180  # two minutes, or a little more
    assert " ".join(text for text, _ in cues) == " ".join(TEXTS)
    assert all(len(text.split()) <= make_tour.CAPTION_WORDS for text, _ in cues)
    assert cues[-1][1] == pytest.approx(seconds, abs=2)


def test_without_a_voice_the_captions_stand_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(make_tour, "VOICE", ("not-a-program",))
    seconds = make_tour.speak("one two three four", tmp_path / "silence.wav")
    assert seconds == pytest.approx(4 / make_tour.WORDS_PER_SECOND, abs=0.01)


def test_without_a_film_the_front_page_holds_the_words(monkeypatch, tmp_path):
    monkeypatch.setattr(make_tour, "FILM", tmp_path / "tour.webm")
    monkeypatch.setattr(make_tour, "PLAYER", tmp_path / "new" / "tour.html")
    make_tour.show()
    assert "<video" not in make_tour.PLAYER.read_text()
    page = (HTML / "book" / "intro.html").read_text()
    assert all(re.sub("'", "’", text) in page or text in page for text in TEXTS)


# ---- what it says


def test_each_paragraph_has_its_scene():
    assert len(TEXTS) == len(make_tour.SCENES) == 9
    words = sum(len(text.split()) for text in TEXTS)
    assert 220 <= words <= 330  # two minutes


def test_the_first_finding():
    frames = json.loads((data_folder() / "gallery" / "index.json").read_text())["frames"]
    shown = [frame for frame in frames if frame["explorer"] == "three_answers"]
    cup, cat = ([f for f in shown if f["why"] == thing] for thing in ("cup", "tiger cat"))
    assert "two thirds of its energy, or more" in FIRST and len(cup) == len(cat) == 3
    for asked_cup, asked_cat in zip(cup, cat, strict=True):
        assert asked_cup["maps"]["guided backprop"]["upper"] > 0.655
        assert asked_cat["maps"]["guided backprop"]["upper"] > 0.655
        moves = [
            asked_cat["maps"][name]["upper"] - asked_cup["maps"][name]["upper"]
            for name in ("Grad-CAM", "guided backprop")
        ]
        assert moves[0] > 0.4 and moves[1] < 0.3
    sure = max(cup, key=lambda frame: frame["p"])
    assert shown[0] == sure and sure["p"] > 0.5  # "says: cup", on the first picture


def test_the_second_finding():
    frame = report.read(RESULTS / "contest_photographs.jsonl.gz")
    pairs = report.pairs(frame[frame["size"] == 224], score="G")
    with_centre = pairs[(pairs["first"] == "centre") | (pairs["second"] == "centre")]
    level = with_centre[~with_centre["ahead"]]
    named = {*level["first"], *level["second"]}
    assert "the gradient and two other methods are not ahead" in SECOND
    assert {"gradient", "gradient_times_input", "cnn_fixations"} <= named


def test_the_third_finding():
    trust = report.read(RESULTS / "trust.jsonl.gz")
    signed, unsigned = (
        report.table(trust, score=score).loc["lrp"] for score in ("kept_signed", "kept_unsigned")
    )
    assert "two thirds of an LRP map seem to survive" in THIRD
    assert 0.6 < unsigned["low"] < unsigned["high"] < 0.73
    assert "nothing is left" in THIRD and -0.1 < signed["low"] < 0 < signed["high"] < 0.1


def test_what_it_counts_and_names():
    chapters = [name for _, names in contents() for name in names if name.startswith("notebooks/")]
    assert "Sixteen chapters" in " ".join(TEXTS) and len(chapters) == 16
    assert "lab:" in (ROOT / "Makefile").read_text()
    how_to = (ROOT / "book" / "how_to.md").read_text()
    own = how_to.split("## A network of your own")[1].split("```python\n")[1].split("```")[0]
    assert len(own.strip().splitlines()) == 3  # "write three lines of Python"
