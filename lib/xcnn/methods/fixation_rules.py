"""CNN Fixations, one operation at a time: which units below made a unit what it is.

A rule takes a call of the forward pass, units i (n,) of its value, their signs s (n,), and whether
the call is on a residual branch. It yields (call below, units of that call's value, their signs),
once or more. A unit is an index into the flattened value. A sign of -1 means that something above
turned the value's sign, so that small values count as large ones.

A rule that does not cover a call raises NotImplementedError; its text goes on from the call's name.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..engine.operations import KIND
from ..engine.tape import bind


@dataclass(eq=False)
class Call:
    """One value of the forward pass and the call that made it: func(*args, **kwargs)[pick].

    :param y: a copy of the value
    :param own: the network's tensor. We keep a reference, so that Python cannot reuse its id
    :param version: its `_version` when it was recorded. A larger one later means an in-place change
        that we did not see
    :param place: name of the submodule that made the call, and of its class
    :param args, kwargs: of the call; where a map was, there is the `Call` that made it
    """

    y: torch.Tensor
    own: torch.Tensor
    version: int
    place: tuple = ("", "")
    func: object = None
    pick: object = None
    args: tuple = ()
    kwargs: dict = None

    @property
    def maps(self):
        """The calls whose values went into this one."""
        return list(calls([self.args, self.kwargs or {}]))

    @property
    def positions(self):
        """How many positions each channel of the maps has."""
        return self.y[0, 0].numel()


def replaced(values, replace):
    """Nested arguments in which each leaf v is replace(v), where that is not None."""
    if isinstance(values, dict):
        return {key: replaced(v, replace) for key, v in values.items()}
    if isinstance(values, list | tuple):
        new = [replaced(v, replace) for v in values]
        return new if isinstance(values, list) else tuple(new)
    new = replace(values)
    return values if new is None else new


def calls(values):
    """All calls in nested arguments."""
    for v in values.values() if isinstance(values, dict) else values:
        if isinstance(v, Call):
            yield v
        elif isinstance(v, list | tuple | dict):
            yield from calls(v)


def unknown(call, i, s, residual):
    raise NotImplementedError("")


def same_unit(call, i, s, residual):
    """ReLU, dropout, a change of type: the unit itself."""
    if "dropout" in call.func.__name__ and not torch.equal(call.y, call.maps[0].y):
        raise NotImplementedError(" that is always on")
    yield call.maps[0], i, s


FIRST_NUMBER = 2**40  # padding puts in small numbers: they cannot be mistaken for one of ours


def moved(call, i, s, residual):
    """Reshaping, slicing, joining: the place where the value came from.

    The same call runs on numbered inputs. Which number arrives where tells the origin.
    """
    numbers = {}
    first = FIRST_NUMBER
    for a in call.maps:
        count = a.y.numel()
        numbers[a] = torch.arange(first, first + count, device=i.device).double().view_as(a.y)
        first += count
    args, kwargs = replaced([call.args, call.kwargs], lambda v: _number_of(v, numbers))
    result = call.func(*args, **kwargs)
    arrived = (result if call.pick is None else result[call.pick]).flatten()[i].long()
    for a, number in numbers.items():
        j = arrived - int(number.flatten()[0])
        from_here = (j >= 0) & (j < number.numel())
        yield a, j[from_here], s[from_here]


def _number_of(v, numbers):
    return numbers[v] if isinstance(v, Call) else None


def linear(call, i, s, residual):
    """A fully connected layer: all inputs that contribute; of a flattened map only the largest."""
    arguments = bind(call.args, call.kwargs, "a weight bias", bias=None)
    a = arguments.a
    w = arguments.weight
    _check_fixed(w)
    units = len(w)
    vectors = a.y.flatten(0, -2)  # as a rule there is one
    row = i // units
    weights = w[i % units]
    if len(vectors) > 1 or (s < 0).any():
        contributions = weights * (s[:, None] * vectors[row])
    else:
        contributions = weights * vectors
    if _comes_from_a_map(a):
        n, j = _largest(contributions)
    else:
        n, j = (contributions > 0).nonzero(as_tuple=True)
    yield a, row[n] * vectors.shape[1] + j, torch.ones_like(j)


def _comes_from_a_map(call):
    """Is this vector a map of several positions, flattened?"""
    while call.y.ndim < 4 and RULES.get(KIND.get(call.func)) in (moved, same_unit):
        call = call.maps[0]
    return call.y.ndim == 4 and call.positions > 1


def convolution(call, i, s, residual):
    """The channel with the largest sum of w a over the window.

    The position is the window's middle. On a residual branch it is the one where this channel's a
    is largest in the window.
    """
    arguments = bind(
        call.args,
        call.kwargs,
        "a weight bias stride padding dilation groups",
        bias=None,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
    )
    a = arguments.a
    w = arguments.weight
    _check_fixed(w)
    windows = _Windows(a.y, w, arguments, places=i % call.positions)
    o = i // call.positions  # output channel
    inputs = w.shape[1]  # channels that each output channel sees
    first_channel = o // (len(w) // arguments.groups) * inputs
    channel = first_channel[:, None] + torch.arange(inputs, device=i.device)
    patch = a.y[0].flatten(1)[channel[:, :, None], windows.position[:, None]]
    contributions = (patch * w[o].flatten(2) * windows.is_inside[:, None]).sum(2)
    n, k = _largest(s[:, None] * contributions)
    if residual:
        place = patch[n, k].where(windows.is_inside[n], -torch.inf).argmax(1)
    else:
        place = torch.full_like(n, windows.middle)
    yield a, channel[n, k] * a.positions + windows.position[n, place], torch.ones_like(n)


class _Windows:
    """The windows of a convolution over a map y at n places of its output.

    position: (n, kh kw) index of each pixel of the window; in the padding, of the nearest pixel.
    is_inside: (n, kh kw) bool, False in the padding. middle: index of the window's middle.
    """

    def __init__(self, y, w, arguments, places):
        self.size = tuple(w.shape[2:])
        self.map_size = tuple(y.shape[2:])
        self.stride = arguments.stride
        self.dilation = _pair(arguments.dilation)
        padding = _pair(arguments.padding)
        vertical, horizontal = map(_border, padding, self.size, self.dilation)
        self.border = (*horizontal, *vertical)  # F.pad begins with the last dimension
        pixels = y[0, 0].numel()
        numbers = torch.arange(pixels, device=y.device)
        self.position = self._unfold(numbers, "replicate")[places].long()
        self.is_inside = self._unfold(torch.ones_like(numbers), "constant")[places] > 0
        height, width = self.size
        self.middle = (height - 1) // 2 * width + (width - 1) // 2

    def _unfold(self, v, mode):
        """Values of pixels, (h w,), as a row for each place of the output: (places, kh kw)."""
        v = F.pad(v.double().view(1, 1, *self.map_size), self.border, mode)
        return F.unfold(v, self.size, self.dilation, stride=self.stride)[0].T


def _pair(v):
    return v if isinstance(v, tuple | list) else (v, v)


def _border(padding, kernel, dilation):
    """Pixels of padding before and after, in one direction."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = dilation * (kernel - 1)
        return total // 2, total - total // 2
    return padding, padding


