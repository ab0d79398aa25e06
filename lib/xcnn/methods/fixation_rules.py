"""Which units below made a unit what it is: for each operation the rule by which `fixations` goes down.

A rule takes a call, units i (n,) of its value, their signs s (n,), and whether the call is inside a residual branch.
It gives (call below, units of that call's value, their signs), once or more. Units are indices into the flat value.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..engine.operations import KIND


@dataclass(eq=False)
class Call:
    """One value y (a copy) and what it came from: func(*args, **kwargs)[pick], where calls stand for the maps."""

    y: torch.Tensor
    own: torch.Tensor  # the network's tensor: while it is held, no other has its id
    version: int  # of the network's tensor; more later on where it has been changed unseen
    place: tuple = ("", "")
    func: object = None
    pick: object = None
    args: tuple = ()
    kwargs: dict = None

    @property
    def maps(self):
        return list(calls([self.args, self.kwargs or {}]))


def replaced(values, by):
    """Nested arguments in which each leaf v is by(v), where that is not None."""
    if isinstance(values, dict):
        return {key: replaced(v, by) for key, v in values.items()}
    if isinstance(values, list | tuple):
        new = [replaced(v, by) for v in values]
        return new if isinstance(values, list) else tuple(new)
    new = by(values)
    return values if new is None else new


def calls(values):
    for v in values.values() if isinstance(values, dict) else values:
        if isinstance(v, Call):
            yield v
        elif isinstance(v, list | tuple | dict):
            yield from calls(v)


def unknown(call, i, s, inside):
    raise NotImplementedError("")


def passed(call, i, s, inside):
    if "dropout" in call.func.__name__ and not torch.equal(call.y, call.maps[0].y):
        raise NotImplementedError(" that is always on")
    yield call.maps[0], i, s


def moved(call, i, s, inside):
    """Do to numbers what was done to the values, and see which number comes out where."""
    first, numbers = 2**40, {}  # whatever padding puts in is less than the first number
    for a in call.maps:
        numbers[a] = torch.arange(first, first + a.y.numel(), device=i.device).double().view_as(a.y)
        first += a.y.numel()
    args, kwargs = replaced(
        [call.args, call.kwargs], lambda v: numbers[v] if isinstance(v, Call) else None
    )
    out = call.func(*args, **kwargs)
    at = (out if call.pick is None else out[call.pick]).flatten()[i].long()
    for a, number in numbers.items():
        j = at - int(number.flatten()[0])
        here = (j >= 0) & (j < number.numel())
        yield a, j[here], s[here]


def fixed(w):
    if isinstance(w, Call):
        raise NotImplementedError(" whose weights depend on the image")


def linear(call, i, s, inside):
    def parse(a, weight, bias=None):
        return a, weight

    a, w = parse(*call.args, **call.kwargs)
    fixed(w)
    below = a
    while below.y.ndim < 4 and RULES.get(KIND.get(below.func)) in (moved, passed):
        below = below.maps[0]
    vectors = a.y.flatten(0, -2)  # as a rule there is one
    row, o = i // len(w), i % len(w)
    C = w[o] * (s[:, None] * vectors[row] if len(vectors) > 1 or (s < 0).any() else vectors)
    n, j = (
        _largest(C)
        if below.y.ndim == 4 and below.y[0, 0].numel() > 1
        else (C > 0).nonzero(as_tuple=True)
    )
    yield a, row[n] * vectors.shape[1] + j, torch.ones_like(j)


def convolution(call, i, s, inside):
    def parse(a, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        both = lambda v: v if isinstance(v, tuple | list) else (v, v)  # noqa: E731
        return a, weight, both(stride), both(padding), both(dilation), groups

    def border(p, k, d):
        reach = {"same": d * (k - 1), "valid": 0}.get(p)
        return (p, p) if reach is None else (reach // 2, reach - reach // 2)

    a, w, stride, padding, dilation, groups = parse(*call.args, **call.kwargs)
    fixed(w)
    (O, c, kh, kw), (H, W) = w.shape, a.y.shape[2:]
    top_bottom, left_right = map(border, padding, (kh, kw), dilation)

    def windows(v, mode):  # of each unit, (n, kh kw)
        v = F.pad(v.double().view(1, 1, H, W), (*left_right, *top_bottom), mode)
        return F.unfold(v, (kh, kw), dilation, stride=stride)[0].T[i % call.y[0, 0].numel()]

    position = windows(
        torch.arange(H * W, device=i.device), "replicate"
    ).long()  # in the padding: the nearest
    on = windows(torch.ones(H * W, device=i.device), "constant") > 0
    o = i // call.y[0, 0].numel()
    channel = (o // (O // groups) * c)[:, None] + torch.arange(c, device=i.device)
    patch = a.y[0].flatten(1)[channel[:, :, None], position[:, None]]
    n, k = _largest(s[:, None] * (patch * w[o].flatten(2) * on[:, None]).sum(2))
    middle = (kh - 1) // 2 * kw + (kw - 1) // 2
    at = patch[n, k].where(on[n], -torch.inf).argmax(1) if inside else torch.full_like(n, middle)
    yield a, channel[n, k] * H * W + position[n, at], torch.ones_like(n)


def batch_norm(call, i, s, inside):
    def parse(a, mean, var, weight=None, *_, **__):
        return a, torch.ones(a.y.shape[1], device=a.y.device) if weight is None else weight

    a, weight = parse(*call.args, **call.kwargs)
    yield a, i, torch.where((weight < 0)[i // a.y[0, 0].numel()], -s, s)


def pooled(call, i, s, inside):
    """Averages go where a max-pooling with the same windows would."""
    name = call.func.__name__

    def parse(a, kernel_size, stride=None, padding=0, *rest, dilation=1, ceil_mode=False, **_):
        if "max" in name:
            dilation, rest = (rest or [dilation])[0], rest[1:]
        options = {"padding": padding, "dilation": dilation, "ceil_mode": (*rest, ceil_mode)[0]}
        return a, lambda v: F.max_pool2d(v, kernel_size, stride, **options, return_indices=True)

    def parse_adaptive(a, output_size, *_, **__):
        return a, lambda v: F.adaptive_max_pool2d(v, output_size, return_indices=True)

    def parse_global(a, dim=None, *_, axis=None, **__):
        dim = axis if dim is None else dim
        if a.y.ndim != 4 or not isinstance(dim, tuple | list) or {d % 4 for d in dim} != {2, 3}:
            raise NotImplementedError(" over other dimensions than height and width together")
        return a, lambda v: F.adaptive_max_pool2d(v, 1, return_indices=True)

    how = parse_adaptive if "adaptive" in name else parse if "pool" in name else parse_global
    a, pool = how(*call.args, **call.kwargs)
    best = pool(a.y)[1].flatten()[i]
    if "max" not in name:  # where signs are turned, the smallest counts
        best = torch.where(s < 0, pool(-a.y)[1].flatten()[i], best)
    yield a, i // (call.y.numel() // a.y.shape[1]) * a.y[0, 0].numel() + best, s


def summed(call, i, s, inside):
    def parse(a, other, *, alpha=1):
        return [(a, 1), (other, -alpha if "sub" in call.func.__name__ else alpha)]

    terms = []
    for a, factor in parse(*call.args, **call.kwargs):
        if isinstance(a, Call):
            j = (
                torch.arange(a.y.numel(), device=i.device)
                .view_as(a.y)
                .expand_as(call.y)
                .flatten()[i]
            )
            terms.append((a, j, -s if factor < 0 else s, s * factor * a.y.flatten()[j]))
    larger = terms[0][3] >= terms[-1][3]
    for (a, j, sign, _), here in zip(terms, (larger, ~larger), strict=False):
        yield a, j[here], sign[here]


def scaled(call, i, s, inside):
    if (
        len(call.maps) > 1
        or call.kwargs
        or ("div" in call.func.__name__ and call.maps[0] is not call.args[0])
    ):
        raise NotImplementedError(" of maps")
    factor = next((v for v in call.args if not isinstance(v, Call)), -1)  # alone: a negation
    turns = (torch.as_tensor(factor, device=i.device) < 0).expand_as(call.y).flatten()[i]
    yield call.maps[0], i, torch.where(turns, -s, s)


def _largest(C):
    """The rows of C that are not all 0, and where each is largest."""
    value, k = C.max(1)
    n = value != 0
    n[~n] = (C[~n] != 0).any(1)  # few rows have 0 as their largest
    return n.nonzero()[:, 0], k[n]


RULES = {"same": passed, "relu": passed, "dropout": passed, "moved": moved, "joined": moved, "maximum": pooled,
         "average": pooled, "linear": linear, "convolution": convolution, "batch norm": batch_norm, "sum": summed,
         "scaled": scaled}  # fmt: skip
