"""Draw the gallery: every method on real networks and redistributable photographs (`make gallery`).

Writes data/gallery: four explorers (HTML) with their frames, `index.json`, which says what every frame shows, how it
was made and the numbers measured on it, and `observations.md`, sentences that these numbers bear out. `book/gallery.md`
includes them, so that a reader without weights sees real networks at work. About ten minutes on one processor.
"""

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import skimage
import torch
import torch.nn.functional as F
import torchvision
import torchvision.models as zoo
import xcnn
from tqdm.auto import tqdm
from xcnn import explore, photos, show
from xcnn.engine.contract import to_image_size
from xcnn.engine.layers import capture
from xcnn.explorer import frames
from xcnn.loading import REAL as NETWORKS
from xcnn.loading import weights_path

from tools import ROOT
from tools.data.observe_gallery import observations

FOLDER = ROOT / "data" / "gallery"
FRAMES_URL = "../_static/frames"  # `make book` copies the frames there
OPTIONS = {
    "lime": {"samples": 200, "score": "logit", "seed": 0}
}  # the others explain the logit, so LIME does as well
NAMES = {"gradient": "gradient", "deconvnet": "deconvnet", "guided_backprop": "guided backprop", "cam": "CAM",
         "grad_cam": "Grad-CAM", "guided_grad_cam": "Guided Grad-CAM", "shap_cam": "Shap-CAM", "lrp": "LRP",
         "deep_taylor": "deep Taylor", "lime": "LIME", "cnn_fixations": "CNN Fixations"}  # fmt: skip
RANKS = ["top", "second", "third"]
CAT, CUP, BOTH = 282, 968, "cat and coffee"
THINGS = {
    "tiger cat": CAT,
    "cup": CUP,
}  # both are in the picture, whatever a network's top classes are
QUESTIONS = {f"{BOTH}: {thing}": (BOTH, c) for thing, c in THINGS.items()} | {
    f"{name}: top class": (name, None) for name in photos.NAMES if name != BOTH
}
RULES = ["0", "epsilon", "gamma", "alpha_beta", "z+", "w2", "flat", "epsilon_plus", "epsilon_plus_flat",
         "epsilon_gamma_box", "deep_taylor"]  # fmt: skip
NINTHS = [f"{y} {x}" for y in ("upper", "middle", "lower") for x in ("left", "centre", "right")]
FULL = 0.99  # the share of pixels whose value is drawn below full strength


@dataclass
class Sheet:
    """One frame: which question to which network, and the maps that answer it, label -> R.

    limits: label -> the value drawn at full strength; None: each map's own. notes: label -> text after it in a title.
    """

    network: str
    photograph: str
    c: int
    maps: dict
    limits: dict = None
    notes: dict = field(default_factory=dict)
    layer: str = None
    outline: np.ndarray = None
    facts: dict = field(default_factory=dict)

    def __post_init__(self):
        self.limits = self.limits or {label: full_strength(R) for label, R in self.maps.items()}
        net, x = asked(self.network, self.photograph)
        self.name, self.p = net.classes[self.c], net.predict(x)[0, self.c].item()

    def title(self):
        at = (
            f", {self.layer}: {'×'.join(map(str, xcnn.load(self.network).layers[self.layer]))}"
            if self.layer
            else ""
        )
        return f"{self.network}{at}\n{self.photograph}: {self.name} ({self.c}), p = {short(self.p)}"

    def alt(self):
        where = {}
        for label, R in self.maps.items():
            where.setdefault(most(R), []).append(label)
        energy = "; ".join(f"{place}: {', '.join(labels)}" for place, labels in where.items())
        first, second = self.title().split("\n")
        return f"The photograph and {len(self.maps)} maps. {first}. {second}. Where each map has most energy: {energy}."

    def draw(self, columns, size):
        net, x = asked(self.network, self.photograph)
        picture, outline = net.picture(x)[0], () if self.outline is None else (self.outline,)
        panels = [(self.photograph, picture)]
        for label, R in self.maps.items():
            under = (
                picture if R.shape[1] == 1 else np.ones_like(picture)
            )  # a map of pixels shows edges by itself
            panels.append(
                (label + self.notes.get(label, ""), under, R / (self.limits[label] or 1), *outline)
            )
        rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
        figure = show.grid(rows, limit=1, signed=True, size=size)
        figure.suptitle(self.title(), fontsize=10)
        return figure

    def record(self):
        """What the frame shows, and the numbers of each map."""
        numbers = {label: {"limit": self.limits[label], "sum": R.double().sum().item(), "most": most(R)}
                   for label, R in self.maps.items()}  # fmt: skip
        if self.photograph == BOTH:
            for label, R in self.maps.items():
                numbers[label]["upper"] = upper(R)
        layer = (
            {"at": self.layer, "shape": xcnn.load(self.network).layers[self.layer]}
            if self.layer
            else {}
        )
        return {"network": self.network, "photograph": self.photograph, "class": [self.c, self.name], "p": self.p,
                **layer, **self.facts, "maps": numbers}  # fmt: skip


