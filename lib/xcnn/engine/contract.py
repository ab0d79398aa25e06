"""What every method promises and checks: input, target, map, and nothing left behind."""

import contextlib
import operator

import torch
import torch.nn.functional as F

from ..errors import InputError, nearest


def check(module, x):
    """Raise InputError unless the network is in eval mode and x is a finite float batch.

    :param module: nn.Module, wholly in eval mode
    :param x: (N, 3, H, W) float tensor, finite
    :raises InputError: naming what is wrong and what to do

    >>> xcnn.engine.contract.check(net.module, x[0])
    Traceback (most recent call last):
    xcnn.errors.InputError: x must be a tensor of shape (N, 3, H, W), got (3, 128, 128); ...
    """
    for name, part in module.named_modules():
        empty_shell = type(part) is torch.nn.Module  # torch.fx leaves these in train mode
        if part.training and not empty_shell:
            what = repr(name) if name else "the network"
            raise InputError(f"{what} is in train mode; call .eval() on the model first")
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(
            f"x must be a tensor of shape (N, 3, H, W), got {got}; net.preprocess(image) makes one"
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
    """The network's scores S, (N, K), before any softmax.

    The network gets a copy of x, because a network may work in place.

    :raises InputError: where the network returns something else, or cannot take images of this size
    """
    try:
        S = module(x.clone())
    except RuntimeError as error:
        advice = _advice(str(error), module, x)
        if advice is None:
            raise
        raise InputError(advice) from error
    if not isinstance(S, torch.Tensor) or S.ndim != 2 or len(S) != len(x):
        got = tuple(S.shape) if isinstance(S, torch.Tensor) else type(S).__name__
        raise InputError(
            "the network must return class scores of shape (N, K); "
            f"for {len(x)} images it returned {got}"
        )
    return S


def _advice(error, module, x):
    """What a caller can do about an error of torch's; None where we do not know."""
    size = f"{x.shape[2]}x{x.shape[3]}"
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
    return None


@contextlib.contextmanager
def isolated(grad):
    """Run our code independently of the caller's grad mode and inference mode.

    Afterwards both are as they were, and so is the CPU's random generator.

    :param grad: whether autograd records
    """
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(grad),
        torch.random.fork_rng(devices=[]),  # some networks draw numbers: dropout that is always on
    ):
        yield


def class_indices(S, target, classes=()):
    """One class per image.

    :param S: scores (N, K)
    :param target: int, class name, one of either per image, or None for each image's top class
    :param classes: the K class names, where they are known
    :return: LongTensor (N,)
    :raises InputError: index out of range, unknown or ambiguous name, wrong number of targets

    >>> S = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    >>> xcnn.engine.contract.class_indices(S, [2, "cat"], ["cat", "dog", "bus"]).tolist()
    [2, 0]
    """
    N, K = S.shape
    if target is None:
        return S.argmax(1)
    if hasattr(target, "tolist"):  # an array of torch or NumPy
        target = target.tolist()
    if isinstance(target, str | int) or not hasattr(target, "__iter__"):
        targets = [target] * N
    else:
        targets = list(target)
    if len(targets) != N:
        raise InputError(
            f"{len(targets)} targets for {N} images; give one for all or one per image"
        )
    return torch.tensor([_class_index(t, K, classes) for t in targets], device=S.device)


def _class_index(target, K, classes):
    """The index of one target, a class index or a class name, among K classes."""
    if isinstance(target, str):
        return _index_of_name(target, classes)
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        raise InputError(f"a target is a class index or a class name, not {target!r}")
    if not 0 <= target.__index__() < K:
        raise InputError(f"target {target} is out of range: this network has classes 0 to {K - 1}")
    return target.__index__()


def _index_of_name(name, classes):
    if not len(classes):
        raise InputError(
            f"this network's class names are not known, so {name!r} means nothing; "
            "give the class index"
        )
    indices = [k for k, known in enumerate(classes) if known == name]
    if not indices:
        raise InputError(f"unknown class {name!r}; {nearest(name, classes)}")
    if len(indices) > 1:
        raise InputError(
            f"{name!r} names {len(indices)} classes; give one of the indices {indices}"
        )
    return indices[0]


def class_scores(S, target, classes=()):
    """S_c of each image's target class, (N,)."""
    return S.gather(1, class_indices(S, target, classes)[:, None])[:, 0]


def one_question(target, layer, unit):
    """Raise InputError unless a class is asked for, or a complete inner unit, and not both."""
    if (layer is None) != (unit is None):
        raise InputError("an inner unit is named by both, layer= and unit=")
    if target is not None and unit is not None:
        raise InputError("give a class (target=) or an inner unit (layer= and unit=), not both")


def unit_values(A, layer, unit):
    """The value (N,) of one unit of a layer's output A, (N, C, h, w) or (N, C).

    :param unit: channel, or (channel, y, x); a channel alone means its largest value in each image
    """
    position = _unit_position(A, layer, unit)
    values = A[(slice(None), *position)]
    return values if values.ndim == 1 else values.flatten(1).max(1).values


def _unit_position(A, layer, unit):
    """The unit as a tuple of indices into one image's output."""
    try:
        position = tuple(map(operator.index, unit if isinstance(unit, tuple | list) else [unit]))
    except TypeError:  # not whole numbers
        position = ()
    right_length = len(position) in (1, A.ndim - 1)
    if not right_length or not all(0 <= i < n for i, n in zip(position, A.shape[1:], strict=False)):
        what = "channel" if A.ndim == 2 else "channel or (channel, y, x)"
        raise InputError(
            f"no unit {unit!r} in layer {layer!r}: give {what}, each less than {tuple(A.shape[1:])}"
        )
    return position


def backward(score, v, refusal, start=None, keep_graph=False):
    """What the backward pass from a score brings to v: start * dscore/dv, or what rules made of it.

    :param score: (N,)
    :param v: the tensor below that the score was computed from
    :param refusal: message where the score does not depend on v
    :param start: (N,) what each image's backward pass starts with; None: 1
    :param keep_graph: whether another backward pass follows
    :return: as v
    :raises InputError: where the score does not depend on v
    """
    g = None
    if score.requires_grad:
        start = torch.ones_like(score) if start is None else start
        (g,) = torch.autograd.grad(score, v, start, retain_graph=keep_graph, allow_unused=True)
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
