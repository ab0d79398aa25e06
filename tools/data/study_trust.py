"""Record whether maps agree with what things did to the score, and what else there is to trust.

The pictures are scenes of three or four things. Each is also rendered without each of its things,
so that the effect of every thing on a network's score is known. The class that is asked for is the
likeliest of those in the scene. One record for each network, scene and contestant:

- p, rank: how sure the network is of the class, and its place among all classes
- signs, ranks: see `causal_agreement`, of the signed map and the effects
- deletion, deletion_blurred, deletion_scene: the mean of the curve, where a pixel that is taken out
  turns to the mean colour, to the blurred picture, or to the scene without the thing; insertion
- sensitivity: see `max_sensitivity`
- kept_signed, kept_unsigned: the mean rank correlation with the maps of five networks whose upper
  half is shuffled; dark: how many of these maps are constant, and left out of the mean
- status: "ok", or why there is nothing of it

`python -m tools.data.study_trust` goes on where it stopped. Slow contestants take fewer scenes.
"""

import json
from dataclasses import dataclass

import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import InputError, sanity, scenes
from xcnn.contestants import contestants, signed_maps
from xcnn.evaluate import causal_agreement, causal_effects, relevance_of
from xcnn.loading import SMALL

from tools import ROOT

RECORDS = ROOT / "runs" / "trust" / "records.jsonl"
FIRST_SEED = 50_000  # far from those of chapters and of training
SCENES = 60
SCENES_OF_SLOW = 20
SLOW = (
    "smooth_grad",
    "integrated_gradients",
    "score_cam",
    "ablation_cam",
    "occlusion",
    "rise",
    "lime",
)
TOGETHER = 10  # scenes
STEPS = 20  # of deletion and insertion
NOISES = 5  # of the sensitivity
SHUFFLES = 5


@dataclass
class Question:
    """A scene, what is asked of it, and what each of its things did."""

    seed: int
    masks: torch.Tensor  # (n, H, W) bool
    x: torch.Tensor  # (1, 3, H, W)
    gone: torch.Tensor  # the same without the thing that is asked for
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
    return Question(
        seed=seed,
        masks=torch.from_numpy(whole.masks),
        x=x,
        gone=without[k : k + 1],
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
    heads = [
        {"network": net.name, "image": q.seed, "method": name, "p": q.p, "rank": q.rank}
        for q in questions
    ]
    try:
        columns = _measures(net, questions, name)
    except InputError as error:
        return [head | {"status": str(error)} for head in heads]
    return [
        head | {key: _short(values[k]) for key, values in columns.items()} | {"status": "ok"}
        for k, head in enumerate(heads)
    ]


def _measures(net, questions, name):
    """Name of a measure -> its value for each question."""
    x = torch.cat([q.x for q in questions])
    gone = torch.cat([q.gone for q in questions])
    targets = [q.target for q in questions]
    keys = [f"scene {q.seed}" for q in questions]

    def explain(network, pictures):
        return signed_maps(network, pictures, targets, name, keys)

    R = explain(net, x)
    causes = [
        causal_agreement(relevance_of(r[None], q.masks), q.effects)
        for r, q in zip(R, questions, strict=True)
    ]
    signs, ranks = zip(*causes, strict=True)
    half = len(sanity.weighted_layers(net.module)) // 2
    kept = sanity.randomisation(net, x, explain, last=half, shuffles=SHUFFLES)
    ask = (net, x, R, targets, STEPS)
    return {
        "signs": signs,
        "ranks": ranks,
        "deletion": sanity.deletion(*ask).mean(1).tolist(),
        "deletion_blurred": sanity.deletion(*ask, fill="blur").mean(1).tolist(),
        "deletion_scene": sanity.deletion(*ask, fill=gone).mean(1).tolist(),
        "insertion": sanity.insertion(*ask).mean(1).tolist(),
        "sensitivity": sanity.max_sensitivity(net, x, explain, samples=NOISES).tolist(),
        "kept_signed": kept["signed"].nanmean(0).tolist(),
        "kept_unsigned": kept["unsigned"].nanmean(0).tolist(),
        "dark": kept["signed"].isnan().sum(0).tolist(),
    }


def _short(value):
    """Six digits, or None for what has no value."""
    return None if value != value else float(f"{value:.6g}")


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
                some = asked[:SCENES_OF_SLOW] if method in SLOW else asked
                missing = [q for q in some if (name, q.seed, method) not in done]
                for start in range(0, len(missing), TOGETHER):
                    for row in rows(net, missing[start : start + TOGETHER], method):
                        file.write(json.dumps(row) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
