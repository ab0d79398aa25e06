"""CNN Fixations: from the class back to the points of the picture that led to it.

Source: Mopuri, Garg, Babu 2019. A forward pass is recorded. Then each unit, from the class down,
names the units below that contributed most to it. No gradient is computed. Units are kept as a set:
where two units name the same one, it is followed once.
"""

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.overrides import resolve_name

from ..engine.contract import isolated, one_question, run, unit_position
from ..engine.layers import capture, layer_name, unit_layout
from ..engine.operations import (
    IN_OTHER_WORDS,
    KIND,
    Factor,
    factor_of,
    refuse,
    replaced,
)
from ..engine.tape import Tape, by_position, running_part, tensors
from ..engine.target import (
    Contrast,
    class_indices,
    class_outputs,
    is_function,
    target_scores,
)
from ..errors import InputError
from ..networks import ready
from ..packages import imported
from .fixation_calls import Call, calls
from .fixation_rules import RULES, unknown

UNITS_AT_ONCE = 256  # that go down through an operation together: this bounds the memory


@dataclass
class Fixations:
    """The points of one image, and how they were found. Points are rows (y, x), each once.

    :param points: (n, 2), outliers removed
    :param all_points: (m, 2), with outliers
    :param units: name of a layer -> the units of its output that were followed, rows (channel, y,
        x), or (channel,) of a vector, in the order of the way down
    :param shapes: name of a layer -> the shape of that output, (C, h, w) or (C,)

    >>> xcnn.find_fixations(net, x, "clock")[0].shapes["layer3"]
    (80, 8, 8)
    """

    points: torch.Tensor
    all_points: torch.Tensor
    units: dict
    shapes: dict


def cnn_fixations(net, x, target=None, layer=None, unit=None):
    """The density of the points that led to the class.

    Source: Mopuri et al. 2019, arXiv 1708.06670, section 3; what it leaves open, as in the authors'
    code. From a unit to those below it, where a are the values below and w the weights:

    | operation                  | goes on to                                                   |
    |----------------------------|--------------------------------------------------------------|
    | fully connected, a vector  | all j with w_j a_j > 0; a global average gives a vector, too |
    | fully connected, flattened | the one (channel, y, x) with the largest w a                 |
    | maps                       |                                                              |
    | convolution                | the channel with the largest sum of w a over its window, at  |
    |                            | the window's middle; where the window is the whole map, as   |
    |                            | fully connected                                              |
    | the same in a residual     | that channel, where its a is largest in the window           |
    | transposed convolution     | the channel with the largest sum of w a, at its largest w a  |
    | pooling, averages, maxima  | the largest a in the window, or along the dimensions         |
    | sum of two branches        | the larger value; the first where they are equal             |
    | map times a gate           | the signal, see `lrp`                                        |
    | concatenation, reshaping   | the place where the value came from                          |
    | enlarging                  | the same; where it averages, the largest w a                 |
    | norms, factors             | the unit itself; a negative factor turns all signs until the |
    |                            | next weights; the mean that layer, group and instance norms  |
    |                            | subtract is ignored                                          |
    | activations, dropout       | the unit itself. Signs stay, also with SiLU, GELU and others |
    |                            | that fall a little below 0 before they rise                  |

    Biases are not used. A unit all of whose w a are 0 ends there. Only a fully connected layer on a
    vector makes many units of one. So a network that ends in an average of class maps, such as
    SqueezeNet, gives one point, and so does a unit within the convolutions.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus` of
        two classes, which counts as a linear layer on the scores; or a function of what the network
        returns, made of operations that have a rule
    :param layer, unit: instead of a target, an inner unit, as in `gradient`
    :return: (N, 1, H, W), >= 0: a Gaussian per point (see `fixations.density`), so that a map sums
        to its number of points
    :raises InputError: see `ready`; unknown layer or unit; an operation that has no rule, with its
        place

    >>> R = xcnn.cnn_fixations(net, x, "clock")
    >>> round(R.sum().item()) == len(xcnn.find_fixations(net, x, "clock")[0].points)
    True
    """
    results = find_fixations(net, x, target, layer, unit)
    maps = [density(fixations.points, *x.shape[2:]) for fixations in results]
    return torch.stack(maps)[:, None].to(x)


def find_fixations(net, x, target=None, layer=None, unit=None):
    """The points of each image, and the units of every layer that led to them.

    Arguments and errors as in `cnn_fixations`, which draws these points.

    :return: list of N `Fixations`

    >>> points = xcnn.find_fixations(net, x, "clock")[0].points
    >>> on_the_clock = scene.mask("clock")[tuple(points.T)]
    >>> bool(on_the_clock.mean() > scene.mask("clock").mean())
    True
    """
    one_question(target, layer, unit)
    net, x = ready(net, x)
    if layer is not None:
        layer = layer_name(net, layer)
    results = []
    with isolated(grad=False):
        for k, image in enumerate(x.split(1)):
            question = _question(target, net, x, k) if layer is None else None
            record = Record(net.module, image, layer, question)
            if layer is not None:
                start = _unit_index(net.module, image, record.end.y, layer, unit)
            elif is_function(target) or isinstance(target, Contrast):
                start = torch.zeros(1, dtype=torch.long, device=x.device)
            else:
                S = record.end.y.expand(len(x), -1)
                net.warn_of_probabilities(S)
                start = class_indices(S, target, net.classes)[k : k + 1]
            units, shapes, points = record.unravel(start)
            kept = points[inliers(points, *x.shape[2:])]
            results.append(Fixations(kept, points, units, shapes))
    return results


