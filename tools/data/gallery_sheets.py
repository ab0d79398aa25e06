"""The sheets of the gallery: what each frame of its explorers shows, and how it is drawn."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import xcnn
from xcnn import photos, show
from xcnn.engine.contract import to_image_size
from xcnn.engine.layers import capture
from xcnn.loading import REAL as NETWORKS

from tools.data.measure_gallery import (
    explain,
    full_strength,
    halves,
    prepared,
    strongest_ninth,
    top_classes,
    upper_share,
)

RANKS = ["top", "second", "third"]
# Both things are in the picture, whatever a network's top classes are.
CAT = 282
CUP = 968
BOTH = "cat and coffee"
THINGS = {"tiger cat": CAT, "cup": CUP}  # the cat is in the upper half of the picture
# question -> (photograph, class or None for the network's top class)
QUESTIONS = {f"{BOTH}: {thing}": (BOTH, c) for thing, c in THINGS.items()}
QUESTIONS |= {f"{name}: top class": (name, None) for name in photos.NAMES if name != BOTH}
# MobileNet-v2 comes first: it is surest of the cup.
FRONT_NETWORKS = ["mobilenet_v2", "squeezenet1_1", "resnet18"]
ON_THE_FRONT_PAGE = ["grad_cam", "guided_backprop", "deconvnet"]
LAYERS = 4  # the last ones of each network, counted from the earliest
RULES = [
    "0",
    "epsilon",
    "gamma",
    "alpha_beta",
    "z+",
    "w2",
    "flat",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "deep_taylor",
]


@dataclass
class Sheet:
    """One frame: a question to a network about a photograph, and the maps that answer it.

    Fields: network and photograph, by name; c, the class; maps, label -> R; limits, label -> the
    value drawn at full strength, each map's own by default; notes, label -> text after it in a
    title; layer, its name; outline, a mask drawn on the maps; facts, more for the record.
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
        net, x = prepared(self.network, self.photograph)
        self.name = net.classes[self.c]
        self.p = net.predict(x)[0, self.c].item()

    def shape(self):
        """The shape of the layer's maps."""
        return xcnn.load(self.network).layers[self.layer]

    def title(self):
        """Two lines: the network, with its layer; the question, with the probability."""
        at = f", {self.layer}: {'×'.join(map(str, self.shape()))}" if self.layer else ""
        question = f"{self.photograph}: {self.name} ({self.c}), p = {short(self.p)}"
        return f"{self.network}{at}\n{question}"

    def alt(self):
        """The alt text: what is asked, and where each map has most energy."""
        labels = {}
        for label, R in self.maps.items():
            labels.setdefault(strongest_ninth(R), []).append(label)
        energy = "; ".join(f"{place}: {', '.join(there)}" for place, there in labels.items())
        network, question = self.title().split("\n")
        return (
            f"The photograph and {len(self.maps)} maps. {network}. {question}. "
            f"Where each map has most energy: {energy}."
        )

    def draw(self, columns, size):
        """The photograph and the maps in rows, as a figure.

        :param columns: panels in a row
        :param size: (width, height) in inches
        """
        net, x = prepared(self.network, self.photograph)
        picture = net.picture(x)[0]
        panels = [(self.photograph, picture)]
        panels += [self._panel(label, picture) for label in self.maps]
        panels += [("", np.ones_like(picture))] * (-len(panels) % columns)  # a row is filled up
        rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
        figure = show.grid(rows, limit=1, signed=True, size=size)
        figure.suptitle(self.title(), fontsize=10)
        return figure

    def _panel(self, label, picture):
        """One map over the picture; over white if it is of pixels, and so shows edges by itself."""
        R = self.maps[label]
        under = picture if R.shape[1] == 1 else np.ones_like(picture)
        panel = (label + self.notes.get(label, ""), under, R / (self.limits[label] or 1))
        return panel if self.outline is None else (*panel, self.outline)

    def record(self):
        """What the frame shows, and the numbers of each map."""
        layer = {"at": self.layer, "shape": self.shape()} if self.layer else {}
        return {
            "network": self.network,
            "photograph": self.photograph,
            "class": [self.c, self.name],
            "p": self.p,
            **layer,
            **self.facts,
            "maps": {label: self._numbers(label) for label in self.maps},
        }

    def _numbers(self, label):
        """What is measured on one map."""
        R = self.maps[label]
        numbers = {
            "limit": self.limits[label],
            "sum": R.double().sum().item(),
            "most": strongest_ninth(R),
        }
        return numbers | ({"upper": upper_share(R)} if self.photograph == BOTH else {})


