"""Join the built pages into one HTML document, with a title page, contents, and a part at the back.

Hints, answers to the quizzes and solutions are at the back, in this order, so that a lecturer can
leave off what students should not see yet.
"""

import json
from html import escape

import yaml

from tools import ROOT
from tools.book.check_book import HTML
from tools.book.derive_notebooks import PLACEHOLDER, repository
from tools.book.prepare_page import BACK, PAGE_NUMBER, article, unfold

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
<p>The printed edition. The book itself runs: its sliders and menus change the pictures, and its \
code can be changed.
Here an explorer stands still at its first picture. Hints, answers and solutions are at the \
back.</p>
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


def bind(parts, html=HTML):
    """The whole book as one HTML document, to be stored in a folder beside `html`.

    :param parts: pairs of a caption and its pages, as `contents` gives them
    :param html: the folder of the built pages
    :raises ValueError: for a link to a page that is not among them
    """
    pages = [page for _, names in parts for page in names]
    articles = {page: article(page, (html / f"{page}.html").read_text(), pages) for page in pages}
    # The heading of the front page is the title of the book, which has a page to itself.
    articles[pages[0]].h1.string = "Introduction"
    titles = {page: tag.h1.get_text() for page, tag in articles.items()}
    taken = {page: unfold(page, tag) for page, tag in articles.items()}
    sheets = {page: (titles[page], str(tag)) for page, tag in articles.items()}
    sheets |= _back(titles, taken)
    back = ("Hints, answers, solutions", [kind for kind in BACK if kind in sheets])
    return _document([*parts, back], sheets)


def _back(titles, taken):
    """The sheets at the back: kind -> (title, HTML), with the entries of each chapter.

    :param titles: page -> title
    :param taken: page -> entries of each kind, as `unfold` gives them
    """
    sheets = {}
    for kind, title in BACK.items():
        text = ""
        for page, entries in taken.items():
            if entries[kind]:
                text += f"<h2>{escape(titles[page])}</h2>" + "".join(entries[kind])
        if text:
            sheets[kind] = title, f'<article class="bd-article"><h1>{title}</h1>{text}</article>'
    return sheets


def _document(parts, sheets):
    """The document: title page, contents and sheets.

    :param parts: pairs of a caption and the names of its sheets
    :param sheets: name -> (title, HTML), in their order
    """
    config = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())
    titles = {name: title for name, (title, _) in sheets.items()}
    sections = [
        f'<section class="sheet" id="{name}" style="page: sheet-{number}">{html}</section>'
        for number, (name, (_, html)) in enumerate(sheets.items())
    ]
    return DOCUMENT.format(
        title=escape(config["title"]),
        author=escape(config["author"]),
        copyright=escape(config["copyright"]),
        online=_online(repository()),
        contents="".join(_listed(caption, names, titles) for caption, names in parts),
        feet="\n".join(_foot(number, title) for number, title in enumerate(titles.values())),
        sheets="\n".join(sections),
    )


def _online(address):
    """A line that says where the book is on the web; nothing while that is not known."""
    return "" if address == PLACEHOLDER else f'<p><a href="{address}">{address}</a></p>'


def _listed(caption, names, titles):
    """One part in the list of contents."""
    if not names:
        return ""
    items = "".join(
        f'<li><a href="#{name}">{escape(titles[name])}{PAGE_NUMBER}</a></li>' for name in names
    )
    heading = f"<h2>{escape(caption)}</h2>" if caption else ""
    return f"{heading}<ul>{items}</ul>"


def _foot(number, title):
    """The title of a sheet at the foot of its pages, beside the page number of print.css."""
    text = json.dumps(title, ensure_ascii=False)
    return f"@page sheet-{number} {{ @bottom-left {{ content: {text}; }} }}"
