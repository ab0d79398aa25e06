"""Compare the versions in tests/colab with the list that Colab publishes: `make colab-pins`.

A difference is a reason to make the lists anew and to run `make test-colab`. In the weekly
workflow, where `REPORT` is set, the differences become an issue, if none is open.
"""

import json
import os
import subprocess
import sys

import requests  # comes with Sphinx

from tools import ROOT

PUBLISHED = "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt"
LISTS = sorted((ROOT / "tests" / "colab").glob("*.txt"))
TITLE = "Colab ships other versions than the tests"
ANSWER_TIMEOUT = 60  # seconds


def versions(text):
    """Package -> version, of a list with a `name==version` a line; a build's suffix goes."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line.count("==") == 1)
    return {name.lower().replace("_", "-"): version.split("+")[0] for name, version in pairs}


def differences(ours, published):
    """(package, our versions, Colab's) for each package of ours that none of our lists has so.

    :param ours: the lists, each package -> version
    :param published: Colab's, package -> version; what it does not name is left alone
    """
    rows = []
    for package in sorted(set().union(*ours)):
        here = sorted({versions[package] for versions in ours if package in versions})
        there = published.get(package)
        if there is not None and there not in here:
            rows.append((package, ", ".join(here), there))
    return rows


def report(rows):
    """The differences as Markdown."""
    lines = ["| package | tests/colab | Colab |", "|---|---|---|"]
    lines += [f"| {package} | {here} | {there} |" for package, here, there in rows]
    advice = "Put Colab's versions into `tests/colab`, then run `make test-colab`."
    return "\n".join([*lines, "", advice, "", f"Colab's list: {PUBLISHED}"]) + "\n"


def open_issue(text):
    """Open an issue with this text, unless one with the title is open."""
    search = ["gh", "issue", "list", "--state", "open", "--search", f'"{TITLE}" in:title']
    found = subprocess.run([*search, "--json", "title"], check=True, capture_output=True, text=True)
    if not any(issue["title"] == TITLE for issue in json.loads(found.stdout)):
        create = ["gh", "issue", "create", "--title", TITLE, "--body", text]
        subprocess.run(create, check=True)


def main():
    """What differs, a Markdown table, or 0."""
    try:
        answer = requests.get(PUBLISHED, timeout=ANSWER_TIMEOUT)
        answer.raise_for_status()
    except requests.RequestException as error:
        return f"cannot read Colab's list, {PUBLISHED}: {type(error).__name__}; try again later"
    published = versions(answer.text)
    if len(published) < 100:  # Colab ships several hundred packages
        return f"{PUBLISHED} names {len(published)} packages: it is not the list of before"
    rows = differences([versions(path.read_text()) for path in LISTS], published)
    if not rows:
        print("The versions in tests/colab are Colab's")
        return 0
    if os.environ.get("REPORT"):
        open_issue(report(rows))
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