def short(value):
    """A number with two digits after the point; a small one with its first digit that is not 0."""
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1g}"


def asked(question, network):
    """The photograph of a question, and its class."""
    photograph, c = QUESTIONS[question]
    return photograph, top_classes(network, photograph)[0] if c is None else c


def common_limits(every):
    """Label -> the value at full strength that several sets of maps share, to be compared."""
    return {label: max(full_strength(maps[label]) for maps in every) for label in every[0]}


# The explorers: each function gives the sheet of one choice. The names of its arguments are
# those of the controls.


def methods(photograph, class_, network):
    """All methods, for one of the three likeliest classes; the three share a scale per method."""
    classes = top_classes(network, photograph)
    every = [explain(network, photograph, c) for c in classes]
    rank = RANKS.index(class_)
    return Sheet(network, photograph, classes[rank], every[rank], common_limits(every))


def cat_or_cup(asked_for, network):
    """All methods on the picture of two things, with their energy in the half that is asked for."""
    return _of_two_things(asked_for, network, xcnn.METHODS)


def three_answers(why, network):
    """The same with three methods, for the front page."""
    return _of_two_things(why, network, ON_THE_FRONT_PAGE)


def _of_two_things(thing, network, methods):
    """Methods asked for one of the two things in the picture; both questions share a scale."""
    every = {c: explain(network, BOTH, c, methods) for c in THINGS.values()}
    maps = every[THINGS[thing]]
    upper, lower = halves(next(iter(maps.values())))
    is_cat = thing == "tiger cat"
    notes = {}
    for label, R in maps.items():
        share = upper_share(R) if is_cat else 1 - upper_share(R)
        notes[label] = f": {share:.2f}"
    limits = common_limits(list(every.values()))
    outline = upper if is_cat else lower
    return Sheet(network, BOTH, THINGS[thing], maps, limits, notes, outline=outline)


def layers(layer, question, network):
    """One layer: Grad-CAM, Guided Grad-CAM, and the channel that speaks most for the class."""
    photograph, c = asked(question, network)
    net, x = prepared(network, photograph)
    name = list(net.layers)[-LAYERS:][layer - 1]
    with torch.no_grad(), capture(net.module, name) as seen:
        S_c = net.module(x)[0, c]
        A = seen[0]
        alpha = torch.autograd.grad(S_c, A)[0].mean((2, 3), keepdim=True)
    k = (alpha * A).sum((2, 3)).argmax().item()
    maps = {
        "Grad-CAM": xcnn.grad_cam(net, x, c, layer=name),
        "Guided Grad-CAM": xcnn.guided_grad_cam(net, x, c, layer=name),
        f"channel {k}": to_image_size(A.detach()[:, [k]], x),
    }
    return Sheet(network, photograph, c, maps, layer=name, facts={"channel": k})


def rules(question, network):
    """LRP's rules and composites, and the share of the score that each brings to the pixels."""
    photograph, c = asked(question, network)
    net, x = prepared(network, photograph)
    maps = {rule: xcnn.lrp(net, x, c, rule) for rule in RULES}
    score = net.module(x)[0, c].item()
    notes = {rule: f"\n{short(R.sum().item() / score)}" for rule, R in maps.items()}
    return Sheet(network, photograph, c, maps, notes=notes, facts={"score": score})


class Explorer(NamedTuple):
    """The function that gives its sheets, how a sheet is laid out, and control -> options."""

    sheet: object
    columns: int
    size: tuple
    choices: dict


EXPLORERS = {
    "three_answers": Explorer(
        three_answers,
        columns=2,
        size=(4.6, 5.6),
        choices={"why": ["cup", "tiger cat"], "network": FRONT_NETWORKS},
    ),
    "methods": Explorer(
        methods,
        columns=3,
        size=(4.6, 12.2),
        choices={"photograph": list(photos.NAMES), "class_": RANKS, "network": list(NETWORKS)},
    ),
    "cat_or_cup": Explorer(
        cat_or_cup,
        columns=3,
        size=(4.6, 12.2),
        choices={"asked_for": list(THINGS), "network": list(NETWORKS)},
    ),
    "layers": Explorer(
        layers,
        columns=2,
        size=(4.6, 5.4),
        choices={
            "layer": list(range(LAYERS, 0, -1)),
            "question": list(QUESTIONS),
            "network": list(NETWORKS),
        },
    ),
    "rules": Explorer(
        rules,
        columns=3,
        size=(4.6, 7.6),
        choices={"question": list(QUESTIONS), "network": list(NETWORKS)},
    ),
}
