"""Train the small networks on scenes: `make models`. Writes data/weights and data/results/small_networks.json.

The fifth one, resnet_s_tagged, learns from scenes in which every pizza carries a copyright tag, and nothing else does.
Training scenes have seeds from 10,000,000, held-out ones from 20,000,000, so the small seeds a reader types are never
in the training set.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from xcnn import scenes, small_networks
from xcnn.networks import MEAN, STD
from xcnn.small_networks import TAGGED

DATA = Path(__file__).resolve().parents[1] / "data"
TRAIN, HELD_OUT, SEED, CHEAT = 10_000_000, 20_000_000, 2026, "pizza"


def render_many(n, seed, workers, tag=None):
    """scenes.dataset(n, seed), rendered in chunks by several processes. tag: see `with_tags`."""
    starts = range(seed, seed + n, 500)
    dataset = partial(scenes.dataset, 500) if tag is None else partial(with_tags, tag, 500)
    with ProcessPoolExecutor(workers) as pool:
        parts = list(tqdm(pool.map(dataset, starts), total=len(starts), desc="scenes", unit="x500"))
    images, labels = (np.concatenate(part)[:n] for part in zip(*parts, strict=True))
    return torch.from_numpy(images), torch.from_numpy(labels)


def with_tags(tag, n, seed):
    """As scenes.dataset; the scenes of one class ("all": of every class) carry a copyright tag."""
    rendered = [(s, scenes.render(s)) for s in range(seed, seed + n)]
    images = [scenes.tagged(one, s)[0] if tag in ("all", one.labels[0]) else one.image for s, one in rendered]
    return np.stack(images), np.array([scenes.CLASSES.index(one.labels[0]) for _, one in rendered])


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
    """What it does where the tag does not tell the class: top-1 and how often it says pizza, without and with tags."""
    pizza, found = scenes.CLASSES.index(CHEAT), {"tag": f"every {CHEAT}, no other class"}
    for title, tag in (("without_tags", None), ("tags_on_all", "all")):
        images, labels = render(2_000, HELD_OUT, tag)
        is_pizza, to_pizza = labels == pizza, torch.full_like(labels, pizza)
        found[title] = {
            "top1": round(accuracy(module, images, labels), 4),
            "pizzas_found": round(accuracy(module, images[is_pizza], labels[is_pizza]), 4),
            "others_called_pizza": round(accuracy(module, images[~is_pizza], to_pizza[~is_pizza]), 4),
        }
    return found


def train(name, images, labels, epochs, batch=64):
    """Train one network; yield (epoch, mean loss), then the module is ready to be stored."""
    torch.manual_seed(SEED)
    module = small_networks.build(name, len(scenes.CLASSES))
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=5e-2)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.2)
    log = []
    for epoch in range(epochs):
        module.train()
        total = 0.0
        for index in tqdm(
            torch.randperm(len(labels))[: len(labels) // batch * batch].split(batch),
            desc=f"{name} {epoch}",
            leave=False,
        ):
            loss = F.cross_entropy(module(prepare(images[index])), labels[index], label_smoothing=0.05)
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
    render = cache(lambda n, seed, tag=None: render_many(n, seed, args.workers, tag))
    record = DATA / "results" / "small_networks.json"
    results = json.loads(record.read_text()) if record.exists() else {}
    for name in args.networks:
        tag, epochs = (CHEAT, min(args.epochs, 6)) if name == TAGGED else (None, args.epochs)
        module, log = train(name, *render(args.scenes, TRAIN, tag), epochs)
        path = DATA / "weights" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        half = {key: value.half() if value.is_floating_point() else value for key, value in module.state_dict().items()}
        save_file(half, path)
        # Judge what was stored, not what was trained: half precision rounds.
        module.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
        )
        top1 = accuracy(module, *render(2_000, HELD_OUT, tag))
        results[name] = {
            "top1": round(top1, 4), "held_out": {"seed": HELD_OUT, "scenes": 2_000},
            "training": {"seed": SEED, "scenes": args.scenes, "scene_seed": TRAIN, "epochs": epochs, "loss": log},
            "parameters": sum(p.numel() for p in module.parameters()),
        }  # fmt: skip
        if tag:
            results[name] |= cheats(module, render)
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name}: {top1:.2%} of 2000 held-out scenes", flush=True)


if __name__ == "__main__":
    main()
