"""Record whether maps agree with what things did to the score, and what else there is to trust.

The pictures are scenes of three or four things. Each is also rendered without each of its things,
so that the effect of every thing on a network's score is known. The class that is asked for is the
likeliest of those in the scene. One record for each network, scene and contestant:

- p, rank, area: how sure the network is of the class, its place among all classes, and the share
  of the picture that the grown mask of the thing covers
- P, mass, ranks, pointing, iou, left, P_raw, rival: see `measures`; rivals are all other things
- causal_signs, causal_ranks: see `causal_agreement`, of the signed map and the effects
- deletion, deletion_blurred, deletion_scene: the mean of the curve, where a pixel that is taken out
  turns to the mean colour, to the blurred picture, or to the scene without the thing; insertion
- sensitivity: see `max_sensitivity`
- kept_signed, kept_unsigned: the mean rank correlation with the maps of five networks whose upper
  half is shuffled; dark: how many of these maps are constant, and left out of the mean
- status: "ok", or why there is nothing of it; a map that says nothing for the class has no P

`python -m tools.data.study_trust` goes on where it stopped. Of slow contestants neither sensitivity
nor shuffles are measured: that would be ten more maps of every scene.
"""

import json
from dataclasses import dataclass

import numpy as np
import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import sanity, scenes
from xcnn.contestants import answers, contestants, signed_maps
from xcnn.evaluate import causal_agreement, causal_effects, dilated, relevance_of
from xcnn.loading import SMALL
from xcnn.study_measures import DILATE, measures, short

from tools import ROOT

RECORDS = ROOT / "runs" / "trust" / "records.jsonl"
FIRST_SEED = 50_000  # far from those of chapters and of training
SCENES = 60
SLOW = ("score_cam", "ablation_cam", "rise", "lime")
TOGETHER = 10  # scenes
STEPS = 20  # of deletion and insertion
NOISES = 5  # of the sensitivity
SHUFFLES = 5


@dataclass
class Question:
    """A scene, what is asked of it, and what each of its things did."""

    seed: int
    label: str  # of the thing that is asked for
    masks: torch.Tensor  # (n, H, W) bool
    x: torch.Tensor  # (1, 3, H, W)
    gone: torch.Tensor  # the same without the thing that is asked for
    grown: torch.Tensor  # (H, W) bool, its mask, grown
    rivals: torch.Tensor  # the same of all other things together
    target: int
    p: float
    rank: int
    effects: torch.Tensor  # (n,)


def question(net, seed):
    """The question of one scene, of three things or four.

    :param net: `Network`
    :param seed: of the scene
    """
    whole, lesser = scenes.without_each(seed, count=3 + seed % 2)
    x = net.preprocess(whole.image)
    without = torch.cat([net.preprocess(scene.image) for scene in lesser])
    p = net.predict(x)[0]
    of_things = p[[net.classes.index(label) for label in whole.labels]]
    k = of_things.argmax().item()
    others = np.delete(whole.masks, k, axis=0).any(0)
    return Question(
        seed=seed,
        label=whole.labels[k],
        masks=torch.from_numpy(whole.masks),
        x=x,
        gone=without[k : k + 1],
        grown=dilated(whole.masks[k], DILATE),
        rivals=dilated(others, DILATE),
        target=net.classes.index(whole.labels[k]),
        p=of_things[k].item(),
        rank=1 + int((p > of_things[k]).sum()),
        effects=causal_effects(net, x, without, net.classes.index(whole.labels[k])),
    )


def rows(net, questions, name):
    """The records of one contestant for a few questions.

    :param net: `Network`
    :param questions: list of `Question`
    :param name: of a contestant
    :return: list of dicts
    """
    heads = [_head(net, q, name) for q in questions]
    x = torch.cat([q.x for q in questions])
    targets = [q.target for q in questions]
    keys = [f"scene {q.seed}" for q in questions]
    ((_, R, E, _),) = answers(net, x, targets, [name], keys)
    if isinstance(R, str):  # the method refused
        return [head | {"status": R} for head in heads]

    def explain(network, pictures):
        return signed_maps(network, pictures, targets, name, keys)

    grown = np.stack([q.grown for q in questions])
    rivals = np.stack([q.rivals for q in questions])
    placed = measures(net, x, targets, R, E, grown, rivals)
    signed = explain(net, x)
    columns = _causes(questions, signed) | _curves(net, x, targets, questions, signed)
    if name not in SLOW:
        columns |= _stability(net, x, explain)
    for head, values in zip(heads, placed, strict=True):
        head |= values | {"status": "ok"}
    return [
        head | {key: short(values[k]) for key, values in columns.items()}
        for k, head in enumerate(heads)
    ]


def _head(net, question, name):
    """The part of a record that says what was asked."""
    return {
        "source": "scenes of three and four",
        "image": question.seed,
        "class": question.label,
        "network": net.name,
        "method": name,
        "p": short(question.p),
        "rank": question.rank,
        "area": short(question.grown.mean()),
    }


def _causes(questions, R):
    """How the signed maps agree with the effects."""
    causes = [
        causal_agreement(relevance_of(r[None], q.masks), q.effects)
        for r, q in zip(R, questions, strict=True)
    ]
    signs, ranks = zip(*causes, strict=True)
    return {"causal_signs": signs, "causal_ranks": ranks}


def _curves(net, x, targets, questions, R):
    """The means of deletion with three fills, and of insertion."""
    ask = (net, x, R, targets, STEPS)
    gone = torch.cat([q.gone for q in questions])
    return {
        "deletion": sanity.deletion(*ask).mean(1).tolist(),
        "deletion_blurred": sanity.deletion(*ask, fill="blur").mean(1).tolist(),
        "deletion_scene": sanity.deletion(*ask, fill=gone).mean(1).tolist(),
        "insertion": sanity.insertion(*ask).mean(1).tolist(),
    }


def _stability(net, x, explain):
    """What noise changes in the maps, and what they keep where the network is shuffled."""
    half = len(sanity.weighted_layers(net.module)) // 2
    kept = sanity.randomisation(net, x, explain, last=half, shuffles=SHUFFLES)
    return {
        "sensitivity": sanity.max_sensitivity(net, x, explain, samples=NOISES).tolist(),
        "kept_signed": kept["signed"].nanmean(0).tolist(),
        "kept_unsigned": kept["unsigned"].nanmean(0).tolist(),
        "dark": kept["signed"].isnan().sum(0).tolist(),
    }


def main():
    """Make the records that are missing."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    made = [json.loads(line) for line in lines]
    done = {(row["network"], row["image"], row["method"]) for row in made}
    with RECORDS.open("a") as file:
        for name in SMALL:
            net = xcnn.load(name)
            asked = [question(net, FIRST_SEED + k) for k in range(SCENES)]
            for method in tqdm(contestants(), desc=name):
                missing = [q for q in asked if (name, q.seed, method) not in done]
                for start in range(0, len(missing), TOGETHER):
                    for row in rows(net, missing[start : start + TOGETHER], method):
                        file.write(json.dumps(row) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
