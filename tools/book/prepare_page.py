"""Prepare one built page for paper: no controls, nothing folded, and links within the document.

An explorer becomes its first picture, with a line that says what was chosen. Hints, answers to the
quizzes and solutions are taken out, for the back of the document.
"""

import json
from html import escape
from posixpath import dirname, join, normpath
from urllib.parse import urlsplit

from bs4 import BeautifulSoup

# what the back of the document holds, in its order: kind -> title
BACK = {"Hint": "Hints", "Answer": "Answers to the quizzes", "Solution": "Solutions"}
# stands in a link, and is replaced by the number of the page where the link leads
PAGE_NUMBER = '<span class="at">000</span>'
DEAD_ON_PAPER = ".headerlink, noscript, script, .xcnn-explore-said"


def anchor(page, fragment=""):
    """The id, in the joined document, of a page or of a place on it."""
    return f"{page}:{fragment}" if fragment else page


def resolve(page, href, pages):
    """Where a link on a page leads: an address on the web, or a place in the document.

    :param href: of the link
    :param pages: all pages of the document
    :raises ValueError: for a link to another page
    """
    address = urlsplit(href)
    if address.scheme:
        return href
    target = page
    if address.path:
        target = normpath(join(dirname(page), address.path)).removesuffix(".html")
    if target not in pages:
        raise ValueError(f"{page}: the link {href} leads out of the book")
    return "#" + anchor(target, address.fragment)


def article(page, html, pages):
    """The article of a built page, as a tag that can stand in the joined document.

    :param page: its path without suffix
    :param html: the text of the built page
    :param pages: all pages of the document
    """
    tag = BeautifulSoup(html, "html.parser").select_one("article")
    for explorer in tag.select(".xcnn-explore"):
        _freeze(explorer)
    for part in tag.select(DEAD_ON_PAPER):
        part.decompose()
    for part in tag.select("[id]"):
        part["id"] = anchor(page, part["id"])
    for link in tag.select("a[href]"):
        link["href"] = resolve(page, link["href"], pages)
    for image in tag.select("img"):
        _load_at_once(image, page)
    return tag


def _freeze(explorer):
    """Put a line that says what was chosen in the place of an explorer's controls."""
    data = json.loads(explorer.script.string)
    labels = [label.get_text() for label in explorer.select("label")]
    chosen = " · ".join(
        f"{label}: {options[0]}" for label, options in zip(labels, data["options"], strict=True)
    )
    count = len(data["frames"])
    line = f'<p class="chosen">{escape(chosen)} (the first of {count} pictures)</p>'
    explorer.form.replace_with(_parsed(line))


def _load_at_once(image, page):
    """Let an image be printed: lazy loading waits for the screen. Its path leads to html/."""
    image.attrs.pop("loading", None)
    if not image["src"].startswith("data:"):
        image["src"] = normpath(join("../html", dirname(page), image["src"]))


def unfold(page, tag):
    """Open what is folded in an article, in place; hints, answers and solutions are taken out.

    :param page: its path without suffix
    :param tag: its article, as `article` gives it
    :return: kind of `BACK` -> list of entries, as HTML
    """
    taken = {kind: [] for kind in BACK}
    for number, details in enumerate(tag.select("details")):
        summary = details.summary.extract()
        here = anchor(page, f"folded-{number}")
        there = anchor(page, f"back-{number}")
        kind = summary.get_text()
        label = summary.decode_contents()
        inside = details.decode_contents()
        if kind in BACK:
            label = _exercise(details)
            link = f'<a href="#{there}">{kind}: page {PAGE_NUMBER}</a>'
            line = f'<p class="turn" id="{here}">{link}</p>'
        elif _heading(details) == "Quiz":
            kind = "Answer"
            link = f'<a class="turn" href="#{there}">Answer: page {PAGE_NUMBER}</a>'
            line = f'<p id="{here}">{label} {link}</p>'
        else:
            line = f'<div class="aside"><p><strong>{label}</strong></p>{inside}</div>'
        if kind in BACK:
            entry = f'<p class="label"><a href="#{here}">{label}</a></p>{inside}'
            taken[kind].append(f'<div class="entry" id="{there}">{entry}</div>')
        details.replace_with(_parsed(line))
    return taken


def _exercise(details):
    """The title of the exercise that a folded hint or solution belongs to."""
    title = details.find_previous(
        "strong", string=lambda text: text and text.startswith("Exercise")
    )
    return title.get_text()


def _heading(details):
    """The heading above a folded part."""
    return details.find_previous(["h1", "h2", "h3"]).get_text()


def _parsed(html):
    """A piece of HTML as tags."""
    return BeautifulSoup(html, "html.parser")
