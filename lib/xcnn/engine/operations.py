"""What networks are made of: the kind of each torch call, in every spelling, and where in a network a call is made.

LRP and CNN Fixations have a rule for each kind. A call that is not in the table has none, and they refuse it.
"""

import torch
import torch.nn.functional as F

from ..errors import InputError


def _every(names):
    """These functions wherever torch has them, in place or not."""
    spelled = [name + end for name in names.split() for end in ("", "_")]
    return [
        getattr(at, name)
        for at in (torch, torch.Tensor, F)
        for name in spelled
        if hasattr(at, name)
    ]


def _relu(inplace=False):
    return 0


def _hardtanh(min_val=-1.0, max_val=1.0, inplace=False):
    return min_val


def _threshold(threshold, value, inplace=False):
    return value if threshold == 0 else None


def _clamp(min=None, max=None):
    stops_at_6 = (
        isinstance(max, int | float) and max == 6
    )  # with another top it is a gate, or keeps values in bounds
    return min if max is None or stops_at_6 else None


# every call that may be a ReLU -> the bound below which it lets nothing through, read from its other arguments
RELUS = dict.fromkeys(
    [F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu6], _relu
)
RELUS |= dict.fromkeys([F.hardtanh, F.hardtanh_], _hardtanh)  # nn.ReLU6 is a hardtanh from 0 to 6
RELUS |= dict.fromkeys([F.threshold, F.threshold_, torch.threshold, torch.threshold_], _threshold)
RELUS |= dict.fromkeys(
    [f for at in (torch, torch.Tensor) for f in (at.clamp, at.clamp_, at.clip, at.clip_)], _clamp
)
RELUS |= dict.fromkeys(
    [f for at in (torch, torch.Tensor) for f in (at.clamp_min, at.clamp_min_)], _clamp
)


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
    "maximum": _every(
        "max_pool2d adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices amax"
    ),
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
    """Raise the InputError for an operation that a method has no rule for, at a `place`."""
    name, kind = place
    raise InputError(
        f"{method} has no rule for {what}, which runs in {repr(name) if name else 'the network itself'} ({kind}); "
        "take a network that does without, or explain this one with gradient, guided_backprop or grad_cam"
    )
