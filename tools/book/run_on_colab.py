"""Run each notebook with the versions that Colab ships, as a reader there does: `make test-colab`.

Each list of versions in tests/colab gives an environment without the library, and the notebooks are
run outside the repository. The set-up cell of each notebook installs the library from the last
commit of this repository; that must not change a version of the list. Then the notebook runs, with
live widgets. In problem sets the answers are missing, and nothing else may fail.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from tools import ROOT
from tools.book import derive_coursework as coursework
from tools.book.derive_notebooks import notebook

UV = str(ROOT / ".venv" / "bin" / "uv")
CELL_TIMEOUT = 900  # seconds
EXECUTE = [
    "-m",
    "jupyter",
    "nbconvert",
    "--to",
    "notebook",
    "--inplace",
    "--execute",
    "--allow-errors",
    f"--ExecutePreprocessor.timeout={CELL_TIMEOUT}",
]


def versions(python):
    """Package -> version in the environment of this Python."""
    freeze = [UV, "pip", "freeze", "-p", python]
    listing = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    return dict(line.lower().split("==") for line in listing.splitlines() if "==" in line)


def alone(folder):
    """Write each notebook into a folder, with the address of this repository; yield the paths."""
    address = f"file://{ROOT}"
    for path in sorted((ROOT / "notebooks").rglob("*.md")):
        derive = coursework.student if path.parent.name == "coursework" else notebook
        copy = Path(folder) / path.with_suffix(".ipynb").name
        copy.write_text(derive(path.read_text(), address))
        yield copy


def errors(path):
    """The errors in an executed notebook; of a problem set, those that are not missing answers."""
    raised = []
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raised.append(f"{output.ename}: {output.evalue}")
    if path.stem.startswith("ps"):
        return [error for error in raised if not error.startswith("NotImplementedError")]
    return raised


def build(pins, release, environment):
    """Make an environment with these versions; returns the path of its Python."""
    python = f"{environment}/bin/python"
    subprocess.run([UV, "venv", "-q", "--seed", "-p", release, environment], check=True)
    subprocess.run([UV, "pip", "install", "-q", "-p", python, "-r", str(pins)], check=True)
    return python


def execute(python, path):
    """Run a notebook in place, in its folder, in an environment without the library."""
    subprocess.run([UV, "pip", "uninstall", "-q", "-p", python, "xcnn"], check=True)
    command = [python, *EXECUTE, str(path)]
    subprocess.run(command, check=True, cwd=path.parent, capture_output=True)


def changes(before, after):
    """Package -> (old, new version), for the packages that a notebook changed."""
    return {name: (old, after.get(name)) for name, old in before.items() if after.get(name) != old}


def run(pins):
    """Build the environment of one list of versions, run the notebooks, compare the versions."""
    release = f"3.{pins.stem[-2:]}"
    with tempfile.TemporaryDirectory() as environment, tempfile.TemporaryDirectory() as folder:
        python = build(pins, release, environment)
        before = versions(python)
        for path in alone(folder):
            execute(python, path)
            if raised := errors(path):
                sys.exit(f"Python {release}: {path.name}: {raised[0]}")
            after = versions(python)
            if changed := changes(before, after):
                sys.exit(f"Python {release}: the set-up cell of {path.name} changed {changed}")
            print(f"Python {release}: {path.name} ran", flush=True)
        added = sorted(after.keys() - before.keys())
        print(f"Python {release}: {len(before)} packages unchanged; added {added}")


def main():
    """Run every list of versions."""
    for pins in sorted((ROOT / "tests" / "colab").glob("*.txt")):
        run(pins)


if __name__ == "__main__":
    main()