def _question(target, net, x, k):
    """What is asked of image k's output, as a function to be recorded: scores or one value."""

    def scores(out):
        return class_outputs(out, N=1)

    def answer(out):
        return target_scores(out, target, net, N=1)

    def difference(out):
        # One image runs at a time. Expanded, its scores let `class_indices` check the targets of
        # the whole batch.
        S = scores(out).detach().expand(len(x), -1)
        both = [class_indices(S, classes, net.classes).tolist() for classes in (target.c, target.d)]
        c, d = F.one_hot(torch.tensor([indices[k] for indices in both]), S.shape[1]).to(x)
        return F.linear(out, (c - d)[None])

    if is_function(target):
        return answer
    if not isinstance(target, Contrast):
        return scores
    if target.d is None:
        raise InputError(
            "CNN Fixations follows units, and the rivals of versus(c) have none in common; "
            "name one rival, versus(c, d)"
        )
    return difference


def inliers(points, H, W, share=0.05, radius=0.1):
    """Which points of a picture H x W are not outliers.

    :param points: (n, 2), rows (y, x)
    :param H, W: height and width of the picture
    :param share: a point is kept where more than this share of all points, itself included, lie
        near it; so with the default none of fewer than 20 points is removed
    :param radius: how far near reaches, as a share of the picture's diagonal
    :return: (n,) bool

    >>> points = torch.tensor([[5, 5], [6, 5], [5, 6], [90, 90]])
    >>> xcnn.methods.fixations.inliers(points, 100, 100, share=0.25)
    tensor([ True,  True,  True, False])
    """
    distance = (points[:, None] - points).double().norm(dim=2)
    diagonal = (H**2 + W**2) ** 0.5
    return (distance < radius * diagonal).sum(1) > share * len(points)


def density(points, H, W, sigma=20 / 224):
    """A Gaussian of mass 1 for each point of a picture H x W, mirrored at the edges.

    :param points: (n, 2), rows (y, x)
    :param H, W: height and width of the picture
    :param sigma: its standard deviation, as a share of the picture's shorter side
    :return: (H, W) float64

    >>> R = xcnn.methods.fixations.density(torch.tensor([[2, 3], [7, 8]]), 10, 10)
    >>> round(R.sum().item(), 6)
    2.0
    """
    marks = torch.zeros(H, W, dtype=torch.float64)
    marks[tuple(points.T.cpu())] = 1
    ndimage = imported("scipy.ndimage", "a map of CNN Fixations")
    blurred = ndimage.gaussian_filter(marks.numpy(), sigma * min(H, W), mode="reflect")
    return torch.from_numpy(blurred)


