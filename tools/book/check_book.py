"""Check that the built book is whole: each page is there, with its pictures, and no cell failed.

Each link within the book must lead to a page, and to a place on it that exists. `check_links` asks
the addresses outside the book.
"""

import functools
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from tools import ROOT

HTML = ROOT / "_build" / "html"
MADE_BY_SPHINX = ("index", "genindex", "search")  # pages that the table of contents does not name
EXPLORER_DATA = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.S)
FRAME = re.compile(r"[\w./-]+\.webp")


def contents():
    """The table of contents as pairs of a part's caption and its pages; the front page has none."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    parts = [("", [toc["root"]])]
    for part in toc["parts"]:
        parts.append((part["caption"], [chapter["file"] for chapter in part["chapters"]]))
    return parts


def pages():
    """The pages of the book, as paths without suffix."""
    return [page for _, names in contents() for page in names]


class Anchors(HTMLParser):
    """Collects the addresses that a page names, in `links`, and the ids that it has, in `ids`."""

    def __init__(self, path):
        super().__init__()
        self.links = set()
        self.ids = {""}  # "" is the page itself
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.add(value)
            elif name == "id":
                self.ids.add(value)


@functools.cache
def anchors(path):
    """The `Anchors` of a built page, read once."""
    return Anchors(path)


def broken(path):
    """Yield the addresses on a built page that lead nowhere within the book."""
    for link in sorted(anchors(path).links):
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not _holds(target, unquote(url.fragment)):
            yield link


def _holds(target, fragment):
    """True if the file exists and, where it is a page, has this id."""
    if not target.is_file():
        return False
    return target.suffix != ".html" or fragment in anchors(target).ids


def missing_frames(html):
    """Yield the pictures that the explorers of a page name and the book does not hold."""
    for listing in EXPLORER_DATA.findall(html):
        for frame in sorted(set(FRAME.findall(listing))):
            if not (HTML / "_static" / "frames" / Path(frame).name).exists():
                yield frame


def faults(page):
    """What is wrong with one built page, as sentences."""
    path = HTML / f"{page}.html"
    if not path.exists():
        return [f"{page}: the page was not built"]
    html = path.read_text()
    problems = [f"{page}: {link} leads nowhere" for link in broken(path)]
    problems += [f"{page}: frame {frame} is missing" for frame in missing_frames(html)]
    if "Traceback (most recent call last)" in html:
        problems.append(f"{page}: a cell failed")
    if 'class="output stderr' in html:
        problems.append(f"{page}: a cell writes warnings")
    if str(ROOT) in html:
        problems.append(f"{page}: names a folder of this machine")
    return problems


def main():
    """Return what is wrong with the book, a sentence a line, or 0."""
    problems = []
    for page in [*pages(), *MADE_BY_SPHINX]:
        problems += faults(page)
    return "\n".join(problems) or 0


if __name__ == "__main__":
    sys.exit(main())
