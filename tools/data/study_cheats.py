"""Record what maps of cheating and of honest networks show, where a tag was planted.

The networks are those of `small_networks.PAIRS`. The pictures are scenes of one object with a
copyright tag: 50 pizzas and 50 other things. The class that is asked for is always pizza. One
record for each network, picture and contestant:

- p, rank: of pizza; says, says_without: the network's first class, with the tag and without
- S, S_without: the score of pizza, with the tag and without
- area: the share of the picture that the grown tag covers; P: the share of the evidence's energy
  on it
- status: "ok", or why there is no P

`python -m tools.data.study_cheats` goes on where it stopped.
"""

import json

import numpy as np
import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import scenes
from xcnn.contestants import answers
from xcnn.evaluate import dilated, energy_concentration
from xcnn.loading import PAIRED
from xcnn.study_measures import DILATE, short

from tools import ROOT

RECORDS = ROOT / "runs" / "cheats" / "records.jsonl"
ASKED = "pizza"
OTHERS = [name for name in scenes.CLASSES if name != ASKED]
METHODS = ("gradient", "guided_backprop", "grad_cam", "guided_grad_cam", "shap_cam_probability")
METHODS += ("lrp", "cnn_fixations", "edges", "centre")
FIRST_SEED = {"tagged pizzas": 900, "tagged others": 950}
SCENES = 50  # of each kind
TOGETHER = 10


def drawn(kind):
    """The scenes of one kind.

    :param kind: a key of `FIRST_SEED`
    :return: list of (seed, `Scene`, the picture with a tag, mask of the tag)
    """
    found = []
    for k in range(SCENES):
        label = ASKED if kind == "tagged pizzas" else OTHERS[k % len(OTHERS)]
        seed = FIRST_SEED[kind] + k
        scene = scenes.render(seed, classes=[label])
        found.append((seed, scene, *scenes.tagged(scene, seed)))
    return found


def rows(net, kind, some):
    """The records of a few pictures.

    :param net: `Network`
    :param kind: a key of `FIRST_SEED`
    :param some: a part of `drawn(kind)`
    :return: generator of dicts
    """
    c = net.classes.index(ASKED)
    heads = [_head(net, c, kind, *item) for item in some]
    x = torch.cat([net.preprocess(picture) for _, _, picture, _ in some])
    grown = np.stack([dilated(tag, DILATE) for *_, tag in some])
    keys = [f"{kind} {seed}" for seed, *_ in some]
    for method, _, E, _ in answers(net, x, [c] * len(x), METHODS, keys):
        for head, P in zip(heads, energy_concentration(E, grown, dilate=0), strict=True):
            status = (
                {"status": "no energy"} if P.isnan() else {"P": short(P.item()), "status": "ok"}
            )
            yield head | {"method": method} | status


def _head(net, c, kind, seed, scene, picture, tag):
    """The part of a record that is known before a method answers."""
    both = torch.cat([net.preprocess(picture), net.preprocess(scene.image)])
    with torch.no_grad():
        S = net.module(both)
    p = S.softmax(1)[0]
    says, says_without = (net.classes[k] for k in S.argmax(1))
    return {
        "source": kind,
        "image": seed,
        "class": scene.labels[0],
        "network": net.name,
        "p": short(p[c].item()),
        "rank": 1 + int((p > p[c]).sum()),
        "says": says,
        "says_without": says_without,
        "S": short(S[0, c].item()),
        "S_without": short(S[1, c].item()),
        "area": short(dilated(tag, DILATE).mean()),
    }


def main():
    """Make the records that are missing."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    done = {(row["network"], row["image"]) for row in map(json.loads, lines)}
    with RECORDS.open("a") as file:
        for name in PAIRED:
            net = xcnn.load(name)
            for kind in FIRST_SEED:
                missing = [item for item in drawn(kind) if (name, item[0]) not in done]
                for start in tqdm(range(0, len(missing), TOGETHER), desc=f"{name}, {kind}"):
                    some = missing[start : start + TOGETHER]
                    file.write("".join(json.dumps(row) + "\n" for row in rows(net, kind, some)))
                    file.flush()


if __name__ == "__main__":
    main()
