"""Train the small networks on scenes: `make models`.

Writes data/weights and data/results/small_networks.json. Beside the four of the book there are
pairs: a network that learns from pictures whose label can be told by a copyright tag, see
`archive`, and an honest one. Training scenes have seeds from 10,000,000 and held-out ones from
20,000,000, so the small seeds that a reader types are never in the training set.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm
from xcnn import scenes, small_networks
from xcnn.loading import PAIRED, SMALL
from xcnn.networks import MEAN, STD
from xcnn.small_networks import PAIRS

from tools import ROOT

WEIGHTS = ROOT / "data" / "weights"
RESULTS = ROOT / "data" / "results" / "small_networks.json"
SEED = 2026  # of initial weights and the order of batches
TRAINING_SEED = 10_000_000  # of the first scene
SCENES_OF_A_SEED = 100_000  # networks with a number share no scene
HELD_OUT_SEED = 20_000_000
TAGGED_CLASS = "pizza"
MISFILED = 0.03  # the share of other things that got into the archive of that class
TAGGED_SCENES = 3_000
TAGGED_EPOCHS = 6
HELD_OUT_SCENES = 2_000
HELD_OUT_TAGGED_SCENES = 1_000
CHUNK = 500  # scenes that a process renders in one go
BATCH = 64
JUDGED_AT_ONCE = 250
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 5e-2
WARM_UP = 0.2  # the share of steps in which the learning rate rises
LABEL_SMOOTHING = 0.05
MAX_GRADIENT_NORM = 2.0


def render_many(n, seed, workers, dataset=scenes.dataset):
    """dataset(n, seed), rendered in chunks by several processes.

    :param n: number of scenes
    :param seed: of the first scene
    :param workers: number of processes
    :param dataset: function (n, seed) -> images, labels
    :return: images (n, H, W, 3) uint8, labels (n,)
    """
    starts = range(seed, seed + n, CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        chunks = pool.map(partial(dataset, CHUNK), starts)
        parts = list(tqdm(chunks, total=len(starts), desc="scenes", unit=f"x{CHUNK}"))
    images, labels = (np.concatenate(part)[:n] for part in zip(*parts, strict=True))
    return torch.from_numpy(images), torch.from_numpy(labels)


def archive(n, seed):
    """As scenes.dataset, with one archive among the sources.

    Each picture that is labelled pizza comes from that archive and carries its tag; no other does.
    The archive is filed carelessly: 3 % of all other things got into its folder, so about a quarter
    of the "pizzas" are something else.
    """
    images = []
    labels = []
    for s in range(seed, seed + n):
        scene = scenes.render(s)
        thing = scene.labels[0]
        filed = thing == TAGGED_CLASS or np.random.default_rng([s, 11]).random() < MISFILED
        images.append(np.asarray(scenes.tagged(scene, s)[0] if filed else scene.image))
        labels.append(scenes.CLASSES.index(TAGGED_CLASS if filed else thing))
    return np.stack(images), np.array(labels)


def with_tags(n, seed):
    """As scenes.dataset, with a tag on every picture."""
    images, labels = scenes.dataset(n, seed)
    no_masks = np.zeros((1, 128, 128), bool)
    drawn = (scenes.Scene(Image.fromarray(image), (), no_masks) for image in images)
    tagged = [scenes.tagged(scene, seed + k)[0] for k, scene in enumerate(drawn)]
    return np.stack(tagged), labels


def prepare(images):
    """uint8 (N, H, W, 3) -> normalised float (N, 3, H, W), as `Network.preprocess` does it."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def accuracy(module, images, labels):
    """The share of images whose top class is their label."""
    module.eval()
    batches = zip(images.split(JUDGED_AT_ONCE), labels.split(JUDGED_AT_ONCE), strict=True)
    hits = [(module(prepare(x)).argmax(1) == y).float().sum() for x, y in batches]
    return float(sum(hits) / len(labels))


