"""The book on paper: the built pages, joined into one and printed by Chromium (`make pdf`).

An explorer is printed as its first picture, with a line that says what was chosen. Hints, answers to the quizzes and
solutions go to the back, in this order, so that a lecturer can leave off what students should not see yet.
"""

import json
import sys
from html import escape
from posixpath import dirname, join, normpath
from urllib.parse import urlsplit

import pikepdf
import yaml
from bs4 import BeautifulSoup

from tools import ROOT
from tools.book.check_book import HTML, contents
from tools.book.derive_notebooks import PLACEHOLDER, repository
from tools.book.open_chromium import chromium

BACK = {"Hint": "Hints", "Answer": "Answers to the quizzes", "Solution": "Solutions"}
WIDTH = 658  # pixels between the margins that print.css sets: 174 mm
NUMBER = '<span class="at">000</span>'  # stands in a link, and becomes the number of the page where the link leads


def anchor(page, fragment=""):
    """The id, in the joined document, of a page or of a place on it."""
    return f"{page}:{fragment}" if fragment else page


def lead(page, href, pages):
    """Where a link on a page leads: an address on the web stays, one of a page becomes a place in the document."""
    parts = urlsplit(href)
    if parts.scheme:
        return href
    other = normpath(join(dirname(page), parts.path)).removesuffix(".html") if parts.path else page
    if other not in pages:
        raise ValueError(f"{page}: the link {href} leads out of the book")
    return "#" + anchor(other, parts.fragment)


def article(page, html, pages):
    """The article of a built page as a tag: no controls, ids that no other page has, links into the document."""
    found = BeautifulSoup(html, "html.parser").select_one("article")
    for explorer in found.select(".xcnn-explore"):
        data = json.loads(explorer.script.string)
        labels = [label.get_text() for label in explorer.select("label")]
        chosen = " · ".join(
            f"{label}: {options[0]}" for label, options in zip(labels, data["options"], strict=True)
        )
        line = (
            f'<p class="chosen">{escape(chosen)} (the first of {len(data["frames"])} pictures)</p>'
        )
        explorer.form.replace_with(BeautifulSoup(line, "html.parser"))
    for dead in found.select(".headerlink, noscript, script, .xcnn-explore-said"):
        dead.decompose()
    for tag in found.select("[id]"):
        tag["id"] = anchor(page, tag["id"])
    for link in found.select("a[href]"):
        link["href"] = lead(page, link["href"], pages)
    for image in found.select("img"):
        image.attrs.pop(
            "loading", None
        )  # what is not on the screen would not be loaded, so not be printed
        if not image["src"].startswith("data:"):
            image["src"] = normpath(join("../html", dirname(page), image["src"]))
    return found


def unfold(page, found):
    """Open what is folded in an article, but take hints, answers and solutions out: kind -> list of HTML entries."""
    taken = {kind: [] for kind in BACK}
    for k, details in enumerate(found.select("details")):
        summary, here, there = (
            details.summary.extract(),
            anchor(page, f"folded-{k}"),
            anchor(page, f"back-{k}"),
        )
        kind, label, inside = (
            summary.get_text(),
            summary.decode_contents(),
            details.decode_contents(),
        )
        if kind in BACK:
            label = details.find_previous(
                "strong", string=lambda text: text and text.startswith("Exercise")
            ).get_text()
            line = f'<p class="turn" id="{here}"><a href="#{there}">{kind}: page {NUMBER}</a></p>'
        elif details.find_previous(["h1", "h2", "h3"]).get_text() == "Quiz":
            kind = "Answer"
            line = f'<p id="{here}">{label} <a class="turn" href="#{there}">Answer: page {NUMBER}</a></p>'
        else:
            line = f'<div class="aside"><p><strong>{label}</strong></p>{inside}</div>'
        if kind in BACK:
            entry = f'<p class="label"><a href="#{here}">{label}</a></p>{inside}'
            taken[kind].append(f'<div class="entry" id="{there}">{entry}</div>')
        details.replace_with(BeautifulSoup(line, "html.parser"))
    return taken


def bind(parts, html=HTML):
    """The whole book as one HTML document, to be stored in a folder beside `html`, which holds the built pages.

    parts: pairs of a caption and its pages, as `contents` gives them. Raises ValueError for a link to a page that is
    not among them.
    """
    config = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())
    pages = [page for _, names in parts for page in names]
    articles = {page: article(page, (html / f"{page}.html").read_text(), pages) for page in pages}
    articles[
        pages[0]
    ].h1.string = "Introduction"  # its own heading is the book's title, which has a page to itself
    titles = {page: found.h1.get_text() for page, found in articles.items()}
    taken = {page: unfold(page, found) for page, found in articles.items()}
    sheets = {page: (titles[page], str(found)) for page, found in articles.items()}
    for kind, title in BACK.items():
        entries = [
            (titles[page], "".join(taken[page][kind])) for page in pages if taken[page][kind]
        ]
        if entries:
            text = "".join(f"<h2>{escape(chapter)}</h2>{entry}" for chapter, entry in entries)
            sheets[kind] = title, f'<article class="bd-article"><h1>{title}</h1>{text}</article>'
    listed = [*parts, ("Hints, answers, solutions", [kind for kind in BACK if kind in sheets])]
    return DOCUMENT.format(
        **{key: escape(config[key]) for key in ("title", "author", "copyright")},
        online=""
        if repository() == PLACEHOLDER
        else f'<p><a href="{repository()}">{repository()}</a></p>',
        contents="".join(
            _part(caption, [(name, sheets[name][0]) for name in names]) for caption, names in listed
        ),
        feet="\n".join(_foot(k, title) for k, (title, _) in enumerate(sheets.values())),
        sheets="\n".join(
            f'<section class="sheet" id="{name}" style="page: sheet-{k}">{text}</section>'
            for k, (name, (_, text)) in enumerate(sheets.items())
        ),
    )


