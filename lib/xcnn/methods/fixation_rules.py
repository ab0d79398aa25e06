"""CNN Fixations, one operation at a time: which units below made a unit what it is.

What a rule is, says `fixation_calls`. Rules for operations that see several places of a map stand
in `fixation_windows`.
"""

import torch

from ..engine.operations import signal_of
from ..engine.tape import bind
from .fixation_calls import Call, check_fixed, moved, strongest_inputs, units_of_operand
from .fixation_windows import convolution, pooled, transposed_convolution, upsampled


def unknown(call, i, s, residual):
    raise NotImplementedError("")


def same_unit(call, i, s, residual):
    """Dropout, a change of type: the unit itself."""
    if "dropout" in call.func.__name__ and not torch.equal(call.y, call.maps[0].y):
        raise NotImplementedError(" that is always on")
    yield call.maps[0], i, s


def activation(call, i, s, residual):
    """ReLU and all other activations: the unit itself.

    Signs stay. Activations that fall a little below 0 before they rise (SiLU, GELU, Hardswish,
    Mish) are taken for increasing ones.
    """
    if len(call.maps) > 1:
        raise NotImplementedError(f" of {len(call.maps)} maps")
    yield call.maps[0], i, s


def linear(call, i, s, residual):
    """A fully connected layer: all inputs that contribute; of a flattened map only the largest."""
    arguments = bind(call.args, call.kwargs, "a weight bias", bias=None)
    a = arguments.a
    w = arguments.weight
    check_fixed(w)
    units = len(w)
    vectors = a.y.flatten(0, -2)  # as a rule there is one
    row = i // units
    weights = w[i % units]
    if len(vectors) > 1 or (s < 0).any():
        contributions = weights * (s[:, None] * vectors[row])
    else:
        contributions = weights * vectors
    n, j = strongest_inputs(a, contributions)
    yield a, row[n] * vectors.shape[1] + j, torch.ones_like(j)


def normed(call, i, s, residual):
    """A norm: the unit itself. A negative factor turns the sign.

    What a unit contributes to the mean that is subtracted from all others is ignored.
    """
    name = call.func.__name__
    names = NORM_ARGUMENTS.get(name, "a size weight")
    arguments = bind(call.args, call.kwargs, names, weight=None)
    a = arguments.a
    w = arguments.weight
    check_fixed(w)
    if w is None:
        yield a, i, s
        return
    if "size" not in names:  # a weight per channel
        w = w.view(-1, *[1] * (a.y.ndim - 2))
    negative = (w < 0).expand_as(a.y).flatten()[i]
    yield a, i, torch.where(negative, -s, s)


NORM_ARGUMENTS = {
    "batch_norm": "a running_mean running_var weight",
    "instance_norm": "a running_mean running_var weight",
    "group_norm": "a groups weight",
}


def summed(call, i, s, residual):
    """The larger of the two terms; the first where they are equal."""
    arguments = bind(call.args, call.kwargs, "a other", alpha=1)
    subtracts = "sub" in call.func.__name__
    factors = (1, -arguments.alpha if subtracts else arguments.alpha)
    terms = []
    for a, factor in zip((arguments.a, arguments.other), factors, strict=True):
        if isinstance(a, Call):
            j = units_of_operand(a, call, i)
            sign = -s if factor < 0 else s
            terms.append((a, j, sign, s * factor * a.y.flatten()[j]))
    # A single term (x + 3) is compared with itself and gets all units.
    first_is_larger = terms[0][3] >= terms[-1][3]
    for (a, j, sign, _), chosen in zip(terms, (first_is_larger, ~first_is_larger), strict=False):
        yield a, j[chosen], sign[chosen]


def product(call, i, s, residual):
    """The signal. A negative factor, gate or divisor turns the sign."""
    arguments = bind(call.args, call.kwargs, "a other", other=-1, rounding_mode=None)  # -a
    divides = "div" in call.func.__name__
    if arguments.rounding_mode or (divides and not isinstance(arguments.a, Call)):
        raise NotImplementedError(" by a map")
    operands = [arguments.a, arguments.other]
    maps = [v for v in operands if isinstance(v, Call)]
    signal = maps[0]
    if len(maps) == 2 and not divides:
        index = signal_of([a.own for a in maps], [a.factor for a in maps])
        if index is None:
            raise NotImplementedError(" of two maps, neither of which is seen to be a gate")
        signal = maps[index]
    factor = operands[signal is operands[0]]
    factor = factor.y if isinstance(factor, Call) else torch.as_tensor(factor, device=i.device)
    negative = (factor < 0).expand_as(call.y).flatten()[i]
    yield signal, units_of_operand(signal, call, i), torch.where(negative, -s, s)


RULES = {
    "same": same_unit,
    "relu": activation,
    "unit": activation,
    "sigmoid": activation,
    "softmax": activation,
    "dropout": same_unit,
    "moved": moved,
    "joined": moved,
    "maximum": pooled,
    "average": pooled,
    "upsampling": upsampled,
    "linear": linear,
    "convolution": convolution,
    "transposed convolution": transposed_convolution,
    "batch norm": normed,
    "image norm": normed,
    "rescaled": normed,
    "sum": summed,
    "product": product,
}
