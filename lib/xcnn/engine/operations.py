"""What networks are made of: the kind of each torch call, in every spelling.

LRP and CNN Fixations have a rule for each kind. They refuse a call that is not in the table.
"""

import torch
import torch.nn.functional as F

from ..errors import InputError


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
    return min_val


def _threshold(threshold, value, inplace=False):
    return value if threshold == 0 else None


def _clamp(min=None, max=None):
    # clamp(0, 6) is ReLU6; with another upper bound it is a gate or a limit, not a ReLU.
    is_relu6 = isinstance(max, int | float) and max == 6
    return min if max is None or is_relu6 else None


# every call that may be a ReLU -> the function above that reads its lower bound
RELUS = (
    dict.fromkeys([*_every("relu"), F.relu6], _relu)
    | dict.fromkeys(_every("hardtanh"), _hardtanh)  # nn.ReLU6 is a hardtanh from 0 to 6
    | dict.fromkeys(_every("threshold"), _threshold)
    | dict.fromkeys(_every("clamp clip clamp_min"), _clamp)
)

# "same": each value stays where it is. "moved": values change their place only. "scaled": times a
# number.
COVERED = {
    "same": _every("clone contiguous type to double float half bfloat16"),
    "moved": [
        *_every("stack hstack vstack pad tile flip roll repeat"),
        *_every("flatten unflatten ravel reshape reshape_as view view_as squeeze unsqueeze"),
        *_every("permute transpose swapaxes swapdims movedim moveaxis t adjoint"),
        *_every("narrow select index_select chunk split tensor_split unbind"),
        *_every("expand expand_as broadcast_to"),
        *_every("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
        torch.Tensor.__getitem__,
        torch.Tensor.T.__get__,
        torch.Tensor.mT.__get__,
    ],
    "maximum": [
        *_every("max_pool2d max_pool2d_with_indices"),
        *_every("adaptive_max_pool2d adaptive_max_pool2d_with_indices amax"),
    ],
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


def refuse(method, what, place):
    """Raise the InputError for an operation that a method has no rule for.

    :param method, what: names of the method and of the operation
    :param place: name of the submodule that runs it, and of its class
    """
    name, kind = place
    where = repr(name) if name else "the network itself"
    raise InputError(
        f"{method} has no rule for {what}, which runs in {where} ({kind}); "
        "take a network that does without, "
        "or explain this one with gradient, guided_backprop or grad_cam"
    )
