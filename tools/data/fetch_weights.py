"""Fetch the three small real networks once (`make weights`); OFFLINE=1 leaves the network alone.

Notes in .venv/weights.txt which real networks are here; the file changes only when that does, so that the book is run
again only then.
"""

import os

import torchvision.models as zoo
from xcnn import InputError
from xcnn.loading import REAL, available, fetch_weights

from tools import ROOT

NOTE = ROOT / ".venv" / "weights.txt"

try:
    for name in REAL if not os.environ.get("OFFLINE") else ():
        fetch_weights(next(iter(zoo.get_model_weights(name))))
except InputError as error:
    print(f"No real networks: {error}", flush=True)
here = " ".join(name for name in available() if name in REAL) + "\n"
if not NOTE.exists() or NOTE.read_text() != here:
    NOTE.write_text(here)
