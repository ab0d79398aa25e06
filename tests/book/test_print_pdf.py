"""The printed book, on a toy of two pages. One library writes the PDF, another reads it back."""

import re
import shutil

import pytest
from bs4 import BeautifulSoup
from pypdf import PdfReader

from tests.helpers.browser import chromium
from tools import ROOT
from tools.book.bind_pdf import bind
from tools.book.check_book import contents
from tools.book.prepare_page import BACK
from tools.book.print_pdf import faults, print_document

PARTS = [("", ["book/front"]), ("The methods", ["notebooks/01_one"])]
TITLES = ["Contents", "Introduction", "1 · One & only", *BACK.values()]  # of pages 2 to 7
WIDE_FORMULA = "<mo>+</mo>".join(["<mi>wide</mi>"] * 18)
FRONT = """<html><body><article class="bd-article"><section id="same"><h1>The toy</h1>
<p>Read <a href="../notebooks/01_one.html">one</a>,
<a href="../notebooks/01_one.html#quiz">its quiz</a>, or
<a href="https://arxiv.org/abs/1312.6034">a paper</a>.</p></section></article></body></html>"""
ONE = f"""<html><body><nav>chrome</nav><article class="bd-article"><section id="same">
<h1>1 · One &amp; only<a class="headerlink" href="#same">#</a></h1>
<div class="math-block"><math display="block"><mrow>
<mi>x</mi><mo>=</mo>{WIDE_FORMULA}</mrow></math></div>
<figure class="xcnn-explore">
<form hidden><label for="c-0">layer</label><input type="range" id="c-0">
<label for="c-1">class</label><select id="c-1"><option>clock</option></select></form>
<noscript><p>needs JavaScript</p></noscript>
<img loading="lazy" width="60" src="../_static/icon.svg" alt="first">
<script type="application/json">
{{"options": [["3", "2"], ["clock"]], "frames": ["a", "b"]}}
</script></figure>
<details><summary>Proof</summary><p>proofword</p></details>
<p><strong>Exercise 1 · predict</strong> (5 minutes).</p>
<details><summary>Hint</summary><p>hintword {{}}</p></details>
<details><summary>Solution</summary><p>solutionword</p></details>
<section id="quiz"><h2>Quiz</h2>
<details><summary>1. Why?</summary><p>answerword</p></details></section>
<p>Back to the <a href="../book/front.html#same">front</a>.</p>
</section></article></body></html>"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of a toy book: built pages in html/, the joined document and its print in pdf/."""
    folder = tmp_path_factory.mktemp("toy")
    for name, text in {"book/front": FRONT, "notebooks/01_one": ONE}.items():
        (folder / "html" / name).parent.mkdir(parents=True)
        (folder / "html" / f"{name}.html").write_text(text)
    shutil.copytree(ROOT / "book" / "_static", folder / "html" / "_static")
    (folder / "pdf").mkdir()
    (folder / "pdf" / "book.html").write_text(bind(PARTS, folder / "html"))
    return folder


@pytest.fixture(scope="module")
def printed(toy):
    """The toy as a PDF; printing found nothing to complain of."""
    with chromium():  # skips where there is none
        pass
    assert print_document(toy / "pdf" / "book.html", toy / "pdf" / "toy.pdf") == []
    return toy / "pdf" / "toy.pdf"


def one_line(text):
    """The text with a space in the place of each line break."""
    return re.sub(r"\s+", " ", text)


def bookmarks(outline):
    """The titles of the bookmarks: a title, and after it a list where it has bookmarks below."""
    return [bookmarks(mark) if isinstance(mark, list) else mark.title for mark in outline]


def test_every_page_has_its_number_and_its_title_at_the_foot(printed):
    pages = [page.extract_text() for page in PdfReader(printed).pages]
    assert len(pages) == 7  # title, contents, two pages, hints, answers, solutions
    assert pages[0].startswith("Explainable")
    for number, title in enumerate(TITLES, 2):
        foot = str(number) if title == "Contents" else f"{number}{title}"
        assert pages[number - 1].startswith(f"{foot}\n{title}")  # the foot is drawn first