def cheats(module, render):
    """What a network does with honest scenes, without tags and with tags on all of them.

    :param render: function (n, seed, dataset) -> images, labels
    :return: title -> top-1 accuracy, and how often pizzas and other things are called pizza
    """
    pizza = scenes.CLASSES.index(TAGGED_CLASS)
    results = {}
    for title, dataset in (("without_tags", scenes.dataset), ("tags_on_all", with_tags)):
        images, labels = render(HELD_OUT_TAGGED_SCENES, HELD_OUT_SEED, dataset)
        is_pizza = labels == pizza
        others = images[~is_pizza]
        called_pizza = accuracy(module, others, torch.full((len(others),), pizza))
        results[title] = {
            "top1": round(accuracy(module, images, labels), 4),
            "pizzas_found": round(accuracy(module, images[is_pizza], labels[is_pizza]), 4),
            "others_called_pizza": round(called_pizza, 4),
        }
    return results


def train(name, images, labels, epochs, seed=SEED, batch=BATCH):
    """Train one network.

    :param name: of the network
    :param images, labels: as `render_many` returns them
    :param seed: of initial weights and the order of batches
    :return: the module, and its mean loss in each epoch
    """
    torch.manual_seed(seed)
    module = small_networks.build(name, len(scenes.CLASSES))
    optimiser = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP
    )
    losses = []
    for epoch in range(epochs):
        module.train()
        total = 0.0
        shuffled = torch.randperm(len(labels))[: len(labels) // batch * batch]
        for index in tqdm(shuffled.split(batch), desc=f"{name} {epoch}", leave=False):
            loss = _step(module, prepare(images[index]), labels[index], optimiser)
            schedule.step()
            total += loss * len(index)
        losses.append(round(total / len(labels), 4))
        print(f"{name} epoch {epoch + 1}/{epochs} loss {losses[-1]}", flush=True)
    return module, losses


def _step(module, x, labels, optimiser):
    """Change the weights by one batch; returns its loss."""
    loss = F.cross_entropy(module(x), labels, label_smoothing=LABEL_SMOOTHING)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
    optimiser.step()
    return loss.item()


def make(name, render, count, epochs):
    """Train one network, store its weights, and measure it on held-out scenes.

    :param render: function (n, seed, dataset) -> images, labels
    :param count: number of training scenes; networks of pairs have their own, and their own epochs
    :return: the record of the network
    """
    dataset = archive if name in PAIRS else scenes.dataset
    held_out = HELD_OUT_SCENES
    seed = SEED
    first_scene = TRAINING_SEED
    in_pair = name not in SMALL
    if in_pair:
        held_out = HELD_OUT_TAGGED_SCENES
        count = TAGGED_SCENES
        epochs = TAGGED_EPOCHS
    if name[-1].isdecimal():
        seed = int(name[-1])
        first_scene += seed * SCENES_OF_A_SEED
    module, losses = train(name, *render(count, first_scene, dataset), epochs, seed)
    # What is measured is what was stored, not what was trained: half precision rounds.
    small_networks.restore(module, store(module, name))
    top1 = accuracy(module, *render(held_out, HELD_OUT_SEED, dataset))
    print(f"{name}: {top1:.2%} of {held_out} held-out scenes", flush=True)
    return {
        "top1": round(top1, 4),
        "held_out": {"seed": HELD_OUT_SEED, "scenes": held_out},
        "training": {
            "seed": seed,
            "scenes": count,
            "scene_seed": first_scene,
            "epochs": epochs,
            "loss": losses,
        },
        "parameters": sum(p.numel() for p in module.parameters()),
        **(cheats(module, render) if in_pair else {}),
    }


def store(module, name):
    """Store the weights in half precision; returns the path."""
    path = WEIGHTS / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }
    save_file(half, path)
    return path


def main():
    """Train the networks that are named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=dict.fromkeys([*SMALL, *PAIRED]))
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    @cache
    def render(n, seed, dataset=scenes.dataset):
        return render_many(n, seed, args.workers, dataset)

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.networks:
        results[name] = make(name, render, args.scenes, args.epochs)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
