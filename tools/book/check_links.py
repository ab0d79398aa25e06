"""Do the addresses outside the book still answer? Every page, chapter and docstring is asked for what it names."""

import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import requests  # Sphinx brings it

from book._ext.docstrings import linked
from tools import ROOT

SOURCES = ["*.md", "book/*.md", "data/*.md", "notebooks/**/*.md", "lib/**/*.py"]
ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+")
PLACEHOLDER = re.compile(r"/(OWNER|YOU)/")  # the reader's own repository
SHUT = {401, 403, 405, 406, 418, 429}  # it is there, but does not answer programs
PAIRS = ("()", "[]", "{}")
TIMEOUT = 20  # seconds


def trimmed(address):
    """Without the punctuation of the sentence, or the bracket of the link, that it stands in."""
    lone = any(
        address[-1] == end and address.count(end) > address.count(start) for start, end in PAIRS
    )
    return trimmed(address[:-1]) if lone or address[-1] in ".,;:!?*_|" else address


def addresses(text):
    """All addresses in a text, in their order; papers that docstrings name among them."""
    found = map(trimmed, ADDRESS.findall(text))
    return [one for one in dict.fromkeys(found) if not PLACEHOLDER.search(one)]


def collect(root=ROOT):
    """Address -> the files that name it."""
    found = {}
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        text = path.read_text()
        for address in addresses(linked(text) if path.suffix == ".py" else text):
            found.setdefault(address, []).append(str(path.relative_to(root)))
    return found


def answer(address):
    """What comes back: ok, shut (to programs), unreachable (no server), or what the server says is wrong."""
    headers = {"User-Agent": "Mozilla/5.0 (link check)"}
    try:
        reply = requests.head(address, timeout=TIMEOUT, headers=headers, allow_redirects=True)
        if not reply.ok:  # some answer a HEAD wrongly
            reply = requests.get(address, timeout=TIMEOUT, headers=headers, stream=True)
            reply.close()
    except (requests.ConnectionError, requests.Timeout):
        return "unreachable"
    except requests.RequestException as error:
        return str(error)
    return (
        "ok"
        if reply.ok
        else "shut"
        if reply.status_code in SHUT
        else f"{reply.status_code} {reply.reason}"
    )


def main():
    found = collect()
    with ThreadPoolExecutor(8) as pool:
        said = dict(zip(found, pool.map(answer, found), strict=True))
    counts = Counter(said.values())
    if counts["unreachable"] == len(found):
        sys.exit(f"no network: none of the {len(found)} addresses could be reached")
    for address, what in said.items():
        if what not in ("ok", "shut"):
            print(f"{what}: {address}, in {', '.join(found[address])}")
    print(f"{len(found)} addresses: {counts['ok']} answer, {counts['shut']} do not answer programs")
    sys.exit(len(found) > counts["ok"] + counts["shut"])


if __name__ == "__main__":
    main()
