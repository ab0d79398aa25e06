"""What networks are made of: the kind of each torch call, in every spelling.

LRP and CNN Fixations have a rule for each kind. They refuse a call that is not in the table.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..errors import InputError
from .tape import bind


def _every(names):
    """These functions wherever torch has them, in place or not."""
    spellings = [name + end for name in names.split() for end in ("", "_")]
    owners = (torch, torch.Tensor, F)
    functions = [getattr(owner, name, None) for owner in owners for name in spellings]
    return [func for func in functions if callable(func)]  # torch.double is a type


# Each of the four functions below returns the lower bound of a call that may be a ReLU, read from
# its other arguments, or None where the call cannot be one.
def _relu(inplace=False):
    return 0


def _hardtanh(min_val=-1.0, max_val=1.0, inplace=False):
    return _clamp(min_val, max_val)


def _threshold(threshold, value, inplace=False):
    return value if threshold == 0 else None


def _clamp(min=None, max=None):
    # A ReLU may stop at 6, as ReLU6 does. With another upper bound the call limits pixels, or is
    # (part of) a hard sigmoid: not a ReLU, and to change its backward pass would be wrong.
    stops_nowhere_else = max is None or (isinstance(max, int | float) and max in (6, math.inf))
    return min if stops_nowhere_else else None


# every call that may be a ReLU -> the function above that reads its lower bound
RELUS = (
    dict.fromkeys([*_every("relu"), F.relu6], _relu)
    | dict.fromkeys(_every("hardtanh"), _hardtanh)  # nn.ReLU6 is a hardtanh from 0 to 6
    | dict.fromkeys(_every("threshold"), _threshold)
    | dict.fromkeys(_every("clamp clip clamp_min"), _clamp)
)

# "same": each value stays where it is. "moved": values change their place only. "unit": the
# activation of a unit that is not a ReLU. "rescaled": times a factor that the values themselves
# give.
COVERED = {
    "same": _every("clone contiguous type type_as to double float half bfloat16"),
    "moved": [
        *_every("stack hstack vstack pad tile flip roll repeat repeat_interleave unfold"),
        *_every("flatten unflatten ravel reshape reshape_as view view_as squeeze unsqueeze"),
        *_every("permute transpose swapaxes swapdims movedim moveaxis t adjoint"),
        *_every("narrow select index_select chunk split tensor_split unbind where masked_fill"),
        *_every("expand expand_as broadcast_to"),
        *_every("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
        torch.Tensor.__getitem__,
        torch.Tensor.T.__get__,
        torch.Tensor.mT.__get__,
    ],
    "maximum": [
        *_every("max_pool2d max_pool2d_with_indices"),
        *_every("adaptive_max_pool2d adaptive_max_pool2d_with_indices amax max maximum"),
    ],
    "average": _every("mean sum avg_pool2d adaptive_avg_pool2d"),
    "convolution": [F.conv2d],
    "transposed convolution": [F.conv_transpose2d],
    "linear": [F.linear],
    "joined": _every("cat concat concatenate"),
    "batch norm": [F.batch_norm],
    "image norm": [F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.instance_norm],
    "rescaled": [F.normalize, F.local_response_norm, *_every("rms_norm")],
    "upsampling": [F.interpolate, F.upsample, F.upsample_nearest, F.upsample_bilinear],
    "relu": RELUS,
    "unit": [
        *_every("silu gelu hardswish mish leaky_relu prelu rrelu elu selu celu"),
        *_every("tanh softplus softsign tanhshrink softshrink hardshrink erf"),
    ],
    "sigmoid": [*_every("sigmoid hardsigmoid"), torch.special.expit],
    "softmax": _every("softmax softmin log_softmax"),
    "sum": _every("add sub subtract"),
    "product": _every("mul multiply div divide true_divide neg negative"),
    "dropout": _every("dropout dropout2d feature_dropout alpha_dropout feature_alpha_dropout"),
}
KIND = {func: kind for kind, functions in COVERED.items() for func in functions}


def replaced(values, replace):
    """Nested arguments in which each leaf v is replace(v), where that is not None."""
    if isinstance(values, dict):
        return {key: replaced(v, replace) for key, v in values.items()}
    if isinstance(values, list | tuple):
        new = [replaced(v, replace) for v in values]
        return new if isinstance(values, list) else tuple(new)
    new = replace(values)
    return values if new is None else new


# ---- calls that say in one word what others in the table say in several


def _reversed_sub(is_map, a, other, alpha=1):
    return torch.add(torch.neg(a), other) if alpha == 1 else torch.add(a * -alpha, other)


def _matmul(is_map, a, other):
    """A product with a matrix of weights is a linear layer, with the map on either side."""
    if not is_map(other) and other.ndim == 2:
        return F.linear(a, other.mT)
    if not is_map(a) and a.ndim == 2 and other.ndim > 1:
        return F.linear(other.mT, a).mT
    return NotImplemented


def _addmm(is_map, bias, a, weight, beta=1, alpha=1):
    if is_map(bias) or is_map(weight):
        return NotImplemented
    weight = alpha * weight.mT
    if bias.ndim == 1 and len(bias) == len(weight):
        return F.linear(a, weight, beta * bias)
    return F.linear(a, weight) + beta * bias


def _addcmul(is_map, a, first, second, value=1):
    product = torch.mul(first, second)
    return torch.add(a, product if value == 1 else product * value)


def _glu(is_map, a, dim=-1):
    signal, gate = torch.chunk(a, 2, dim)
    return torch.mul(signal, torch.sigmoid(gate))


# call -> function (is_map, *args, **kwargs) that makes the same of calls in the table, or returns
# NotImplemented; is_map(v) says whether a tensor depends on the image
IN_OTHER_WORDS = (
    dict.fromkeys([torch.Tensor.__rsub__, *_every("rsub")], _reversed_sub)
    | dict.fromkeys([*_every("matmul mm"), torch.Tensor.__matmul__], _matmul)
    | {torch.addmm: _addmm, torch.Tensor.addmm: _addmm}
    | {torch.addcmul: _addcmul, torch.Tensor.addcmul: _addcmul}
    | {F.glu: _glu}
)


def copies_values(func, args, kwargs):
    """Does this enlarging copy values, and not average them?"""
    mode = bind(args, kwargs, "a size scale_factor mode", mode="nearest").mode
    return mode.startswith("nearest") and "bilinear" not in func.__name__


# ---- signal and gate


class Factor(NamedTuple):
    """What is known of a map, should it be multiplied by another one.

    :param is_gate: it came out of a sigmoid or a softmax, and was at most moved, scaled, shifted,
        joined or enlarged since
    :param root: the map whose values this map's values are a function of, one of one
    :param steps: how many calls that took
    """

    is_gate: bool
    root: object
    steps: int


_KEEPS_A_GATE = {"same", "moved", "joined", "sum", "product", "dropout", "upsampling", "average"}
_VALUE_BY_VALUE = {"same", "relu", "unit", "sigmoid", "sum", "product", "dropout"}


def factor_of(func, below, result):
    """The `Factor` of a call's result.

    :param below: `Factor` of each map among the call's arguments
    :param result: what stands for the result, where it is not a function of its root's values
    """
    kind = KIND.get(func)
    if func.__name__.endswith("_as"):  # the second map of expand_as gives its shape only
        below = below[:1]
    is_gate = kind in ("sigmoid", "softmax")
    is_gate |= kind in _KEEPS_A_GATE and all(factor.is_gate for factor in below)
    if kind in _VALUE_BY_VALUE and len({factor.root for factor in below}) == 1:
        return Factor(is_gate, below[0].root, 1 + max(factor.steps for factor in below))
    return Factor(is_gate, result, 0)


def signal_of(maps, factors):
    """Which of the two maps of a product is the signal: 0 or 1; None where it cannot be told.

    The other one is the gate. It is the map that came out of a sigmoid or a softmax. If both did,
    or neither, it is the one that is repeated over the other, (N, C, 1, 1). If neither is, and both
    are functions of one map, as in x * relu6(x + 3) / 6, it is the one that took more steps.

    :param maps: two tensors
    :param factors: `Factor` of each
    """
    first, second = factors
    if first.is_gate != second.is_gate:
        return int(first.is_gate)
    sizes = [own_values(a) for a in maps]
    if sizes[0] != sizes[1]:
        signal = sizes.index(max(sizes))
        is_whole = maps[signal].shape == torch.broadcast_shapes(*(a.shape for a in maps))
        return signal if is_whole else None
    if first.root == second.root:
        return int(first.steps > second.steps)
    return None


def own_values(a):
    """How many values a map has, those repeated by `expand` counted once."""
    return math.prod(n for n, stride in zip(a.shape, a.stride(), strict=True) if stride)


# ---- what has no rule


def refuse(method, what, place):
    """Raise the InputError for an operation that a method has no rule for.

    :param method, what: names of the method and of the operation
    :param place: name of the submodule that runs it, and of its class
    """
    raise InputError(
        f"{method} has no rule for {what}, which runs in {in_words(place)}; "
        "take a network that does without, or explain this one with gradient or grad_cam"
    )


def in_words(place):
    """A place for messages: the submodule's name and its class."""
    name, kind = place
    return f"{repr(name) if name else 'the network itself'} ({kind})"
