"""CNN Fixations' rules for operations that see several places of a map: a window, or all of it.

What a rule is, says `fixation_calls`.
"""

import torch
import torch.nn.functional as F

from ..engine.operations import KIND, copies_values
from ..engine.tape import bind
from .fixation_calls import (
    Call,
    check_fixed,
    largest,
    made_again,
    moved,
    strongest_inputs,
    units_of_operand,
)


def convolution(call, i, s, residual):
    """The channel with the largest sum of w a over the window.

    The position is the window's middle. On a residual branch it is the one where this channel's a
    is largest in the window. Where the window is the whole map, this is a fully connected layer.
    """
    arguments = bind(
        call.args,
        call.kwargs,
        "a weight bias stride padding dilation groups",
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
    )
    a = arguments.a
    w = arguments.weight
    check_fixed(w)
    windows = _Windows(a.y, w, arguments, places=i % call.positions)
    o = i // call.positions  # output channel
    inputs = w.shape[1]  # channels that each output channel sees
    channel = _channels_of_group(o, len(w) // arguments.groups, inputs)
    patch = a.y[0].flatten(1)[channel[:, :, None], windows.position[:, None]]
    contributions = s[:, None, None] * patch * w[o].flatten(2) * windows.is_inside[:, None]
    if windows.are_the_map and call.positions == 1:
        n, unit = strongest_inputs(a, contributions.flatten(1))
        k, place = unit // a.positions, unit % a.positions
    else:
        n, k = largest(contributions.sum(2))
        place = torch.full_like(n, windows.middle)
        if residual:
            place = patch[n, k].where(windows.is_inside[n], -torch.inf).argmax(1)
    yield a, channel[n, k] * a.positions + windows.position[n, place], torch.ones_like(n)


def transposed_convolution(call, i, s, residual):
    """The channel with the largest sum of w a, and the place in it with the largest w a."""
    arguments = bind(
        call.args,
        call.kwargs,
        "a weight bias stride padding output_padding groups dilation",
        stride=1,
        padding=0,
        groups=1,
        dilation=1,
    )
    a = arguments.a
    w = arguments.weight
    check_fixed(w)
    position, is_inside = _places_below(a.y, w, arguments, call.y.shape[3], i % call.positions)
    o = i // call.positions
    outputs = w.shape[1]  # of a group
    channel = _channels_of_group(o, outputs, len(w) // arguments.groups)
    patch = a.y[0].flatten(1)[channel[:, :, None], position[:, None]]
    weights = w[channel, (o % outputs)[:, None]].flatten(2)
    contributions = s[:, None, None] * patch * weights * is_inside[:, None]
    n, k = largest(contributions.sum(2))
    place = contributions[n, k].where(is_inside[n], -torch.inf).argmax(1)
    yield a, channel[n, k] * a.positions + position[n, place], torch.ones_like(n)


def _channels_of_group(o, outputs, inputs):
    """The input channels (n, inputs) that output channels o see.

    :param outputs, inputs: how many channels a group has
    """
    return (o // outputs * inputs)[:, None] + torch.arange(inputs, device=o.device)


def _places_below(y, w, arguments, width, places):
    """The places of a map y that reach places of the output of a transposed convolution.

    Along each side a place p of the input reaches p stride - padding + u dilation, u = 0, 1, ...

    :param width: of the output
    :return: position (n, kh kw) for each weight of the window, and whether there is one
    """
    rows_and_columns = []
    for side, at in enumerate((places // width, places % width)):
        stride, padding, dilation = (
            _pair(v)[side] for v in (arguments.stride, arguments.padding, arguments.dilation)
        )
        u = torch.arange(w.shape[2 + side], device=places.device)
        steps = at[:, None] + padding - u * dilation
        p = steps.div(stride, rounding_mode="floor")
        exists = (steps % stride == 0) & (p >= 0) & (p < y.shape[2 + side])
        rows_and_columns.append((p.where(exists, 0), exists))
    (row, row_exists), (column, column_exists) = rows_and_columns
    position = row[:, :, None] * y.shape[3] + column[:, None, :]
    return position.flatten(1), (row_exists[:, :, None] & column_exists[:, None, :]).flatten(1)


class _Windows:
    """The windows of a convolution over a map y at n places of its output.

    position: (n, kh kw) index of each pixel of the window; in the padding, of the nearest pixel.
    is_inside: (n, kh kw) bool, False in the padding. middle: index of the window's middle.
    are_the_map: each window is the whole map.
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
        self.are_the_map = self.size == self.map_size and bool(self.is_inside.all())
        height, width = self.size
        self.middle = (height - 1) // 2 * width + (width - 1) // 2

    def _unfold(self, v, mode):
        """Values of pixels, (h w,), as a row for each place of the output: (places, kh kw)."""
        v = F.pad(v.double().view(1, 1, *self.map_size), self.border, mode)
        return F.unfold(v, self.size, self.dilation, stride=self.stride)[0].T


def _pair(v):
    if not isinstance(v, tuple | list):
        return v, v
    return tuple(v) * 2 if len(v) == 1 else v


def _border(padding, kernel, dilation):
    """Pixels of padding before and after, in one direction."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = dilation * (kernel - 1)
        return total // 2, total - total // 2
    return padding, padding


def pooled(call, i, s, residual):
    """The largest value in the window; averages go where a max pooling with their windows would."""
    name = call.func.__name__
    if "pool" not in name:
        yield from _reduced(call, i, s)
        return
    a, pool = _pooling(name, call)
    best = pool(a.y)[1].flatten()[i]
    if "max" not in name:  # where signs are turned, the smallest value counts
        best = torch.where(s < 0, pool(-a.y)[1].flatten()[i], best)
    channel = i // (call.y.numel() // a.y.shape[1])
    yield a, channel * a.positions + best, s


def _pooling(name, call):
    """The map that is pooled, and a max pooling with the same windows: y -> (values, places)."""
    if "adaptive" not in name:
        return _pooling_with_windows(name, call)
    arguments = bind(call.args, call.kwargs, "a output_size")

    def pool(y):
        return F.adaptive_max_pool2d(y, arguments.output_size, return_indices=True)

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


def _reduced(call, i, s):
    """mean, sum and max over dimensions: the largest value along them. The larger of two maps."""
    other = bind(call.args, call.kwargs, "a other", other=None).other
    if isinstance(other, torch.Tensor | Call):
        yield from _larger(call, i, s, other)
        return
    a, sources = _sources(call)
    values = a.y.flatten()[sources[i]]
    if "max" not in call.func.__name__:
        values = s[:, None] * values
    yield a, sources[i, values.argmax(1)], s


def _sources(call):
    """For each unit the units below that it is the average, sum or maximum of: (units, sources)."""
    arguments = bind(call.args, call.kwargs, "a dim", dim=None, axis=None)
    a = arguments.a
    dim = arguments.axis if arguments.dim is None else arguments.dim
    dims = range(a.y.ndim) if dim is None or dim == () else _pair(dim)
    dims = sorted({d % a.y.ndim for d in dims})
    others = [d for d in range(a.y.ndim) if d not in dims]
    numbers = torch.arange(a.y.numel(), device=a.y.device).view_as(a.y)
    sources = numbers.permute(*others, *dims).reshape(call.y.numel(), -1)
    if _is_average(call) and _is_average(a):  # mean(3).mean(2) is one average
        a, below = _sources(a)
        sources = below[sources].flatten(1)
    return a, sources


def _is_average(call):
    return KIND.get(call.func) == "average" and "pool" not in call.func.__name__


def _larger(call, i, s, other):
    """The larger of two maps; of a map and a constant, as in a ReLU, the unit of the map."""
    terms = [v for v in (*call.args, *(call.kwargs or {}).values()) if isinstance(v, Call)]
    units = [units_of_operand(a, call, i) for a in terms]
    values = [a.y.flatten()[j] for a, j in zip(terms, units, strict=True)]
    first_is_larger = values[0] >= values[-1]
    for a, j, chosen in zip(terms, units, (first_is_larger, ~first_is_larger), strict=False):
        yield a, j[chosen], s[chosen]


def upsampled(call, i, s, residual):
    """Enlarged by copying: the place where the value came from. By averages: the largest w a.

    An average of rows and columns: the weight of a place is that of its row times its column's.
    """
    if copies_values(call.func, call.args, call.kwargs):
        yield from moved(call, i, s, residual)
        return
    (a,) = call.maps
    if a.y.ndim != 4:
        raise NotImplementedError(" of anything but maps (N, C, h, w)")
    h, w = a.y.shape[2:]
    rows = torch.eye(h, dtype=a.y.dtype, device=a.y.device)[None, :, :, None].expand(-1, -1, -1, w)
    columns = torch.eye(w, dtype=a.y.dtype, device=a.y.device)[None, :, None].expand(-1, -1, h, -1)
    of_row = made_again(call, lambda _: rows)[0, :, :, 0].T
    of_column = made_again(call, lambda _: columns)[0, :, 0].T
    channel, place = i // call.positions, i % call.positions
    y, x = place // call.y.shape[3], place % call.y.shape[3]
    weights = of_row[y][:, :, None] * of_column[x][:, None, :]
    n, best = largest(s[:, None] * (weights * a.y[0, channel]).flatten(1))
    yield a, channel[n] * a.positions + best, s[n]