def _part(caption, sheets):
    """One part in the list of contents."""
    items = "".join(
        f'<li><a href="#{name}">{escape(title)}{NUMBER}</a></li>' for name, title in sheets
    )
    return (
        (f"<h2>{escape(caption)}</h2>" if caption else "") + f"<ul>{items}</ul>" if sheets else ""
    )


def _foot(k, title):
    """The title of a sheet at the foot of each of its pages, beside the number, which print.css adds."""
    return f"@page sheet-{k} {{ @bottom-left {{ content: {json.dumps(title, ensure_ascii=False)}; }} }}"


DOCUMENT = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="../html/_static/pygments.css">
<link rel="stylesheet" href="../html/_static/book.css">
<link rel="stylesheet" href="../html/_static/print.css">
<style>
{feet}
</style>
</head>
<body>
<header>
<img src="../html/_static/icon.svg" alt="">
<h1>{title}</h1>
<p class="author">{author}</p>
<p>The printed edition. The book itself runs: its sliders and menus change the pictures, and its code can be changed.
Here an explorer stands still at its first picture. Hints, answers and solutions are at the back.</p>
{online}
<p class="rights">© {copyright} {author}. Code: MIT. Text and figures: CC BY 4.0.</p>
</header>
<nav>
<h1>Contents</h1>
{contents}
</nav>
{sheets}
</body>
</html>
"""

# Formulas and tables that are wider than the paper are drawn smaller, down to half: less could not be read.
SHRINK = """() => {
  for (const box of document.querySelectorAll("math, table")) {
    const part = box.matches("math") ? box.firstElementChild : box;
    const room = box.parentElement.closest("p, li, dd, td, th, div, section").clientWidth;
    for (let zoom = 1; part.getBoundingClientRect().width > room && zoom > 0.5; zoom -= 0.02) box.style.zoom = zoom;
  }
}"""

FILL = """places => {
  for (const number of document.querySelectorAll("a .at"))
    number.textContent = places[decodeURIComponent(number.closest("a").hash.slice(1))] ?? number.textContent;
}"""

LOOK = """() => {
  const over = tag => Math.round(tag.getBoundingClientRect().right - document.documentElement.clientWidth);
  const wide = [...document.querySelectorAll("body *")].filter(tag => over(tag) > 0 && over(tag.parentElement) <= 0);
  return [...document.images].filter(image => !image.naturalWidth).map(image => `${image.src} is missing`)
    .concat(wide.map(tag => `this runs ${over(tag)} pixels off the page: ${tag.outerHTML.slice(0, 120)}`));
}"""


def press(source, target):
    """Print the HTML document `source` into the PDF `target`. Returns what does not fit or is not there, as sentences.

    The numbers of pages that the document names are those of the print before; printing ends when they agree.
    """
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.emulate_media(media="print")
        page.goto(source.as_uri())
        page.evaluate("document.fonts.ready.then(() => null)")
        page.evaluate(SHRINK)
        found, before, places = page.evaluate(LOOK), None, {}
        while places != before:
            page.evaluate(FILL, places)
            page.pdf(
                path=target,
                prefer_css_page_size=True,
                print_background=True,
                outline=True,
                tagged=True,
            )
            with pikepdf.open(target) as pdf:
                before, places = places, numbers(pdf)
    with pikepdf.open(
        target, allow_overwriting_input=True
    ) as pdf:  # the tags alone are larger than all pictures
        pdf.save(target, object_stream_mode=pikepdf.ObjectStreamMode.generate)
    return found


def numbers(pdf):
    """Where the links of a PDF lead: name of a place -> number of its page, from 1."""
    pages = {page.obj.objgen: number for number, page in enumerate(pdf.pages, 1)}
    return {
        name.removeprefix("/"): pages[place[0].objgen]
        for name, place in pdf.Root.get("/Dests", {}).items()
    }


def faults(target, titles):
    """What is wrong with a printed book, as sentences: links that lead nowhere, titles that no bookmark names."""
    with pikepdf.open(target) as pdf, pdf.open_outline() as outline:
        places, found = numbers(pdf), []
        for number, page in enumerate(pdf.pages, 1):
            for link in page.get("/Annots", []):
                place = str(link.get("/Dest", "")).removeprefix("/")
                address = str(link.A.get("/URI", "")) if "/A" in link else ""
                if place not in places and not address.startswith(("https:", "http:")):
                    found.append(f"page {number}: a link leads nowhere: {place or address}")
        marks = {mark.title for mark in outline.root}
        return found + [f"no bookmark for {title}" for title in titles if title not in marks]


def main():
    folder = ROOT / "_build" / "pdf"
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "book.html", folder / "xcnn.pdf"
    source.write_text(bind(contents()))
    titles = [
        heading.get_text()
        for heading in BeautifulSoup(source.read_text(), "html.parser").select("h1")
    ]
    return "\n".join(press(source, target) + faults(target, titles)) or 0


if __name__ == "__main__":
    sys.exit(main())
