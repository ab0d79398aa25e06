"""How far off, and how quick, each way to Shap-CAM's values is on real networks: `make study COCO=folder`.

Cases: each real network on the photographs and on 40 pictures of a COCO folder, for its top class, as probability.
The reference takes Sobol orders on the table of scores, several independent sequences of them, and doubles their
length until its standard error is small. It knows nothing of the path integral. Writes data/results/shap_cam.json
after every case; a case that is there is not computed again.
"""

import argparse
import json
import time

import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import coco, photos
from xcnn.engine.head import Remainder
from xcnn.loading import REAL
from xcnn.methods import shapley
from xcnn.methods.shap_cam import Game
from xcnn.methods.shapley import path

from tools import ROOT

RESULTS = ROOT / "data" / "results" / "shap_cam.json"
ORDERS = (16, 64, 256, 1024)
SEQUENCES, STANDARD_ERROR = 8, 1e-3


def off(phi, reference):
    """Relative error |phi - reference| / |reference|."""
    return ((phi - reference).norm() / reference.norm()).item()


def mean_gain(game, orders):
    """(P,): what each player adds, averaged over orders (B, P); sums along each order, in single precision."""
    L, b = game.L.float(), game.b.float()
    scores = b + torch.cat([torch.zeros(len(orders), 1, L.shape[1]), L[orders]], 1).cumsum(1)
    p = (scores[..., game.c] - scores.logsumexp(2)).exp()
    return torch.zeros(game.P).index_add_(
        0, orders.flatten(), p.diff(dim=1).flatten()
    ).double() / len(orders)


def reference_values(game, length=512, longest=2**13):
    """phi (P,) and its standard error as a share of |phi|, from how much independent Sobol sequences differ."""
    sequences = [
        torch.quasirandom.SobolEngine(game.P, scramble=True, seed=seed) for seed in range(SEQUENCES)
    ]
    total, drawn = torch.zeros(SEQUENCES, game.P, dtype=torch.float64), 0
    while True:
        for phi, points in zip(total, sequences, strict=True):
            for orders in points.draw(max(length, drawn)).argsort(1).split(64):
                phi += len(orders) * mean_gain(game, orders)
        drawn += max(length, drawn)  # 512, 1024, 2048, ...
        means = total / drawn
        phi, error = means.mean(0), means.std(0) / SEQUENCES**0.5
        share = (error.norm() / phi.norm()).item()
        if share < STANDARD_ERROR or drawn >= longest:
            return phi, share


def pictures(folder, count=40):
    """name -> PIL image: the photographs, and the first images of a COCO folder that show a class of ImageNet."""
    data = coco.Folder(folder)
    ids = sorted(
        {i for name in coco.class_map() if name in data.categories for i in data.ids(name)}
    )[:count]
    return {name: photos.load(name) for name in photos.NAMES} | {
        f"COCO {i}": data.image(i) for i in ids
    }


def case(net, image):
    """The errors of every way, for the top class of one picture."""
    x = net.preprocess(image)
    head = Remainder(net.module, x, net.layer)
    c = head.S.argmax(1).item()
    game = Game(head, c, score="probability")
    reference, error = reference_values(game)
    first, second = path(game.L, game.b, c, order=1)[0], path(game.L, game.b, c)
    values = xcnn.shap_cam(net, x, c, score="probability").values[0]
    cam = game.L[:, c] * (
        reference.abs().sum() / game.L[:, c].abs().sum()
    )  # CAM less its mean, on the same scale
    return {
        "class": net.classes[c], "p": head.S.softmax(1)[0, c].item(), "delta": second[1], "reference": error,
        "first": off(first, reference), "second": off(second[0], reference), "cam": off(cam, reference),
        "estimator": values.estimator, "auto": off(values.phi.flatten(), reference),
        "gap": abs(values.phi.sum().item() - values.gain),
        "random": {m: off(shapley.permutations(game, game.P, m)[0], reference) for m in ORDERS},
        "Sobol": {m: off(shapley.permutations(game, game.P, m, sobol=True)[0], reference) for m in ORDERS},
    }  # fmt: skip


def seconds(net, image, rounds=5):
    """What things cost: one coalition through the network, the head and the table; one order; the path; the forward."""
    x = net.preprocess(image)
    head = Remainder(net.module, x, net.layer)
    game = Game(head, head.S.argmax(1).item(), score="probability")
    coalitions = torch.rand(64, game.P, generator=torch.Generator().manual_seed(0)) < 0.5
    calls = {
        "network": (64, lambda: net.module(x.expand(64, -1, -1, -1))),
        "head": (64, lambda: head(game.maps(coalitions))),
        "table": (64, lambda: game(coalitions)),
        "Sobol order": (256, lambda: shapley.permutations(game, game.P, 256, sobol=True)),
        "path": (1, lambda: path(game.L, game.b, game.c)),
        "shap_cam": (
            1,
            lambda: xcnn.shap_cam(net, x, game.c, score="probability", estimator="path"),
        ),
        "forward": (1, lambda: net.module(x)),
    }
    best = dict.fromkeys(calls, float("inf"))
    with torch.no_grad():
        for _ in range(
            rounds + 1
        ):  # side by side; the quickest round, since other work only ever slows one down
            for name, (times, call) in calls.items():
                start = time.perf_counter()
                call()
                best[name] = min(best[name], (time.perf_counter() - start) / times)
    return {"positions": game.P, **best}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coco", help="a folder with annotations/instances_*.json and images")
    images = pictures(parser.parse_args().coco)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": [], "seconds": {}}
    done = {(one["network"], one["picture"]) for one in results["cases"]}
    for name, picture in tqdm([(name, picture) for name in REAL for picture in images]):
        net = xcnn.load(name)
        if (name, picture) not in done:
            results["cases"].append(
                {"network": name, "picture": picture, **case(net, images[picture])}
            )
        if name not in results["seconds"]:
            results["seconds"][name] = seconds(net, images[picture])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
