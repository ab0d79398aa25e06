"""What networks are made of: the kind of each torch call, in every spelling, and where in a network a call is made.

LRP and CNN Fixations have a rule for each kind. A call that is not in the table has none, and they refuse it.
"""

import sys

import torch
import torch.nn.functional as F

from .contract import InputError
from .tape import RELUS


def _every(names):
    """These functions wherever torch has them, in place or not."""
    spelled = [name + end for name in names.split() for end in ("", "_")]
    return [getattr(at, name) for at in (torch, torch.Tensor, F) for name in spelled if hasattr(at, name)]


COVERED = {
    "same": _every("clone contiguous type to double float half bfloat16"),
    "moved": [
        *_every(
            "stack hstack vstack flatten unflatten ravel reshape view view_as reshape_as squeeze unsqueeze permute "
            "transpose swapaxes swapdims movedim moveaxis t adjoint narrow select chunk split tensor_split unbind "
            "expand expand_as broadcast_to repeat tile flip roll index_select pad pixel_shuffle pixel_unshuffle "
            "channel_shuffle native_channel_shuffle"
        ),
        torch.Tensor.__getitem__,
        torch.Tensor.T.__get__,
        torch.Tensor.mT.__get__,
    ],
    "maximum": _every("max_pool2d adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices amax"),
    "average": _every("mean sum avg_pool2d adaptive_avg_pool2d"),
    "convolution": [F.conv2d],
    "linear": [F.linear],
    "joined": _every("cat concat concatenate"),
    "batch norm": [F.batch_norm],
    "relu": RELUS,
    "sum": _every("add sub subtract"),
    "scaled": _every("mul multiply div divide true_divide neg negative"),
    "dropout": _every("dropout dropout2d feature_dropout alpha_dropout feature_alpha_dropout"),
}
KIND = {func: kind for kind, functions in COVERED.items() for func in functions}


def tensors(values):
    """All tensors in nested arguments."""
    for v in values:
        if isinstance(v, torch.Tensor):
            yield v
        elif isinstance(v, list | tuple):
            yield from tensors(v)


def by_position(args, kwargs):
    """The same call with `input=`, which some functions take by name, as its first argument."""
    if "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"], *args), {key: v for key, v in kwargs.items() if key != "input"}


def refuse(method, what, place):
    """Raise the InputError for an operation that a method has no rule for, at a `place`."""
    name, kind = place
    raise InputError(
        f"{method} has no rule for {what}, which runs in {repr(name) if name else 'the network itself'} ({kind}); "
        "take a network that does without, or explain this one with gradient, guided_backprop or grad_cam"
    )


def place(names):
    """The submodule that runs now, read from the call stack: this needs no hooks. Its name and its class's.

    :param names: id of each submodule -> its name
    """
    frame = sys._getframe()
    while frame:
        part = frame.f_locals.get("self")
        if id(part) in names:
            return names[id(part)], type(part).__name__
        frame = frame.f_back
    return "", "unknown place"
