"""Run every chapter with the versions that Colab ships: `make test-colab`.

Builds an environment for each list of versions in tests/colab, installs the library into it, checks that this changed
no version of the list, and runs the notebooks there with live widgets.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = str(ROOT / ".venv" / "bin" / "uv")


def versions(python):
    listing = subprocess.run([UV, "pip", "freeze", "-p", python], check=True, capture_output=True, text=True).stdout
    return dict(line.lower().split("==") for line in listing.splitlines() if "==" in line)


def run(pins):
    """One environment: build, install, compare, run the chapters."""
    release = f"3.{pins.stem[-2:]}"
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        subprocess.run([UV, "venv", "-q", "-p", release, folder], check=True)
        subprocess.run([UV, "pip", "install", "-q", "-p", python, "-r", str(pins)], check=True)
        before = versions(python)
        subprocess.run([UV, "pip", "install", "-q", "-p", python, str(ROOT)], check=True)
        after = versions(python)
        changed = {name: (old, after.get(name)) for name, old in before.items() if after.get(name) != old}
        if changed:
            sys.exit(f"Python {release}: installing the library changed {changed}")
        print(
            f"Python {release}: {len(before)} packages unchanged; added {sorted(after.keys() - before.keys())}",
            flush=True,
        )
        for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
            command = [python, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder]
            subprocess.run([*command, "--ExecutePreprocessor.timeout=900", str(notebook)], check=True)
            print(f"Python {release}: {notebook.name} ran", flush=True)


if __name__ == "__main__":
    for pins in sorted((ROOT / "tests" / "colab").glob("*.txt")):
        run(pins)