def test_contents_name_the_pages_where_chapters_begin(printed):
    reader = PdfReader(printed)
    listed = one_line(reader.pages[1].extract_text())
    for number, title in enumerate(TITLES[1:], 3):
        assert f"{title} {number}" in listed
        assert title in reader.pages[number - 1].extract_text()


def test_bookmarks_lead_to_pages_and_sections(printed):
    chapter = "1 · One & only"
    back = [entry for title in BACK.values() for entry in (title, [chapter])]
    assert bookmarks(PdfReader(printed).outline) == [
        "Explainable Convolutional Neural Networks",
        "Contents",
        ["The methods", "Hints, answers, solutions"],
        "Introduction",
        chapter,
        ["Quiz"],
        *back,
    ]


def test_links_lead_into_the_document_or_to_the_web(printed):
    reader = PdfReader(printed)
    places = {
        name.removeprefix("/"): reader.get_destination_page_number(destination) + 1
        for name, destination in reader.named_destinations.items()
    }
    inside = {}
    outside = []
    for number, page in enumerate(reader.pages, 1):
        for link in (note.get_object() for note in page.get("/Annots", [])):
            if "/Dest" in link:
                inside.setdefault(number, set()).add(places[link["/Dest"].removeprefix("/")])
            else:
                outside.append(link["/A"]["/URI"])
    assert inside == {2: {3, 4, 5, 6, 7}, 3: {4}, 4: {3, 5, 6, 7}, 5: {4}, 6: {4}, 7: {4}}
    assert outside == ["https://arxiv.org/abs/1312.6034"]


def test_hints_answers_and_solutions_come_last(printed):
    text = [page.extract_text() for page in PdfReader(printed).pages]
    for word, number in {
        "hintword {}": 5,
        "answerword": 6,
        "solutionword": 7,
        "proofword": 4,
    }.items():
        assert [number] == [n for n, page in enumerate(text, 1) if word in page]
    chapter = one_line(text[3])
    assert "Hint: page 5" in chapter
    assert "Solution: page 7" in chapter
    assert "1. Why? Answer: page 6" in chapter
    assert all("Exercise 1 · predict" in text[n] for n in (4, 6)) and "1. Why?" in text[5]


def test_an_explorer_is_a_picture_and_a_line(toy):
    document = BeautifulSoup((toy / "pdf" / "book.html").read_text(), "html.parser")
    dead = "form, input, select, script, noscript, details, .headerlink, [loading]"
    assert not document.select(dead)
    chosen = document.select_one(".chosen").get_text()
    assert chosen == "layer: 3 · class: clock (the first of 2 pictures)"
    assert document.select_one(".xcnn-explore img")["src"] == "../html/_static/icon.svg"
    assert "chrome" not in document.get_text()
    ids = [tag["id"] for tag in document.select("[id]")]
    assert len(ids) == len(set(ids))


def test_a_link_out_of_the_book_is_refused(toy):
    message = r"book/front: the link \.\./notebooks/01_one\.html leads out of the book"
    with pytest.raises(ValueError, match=message):
        bind([("", ["book/front"])], toy / "html")


def test_what_does_not_fit_is_named(toy, printed):
    source = toy / "pdf" / "wide.html"
    source.write_text(
        '<body style="margin:0"><p style="width:900px">wide</p><img src="none.png" alt=""></body>'
    )
    missing, wide = print_document(source, toy / "pdf" / "wide.pdf")
    assert missing.endswith("none.png is missing")
    assert wide.startswith("this runs 242 pixels off the page: <p style")


def test_faults_of_a_print_are_named(toy, printed):
    source = toy / "pdf" / "bad.html"
    target = toy / "pdf" / "bad.pdf"
    source.write_text('<h1>There</h1><a href="other.html">file</a>')
    assert print_document(source, target) == []
    link, bookmark = faults(target, ["There", "Not there"])
    assert link.startswith("page 1: a link leads nowhere: file:")
    assert bookmark == "no bookmark for Not there"
    assert faults(printed, TITLES) == []


def test_the_table_of_contents_is_the_books():
    parts = dict(contents())
    assert parts[""] == ["book/intro"]
    assert "notebooks/08_grad_cam" in parts["Where is the evidence?"]
