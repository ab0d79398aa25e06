"""Check that the addresses outside the book still answer: `make links`.

The addresses come from the pages, the chapters and the docstrings of the library.
"""

import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import requests  # comes with Sphinx

from book._ext.docstrings import linked
from tools import ROOT

SOURCES = ["*.md", "book/*.md", "data/*.md", "notebooks/**/*.md", "lib/**/*.py"]
ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+")
PLACEHOLDER = re.compile(r"/(OWNER|YOU)/")  # stands for the reader's own repository
PUNCTUATION = ".,;:!?*_|"
BRACKETS = ("()", "[]", "{}")
REFUSES_PROGRAMS = {401, 403, 405, 406, 418, 429}  # the page is there, for browsers
BROWSER = {"User-Agent": "Mozilla/5.0 (link check)"}
ANSWER_TIMEOUT = 20  # seconds
MAX_REQUESTS = 8  # at the same time


def trimmed(address):
    """The address without the punctuation, or the closing bracket, of the text around it."""
    last = address[-1]
    unopened = any(
        last == closing and address.count(closing) > address.count(opening)
        for opening, closing in BRACKETS
    )
    return trimmed(address[:-1]) if unopened or last in PUNCTUATION else address


def addresses(text):
    """All addresses in a text, each once, in their order."""
    unique = dict.fromkeys(trimmed(address) for address in ADDRESS.findall(text))
    return [address for address in unique if not PLACEHOLDER.search(address)]


def collect(root=ROOT):
    """Address -> the files that name it. In docstrings, papers that are named count as links."""
    places = {}
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        text = path.read_text()
        if path.suffix == ".py":
            text = linked(text)
        for address in addresses(text):
            places.setdefault(address, []).append(str(path.relative_to(root)))
    return places


def answer(address):
    """What an address answers.

    :return: "ok", "shut" (to programs), "unreachable" (no server), or what the server says is wrong
    """
    try:
        reply = _ask(address)
    except (requests.ConnectionError, requests.Timeout):
        return "unreachable"
    except requests.RequestException as error:
        return str(error)
    if reply.ok:
        return "ok"
    if reply.status_code in REFUSES_PROGRAMS:
        return "shut"
    return f"{reply.status_code} {reply.reason}"


def _ask(address):
    """The reply to HEAD or, because some servers answer HEAD wrongly, the reply to GET."""
    options = {"timeout": ANSWER_TIMEOUT, "headers": BROWSER}
    reply = requests.head(address, allow_redirects=True, **options)
    if not reply.ok:
        reply = requests.get(address, stream=True, **options)
        reply.close()
    return reply


def main():
    """Ask all addresses, print those that fail and a summary; exit with 1 if one fails."""
    places = collect()
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        answers = dict(zip(places, pool.map(answer, places), strict=True))
    counts = Counter(answers.values())
    if counts["unreachable"] == len(places):
        sys.exit(f"no network: none of the {len(places)} addresses could be reached")
    for address, said in answers.items():
        if said not in ("ok", "shut"):
            print(f"{said}: {address}, in {', '.join(places[address])}")
    print(
        f"{len(places)} addresses: {counts['ok']} answer, {counts['shut']} do not answer programs"
    )
    sys.exit(len(places) > counts["ok"] + counts["shut"])


if __name__ == "__main__":
    main()
