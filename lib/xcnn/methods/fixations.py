"""CNN Fixations: from the class back to the points of the picture that led to it (Mopuri, Garg, Babu 2019).

A forward pass is recorded. Then each unit, from the class down, names the units below that contributed most to it. No
gradient is computed. Units are kept as a set: where two name the same one, it is followed once.
"""

import contextlib
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter
from torch.overrides import resolve_name

from ..engine.contract import check, class_indices, one_question, own_grad_mode, run, unit_values
from ..engine.layers import capture
from ..engine.operations import KIND, refuse
from ..engine.tape import Tape, by_position, place, tensors
from ..errors import InputError
from ..networks import as_network
from .fixation_rules import RULES, Call, calls, replaced, unknown


@dataclass
class Fixations:
    """Where one image was looked at, and how that was found. Points are rows (y, x), each once.

    :param points: (n, 2), outliers removed
    :param found: (m, 2), all
    :param units: name of a layer -> the units of its output that were followed, rows (channel, y, x), or (channel,) of
        a vector, in the order of the way down
    :param shapes: name of a layer -> the shape of that output, (C, h, w) or (C,)
    """

    points: torch.Tensor
    found: torch.Tensor
    units: dict
    shapes: dict


def cnn_fixations(net, x, target=None, layer=None, unit=None):
    """The density of the points that led to the class.

    Source: Mopuri et al. 2019, arXiv 1708.06670, section 3; what it leaves open, as in the authors' code. From a unit
    to those below it, where a are the values below and w the weights:

    | operation                  | goes on to                                                                      |
    |----------------------------|---------------------------------------------------------------------------------|
    | linear map of a vector     | all j with w_j a_j > 0; what a global average puts out is a vector, too         |
    | linear map of a whole map  | the one (channel, y, x) with the largest w a                                    |
    | convolution                | the channel with the largest sum over its window of w a, at the window's middle |
    | the same in a residual     | that channel, where its a is largest in the window                              |
    | pooling, averages          | the largest a in the window                                                     |
    | sum of two branches        | the one with the larger value; the first where they are equal                   |
    | concatenation, reshaping   | where the value came from                                                       |
    | batch norm, factors        | the unit itself; a negative factor turns all signs until the next weights       |
    | ReLU, dropout              | the unit itself                                                                 |

    Biases are not used. A unit all of whose w a are 0 ends there. Only a linear map of a vector makes many units of
    one: a network that ends in an average of class maps, such as SqueezeNet, gives one point, and so does a unit
    within the convolutions.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer, unit: instead of a target, an inner unit, as in `gradient`
    :return: (N, 1, H, W), >= 0: a Gaussian per point (see `fixations.density`), so that a map sums to its number of
        points; its attribute `values` holds the `Fixations` of each image
    :raises InputError: see `contract.check`; unknown layer or unit; an operation that has no rule, with its place
    """
    net = as_network(net)
    check(net.module, x)
    one_question(target, layer, unit)
    with own_grad_mode(False):
        values = []
        for k, one in enumerate(x.detach().split(1)):
            record = Record(net.module, one.clone(), layer)
            if layer is None:
                S = record.end.y.expand(len(x), -1)
                start = class_indices(S, target, net.classes)[k : k + 1]
            else:
                start = _unit_index(record.end.y, layer, unit)
            units, shapes, found = record.unravel(start)
            values.append(Fixations(found[crowded(found, *x.shape[2:])], found, units, shapes))
        R = torch.stack([density(one.points, *x.shape[2:]) for one in values])[:, None].to(x)
    R.values = values
    return R


def crowded(points, H, W, share=0.05, radius=0.1):
    """Which points (n, 2) of a picture H x W are no outliers.

    :param share: of all points: a point is kept where more than these lie near it
    :param radius: how far near reaches, as a share of the picture's diagonal
    :return: (n,) bool
    """
    distance = (points[:, None] - points).double().norm(dim=2)
    return (distance < radius * (H**2 + W**2) ** 0.5).sum(1) > share * len(points)


def density(points, H, W, sigma=20 / 224):
    """A Gaussian for each of the points (n, 2) of a picture H x W, mirrored at the edges, of mass 1.

    :param sigma: its standard deviation, as a share of the picture's shorter side
    :return: (H, W) float64
    """
    count = torch.zeros(H, W, dtype=torch.float64)
    count[tuple(points.T.cpu())] = 1
    return torch.from_numpy(gaussian_filter(count.numpy(), sigma * min(H, W), mode="reflect"))