@cache
def asked(network, photograph):
    """A network and the photograph as it sees it."""
    net = xcnn.load(network)
    return net, net.preprocess(photos.load(photograph))


@cache
def top(network, photograph):
    net, x = asked(network, photograph)
    return [c for c, _, _ in net.top(x, len(RANKS))[0]]


@cache
def explained(network, photograph, c):
    """The maps of all methods for one class: label -> R."""
    net, x = asked(network, photograph)
    return {
        NAMES[name]: method(net, x, c, **OPTIONS.get(name, {}))
        for name, method in xcnn.METHODS.items()
    }


def short(value):
    """Two digits after the point; of a small number its first digit that is not 0."""
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1g}"


def full_strength(R):
    strength = np.abs(show.as_map(R))
    return float(np.quantile(strength, FULL) or strength.max())


def energy(R):
    """Squares, summed over colours, of a map scaled to 1: (H, W), double."""
    return (R / (R.abs().max() or 1)).double().square().sum((0, 1))


def most(R):
    """Which ninth of the picture has most of a map's energy."""
    E = F.adaptive_avg_pool2d(energy(R)[None], 3)
    return NINTHS[E.argmax().item()] if E.max() > 0 else "nowhere"


def halves(R):
    mask = np.zeros(R.shape[2:], bool)
    mask[: len(mask) // 2] = True
    return {"tiger cat": mask, "cup": ~mask}


def upper(R):
    """The share of a map's energy in the upper half, the cat's in the picture of both."""
    return xcnn.energy_concentration(R, halves(R)["tiger cat"], dilate=0).item()


def like(R, Q):
    """Correlation of two maps as they are drawn, colours summed."""
    a, b = (show.as_map(one).astype(float).ravel() for one in (R, Q))
    return float(np.corrcoef(a, b)[0, 1])


def like_from_afar(R, Q):
    """Correlation of where the energy of two maps lies, in 14 x 14 cells: signs and fine grain do not count."""
    a, b = (F.adaptive_avg_pool2d(energy(one)[None], 14).numpy().ravel() for one in (R, Q))
    return float(np.corrcoef(a, b)[0, 1])


# The four explorers: each says what is on the sheet of one choice.


def methods(photograph, class_, network):
    """All methods, for one of the three likeliest classes; one scale per method for the three."""
    every = [explained(network, photograph, c) for c in top(network, photograph)]
    limits = {label: max(full_strength(maps[label]) for maps in every) for label in every[0]}
    k = RANKS.index(class_)
    return Sheet(network, photograph, top(network, photograph)[k], every[k], limits)


def cat_or_cup(asked_for, network):
    """All methods on the picture of two things, and their share of energy in the half of the one asked for."""
    maps = explained(network, BOTH, THINGS[asked_for])
    every = [explained(network, BOTH, c) for c in THINGS.values()]
    limits = {label: max(full_strength(maps[label]) for maps in every) for label in maps}
    half = halves(next(iter(maps.values())))[asked_for]
    shares = {
        label: upper(R) if asked_for == "tiger cat" else 1 - upper(R) for label, R in maps.items()
    }
    notes = {label: f": {share:.2f}" for label, share in shares.items()}
    return Sheet(network, BOTH, THINGS[asked_for], maps, limits, notes, outline=half)


def layers(layer, question, network):
    """One layer: Grad-CAM, Guided Grad-CAM, and the channel that speaks most for the class."""
    photograph, c = QUESTIONS[question]
    net, x = asked(network, photograph)
    c, name = top(network, photograph)[0] if c is None else c, list(net.layers)[-4:][layer - 1]
    with torch.no_grad(), capture(net.module, name) as seen:
        S_c = net.module(x)[0, c]
        A = seen[0]
        alpha = torch.autograd.grad(S_c, A)[0].mean((2, 3), keepdim=True)
    k = (alpha * A).sum((2, 3)).argmax().item()
    maps = {"Grad-CAM": xcnn.grad_cam(net, x, c, layer=name),
            "Guided Grad-CAM": xcnn.guided_grad_cam(net, x, c, layer=name),
            f"channel {k}": to_image_size(A.detach()[:, [k]], x)}  # fmt: skip
    return Sheet(network, photograph, c, maps, layer=name, facts={"channel": k})


def rules(question, network):
    """LRP's rules and composites, and the share of the score that each brings to the pixels."""
    photograph, c = QUESTIONS[question]
    net, x = asked(network, photograph)
    c = top(network, photograph)[0] if c is None else c
    maps = {rule: xcnn.lrp(net, x, c, rule) for rule in RULES}
    score = net.module(x)[0, c].item()
    notes = {rule: f"\n{short(R.sum().item() / score)}" for rule, R in maps.items()}
    return Sheet(network, photograph, c, maps, notes=notes, facts={"score": score})


EXPLORERS = {
    "methods": (
        methods,
        3,
        (4.6, 7.0),
        {"photograph": list(photos.NAMES), "class_": RANKS, "network": list(NETWORKS)},
    ),
    "cat_or_cup": (
        cat_or_cup,
        3,
        (4.6, 7.0),
        {"asked_for": list(THINGS), "network": list(NETWORKS)},
    ),
    "layers": (
        layers,
        2,
        (4.6, 5.4),
        {"layer": [4, 3, 2, 1], "question": list(QUESTIONS), "network": list(NETWORKS)},
    ),
    "rules": (rules, 3, (4.6, 7.6), {"question": list(QUESTIONS), "network": list(NETWORKS)}),
}


def bake(name):
    """Draw one explorer; returns the records of its frames."""
    make, columns, size, choices = EXPLORERS[name]
    make = cache(make)

    def view(**choice):
        progress.update()
        with torch.no_grad():
            return make(**choice).draw(columns, size)

    with tqdm(total=len(frames(choices)), desc=name) as progress:
        html = explore(view, alt=lambda **choice: make(**choice).alt(), **choices).html
    (FOLDER / f"{name}.html").write_text(html + "\n")
    return [{"explorer": name, "file": file, **choice, **make(**choice).record()}
            for choice, file in zip(frames(choices), baked(html)["frames"], strict=True)]  # fmt: skip


def baked(html):
    """What an explorer's page holds: options, files of the frames, alt texts."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def correlations():
    """How alike maps are: of two classes, of two photographs, of two methods."""
    tops = {(n, q): [explained(n, q, c) for c in top(n, q)] for n in NETWORKS for q in photos.NAMES}
    guided = "Guided Grad-CAM"
    pairs = [
        ("CAM", "Grad-CAM"),
        ("LRP", "deep Taylor"),
        (guided, "guided backprop"),
        (guided, "Grad-CAM"),
    ]
    return {
        "top and second class": {label: {n: {q: like(tops[n, q][0][label], tops[n, q][1][label]) for q in photos.NAMES}
                                         for n in NETWORKS} for label in NAMES.values()},
        "two photographs": {label: {n: [like(tops[n, q][0][label], tops[n, r][0][label])
                                        for k, q in enumerate(photos.NAMES) for r in photos.NAMES[:k]]
                                    for n in NETWORKS} for label in ("deconvnet", "guided backprop")},
        "two methods": {f"{a}, {b}": {n: [like_from_afar(tops[n, q][0][a], tops[n, q][0][b]) for q in photos.NAMES]
                                      for n in NETWORKS} for a, b in pairs},
    }  # fmt: skip


def provenance():
    """The networks with the hash of their weights, and the versions of what drew the maps."""
    networks = {}
    for name in NETWORKS:
        path = weights_path(next(iter(zoo.get_model_weights(name))))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        networks[name] = {"weights": path.name, "sha256": digest, "layers": xcnn.load(name).layers}
    packages = {"torch": torch, "torchvision": torchvision, "scikit-image": skimage, "numpy": np}
    return {
        "made by": "make gallery",
        "versions": {name: package.__version__ for name, package in packages.items()},
        "networks": networks,
        "photographs": list(photos.NAMES),
        "methods": {name: OPTIONS.get(name, {}) for name in xcnn.METHODS},
        "rules": RULES,
    }


def rounded(value):
    """Six digits: the last ones of a float differ from machine to machine."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def written(index):
    """The index as text: a line per entry, and per frame."""
    frames_, rest = index["frames"], {key: value for key, value in index.items() if key != "frames"}
    lines = ",\n".join("  " + json.dumps(frame, ensure_ascii=False) for frame in frames_)
    head = "".join(
        f' "{key}": {json.dumps(value, ensure_ascii=False)},\n' for key, value in rest.items()
    )
    return f'{{\n{head} "frames": [\n{lines}\n ]\n}}\n'


def listed(sentences):
    return "".join(f"{k}. {sentence}\n" for k, sentence in enumerate(sentences, 1))


def main():
    os.environ |= {
        "XCNN_EXPLORER": "baked",
        "XCNN_FRAMES": str(FOLDER),
        "XCNN_FRAMES_URL": FRAMES_URL,
    }
    index = provenance()  # first, since without weights it ends here
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    index["frames"] = [record for name in EXPLORERS for record in bake(name)]
    index["correlations"] = correlations()
    index = rounded(index)
    (FOLDER / "index.json").write_text(written(index))
    (FOLDER / "observations.md").write_text(listed(observations(index)))
    print(
        f"{len(index['frames'])} frames in {FOLDER}, {sum(f.stat().st_size for f in FOLDER.iterdir()) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    try:
        main()
    except xcnn.InputError as error:
        sys.exit(f"The gallery needs the weights of {', '.join(NETWORKS)}: {error}")
