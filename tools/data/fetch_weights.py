"""Fetch the weights of three real networks once: `make weights`.

Where OFFLINE is set, nothing is downloaded. The networks that are here are noted in
.venv/weights.txt. That file changes only when they do, so that the book is run again only then.
"""

import os

import torchvision.models as zoo
from xcnn import InputError
from xcnn.loading import REAL, available, fetch_weights

from tools import ROOT

NOTE = ROOT / ".venv" / "weights.txt"


def fetch():
    """Download what is missing; without a network, print one line that says so."""
    try:
        for name in REAL:
            fetch_weights(next(iter(zoo.get_model_weights(name))))
    except InputError as error:
        print(f"No real networks: {error}", flush=True)


def note():
    """Note which real networks are here, if that has changed."""
    text = " ".join(name for name in available() if name in REAL) + "\n"
    if not NOTE.exists() or NOTE.read_text() != text:
        NOTE.write_text(text)


if __name__ == "__main__":
    if not os.environ.get("OFFLINE"):
        fetch()
    note()
