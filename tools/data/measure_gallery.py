"""Measure the maps of the gallery: where their energy lies, and how alike two of them are."""

from functools import cache

import numpy as np
import torch.nn.functional as F
import xcnn
from xcnn import photos, show
from xcnn.loading import REAL as NETWORKS
from xcnn.methods import LABELS

# the others explain the logit too
OPTIONS = {
    "lime": {"samples": 200, "score": "logit", "seed": 0},
    "rise": {"masks": 300, "score": "logit", "seed": 0},
}
TOP_CLASSES = 3
FULL_STRENGTH_QUANTILE = 0.99  # the share of pixels that are drawn below full strength
NINTHS = [f"{y} {x}" for y in ("upper", "middle", "lower") for x in ("left", "centre", "right")]
COARSE_CELLS = 14  # in each direction, where maps are compared from afar
BLIND = ("deconvnet", "guided backprop")  # may draw the same map of any photograph
RELATED = (
    ("CAM", "Grad-CAM"),
    ("HiResCAM", "Grad-CAM"),
    ("XGrad-CAM", "Grad-CAM"),
    ("LRP", "deep Taylor"),
    ("Guided Grad-CAM", "guided backprop"),
    ("Guided Grad-CAM", "Grad-CAM"),
)


@cache
def prepared(network, photograph):
    """A network, and the photograph as its input x."""
    net = xcnn.load(network)
    return net, net.preprocess(photos.load(photograph))


@cache
def top_classes(network, photograph):
    """The likeliest classes, first the likeliest."""
    net, x = prepared(network, photograph)
    return [c for c, _, _ in net.top(x, TOP_CLASSES)[0]]


def explain(network, photograph, c, methods=xcnn.METHODS):
    """The maps of some methods, or all, for one class: label -> R."""
    return {LABELS[name]: _explained(network, photograph, c, name) for name in methods}


@cache
def _explained(network, photograph, c, name):
    net, x = prepared(network, photograph)
    return xcnn.METHODS[name](net, x, c, **OPTIONS.get(name, {}))


def full_strength(R):
    """The value that is drawn at full strength."""
    strength = np.abs(show.as_map(R))
    return float(np.quantile(strength, FULL_STRENGTH_QUANTILE) or strength.max())


def energy(R):
    """The squares of a map scaled to 1, summed over colours: (H, W), double."""
    return (R / (R.abs().max() or 1)).double().square().sum((0, 1))


def strongest_ninth(R):
    """The ninth of the picture that holds most of a map's energy, in words."""
    E = F.adaptive_avg_pool2d(energy(R)[None], 3)
    return NINTHS[E.argmax().item()] if E.max() > 0 else "nowhere"


def halves(R):
    """The masks of the upper and the lower half of the picture."""
    mask = np.zeros(R.shape[2:], bool)
    mask[: len(mask) // 2] = True
    return mask, ~mask


def upper_share(R):
    """The share of a map's energy in the upper half of the picture."""
    upper, _ = halves(R)
    return xcnn.energy_concentration(R, upper, dilate=0).item()


def correlation(R, Q):
    """The correlation of two maps as they are drawn, with colours summed."""
    return _correlated(show.as_map(R).astype(float), show.as_map(Q).astype(float))


def coarse_correlation(R, Q):
    """The correlation of the energy of two maps in coarse cells, without signs and fine grain."""
    return _correlated(_coarse_energy(R), _coarse_energy(Q))


def _coarse_energy(R):
    return F.adaptive_avg_pool2d(energy(R)[None], COARSE_CELLS).numpy()


def _correlated(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def correlations():
    """How alike maps are: of two classes, of two photographs, of two methods.

    :return: comparison -> label or pair of labels -> network -> correlations
    """
    return {
        "top and second class": {label: _of_classes(label) for label in LABELS.values()},
        "two photographs": {label: _of_photographs(label) for label in BLIND},
        "two methods": {f"{a}, {b}": _of_methods(a, b) for a, b in RELATED},
    }


def _map(network, photograph, label, rank=0):
    """One method's map of the likeliest class, or of the class of this rank."""
    return explain(network, photograph, top_classes(network, photograph)[rank])[label]


def _of_classes(label):
    """Network -> photograph -> correlation of the maps of its two likeliest classes."""
    return {
        network: {
            photograph: correlation(
                _map(network, photograph, label), _map(network, photograph, label, rank=1)
            )
            for photograph in photos.NAMES
        }
        for network in NETWORKS
    }


def _of_photographs(label):
    """Network -> correlations of each two photographs' maps."""
    pairs = [
        (photograph, earlier)
        for number, photograph in enumerate(photos.NAMES)
        for earlier in photos.NAMES[:number]
    ]
    return {
        network: [correlation(_map(network, q, label), _map(network, r, label)) for q, r in pairs]
        for network in NETWORKS
    }


def _of_methods(a, b):
    """Network -> for each photograph, the coarse correlation of two methods' maps."""
    return {
        network: [
            coarse_correlation(_map(network, photograph, a), _map(network, photograph, b))
            for photograph in photos.NAMES
        ]
        for network in NETWORKS
    }