def batch_norm(call, i, s, residual):
    """The unit itself. A negative factor turns the sign."""
    names = "a running_mean running_var weight bias training momentum eps"
    arguments = bind(call.args, call.kwargs, names, weight=None)
    a = arguments.a
    if arguments.weight is None:
        negative = torch.zeros(a.y.shape[1], dtype=torch.bool, device=a.y.device)
    else:
        negative = arguments.weight < 0
    yield a, i, torch.where(negative[i // a.positions], -s, s)


def pooled(call, i, s, residual):
    """The largest value in the window; averages go where a max pooling with their windows would."""
    name = call.func.__name__
    a, pool = _pooling(name, call)
    best = pool(a.y)[1].flatten()[i]
    if "max" not in name:  # where signs are turned, the smallest value counts
        best = torch.where(s < 0, pool(-a.y)[1].flatten()[i], best)
    channel = i // (call.y.numel() // a.y.shape[1])
    yield a, channel * a.positions + best, s


def _pooling(name, call):
    """The map that is pooled, and a max pooling with the same windows: y -> (values, places)."""
    if "adaptive" in name:
        arguments = bind(call.args, call.kwargs, "a output_size")
        size = arguments.output_size
    elif "pool" in name:
        return _pooling_with_windows(name, call)
    else:  # mean, sum, amax
        arguments = bind(call.args, call.kwargs, "a dim", dim=None, axis=None)
        dim = arguments.axis if arguments.dim is None else arguments.dim
        over_positions = isinstance(dim, tuple | list) and {d % 4 for d in dim} == {2, 3}
        if arguments.a.y.ndim != 4 or not over_positions:
            raise NotImplementedError(" over other dimensions than height and width together")
        size = 1

    def pool(y):
        return F.adaptive_max_pool2d(y, size, return_indices=True)

    return arguments.a, pool


def _pooling_with_windows(name, call):
    names = "a kernel_size stride padding ceil_mode"
    if "max" in name:  # the two kinds of pooling have their arguments in different orders
        names = "a kernel_size stride padding dilation ceil_mode"
    arguments = bind(
        call.args, call.kwargs, names, stride=None, padding=0, dilation=1, ceil_mode=False
    )

    def pool(y):
        return F.max_pool2d(
            y,
            arguments.kernel_size,
            arguments.stride,
            arguments.padding,
            arguments.dilation,
            arguments.ceil_mode,
            return_indices=True,
        )

    return arguments.a, pool


def summed(call, i, s, residual):
    """The larger of the two terms; the first where they are equal."""
    arguments = bind(call.args, call.kwargs, "a other", alpha=1)
    subtracts = "sub" in call.func.__name__
    factors = (1, -arguments.alpha if subtracts else arguments.alpha)
    terms = []
    for a, factor in zip((arguments.a, arguments.other), factors, strict=True):
        if isinstance(a, Call):
            index = torch.arange(a.y.numel(), device=i.device).view_as(a.y)
            j = index.expand_as(call.y).flatten()[i]
            sign = -s if factor < 0 else s
            terms.append((a, j, sign, s * factor * a.y.flatten()[j]))
    # A single term (x + 3) is compared with itself and gets all units.
    first_is_larger = terms[0][3] >= terms[-1][3]
    for (a, j, sign, _), chosen in zip(terms, (first_is_larger, ~first_is_larger), strict=False):
        yield a, j[chosen], sign[chosen]


def scaled(call, i, s, residual):
    """The unit itself. A negative factor turns the sign."""
    divides_by_a_map = "div" in call.func.__name__ and call.maps[0] is not call.args[0]
    if len(call.maps) > 1 or call.kwargs or divides_by_a_map:
        raise NotImplementedError(" of maps")
    factors = [v for v in call.args if not isinstance(v, Call)]
    factor = factors[0] if factors else -1  # without a factor the call is a negation
    negative = (torch.as_tensor(factor, device=i.device) < 0).expand_as(call.y).flatten()[i]
    yield call.maps[0], i, torch.where(negative, -s, s)


def _check_fixed(w):
    if isinstance(w, Call):
        raise NotImplementedError(" whose weights depend on the image")


def _largest(contributions):
    """The rows that are not all 0, and the place in each where it is largest."""
    value, k = contributions.max(1)
    n = value != 0
    n[~n] = (contributions[~n] != 0).any(1)  # few rows have 0 as their largest value
    return n.nonzero()[:, 0], k[n]


RULES = {
    "same": same_unit,
    "relu": same_unit,
    "dropout": same_unit,
    "moved": moved,
    "joined": moved,
    "maximum": pooled,
    "average": pooled,
    "linear": linear,
    "convolution": convolution,
    "batch norm": batch_norm,
    "sum": summed,
    "scaled": scaled,
}
