"""What the steps of a checkup look at, and the verdicts that they give."""

import contextlib
import functools
import inspect
import re
from dataclasses import dataclass, field

import torch

from ..engine.contract import isolated, run
from ..engine.layers import layer_name
from ..engine.target import Contrast, class_indices, class_outputs, is_function, settled
from ..methods import METHODS
from ..networks import Network

OK = "ok"
LOOK = "look"  # may be right; the reader decides
WRONG = "wrong"
NOT_TRIED = "not tried"


@dataclass
class Patient:
    """What is looked at: a network, one image, and the method whose map looks wrong.

    :param net: `Network`
    :param x: (1, C, H, W); before the step "images" whatever the caller gave
    :param target, method, layer: as in `doctor`
    :param is_bare: the caller gave an nn.Module, so that its normalisation is not known
    :param in_train_mode: names of its parts that were in train mode
    """

    net: Network
    x: torch.Tensor
    target: object
    method: str
    layer: object
    is_bare: bool
    in_train_mode: list = field(default_factory=list)

    @functools.cached_property
    def output(self):
        """What the network returns for the image."""
        with isolated(grad=False):
            return run(self.net.module, self.x)

    @functools.cached_property
    def scores(self):
        """(1, K); None where the target is a function."""
        if is_function(self.target):
            return None
        return class_outputs(self.output, 1).double()

    @functools.cached_property
    def asked_class(self):
        """The index of the class that is asked for; None where the target is something else."""
        if self.scores is None or isinstance(self.target, Contrast):
            return None
        return class_indices(self.scores, self.target, self.net.classes).item()

    @functools.cached_property
    def is_asked_of_classes(self):
        """Can another class be asked for in the place of this one?"""
        return self.asked_class is not None and self.scores.shape[1] > 1

    def name_of(self, c):
        """How a class is called: 'clock' (3), or class 3 where its name is not known."""
        classes = self.net.classes
        return f"{classes[c]!r} ({c})" if c < len(classes) else f"class {c}"

    @functools.cached_property
    def layer_of_maps(self):
        """The name of the layer that the method takes its maps from; None where it takes none."""
        options = inspect.signature(METHODS[self.method]).parameters
        if "layer" not in options or "unit" in options:  # of a unit, which is not asked for here
            return None
        return layer_name(self.net.for_images(self.x), self.layer)

    @functools.cached_property
    def R(self):
        """The map that the method gives, (1, C, H, W)."""
        return self.map()

    def map(self, net=None, x=None, target=None, **options):
        """The map of another network, image or class."""
        x = self.x if x is None else x
        if target is None:
            target = settled(self.output, self.target, self.net, 1)
        if self.layer_of_maps is not None:
            options["layer"] = self.layer_of_maps
        return METHODS[self.method](self.net if net is None else net, x, target, **options)


@contextlib.contextmanager
def in_eval_mode(patient):
    """A block in which the network is in eval mode; what was in train mode is noted.

    :param patient: `Patient`, whose network is in its own mode again afterwards
    """
    parts = [
        (name, part)
        for name, part in patient.net.module.named_modules()
        if getattr(part, "training", False) and type(part) is not torch.nn.Module
    ]
    patient.in_train_mode = [name or "the network" for name, _ in parts]
    for _, part in parts:
        part.training = False
    try:
        yield
    finally:
        for _, part in parts:
            part.training = True


def what_and_remedy(error):
    """The two halves of a message: what is wrong, and what to do, its last part or sentence.

    :param error: `InputError`
    :return: two strings
    """
    *what, remedy = re.split(r"(; |\. )", str(error))
    return ("".join(what[:-1]), remedy) if what else (remedy, "see the message")
