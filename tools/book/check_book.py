"""Is the book whole? Every page of the table of contents is there, with its pictures and without error output.

Every link within the book leads to a page, and to a place on it that exists. `links.py` asks about the others.
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


def contents():
    """The table of contents: pairs of a part's caption and its pages; the front page has no caption."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    parts = [
        (part["caption"], [chapter["file"] for chapter in part["chapters"]])
        for part in toc["parts"]
    ]
    return [("", [toc["root"]]), *parts]


def pages():
    """The pages of the book, as paths without suffix."""
    return [page for _, names in contents() for page in names]


class Anchors(HTMLParser):
    """The addresses that a page names, in `links`, and the places on it that can be linked to, in `ids`."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids = set(), {""}  # "" is the page itself
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.add(value)
            elif name == "id":
                self.ids.add(value)


anchors = functools.cache(Anchors)


def broken(path):
    """The addresses on a built page that lead nowhere within the book."""
    for link in sorted(anchors(path).links):
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        to = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not to.is_file() or (
            to.suffix == ".html" and unquote(url.fragment) not in anchors(to).ids
        ):
            yield link


def faults(page):
    """What is wrong with one built page, as sentences."""
    path = HTML / f"{page}.html"
    if not path.exists():
        return [f"{page}: the page was not built"]
    text, found = path.read_text(), [f"{page}: {link} leads nowhere" for link in broken(path)]
    for listing in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S):
        for frame in set(re.findall(r"[\w./-]+\.webp", listing)):
            if not list((HTML / "_static" / "frames").glob(Path(frame).name)):
                found.append(f"{page}: frame {frame} is missing")
    if "Traceback (most recent call last)" in text:
        found.append(f"{page}: a cell failed")
    if 'class="output stderr' in text:
        found.append(f"{page}: a cell writes warnings")
    if str(ROOT) in text:
        found.append(f"{page}: names a folder of this machine")
    return found


if __name__ == "__main__":
    problems = [
        fault for page in [*pages(), "index", "genindex", "search"] for fault in faults(page)
    ]
    sys.exit("\n".join(problems) or 0)
