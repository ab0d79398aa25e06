"""CNN Fixations: what is recorded of a forward pass, and what the rules share.

A rule takes a call of the forward pass, units i (n,) of its value, their signs s (n,), and whether
the call is on a residual branch. It yields (call below, units of that call's value, their signs),
once or more. A unit is an index into the flattened value. A sign of -1 means that something above
turned the value's sign, so that small values count as large ones.

A rule that does not cover a call raises NotImplementedError; its text goes on from the call's name.
"""

from dataclasses import dataclass

import torch

from ..engine.operations import KIND, Factor, replaced

# kinds whose result has its values where its map has them, or a copy of them in another shape
KEEP_PLACES = {
    *("same", "moved", "joined", "relu", "unit", "sigmoid", "softmax", "dropout"),
    *("batch norm", "image norm", "rescaled"),
}


@dataclass(eq=False)
class Call:
    """One value of the forward pass and the call that made it: func(*args, **kwargs)[pick].

    :param y: a copy of the value
    :param own: the network's tensor. We keep a reference, so that Python cannot reuse its id
    :param version: its `_version` when it was recorded. A larger one later means an in-place change
        that we did not see
    :param factor: what tells whether it is a gate
    :param place: name of the submodule that made the call, and of its class
    :param args, kwargs: of the call; where a map was, there is the `Call` that made it
    """

    y: torch.Tensor
    own: torch.Tensor
    version: int
    factor: Factor
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


def calls(values):
    """All calls in nested arguments."""
    for v in values.values() if isinstance(values, dict) else values:
        if isinstance(v, Call):
            yield v
        elif isinstance(v, list | tuple | dict):
            yield from calls(v)


def made_again(call, values):
    """The result of a call whose maps have other values.

    :param values: function: call below -> the values of its map
    """
    args, kwargs = replaced(
        [call.args, call.kwargs], lambda v: values(v) if isinstance(v, Call) else None
    )
    result = call.func(*args, **kwargs)
    return result if call.pick is None else result[call.pick]


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
    arrived = made_again(call, numbers.get).flatten()[i].long()
    for a, number in numbers.items():
        j = arrived - int(number.flatten()[0])
        from_here = (j >= 0) & (j < number.numel())
        yield a, j[from_here], s[from_here]


def units_of_operand(a, call, i):
    """The units of an operand, which may be repeated, that units i of the result are made of."""
    index = torch.arange(a.y.numel(), device=i.device).view_as(a.y)
    return index.expand_as(call.y).flatten()[i]


def comes_from_a_map(call):
    """Is this vector a map of several positions, flattened?"""
    while KIND.get(call.func) in KEEP_PLACES:
        call = call.maps[0]
    # A vector has one dimension besides that of the image, be it (N, C), (N, C, 1, 1) or channels
    # last, (N, 1, 1, C).
    return sum(side > 1 for side in call.y.shape[1:]) > 1


def check_fixed(w):
    """Raise NotImplementedError for weights that depend on the image."""
    if isinstance(w, Call):
        raise NotImplementedError(" whose weights depend on the image")


def largest(contributions):
    """The rows that are not all 0, and the place in each where it is largest."""
    value, k = contributions.max(1)
    n = value != 0
    n[~n] = (contributions[~n] != 0).any(1)  # few rows have 0 as their largest value
    return n.nonzero()[:, 0], k[n]


def strongest_inputs(a, contributions):
    """Of a fully connected unit: all inputs that contribute; of a flattened map only the largest.

    :param a: the call that made the inputs
    :param contributions: (n, inputs)
    :return: rows (m,) and inputs (m,)
    """
    if comes_from_a_map(a):
        return largest(contributions)
    return (contributions > 0).nonzero(as_tuple=True)
