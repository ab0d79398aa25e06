"""Hostile submissions to the tiny problem set, and what each must get.

The files in `attacks/` hold code, one attack below each heading, with a line that says where the
code stands (in the answer to `step`, to `perceptron`, or in both), the points, the statuses that
are right, and a word of the detail. Files that are hostile in another way are made here.
"""

import copy
import json
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from tests.grade.submitted import STEP, answered, release

ATTACKS = Path(__file__).with_name("attacks")
KINDS = tuple(sorted(path.stem for path in ATTACKS.glob("*.md")))
ATTACK = re.compile(r"^## (\w+)\n\nin (\w+) \| (.+?)\n\n```python\n(.*?)\n```$", re.M | re.S)


class Attack(NamedTuple):
    """A submission (a notebook, or the text of a file) and what it must get."""

    content: object
    least: float
    most: float
    statuses: tuple
    said: str


def attacks(kind, **values):
    """The attacks of one kind: name -> `Attack`. The values replace words in capitals."""
    text = (ATTACKS / f"{kind}.md").read_text()
    for word, value in values.items():
        text = text.replace(word, str(value))
    found = {}
    for name, where, expected, code in ATTACK.findall(text):
        points, statuses, said = (part.strip() for part in f"{expected} |".split("|")[:3])
        least, _, most = points.partition(" to ")
        answers = {"both": {"step": code, "perceptron": "1"}}.get(where, {where: code})
        statuses = tuple(status.strip() for status in statuses.split(","))
        found[name] = Attack(
            answered(**answers), float(least), float(most or least), statuses, said
        )
    assert len(found) == text.count("\n## "), kind
    return found


def broken_files():
    """Files that are slow to read or to mend, or hold what does not belong there."""
    many_cells = answered()
    many_cells.cells += [nbformat.v4.new_code_cell("") for _ in range(40_000)]
    odd_ids = json.loads(nbformat.writes(answered(step="1", perceptron="1")))
    for cell in odd_ids["cells"]:
        cell["metadata"] = {"nbgrader": {"grade_id": ["step"], "points": 1000}}
        cell["id"] = {"a": [1]}
    sheets = {"worksheets": [3, {"cells": 4}, {"cells": [[], {"cell_type": []}]}]}
    cells = {"cells": [1, None, {"cell_type": "code", "source": {"a": 1}}], "metadata": 3}
    no_file = ("not a notebook",)
    mended = ("repaired",)
    return {
        "many_cells": Attack(many_cells, 0, 0, no_file, "5000 cells"),
        "shuffled": Attack(with_shuffled_tests(), 5, 5, ("ok", "repaired"), ""),
        "deep": Attack('{"cells": ' + "[" * 200_000, 0, 0, no_file, "JSON"),
        "huge_number": Attack('{"cells": [], "x": ' + "9" * 100_000 + "}", 0, 0, no_file, "JSON"),
        "odd_ids": Attack(odd_ids, 0, 0, mended, "metadata put back"),
        "sheets": Attack(sheets, 0, 0, mended, "missing cells put back"),
        "odd_cells": Attack(cells, 0, 0, mended, "missing cells put back"),
    }


def with_shuffled_tests():
    """A right notebook with 800 nearly equal copies of a test."""
    book = answered()
    test = next(cell for cell in release().cells if "step-test" in str(cell.metadata))
    for number in range(800):
        copied = copy.deepcopy(test)
        copied.metadata = {}
        start = number % 60
        copied.source = f"{test.source[start:]}{test.source[:start]}\n# {number}"
        book.cells.append(copied)
    return book


# What a page of feedback must not run, fetch or link to.
DISPLAYED = r"""
from IPython.display import display

remote = "http://198.51.100.7/"
script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
display({"image/png": "AAAA"}, metadata={"image/png": {"width": "1 onerror=alert(1)"}}, raw=True)
display({"text/html": script}, raw=True)
display({"text/html": f"<style>@import '{remote}a.css';</style><b>x"}, raw=True)
display({"image/svg+xml": "<svg onload=alert(1)></svg>"}, raw=True)
names = {"filenames": {"image/png": remote + "x.png"}}
display({"image/png": "PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+"}, metadata=names, raw=True)
display({"application/javascript": "alert(1)"}, raw=True)
display({"text/markdown": f"[x](javascript:alert(1)) ![]({remote}x.png)"}, raw=True)
display({"text/latex": r"$\href{javascript:alert(1)}{x}$"}, raw=True)
display({"text/html": f"<iframe src={remote}></iframe>"}, raw=True)
display({"text/html": f"<meta http-equiv=refresh content=0;url={remote}>"}, raw=True)
print("\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07")
"""
WRITTEN = (
    "<script>alert(1)</script> <img src=http://198.51.100.7/x.png onerror=alert(1)> "
    r"[a](javascript:alert(1)) $\text{<img src=x onerror=alert(1)>}$ <h1 onclick=alert(1)>x</h1>"
)
RAISED = """
class E(Exception):
    pass


E.__name__ = "<script>alert(1)</script>"
raise E("<img src=x onerror=alert(1)>")
"""


def for_pages():
    """Outputs and texts that want to run a script or to fetch something on a page."""
    displays = answered(step=DISPLAYED + STEP)
    displays.cells.insert(0, nbformat.v4.new_markdown_cell(WRITTEN))
    return {
        "displays": Attack(displays, 5, 5, ("ok",), ""),
        "raises_a_script": Attack(answered(step=RAISED), 0, 0, ("ok",), "NameError"),
    }
