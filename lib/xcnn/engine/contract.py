"""What every method promises and checks: inputs, targets, maps, and errors that say what to do."""

import contextlib
import operator

import torch
import torch.nn.functional as F

from ..errors import InputError, nearest


def check(module, x):
    """Refuse what would give a map that looks right and is not.

    :param module: nn.Module, wholly in eval mode
    :param x: (N, 3, H, W) float tensor, finite
    :raises InputError: naming what is wrong and what to do
    """
    for name, part in module.named_modules():
        if (
            part.training and type(part) is not torch.nn.Module
        ):  # torch.fx leaves empty shells in train mode
            raise InputError(
                f"{'the network' if not name else repr(name)} is in train mode; call .eval() on the model first"
            )
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(
            f"x must be a tensor of shape (N, 3, H, W), got {got}; net.preprocess(image) makes one"
        )
    if not x.is_floating_point():
        raise InputError(
            f"x must be float, got {x.dtype}; net.preprocess(image) scales and normalises"
        )
    if (
        not torch.isfinite(x.sum()) and not torch.isfinite(x).all()
    ):  # the sum is quick, and hardly ever overflows
        raise InputError(
            "x holds NaN or infinite values; check how the image was loaded and normalised"
        )


def run(module, x):
    """The network's scores S, (N, K), before any softmax.

    :raises InputError: where the network returns something else, or the image has a size that it cannot take
    """
    try:
        S = module(x)
    except RuntimeError as error:
        if "too small" in str(error) or "can't be greater than actual input size" in str(error):
            raise InputError(
                f"an image of {x.shape[2]}x{x.shape[3]} is too small for this network: {error}"
            ) from error
        if "shapes cannot be multiplied" in str(error):
            raise InputError(
                f"an image of {x.shape[2]}x{x.shape[3]} does not fit this network's fully connected layers: {error}; "
                "net.preprocess(image) gives the network's own size"
            ) from error
        like = next(module.parameters(), x)
        if (x.dtype, x.device) != (like.dtype, like.device):
            raise InputError(
                f"x is {x.dtype} on {x.device}, the network's weights are {like.dtype} on {like.device}; "
                "use x.to(next(model.parameters()))"
            ) from error
        raise
    if not isinstance(S, torch.Tensor) or S.ndim != 2 or len(S) != len(x):
        got = tuple(S.shape) if isinstance(S, torch.Tensor) else type(S).__name__
        raise InputError(
            f"the network must return class scores of shape (N, K); for {len(x)} images it returned {got}"
        )
    return S


@contextlib.contextmanager
def own_grad_mode(enabled):
    """Gradients on or off for our own work, whatever the caller's context (no_grad and inference_mode included).

    The caller's random numbers go on as if nothing had been drawn, also where dropout is always on.
    """
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(enabled),
        torch.random.fork_rng(devices=[]),
    ):
        yield


def class_indices(S, target, classes=()):
    """One class per image.

    :param S: scores (N, K)
    :param target: int, class name, one of either per image, or None for each image's top class
    :param classes: the K class names, where they are known
    :return: LongTensor (N,)
    :raises InputError: index out of range, unknown or ambiguous name, wrong number of targets
    """
    N, K = S.shape
    if target is None:
        return S.argmax(1)
    if hasattr(target, "tolist"):  # of torch or NumPy
        target = target.tolist()
    many = (
        list(target)
        if not isinstance(target, (str, int)) and hasattr(target, "__iter__")
        else [target] * N
    )
    if len(many) != N:
        raise InputError(f"{len(many)} targets for {N} images; give one for all or one per image")
    return torch.tensor([_class_index(one, K, classes) for one in many], device=S.device)


def _class_index(one, K, classes):
    if isinstance(one, str):
        if not len(classes):
            raise InputError(
                f"this network's class names are not known, so {one!r} means nothing; give the class index"
            )
        found = [k for k, name in enumerate(classes) if name == one]
        if not found:
            raise InputError(f"unknown class {one!r}; {nearest(one, classes)}")
        if len(found) > 1:
            raise InputError(f"{one!r} names {len(found)} classes; give one of the indices {found}")
        return found[0]
    if isinstance(one, bool) or not hasattr(one, "__index__"):
        raise InputError(f"a target is a class index or a class name, not {one!r}")
    if not 0 <= one.__index__() < K:
        raise InputError(f"target {one} is out of range: this network has classes 0 to {K - 1}")
    return one.__index__()


def class_scores(S, target, classes=()):
    """S_c of each image's target class, (N,)."""
    return S.gather(1, class_indices(S, target, classes)[:, None])[:, 0]


def to_image_size(M, x):
    """A map (N, 1, h, w) enlarged to the pixels of x, bilinearly: (N, 1, H, W)."""
    return F.interpolate(M.to(x.dtype), x.shape[-2:], mode="bilinear", align_corners=False)


def one_question(target, layer, unit):
    """Refuse half an inner unit, and a class together with one."""
    if (layer is None) != (unit is None):
        raise InputError("an inner unit is named by both, layer= and unit=")
    if not (target is None or unit is None):
        raise InputError("give a class (target=) or an inner unit (layer= and unit=), not both")


def unit_values(A, layer, unit):
    """The value (N,) of one unit of a layer's output A, (N, C, h, w) or (N, C).

    :param unit: channel, or (channel, y, x); a channel alone means its largest value in each image
    """
    try:
        index = tuple(map(operator.index, unit if isinstance(unit, tuple | list) else [unit]))
    except TypeError:
        index = ()
    if len(index) not in (1, A.ndim - 1) or not all(
        0 <= i < n for i, n in zip(index, A.shape[1:], strict=False)
    ):
        what = "channel" if A.ndim == 2 else "channel or (channel, y, x)"
        raise InputError(
            f"no unit {unit!r} in layer {layer!r}: give {what}, each less than {tuple(A.shape[1:])}"
        )
    return (
        A[(slice(None), *index)].flatten(1).max(1).values
        if len(index) < A.ndim - 1
        else A[(slice(None), *index)]
    )
