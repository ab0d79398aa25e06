"""Run every notebook with the versions that Colab ships, as a reader there does: `make test-colab`.

For each list of versions in tests/colab: an environment without the library, and notebooks that stand alone in an empty
folder. Each one's set-up cell installs the library, from this repository's last commit; that must not change a version
of the list. Then the notebook runs, with live widgets. In problem sets the answers are missing, and nothing else.
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


def versions(python):
    listing = subprocess.run(
        [UV, "pip", "freeze", "-p", python], check=True, capture_output=True, text=True
    ).stdout
    return dict(line.lower().split("==") for line in listing.splitlines() if "==" in line)


def alone(folder):
    """Every notebook, stamped with this repository's address: path of the copy in an empty folder, one by one."""
    address = f"file://{ROOT}"
    for path in sorted((ROOT / "notebooks").rglob("*.md")):
        derive = coursework.student if path.parent.name == "coursework" else notebook
        copy = Path(folder) / path.with_suffix(".ipynb").name
        copy.write_text(derive(path.read_text(), address))
        yield copy


def run(pins):
    """One environment: build it, run the notebooks, compare the versions."""
    release = f"3.{pins.stem[-2:]}"
    with tempfile.TemporaryDirectory() as environment, tempfile.TemporaryDirectory() as folder:
        python = f"{environment}/bin/python"
        subprocess.run([UV, "venv", "-q", "--seed", "-p", release, environment], check=True)
        subprocess.run([UV, "pip", "install", "-q", "-p", python, "-r", str(pins)], check=True)
        before = versions(python)
        for path in alone(folder):
            subprocess.run([UV, "pip", "uninstall", "-q", "-p", python, "xcnn"], check=True)
            command = [
                python,
                "-m",
                "jupyter",
                "nbconvert",
                "--to",
                "notebook",
                "--inplace",
                "--execute",
            ]
            more = ["--allow-errors", "--ExecutePreprocessor.timeout=900"]
            subprocess.run(
                [*command, *more, str(path)], check=True, cwd=folder, capture_output=True
            )
            outputs = [
                out for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", [])
            ]
            errors = [f"{out.ename}: {out.evalue}" for out in outputs if out.output_type == "error"]
            if path.stem.startswith("ps"):
                errors = [error for error in errors if not error.startswith("NotImplementedError")]
            if errors:
                sys.exit(f"Python {release}: {path.name}: {errors[0]}")
            after = versions(python)
            changed = {
                name: (old, after.get(name))
                for name, old in before.items()
                if after.get(name) != old
            }
            if changed:
                sys.exit(f"Python {release}: the set-up cell of {path.name} changed {changed}")
            print(f"Python {release}: {path.name} ran", flush=True)
        print(
            f"Python {release}: {len(before)} packages unchanged; added {sorted(after.keys() - before.keys())}"
        )


if __name__ == "__main__":
    for pins in sorted((ROOT / "tests" / "colab").glob("*.txt")):
        run(pins)
