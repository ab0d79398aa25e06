"""Record what turning one knob does to the answer of a network, and to its maps.

On scenes: 50 of one object each, four networks, every setting of `knobs.SCENES`. On photographs of
a COCO folder: those whose largest object is the network's first class in the stored contest, three
networks, every setting of `knobs.PHOTOGRAPHS`. One record for each network, picture, setting and
contestant:

- p, rank, area: see `xcnn.study.records`; right: is the class the network's first?
- P: energy concentration of the evidence on what is still to be seen of the object
- status: "ok", or why there is no P

`python -m tools.data.study_stress [COCO]` goes on where it stopped.
"""

import json
import sys

import numpy as np
import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import coco, knobs, report, scenes
from xcnn.contestants import answers
from xcnn.evaluate import dilated, energy_concentration
from xcnn.loading import REAL, SMALL
from xcnn.study_cases import class_index, cut
from xcnn.study_measures import DILATE, short

from tools import ROOT

RECORDS = ROOT / "runs" / "stress" / "records.jsonl"
METHODS = ("gradient", "guided_backprop", "grad_cam", "guided_grad_cam", "shap_cam_probability")
METHODS += ("lrp", "edges", "centre")
FIRST_SEED = 500
SCENES = 50
SIZE = 224  # of photographs


def of_scenes():
    """The questions to the small networks: source, picture, class, and how to turn its knobs."""
    for k in range(SCENES):
        label = scenes.CLASSES[k % len(scenes.CLASSES)]

        def turn(knob, value, seed=FIRST_SEED + k, label=label):
            drawn = knobs.scene(seed, label, knob, value)
            return drawn.image, drawn.masks[0]

        yield "scenes of one", FIRST_SEED + k, label, turn


def of_photographs(folder, network):
    """The same of photographs whose largest object this network names."""
    contest = report.read(ROOT / "data" / "results" / "contest_photographs.jsonl.gz")
    asked = contest[(contest.network == network) & (contest["size"] == SIZE)]
    named = asked[asked["rank"] == 1].drop_duplicates("image")
    for image, label in zip(named["image"], named["class"], strict=True):

        def turn(knob, value, image=image, label=label):
            mask = folder.mask(image, label)
            return knobs.photograph(folder.image(image), mask, knob, value)

        yield "coco", image, label, turn


def rows(net, source, image, label, turn, knob, values, size=None):
    """The records of one picture at all settings of one knob.

    :param net: `Network`
    :param source, image, label, turn: as `of_scenes` yields them
    :param knob: its name
    :param values: its settings
    :param size: of the picture in pixels; None: as it is
    :return: generator of dicts
    """
    turned = [turn(knob, value) for value in values]
    x = torch.cat([net.preprocess(picture, size) for picture, _ in turned])
    masks = np.stack([mask if size is None else cut(mask, size) for _, mask in turned])
    target = class_index(net, label, x[list(values).index(knobs.BASE[knob])][None])
    p = net.predict(x)
    head = {"source": source, "image": image, "class": label, "network": net.name, "knob": knob}
    grown = np.stack([dilated(mask, DILATE) for mask in masks])
    keys = [f"{source} {image}"] * len(values)
    for method, _, E, _ in answers(net, x, [target] * len(values), METHODS, keys):
        P = energy_concentration(E, grown, dilate=0)
        for k, value in enumerate(values):
            asked = {
                "p": short(p[k, target].item()),
                "rank": 1 + int((p[k] > p[k, target]).sum()),
                "area": short(grown[k].mean()),
            }
            yield head | {"value": value, "method": method} | asked | _scored(P[k], masks[k])


def _scored(P, mask):
    """P and status of one map."""
    if not mask.any():
        return {"status": "empty mask"}
    if P.isnan():
        return {"status": "no energy"}
    return {"P": short(P.item()), "status": "ok"}


def main(folder=None):
    """Make the records that are missing.

    :param folder: a COCO folder; None: scenes only
    """
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    made = [json.loads(line) for line in lines]
    done = {(row["network"], row["image"], row["knob"]) for row in made}
    todo = [(name, list(of_scenes()), knobs.SCENES, None) for name in SMALL]
    if folder:
        photographs = coco.Folder(folder)
        for name in REAL:
            todo.append((name, list(of_photographs(photographs, name)), knobs.PHOTOGRAPHS, SIZE))
    with RECORDS.open("a") as file:
        for name, questions, settings, size in todo:
            net = xcnn.load(name)
            for question in tqdm(questions, desc=name):
                for knob, values in settings.items():
                    if (name, question[1], knob) in done:
                        continue
                    some = rows(net, *question, knob, values, size)
                    file.write("".join(json.dumps(row) + "\n" for row in some))
                    file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
