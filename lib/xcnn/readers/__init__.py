"""A test of readers: does a map help people to predict what a network does?

The test is one piece of HTML that needs neither a kernel nor a server: it works in the book, in
JupyterLab and on Colab. Nothing leaves the page; at its end stands a code, which a reader may hand
in, and which `read_codes` reads.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ..errors import InputError
from ..pictures import Page, drawn, encoded, frames_url, image_tag, stored
from .codes import mean_difference, read_codes

__all__ = ["Question", "mean_difference", "read_codes", "reader_test"]
HERE = Path(__file__).parent
MOST_QUESTIONS = 60  # two pictures each: a page must stay light
ENCODER_EFFORT = 4  # from 0, fast, to 6, small


@dataclass(frozen=True)
class Question:
    """One question about what a network does, with a picture that helps and one that does not.

    :param prompt: the question, a sentence
    :param picture: PIL image or matplotlib Figure, without the map
    :param map_picture: the same with the map
    :param options: what can be answered, two or more texts
    :param answer: the right one of them
    :param alt: what the picture shows, for those who cannot see it

    >>> picture = scene.image
    >>> xcnn.Question("Is it night?", picture, picture, ("yes", "no"), "no", "A clock.").answer
    'no'
    """

    prompt: str
    picture: Image.Image | Figure
    map_picture: Image.Image | Figure
    options: tuple
    answer: str
    alt: str

    def __post_init__(self):
        for name in "prompt", "alt":
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{name} is {text!r}: give a sentence")
        options = list(self.options)
        if len(options) < 2 or len(set(map(str, options))) < len(options):
            raise InputError(f"options are {self.options!r}: give two or more different texts")
        if self.answer not in options:
            raise InputError(f"answer is {self.answer!r}, which is not one of {self.options!r}")
        for name in "picture", "map_picture":
            if not isinstance(getattr(self, name), Image.Image | Figure):
                kind = type(getattr(self, name)).__name__
                raise InputError(f"{name} is a {kind}: give a PIL image or a matplotlib Figure")


def reader_test(questions):
    """Ask a reader all questions in an order drawn by chance, half of them with the map.

    Which half is drawn by chance, too, anew for each run, so that maps and questions do not mix.
    The page counts the right answers with and without the map and shows them at the end, with a
    code for `read_codes`. It sends and stores nothing. Figures are closed.

    :param questions: list of `Question`, from 2 to 60
    :return: something that Jupyter displays
    :raises InputError: too few or too many questions; something that is not a `Question`

    >>> picture = scene.image
    >>> ask = xcnn.Question("Is it night?", picture, picture, ("yes", "no"), "no", "A clock.")
    >>> xcnn.reader_test([ask, ask])
    A test of the reader with 2 questions; it needs a browser.
    """
    questions = list(questions)
    if not 2 <= len(questions) <= MOST_QUESTIONS:
        raise InputError(f"{len(questions)} questions: give from 2 to {MOST_QUESTIONS}")
    for question in questions:
        if not isinstance(question, Question):
            raise InputError(f"{question!r} is not a question: make it with xcnn.Question")
    entries = [_entry(question) for question in questions]
    key = _key(questions)
    data = json.dumps({"key": key, "questions": entries})
    data = data.replace("<", "\\u003c")  # an option named </script> must not end the script
    line = f"A test of the reader with {len(questions)} questions; it needs a browser."
    return Page(_page(data, len(questions)), line)


def _entry(question):
    """A question as the page reads it."""
    return {
        "prompt": question.prompt,
        "options": list(map(str, question.options)),
        "answer": str(question.answer),
        "plain": _tag(question.picture, question.alt),
        "map": _tag(question.map_picture, f"{question.alt} A heat map lies over it."),
    }


def _tag(picture, alt):
    """A picture as an <img> that brings its file along."""
    if isinstance(picture, Figure):
        image = drawn(picture)
        plt.close(picture)
    else:
        image = picture.convert("RGB")
    webp = encoded(image, "webp", ENCODER_EFFORT)
    if os.environ.get("XCNN_EXPLORER") == "baked":  # a page of the book keeps its pictures in files
        return image_tag(webp, alt, f"{frames_url()}/{stored(webp)}")
    return image_tag(webp, alt)


def _key(questions):
    """Six hexadecimal digits that name the test: how many questions, and which."""
    texts = [[one.prompt, *map(str, one.options), str(one.answer)] for one in questions]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return f"{len(questions):02x}{digest[:4]}"


def _page(data, count):
    """The test as HTML, with its style and script."""
    style = (HERE / "page.css").read_text()
    script = (HERE / "page.js").read_text()
    return f"""<section class="xcnn-reader-test" aria-label="A test of the reader">
<style>{style}</style>
<noscript><p>The test needs JavaScript.</p></noscript>
<p class="about">{escape(_about(count))}</p>
<div class="stage"></div>
<p class="said" role="status"></p>
<script type="application/json" class="questions">{data}</script>
<script>{script}</script>
</section>"""


def _about(count):
    return (
        f"{count} questions, about {max(1, round(count / 4))} minutes. Half of them come with a "
        "map, drawn by chance. Your answers stay in this page."
    )
