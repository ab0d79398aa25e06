"""Draw the gallery: every method on real networks and redistributable photographs (`make gallery`).

Writes data/gallery: explorers (HTML) with their frames; `index.json`, which says what every
frame shows, how it was made and the numbers measured on it; and `observations.md`, sentences that
follow from these numbers. `book/gallery.md` and the front page include them, so that a reader
without weights sees real networks at work. This takes more than an hour on two processors.
`python -m tools.data.draw_gallery three_answers` draws one explorer again, and keeps the others.

`gallery_sheets` says what is on each frame, `measure_gallery` measures the maps, and
`observe_gallery` writes the sentences.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from functools import cache

import numpy as np
import skimage
import torch
import torchvision
import torchvision.models as zoo
import xcnn
from tqdm.auto import tqdm
from xcnn import explore, photos
from xcnn.explorer import frames
from xcnn.loading import REAL as NETWORKS
from xcnn.loading import weights_path

from tools import ROOT
from tools.data.gallery_sheets import EXPLORERS, RULES
from tools.data.measure_gallery import OPTIONS, correlations
from tools.data.observe_gallery import observations

FOLDER = ROOT / "data" / "gallery"
NEW = FOLDER.with_name("gallery.new")  # takes the place of the old one when all of it is there
FRAMES_URL = "../_static/frames"  # `make book` copies the frames there
PACKAGES = {"torch": torch, "torchvision": torchvision, "scikit-image": skimage, "numpy": np}
SIGNIFICANT_DIGITS = 6  # further digits of a float differ from machine to machine


def bake(name):
    """Draw one explorer, write its page and its frames, and return the records of the frames."""
    sheet_of, columns, size, choices = EXPLORERS[name]
    sheet_of = cache(sheet_of)

    def view(**choice):
        progress.update()
        with torch.no_grad():
            return sheet_of(**choice).draw(columns, size)

    def alt(**choice):
        return sheet_of(**choice).alt()

    with tqdm(total=len(frames(choices)), desc=name) as progress:
        html = explore(view, alt=alt, **choices).html
    (NEW / f"{name}.html").write_text(html + "\n")
    return [
        {"explorer": name, "file": file, **choice, **sheet_of(**choice).record()}
        for choice, file in zip(frames(choices), baked(html)["frames"], strict=True)
    ]


def baked(html):
    """What the page of an explorer holds: options, files of the frames, alt texts."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def provenance():
    """The networks with the hash of their weights, and the versions of what drew the maps."""
    return {
        "made by": "make gallery",
        "versions": {name: package.__version__ for name, package in PACKAGES.items()},
        "networks": {name: _source(name) for name in NETWORKS},
        "photographs": list(photos.NAMES),
        "methods": {name: OPTIONS.get(name, {}) for name in xcnn.METHODS},
        "rules": RULES,
    }


def _source(network):
    """The file of a network's weights, its hash, and the layers that the network offers."""
    path = weights_path(next(iter(zoo.get_model_weights(network))))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": path.name, "sha256": digest, "layers": xcnn.load(network).layers}


def rounded(value):
    """The same dict, list or number with each float rounded."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value


def index_text(index):
    """The index as JSON, with a line for each entry and each frame."""
    entries = "".join(
        f' "{key}": {json.dumps(value, ensure_ascii=False)},\n'
        for key, value in index.items()
        if key != "frames"
    )
    lines = ",\n".join("  " + json.dumps(frame, ensure_ascii=False) for frame in index["frames"])
    return f'{{\n{entries} "frames": [\n{lines}\n ]\n}}\n'


def numbered(sentences):
    """Sentences as a numbered list in Markdown."""
    return "".join(f"{number}. {sentence}\n" for number, sentence in enumerate(sentences, 1))


def keep(name, index):
    """Take over an explorer of the present gallery: its page, its frames and their records."""
    shutil.copy(FOLDER / f"{name}.html", NEW)
    records = [record for record in index["frames"] if record["explorer"] == name]
    for record in records:
        shutil.copy(FOLDER / record["file"], NEW)
    return records


def main(names):
    """Draw and write the gallery anew.

    :param names: the explorers to be drawn, the others are kept; [] for all
    """
    os.environ |= {
        "XCNN_EXPLORER": "baked",
        "XCNN_FRAMES": str(NEW),
        "XCNN_FRAMES_URL": FRAMES_URL,
    }
    names = [xcnn.errors.one_of("explorer", name, EXPLORERS) for name in names] or list(EXPLORERS)
    try:
        index = provenance()
    except xcnn.InputError as error:
        sys.exit(f"The gallery needs the weights of {', '.join(NETWORKS)}: {error}")
    before = {} if set(names) == set(EXPLORERS) else json.loads((FOLDER / "index.json").read_text())
    if before and before["networks"] != json.loads(json.dumps(index["networks"])):
        sys.exit("The gallery was drawn with other weights: draw all of it, `make gallery`")
    shutil.rmtree(NEW, ignore_errors=True)
    NEW.mkdir()
    index |= {key: before[key] for key in before if key != "frames"}
    drawn = {name: bake(name) if name in names else keep(name, before) for name in EXPLORERS}
    index["frames"] = [record for records in drawn.values() for record in records]
    index["correlations"] = before.get("correlations") or correlations()
    index = rounded(index)
    (NEW / "index.json").write_text(index_text(index))
    (NEW / "observations.md").write_text(numbered(observations(index)))
    shutil.rmtree(FOLDER, ignore_errors=True)
    NEW.rename(FOLDER)
    megabytes = sum(file.stat().st_size for file in FOLDER.iterdir()) / 1e6
    print(f"{len(index['frames'])} frames in {FOLDER}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
