"""Record how exact and how quick each way to Shap-CAM's values is: `make study COCO=folder`.

A case is a real network and a picture, one of the photographs or of 40 from a COCO folder; it asks
for the probability of the top class. The reference averages over orders of arrival from several
independent Sobol sequences, on the table of scores, and doubles their length until its standard
error is small. It does not use the path integral. Writes data/results/shap_cam.json after every
case; a case that is there is not computed again.
"""

import argparse
import json
import time

import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import coco, photos
from xcnn.engine.head import Head
from xcnn.loading import REAL
from xcnn.methods import shapley
from xcnn.methods.shap_cam import Game
from xcnn.methods.shapley import path

from tools import ROOT

RESULTS = ROOT / "data" / "results" / "shap_cam.json"
ORDERS = (16, 64, 256, 1024)
SEQUENCES = 8
FIRST_LENGTH = 512  # orders from each sequence, doubled at every step
MAX_LENGTH = 2**13
MAX_STANDARD_ERROR = 1e-3  # of the reference, as a share of it
ORDERS_AT_ONCE = 64
PICTURES_OF_COCO = 40


def off(phi, reference):
    """Relative error |phi - reference| / |reference|."""
    return ((phi - reference).norm() / reference.norm()).item()


def mean_gain(game, orders):
    """What each player adds, averaged over orders; the sums along an order in single precision.

    :param game: `Game` of P players
    :param orders: (B, P)
    :return: (P,), double
    """
    L = game.L.float()
    b = game.b.float()
    start = torch.zeros(len(orders), 1, L.shape[1])
    scores = b + torch.cat([start, L[orders]], 1).cumsum(1)
    p = (scores[..., game.c] - scores.logsumexp(2)).exp()
    total = torch.zeros(game.P).index_add_(0, orders.flatten(), p.diff(dim=1).flatten())
    return total.double() / len(orders)


def reference_values(game, length=FIRST_LENGTH, longest=MAX_LENGTH):
    """phi from independent Sobol sequences, whose differences give its standard error.

    :param game: `Game` of P players
    :param length: orders of each sequence at first; then doubled until the error is small
    :param longest: no more orders than these are used
    :return: phi (P,), its standard error as a share of |phi|
    """
    sequences = [
        torch.quasirandom.SobolEngine(game.P, scramble=True, seed=seed) for seed in range(SEQUENCES)
    ]
    total = torch.zeros(SEQUENCES, game.P, dtype=torch.float64)
    drawn = 0
    while True:
        count = max(length, drawn)
        for phi, sequence in zip(total, sequences, strict=True):
            for orders in sequence.draw(count).argsort(1).split(ORDERS_AT_ONCE):
                phi += len(orders) * mean_gain(game, orders)
        drawn += count
        means = total / drawn
        phi = means.mean(0)
        error = means.std(0) / SEQUENCES**0.5
        share = (error.norm() / phi.norm()).item()
        if share < MAX_STANDARD_ERROR or drawn >= longest:
            return phi, share


def pictures(folder, count=PICTURES_OF_COCO):
    """name -> PIL image: the photographs, and pictures of a COCO folder with a class of ImageNet.

    :param folder: a folder with annotations/instances_*.json and images
    :param count: so many pictures from it, the first ones by number
    """
    data = coco.Folder(folder)
    ids = {i for name in coco.class_map() if name in data.categories for i in data.ids(name)}
    images = {name: photos.load(name) for name in photos.NAMES}
    return images | {f"COCO {i}": data.image(i) for i in sorted(ids)[:count]}


def case(net, image):
    """The errors of every way, for the top class of one picture."""
    x = net.preprocess(image)
    head = Head(net.module, x, net.layer)
    c = head.S.argmax(1).item()
    game = Game(head, c, score="probability")
    reference, error = reference_values(game)
    first, _ = path(game.L, game.b, c, order=1)
    second, correction = path(game.L, game.b, c)
    (values,) = xcnn.shap_cam_values(net, x, c, score="probability")
    # CAM less its mean, on the same scale
    cam = game.L[:, c] * (reference.abs().sum() / game.L[:, c].abs().sum())
    return {
        "class": net.classes[c],
        "p": head.S.softmax(1)[0, c].item(),
        "delta": correction,
        "reference": error,
        "first": off(first, reference),
        "second": off(second, reference),
        "cam": off(cam, reference),
        "estimator": values.estimator,
        "error": values.error,
        "auto": off(values.phi.flatten(), reference),
        "gap": abs(values.phi.sum().item() - values.gain),
        "random": _errors_of_sampling(game, reference, "random"),
        "Sobol": _errors_of_sampling(game, reference, "sobol"),
    }


def _errors_of_sampling(game, reference, kind):
    """Number of orders of a kind -> error of permutation sampling."""
    errors = {}
    for count in ORDERS:
        phi, _ = shapley.permutations(game, game.P, count, orders=kind)
        errors[count] = off(phi, reference)
    return errors


def seconds(net, image, rounds=5):
    """What things cost, in seconds, and the number of positions.

    A coalition is timed through the whole network, through the head and on the table; then one
    order of arrival, the path integral, the whole of Shap-CAM, and one forward pass.
    """
    x = net.preprocess(image)
    head = Head(net.module, x, net.layer)
    game = Game(head, head.S.argmax(1).item(), score="probability")
    coalitions = torch.rand(64, game.P, generator=torch.Generator().manual_seed(0)) < 0.5
    shap_cam = {"score": "probability", "estimator": "path"}
    # name -> (how many of the thing one call does, the call)
    calls = {
        "network": (64, lambda: net.module(x.expand(64, -1, -1, -1))),
        "head": (64, lambda: head(game.maps(coalitions))),
        "table": (64, lambda: game(coalitions)),
        "Sobol order": (256, lambda: shapley.permutations(game, game.P, 256, orders="sobol")),
        "path": (1, lambda: path(game.L, game.b, game.c)),
        "shap_cam": (1, lambda: xcnn.shap_cam(net, x, game.c, **shap_cam)),
        "forward": (1, lambda: net.module(x)),
    }
    with torch.no_grad():
        return {"positions": game.P, **_quickest(calls, rounds)}


def _quickest(calls, rounds):
    """Name -> seconds of the quickest round, since other work only ever slows a round down."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds + 1):  # all in turn, so that a busy moment hits all alike
        for name, (count, call) in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], (time.perf_counter() - start) / count)
    return best


def main():
    """Compute the cases that are not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coco", help="a folder with annotations/instances_*.json and images")
    images = pictures(parser.parse_args().coco)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": [], "seconds": {}}
    done = {(record["network"], record["picture"]) for record in results["cases"]}
    for name, picture in tqdm([(name, picture) for name in REAL for picture in images]):
        net = xcnn.load(name)
        if (name, picture) not in done:
            found = case(net, images[picture])
            results["cases"].append({"network": name, "picture": picture, **found})
        if name not in results["seconds"]:
            results["seconds"][name] = seconds(net, images[picture])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
