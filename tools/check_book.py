"""Is the book whole? Every page of the table of contents is there, with its pictures and without error output."""

import re
import sys
from html import unescape
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"


def pages():
    """The pages of the table of contents, as paths without suffix."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def faults(page):
    """What is wrong with one built page, as sentences."""
    path = HTML / f"{page}.html"
    if not path.exists():
        return [f"{page}: the page was not built"]
    text, found = path.read_text(), []
    for source in re.findall(r'<img[^>]* src="([^"]+)"', text):
        if not source.startswith("data:") and not (path.parent / unescape(source)).resolve().exists():
            found.append(f"{page}: picture {source} is missing")
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
    problems = [fault for page in pages() for fault in faults(page)]
    sys.exit("\n".join(problems) or 0)
