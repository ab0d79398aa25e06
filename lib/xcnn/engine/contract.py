"""What every method promises and checks: input, target, map, and nothing left behind."""

import contextlib
import operator
import re
import sys

import torch
import torch.nn.functional as F

from ..errors import InputError
from .wrappers import is_exported

# dimensions of a layer's output -> what names a unit of it, and how many numbers that may be
UNITS = {2: ("channel", (1,)), 4: ("channel or (channel, y, x)", (1, 3))}


def check(module, x):
    """Raise InputError unless the network is in eval mode and x is a finite float batch.

    :param module: nn.Module, wholly in eval mode
    :param x: (N, C, H, W) float tensor, finite
    :raises InputError: naming what is wrong and what to do

    >>> xcnn.engine.contract.check(net.module, x[0])
    Traceback (most recent call last):
    xcnn.errors.InputError: x must be a tensor of shape (N, C, H, W), got (3, 128, 128); ...
    """
    parts = [] if is_exported(module) else module.named_modules()  # its mode means nothing
    for name, part in parts:
        empty_shell = type(part) is torch.nn.Module  # torch.fx leaves these in train mode
        in_train_mode = getattr(part, "training", False)  # a frozen module has no mode
        if in_train_mode and not empty_shell:
            what = repr(name) if name else "the network"
            raise InputError(f"{what} is in train mode; call .eval() on the model first")
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(
            f"x must be a tensor of shape (N, C, H, W), got {got}; net.preprocess(image) makes one"
        )
    if not x.is_floating_point():
        raise InputError(
            f"x must be float, got {x.dtype}; net.preprocess(image) scales and normalises"
        )
    # The sum is quick. It hardly ever overflows; where it does, every value is looked at.
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise InputError(
            "x holds NaN or infinite values; check how the image was loaded and normalised"
        )


def run(module, x):
    """What the network returns for a copy of x, which a network may change in place.

    :raises InputError: where the network cannot take images of this size, channels or type, or
        wants more than images
    """
    try:
        return module(x.clone())
    except (RuntimeError, TypeError, AssertionError) as error:
        advice = _advice(str(error), module, x)
        if advice is None:
            raise
        raise InputError(advice) from error


def _advice(error, module, x):
    """What a caller can do about an error of torch's; None where we do not know."""
    size = f"{x.shape[2]}x{x.shape[3]}"
    if re.search(r"missing \d+ required (positional|keyword-only) argument", error):
        return (
            f"the network takes more than images ({error}); "
            "explain a module whose forward(x) calls it with the rest"
        )
    if "Guard failed" in error:
        return (
            f"this exported network takes another number or size of images ({error}); "
            "give it images like those that it was exported with, as many at a time"
        )
    if "too small" in error or "can't be greater than actual input size" in error:
        return f"an image of {size} is too small for this network: {error}"
    if "shapes cannot be multiplied" in error:
        return (
            f"an image of {size} does not fit this network's fully connected layers: {error}; "
            "net.preprocess(image) gives the network's own size"
        )
    weight = next(module.parameters(), x)
    if (x.dtype, x.device) != (weight.dtype, weight.device):
        return (
            f"x is {x.dtype} on {x.device}, "
            f"the network's weights are {weight.dtype} on {weight.device}; "
            "use x.to(next(model.parameters()))"
        )
    wanted = re.search(r"to have (\d+) channels, but got (\d+) channels", error)
    if wanted and int(wanted[2]) == x.shape[1]:
        return (
            f"x is (N, {x.shape[1]}, H, W) and the network takes (N, {wanted[1]}, H, W); "
            "where that is 1 or 3 channels, xcnn.Network(model).preprocess(image) makes such an x"
        )
    return None


@contextlib.contextmanager
def isolated(grad):
    """Run our code independently of the caller's grad mode and inference mode.

    Afterwards both are as they were, and so is the CPU's random generator. Parts that torch.compile
    has compiled run as they were written: compiled ones could not be seen into.

    :param grad: whether autograd records
    """
    with (
        _uncompiled(),
        torch.inference_mode(False),
        torch.set_grad_enabled(grad),
        torch.random.fork_rng(devices=[]),  # some networks draw numbers: dropout that is always on
    ):
        yield


def _uncompiled():
    """A block in which compiled functions and modules run as they were written."""
    stance = getattr(torch.compiler, "set_stance", None)  # from torch 2.6 on
    if stance is None or "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return stance("force_eager")


def one_question(target, layer, unit):
    """Raise InputError unless a class is asked for, or a complete inner unit, and not both."""
    if target is not None and (layer is not None or unit is not None):
        raise InputError("give a class (target=) or an inner unit (layer= and unit=), not both")
    if (layer is None) != (unit is None):
        raise InputError("an inner unit is named by both, layer= and unit=")


def unit_values(A, layer, unit, N):
    """The value (N,) of one unit of a layer's output A for N images.

    :param A: (N, C, h, w) or (N, C), or of another form, such as tokens (N, T, C)
    :param unit: channel, or (channel, y, x); a channel alone means its largest value in each image.
        In another form: all indices
    :raises InputError: a unit that is not there; an output without a row for each image
    """
    values = A[(slice(None), *unit_position(A, layer, unit, N))]
    return values if values.ndim == 1 else values.flatten(1).max(1).values


def unit_position(A, layer, unit, N):
    """The unit as a tuple of indices into one image's output; else as in `unit_values`."""
    form = tuple(A.shape)
    if len(form) < 2 or form[0] != N:
        raise InputError(
            f"layer {layer!r} puts out {form} for {N} images, which has no units of each image; "
            "choose another layer"
        )
    what, lengths = UNITS.get(len(form), (f"{len(form) - 1} indices", (len(form) - 1,)))
    position = _whole_numbers(unit)
    in_range = all(0 <= i < n for i, n in zip(position, form[1:], strict=False))
    if len(position) not in lengths or not in_range:
        raise InputError(
            f"no unit {unit!r} in layer {layer!r}: give {what}, each less than {form[1:]}"
        )
    return position


def _whole_numbers(unit):
    """A unit as a tuple of whole numbers; () where it is something else."""
    parts = unit if isinstance(unit, tuple | list) else [unit]
    if any(isinstance(part, bool) for part in parts):
        return ()
    try:
        return tuple(map(operator.index, parts))
    except TypeError:
        return ()


def backward(score, v, refusal, start=None, keep_graph=False):
    """What the backward pass from a score brings to v: start * dscore/dv, or what rules made of it.

    :param score: (N,); or a list of tensors
    :param v: the tensor below that the score was computed from
    :param refusal: message where the score does not depend on v
    :param start: as the score: what the backward pass starts with; None: 1
    :param keep_graph: whether another backward pass follows
    :return: as v
    :raises InputError: where the score does not depend on v
    """
    g = None
    scores = score if isinstance(score, list) else [score]
    if scores and all(score.requires_grad for score in scores):
        start = [torch.ones_like(score) for score in scores] if start is None else start
        (g,) = torch.autograd.grad(scores, v, start, retain_graph=keep_graph, allow_unused=True)
    if g is None:
        raise InputError(refusal)
    return g


def no_gradient_message(net):
    """What to say where no backward pass reaches the pixels."""
    return f"the scores of {net.name} do not depend on the image, or it switches gradients off"


def to_image_size(M, x):
    """A map (N, 1, h, w), enlarged bilinearly to the pixels and the type of x: (N, 1, H, W)."""
    M = M.detach().to(x.dtype)
    return F.interpolate(M, x.shape[-2:], mode="bilinear", align_corners=False)