class Record:
    """One forward pass: the calls whose values depend on the image, in order.

    calls: a list of `Call`; the first stands for the image itself. end: the call that made the
    scores, or the layer's output.

    :param module: nn.Module in eval mode
    :param x: (1, C, H, W)
    :param layer: name of a layer; None: the pass ends at what the network returns
    :param question: function of what the network returns, which the pass ends with; None: none
    """

    def __init__(self, module, x, layer=None, question=None):
        self.names = {id(part): name for name, part in module.named_modules()}
        self.calls = []
        self.call_of_tensor = {}  # id of a network's tensor -> the call that made it
        # No gradient is taken. Autograd only tells which tensors come from the image.
        with isolated(grad=True):
            image = x.clone().requires_grad_().clone()
            self._keep(image)
            captured = contextlib.nullcontext() if layer is None else capture(module, layer, False)
            with Tape(self), captured as seen:
                end = run(module, image)
                if question is not None:
                    end = question(end)
            self.end = self._call_of(end if layer is None else seen[0])
        if self.end is None:
            raise InputError(
                "what is to be explained does not depend on the image; "
                "choose another layer or network"
            )

    def __call__(self, func, args, kwargs):
        args, kwargs = by_position(args, kwargs)
        sources = replaced([args, kwargs], self._call_of)
        if not any(calls(sources)):
            return self._run_aside(func, args, kwargs)
        if func in IN_OTHER_WORDS:
            with Tape(self):
                y = IN_OTHER_WORDS[func](self._is_map, *args, **kwargs)
            if y is not NotImplemented:
                return y
        y = func(*args, **kwargs)
        parts = enumerate(y) if isinstance(y, list | tuple) else [(None, y)]
        for pick, part in parts:
            # Masks and indices are not followed: what they choose is.
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                self._keep(part, running_part(self.names), func, pick, *sources)
        return y

    def _run_aside(self, func, args, kwargs):
        """A call that does not depend on the image. What depends on weights alone gets no graph.

        A call without tensors runs as it is: it may be the network's own switch of the grad mode.
        """
        takes_tensors = any(True for _ in tensors([args, list(kwargs.values())]))
        with torch.no_grad() if takes_tensors else contextlib.nullcontext():
            return func(*args, **kwargs)

    def _keep(self, y, *how):
        """Add a value of the network and how it was made: place, func, pick, args, kwargs."""
        number = len(self.calls)
        call = Call(y.detach().clone(), y, y._version, Factor(False, number, 0), *how)
        if call.maps:
            call.factor = factor_of(call.func, [a.factor for a in call.maps], number)
        self.calls.append(call)
        self.call_of_tensor[id(y)] = call

    def _is_map(self, v):
        return isinstance(v, torch.Tensor) and id(v) in self.call_of_tensor

    def _call_of(self, v):
        """The call that made a tensor; None for what does not come from the image."""
        if not isinstance(v, torch.Tensor):
            return None
        call = self.call_of_tensor.get(id(v))
        if call and call.version != v._version:
            self._refuse(
                "a change in place of a part or another view of a map", running_part(self.names)
            )
        if call is None and v.grad_fn is not None:
            self._refuse(
                "an operation that works unseen, such as a scripted one", running_part(self.names)
            )
        return call

    def unravel(self, start):
        """Follow units from the end of the pass down to the image.

        :param start: index (1,) of a unit of the end's value
        :return: units and shapes by layer, as in `Fixations`, and all points (m, 2)
        """
        residual = self._residual_calls()
        nothing = start[:0]  # an empty tensor like start
        reached = {self.end: [start]}
        units = {}
        shapes = {}
        for call in reversed(self.calls[1:]):
            i, s = _split_signs(torch.cat(reached.pop(call, [nothing])).unique())
            if len(i):
                self._note_layers(call, i, units, shapes)
                for below, signed_units in self._one_step_down(call, i, s, call in residual):
                    reached.setdefault(below, []).append(signed_units)
        image = self.calls[0]
        pixels, _ = _split_signs(torch.cat(reached.get(image, [nothing])))
        points = torch.stack(torch.unravel_index(pixels, image.y.shape[1:])[1:], 1).unique(dim=0)
        for name, i in units.items():
            units[name] = torch.stack(torch.unravel_index(i.unique(), shapes[name]), 1)
        return units, shapes, points

    def _note_layers(self, call, i, units, shapes):
        """Units of a layer's output.

        We walk from the last call to the first. So the first call that we meet in a module made its
        output, and the output of every enclosing block that ends with it.
        """
        name = call.place[0]
        while name and name not in units:
            units[name] = i
            shapes[name] = tuple(call.y.shape[1:])
            name = name.rpartition(".")[0]

    def _one_step_down(self, call, i, s, residual):
        """Yield (call below, its units with their signs)."""
        rule = RULES.get(KIND.get(call.func), unknown)
        try:
            for part in zip(i.split(UNITS_AT_ONCE), s.split(UNITS_AT_ONCE), strict=True):
                for below, j, sign in rule(call, *part, residual):
                    yield below, _join_signs(j, sign)
        except NotImplementedError as error:
            name = resolve_name(call.func) or call.func.__name__
            self._refuse(f"{name}{error}", call.place)

    def _residual_calls(self):
        """The calls on the branches of each sum, from where the branches part."""
        on_branches = set()
        for call in self.calls:
            if KIND.get(call.func) == "sum" and len(call.maps) == 2:
                first, second = call.maps
                on_branches |= _all_below(first) ^ _all_below(second)
        return on_branches

    def _refuse(self, what, place):
        refuse("CNN Fixations", what, place)


def _all_below(call):
    """A call and all calls that it depends on."""
    below = {call}
    to_visit = [call]
    while to_visit:
        for a in to_visit.pop().maps:
            if a not in below:
                below.add(a)
                to_visit.append(a)
    return below


def _join_signs(i, s):
    """Units and their signs as one number each: the index, or its bitwise complement for -1."""
    return torch.where(s < 0, ~i, i)


def _split_signs(signed):
    """The reverse of `_join_signs`."""
    return torch.where(signed < 0, ~signed, signed), torch.where(signed < 0, -1, 1)


def _unit_index(module, image, y, layer, unit):
    """The index (1,) of an inner unit in the flattened output y of a layer for one image."""
    numbers = torch.arange(y.numel(), device=y.device).view_as(y)
    layout = unit_layout(module, y, layer, image)
    A, i = (layout.maps(v) for v in (y, numbers))
    place = (0, *unit_position(A, layer, unit, N=1))
    return i[place].flatten()[A[place].argmax()][None]