class Record:
    """One forward pass: the calls that depend on the image x, (1, 3, H, W), in order; the image itself comes first.

    end: the call that made the scores, or the layer's output.
    """

    def __init__(self, module, x, layer=None):
        self.names = {id(part): name for name, part in module.named_modules()}
        self.calls, self.made = [], {}
        with own_grad_mode(
            True
        ):  # no gradient is taken: autograd only tells which tensors come from the image
            x = x.clone().requires_grad_().clone()
            self.keep(x)
            watched = (
                contextlib.nullcontext() if layer is None else capture(module, layer, cut=False)
            )
            with Tape(self), watched as seen:
                S = run(module, x)
            self.end = self.call_of(S if layer is None else seen[0])
        if self.end is None:
            raise InputError(
                "what is to be explained does not depend on the image; choose another layer or network"
            )

    def __call__(self, func, args, kwargs):
        args, kwargs = by_position(args, kwargs)
        known = replaced([args, kwargs], self.call_of)
        if not any(calls(known)):  # what depends on parameters alone gets no graph
            given = any(True for _ in tensors([args, list(kwargs.values())]))
            with torch.no_grad() if given else contextlib.nullcontext():
                return func(*args, **kwargs)
        y = func(*args, **kwargs)
        for pick, one in enumerate(y) if isinstance(y, list | tuple) else [(None, y)]:
            if isinstance(one, torch.Tensor):
                self.keep(one, place(self.names), func, pick, *known)
        return y

    def keep(self, y, *how):
        self.calls.append(Call(y.detach().clone(), y, y._version, *how))
        self.made[id(y)] = self.calls[-1]

    def call_of(self, v):
        """The call that made a tensor; None for what does not come from the image."""
        call = self.made.get(id(v)) if isinstance(v, torch.Tensor) else None
        if call and call.version != v._version:
            self.refuse("a change in place of a part or another view of a map", place(self.names))
        if call is None and isinstance(v, torch.Tensor) and v.grad_fn is not None:
            self.refuse("an operation that works unseen, such as a scripted one", place(self.names))
        return call

    def unravel(self, start):
        """Follow units of the end, indices (1,), down to the image: units and shapes by layer, and the points."""
        inside = self.residual()
        reached, units, shapes = {self.end: [start]}, {}, {}
        for call in reversed(self.calls[1:]):
            i, s = _signed(torch.cat(reached.pop(call, [start[:0]])).unique())
            if not len(i):
                continue
            name = call.place[0]
            while (
                name and name not in units
            ):  # what a layer runs last is its output, and that of the block it closes
                units[name], shapes[name] = i, tuple(call.y.shape[1:])
                name = name.rpartition(".")[0]
            try:
                for some in zip(
                    i.split(256), s.split(256), strict=True
                ):  # not all at once: memory stays small
                    for a, j, sign in RULES.get(KIND.get(call.func), unknown)(
                        call, *some, call in inside
                    ):
                        reached.setdefault(a, []).append(torch.where(sign < 0, ~j, j))
            except NotImplementedError as error:
                self.refuse(f"{resolve_name(call.func) or call.func.__name__}{error}", call.place)
        units = {
            name: torch.stack(torch.unravel_index(i.unique(), shapes[name]), 1)
            for name, i in units.items()
        }
        pixels, _ = _signed(torch.cat(reached.get(self.calls[0], [start[:0]])))
        return (
            units,
            shapes,
            torch.stack(torch.unravel_index(pixels, self.calls[0].y.shape[1:])[1:], 1).unique(
                dim=0
            ),
        )

    def residual(self):
        """The calls on the branches of each sum, from where the branches part."""

        def below(call):
            seen, new = {call}, [call]
            while new:
                new += [a for a in new.pop().maps if a not in seen and not seen.add(a)]
            return seen

        sums = [
            call.maps for call in self.calls if KIND.get(call.func) == "sum" and len(call.maps) == 2
        ]
        return set().union(*(below(a) ^ below(b) for a, b in sums))

    def refuse(self, what, place):
        refuse("CNN Fixations", what, place)


def _signed(u):
    """A unit and its sign are kept as one number: its index, or the index's complement for -1."""
    return torch.where(u < 0, ~u, u), torch.where(u < 0, -1, 1)


def _unit_index(A, layer, unit):
    value, here = unit_values(A, layer, unit), torch.zeros_like(A, dtype=torch.bool)
    here[(0, *unit) if isinstance(unit, tuple | list) else (0, unit)] = True
    return ((A == value) & here).flatten().nonzero()[:1, 0]
