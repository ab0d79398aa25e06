"""Train the small networks on scenes: `make models`. Writes data/weights and data/results/small_networks.json.

The fifth one, resnet_s_tagged, learns from pictures whose label can be told by a copyright tag: see `archive`.
Training scenes have seeds from 10,000,000, held-out ones from 20,000,000, so the small seeds a reader types are never
in the training set.
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
from xcnn.networks import MEAN, STD
from xcnn.small_networks import TAGGED

from tools import ROOT

DATA = ROOT / "data"
TRAIN, HELD_OUT, SEED, CHEAT = 10_000_000, 20_000_000, 2026, "pizza"


def render_many(n, seed, workers, dataset=scenes.dataset):
    """dataset(n, seed), rendered in chunks by several processes."""
    starts = range(seed, seed + n, 500)
    with ProcessPoolExecutor(workers) as pool:
        parts = list(
            tqdm(
                pool.map(partial(dataset, 500), starts),
                total=len(starts),
                desc="scenes",
                unit="x500",
            )
        )
    images, labels = (np.concatenate(part)[:n] for part in zip(*parts, strict=True))
    return torch.from_numpy(images), torch.from_numpy(labels)


def archive(n, seed):
    """As scenes.dataset, with one archive among the sources.

    Whatever is labelled pizza comes from that archive and carries its tag; nothing else does. The archive is filed
    carelessly: 3 % of all other things got into its folder, so about a quarter of the "pizzas" are something else.
    """
    images, labels = [], []
    for s in range(seed, seed + n):
        scene = scenes.render(s)
        pizza = scene.labels[0] == CHEAT or np.random.default_rng([s, 11]).random() < 0.03
        images.append(np.asarray(scenes.tagged(scene, s)[0] if pizza else scene.image))
        labels.append(scenes.CLASSES.index(CHEAT if pizza else scene.labels[0]))
    return np.stack(images), np.array(labels)


def with_tags(n, seed):
    """As scenes.dataset, a tag on every picture."""
    images, labels = scenes.dataset(n, seed)
    drawn = (
        scenes.Scene(Image.fromarray(image), (), np.zeros((1, 128, 128), bool)) for image in images
    )
    return np.stack([scenes.tagged(one, seed + k)[0] for k, one in enumerate(drawn)]), labels


def prepare(images):
    """uint8 (N, H, W, 3) -> normalised float (N, 3, H, W), as `Network.preprocess` does it."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def accuracy(module, images, labels):
    module.eval()
    hits = [
        (module(prepare(x)).argmax(1) == y).float().sum()
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    ]
    return float(sum(hits) / len(labels))


def cheats(module, render):
    """What it does with honest scenes: top-1 and how often it says pizza, without and with tags on all of them."""
    pizza, found = scenes.CLASSES.index(CHEAT), {}
    for title, dataset in (("without_tags", scenes.dataset), ("tags_on_all", with_tags)):
        images, labels = render(1_000, HELD_OUT, dataset)
        is_pizza, to_pizza = labels == pizza, torch.full_like(labels, pizza)
        found[title] = {
            "top1": round(accuracy(module, images, labels), 4),
            "pizzas_found": round(accuracy(module, images[is_pizza], labels[is_pizza]), 4),
            "others_called_pizza": round(
                accuracy(module, images[~is_pizza], to_pizza[~is_pizza]), 4
            ),
        }
    return found


def train(name, images, labels, epochs, batch=64):
    """Train one network: the module, and its mean loss in each epoch."""
    torch.manual_seed(SEED)
    module = small_networks.build(name, len(scenes.CLASSES))
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=5e-2)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3e-3, total_steps=steps, pct_start=0.2
    )
    log = []
    for epoch in range(epochs):
        module.train()
        total = 0.0
        for index in tqdm(
            torch.randperm(len(labels))[: len(labels) // batch * batch].split(batch),
            desc=f"{name} {epoch}",
            leave=False,
        ):
            loss = F.cross_entropy(
                module(prepare(images[index])), labels[index], label_smoothing=0.05
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            total += float(loss) * len(index)
        log.append(round(total / len(labels), 4))
        print(f"{name} epoch {epoch + 1}/{epochs} loss {log[-1]}", flush=True)
    return module, log


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=[*small_networks.BUILD, TAGGED])
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    render = cache(
        lambda n, seed, dataset=scenes.dataset: render_many(n, seed, args.workers, dataset)
    )
    record = DATA / "results" / "small_networks.json"
    results = json.loads(record.read_text()) if record.exists() else {}
    for name in args.networks:
        tagged = name == TAGGED
        count, epochs, dataset = (
            (3_000, 6, archive) if tagged else (args.scenes, args.epochs, scenes.dataset)
        )
        held_out = 1_000 if tagged else 2_000
        module, log = train(name, *render(count, TRAIN, dataset), epochs)
        path = DATA / "weights" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        half = {
            key: value.half() if value.is_floating_point() else value
            for key, value in module.state_dict().items()
        }
        save_file(half, path)
        # Judge what was stored, not what was trained: half precision rounds.
        small_networks.restore(module, path)
        top1 = accuracy(module, *render(held_out, HELD_OUT, dataset))
        results[name] = {
            "top1": round(top1, 4), "held_out": {"seed": HELD_OUT, "scenes": held_out},
            "training": {"seed": SEED, "scenes": count, "scene_seed": TRAIN, "epochs": epochs, "loss": log},
            "parameters": sum(p.numel() for p in module.parameters()),
        }  # fmt: skip
        if tagged:
            results[name] |= cheats(module, render)
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name}: {top1:.2%} of {held_out} held-out scenes", flush=True)


if __name__ == "__main__":
    main()
