"""LRP's way through a network: what the tape does with each call of a forward pass."""

import contextlib
import functools
from types import SimpleNamespace

import torch

from ..engine.operations import (
    IN_OTHER_WORDS,
    KIND,
    Factor,
    factor_of,
    refuse,
    replaced,
)
from ..engine.tape import Tape, by_position, running_part, tensors
from ..errors import InputError
from .lrp_operations import HALF, HANDLERS, Operation, at, is_map, other
from .lrp_rules import Layer

# kinds that make pixels of pixels
KEEP_PIXELS = {
    *("same", "moved", "joined", "average", "upsampling", "dropout", "relu", "unit"),
    *("batch norm", "image norm", "rescaled", "sum", "product"),
}
# those of them that do to the bounds of pixels something else than to the pixels
LOSE_BOUNDS = {"image norm", "rescaled"}


class Relevance:
    """For `Tape`: runs each operation as it is, and gives it the backward pass of relevance.

    What does not depend on the image is computed without a gradient. All is computed in float32 at
    least: in half precision most relevances would be rounded to 0.

    What is known of a map is kept under its place in autograd's graph (`at`):

    layers_of: the layers whose (concatenated) output the map is, as (layer, rule, input). Usually
    an empty list.
    factors: the map's `Factor`. A map without one was made unseen: by a scripted module, or by
    somebody else's autograd.Function.
    pixels: where no layer lies below the map, the function images -> map that made it; None, where
    it would not make bounds of the bounds of pixels.

    :param module: the network
    :param choose: function (kind, index, name) -> rule, see `lrp_composites`
    :param image: the first map. It must be in float32 at least, and come from autograd
    """

    def __init__(self, module, choose, image):
        self.names = {id(part): name for name, part in module.named_modules()}
        self.choose = choose
        self.layer_count = 0
        self.layers_of = {at(image): []}
        self.factors = {at(image): Factor(False, at(image), 0)}
        self.pixels = {at(image): functools.partial(_as_images, image.detach())}
        self.backward_pass = SimpleNamespace(met_a_layer=False)

    def __call__(self, func, args, kwargs):
        inputs = list(tensors([*args, *kwargs.values()]))
        if not any(map(is_map, inputs)):
            # A call without tensors runs as it is: it may be the network's switch of the grad mode.
            with torch.no_grad() if inputs else contextlib.nullcontext():
                return func(*args, **kwargs)
        if func in IN_OTHER_WORDS:
            with Tape(self):
                y = IN_OTHER_WORDS[func](is_map, *args, **kwargs)
            if y is not NotImplemented:
                return y
        if any(a.dtype in HALF for a in inputs):
            args, kwargs = replaced([args, kwargs], self._in_float32)
            inputs = list(tensors([*args, *kwargs.values()]))
        with without_autocast(inputs[0].device.type):
            return self._run(func, *by_position(args, kwargs), [a for a in inputs if is_map(a)])

    def _run(self, func, args, kwargs, maps):
        self._check_seen(maps)
        factors = [self.factors[at(a)] for a in maps]
        are_pixels = KIND.get(func) in KEEP_PIXELS and all(map(self.are_pixels, maps))
        on_images = self._on_images(func, args, kwargs, maps) if are_pixels else None
        y = HANDLERS.get(KIND.get(func), other)(self, func, args, kwargs, maps)
        for pick, a in enumerate(y) if isinstance(y, list | tuple) else [(None, y)]:
            if is_map(a) and at(a) not in self.factors:
                self.layers_of.setdefault(at(a), [])
                self.factors[at(a)] = factor_of(func, factors, at(a))
                if are_pixels:
                    source = on_images and functools.partial(on_images, pick)
                    self.pixels.setdefault(at(a), source)
        return y

    def _on_images(self, func, args, kwargs, maps):
        """The function (pick, images) -> the call's result for pixels of these images, or None."""
        kind = KIND.get(func)
        mixes_pixels = kind in ("sum", "product") and len(maps) > 1
        if mixes_pixels or kind in LOSE_BOUNDS or None in [self.pixels[at(a)] for a in maps]:
            return None

        def source_of(v):
            return _Source(self.pixels[at(v)]) if is_map(v) else None

        return functools.partial(_call_on_images, func, replaced([args, kwargs], source_of))

    def are_pixels(self, a):
        """Does no layer lie below this map?"""
        return at(a) in self.pixels

    def _check_seen(self, maps):
        """Refuse a map that was made unseen."""
        for a in maps:
            # A full backward hook of the caller's wraps the tensor in a node of its own. It counts
            # as the node below it.
            if type(a.grad_fn).__name__ == "BackwardHookFunctionBackward":
                self._know_as(at(a), a.grad_fn.next_functions[a.output_nr])
            if at(a) not in self.factors:
                self.refuse(
                    "an operation that works unseen (scripted, or an autograd.Function of its own)"
                )

    def _know_as(self, place, other_place):
        """What is known of the map at the other place holds at this one, too."""
        for known in (self.layers_of, self.factors, self.pixels):
            if other_place in known:
                known[place] = known[other_place]

    def _in_float32(self, v):
        if not isinstance(v, torch.Tensor) or v.dtype not in HALF:
            return None
        if not is_map(v):
            return v.detach().float()
        exact = v.float()
        self._know_as(at(exact), at(v))
        return exact

    def refusal(self, what):
        """A function that raises the error for what has no rule, and runs now."""
        return functools.partial(refuse, "LRP", what, running_part(self.names))

    def refuse(self, what):
        self.refusal(what)()

    def choose_rule(self, kind):
        name, _ = running_part(self.names)
        return self.choose(kind, self.layer_count, name)

    def output_with_rule(self, layer, rule, a):
        """The layer's output; its backward pass takes relevance by the rule to the input a."""
        is_layer = isinstance(layer, Layer)
        backward_pass = self.backward_pass

        def call(_):
            return layer.z.detach().clone()

        def back(R):
            backward_pass.met_a_layer |= is_layer
            return (rule(layer, R),)

        y = Operation.apply(call, back, a)
        if is_layer and is_map(y):
            self.layers_of[at(y)] = [(layer, rule, a)]
        return y


def without_autocast(device):
    """A block in which torch.autocast does not act: in half precision, relevance would be lost."""
    is_on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else contextlib.nullcontext()


# ---- the bounds of pixels


class _Source:
    """In the arguments of a call: a function images -> map in the place of the map."""

    def __init__(self, of_images):
        self.of_images = of_images


def _call_on_images(func, call, pick, images):
    """A call, made again for other images; of several results the one to pick."""

    def value_of(v):
        return v.of_images(images) if isinstance(v, _Source) else None

    args, kwargs = replaced(call, value_of)
    with torch.no_grad():
        y = func(*args, **kwargs)
    return y if pick is None else y[pick]


def _as_images(like, bound):
    """A bound of the pixels as a batch of images."""
    try:
        return bound.to(like).expand_as(like).clone()
    except RuntimeError as error:
        raise InputError(
            "low and high must be numbers, one per channel, or of the shape of an image, "
            f"{tuple(like.shape[1:])}, got {tuple(bound.shape)}"
        ) from error
