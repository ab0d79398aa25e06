"""How long a chapter takes, counted in the same way for all: `python -m tools.book.reading_time`.

A hundred words of text a minute, two minutes for a displayed formula, ten lines of code that are
not folded away a minute, three minutes for an explorer, and what the exercises state. Everything
after the heading "Exercises" counts only by the exercises' own minutes.
"""

import re

import jupytext

from tools import ROOT

WORDS = 100  # a minute
FORMULA = 2  # minutes
LINES = 10  # of code, a minute
EXPLORER = 3  # minutes
NEAREST = 5  # minutes, to which a chapter rounds
DISPLAYED = re.compile(r"\$\$.*?\$\$", re.S)
NOT_READ = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]+>", re.S)  # aloud: maths, addresses
MINUTES = re.compile(r"^\*\*Exercise \d[^(]*\((\d+) minutes", re.M)
STATED = re.compile(r"\*\*Time\*\* about (\d+) minutes")


def minutes(text):
    """How many minutes a chapter takes.

    :param text: of the chapter, Markdown with cells
    :return: float
    """
    cells = jupytext.reads(text.split("\n## Exercises\n")[0], fmt="md:myst").cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = [cell for cell in cells if cell.cell_type == "code"]
    open_code = "\n".join(c.source for c in code if "hide-input" not in c.metadata.get("tags", []))
    words = len(re.findall(r"[A-Za-z][\w'’-]*", NOT_READ.sub(" ", prose)))
    lines = len(re.findall(r"^\s*[^\s#]", open_code, re.M))
    explorers = sum(len(re.findall(r"\bexplore\(", cell.source)) for cell in code)
    exercises = sum(map(int, MINUTES.findall(text)))
    reading = words / WORDS + lines / LINES
    return reading + FORMULA * len(DISPLAYED.findall(prose)) + EXPLORER * explorers + exercises


def rounded(text):
    """The same, as a chapter states it."""
    return NEAREST * round(minutes(text) / NEAREST)


if __name__ == "__main__":
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.md")):
        stated = STATED.search(path.read_text())
        print(f"{path.stem}: {rounded(path.read_text())} minutes, stated: {stated and stated[1]}")
