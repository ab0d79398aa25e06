"""What is asked of a network: a class, a contrast of classes, or any function of what it returns.

A target makes one number per image of the network's output. Where the target is a class, the output
must be class scores S, (N, K). Where it is a function, the output may be anything: maps of a
segmentation, a tuple, a dict.
"""

import copy
import dataclasses
import math

import torch

from ..errors import InputError, nearest

SCORE_KINDS = ("logit", "probability")  # what may be asked of a class
LOOKS_LIKE_ONE = 1e-3  # how far from 1 a row of probabilities may sum up to, in half precision, too


def versus(c, d=None):
    """A target: why class c, and not class d?

    versus(c, d) is S_c - S_d. versus(c) is S_c - log mean_{k != c} exp S_k, the score less the
    soft mean of its rivals: the log-odds of class c, plus log(K - 1). What raises all scores alike
    has no part in a contrast (Srinivas and Fleuret 2021, arXiv 2006.09128).

    :param c: class index or name, one per image
    :param d: the same; None: all rivals of c together
    :return: `Contrast`, which every method takes as its target
    :raises InputError: when a method is called, as for a class; a network with one score has no
        rivals

    >>> R = xcnn.grad_cam(net, x, xcnn.versus("clock", "broccoli"))
    >>> tuple(R.shape)
    (1, 1, 128, 128)
    """
    return Contrast(c, d)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The target that `versus` makes.

    :param c, d: as in `versus`
    """

    c: object
    d: object = None

    def value(self, S, classes=()):
        """The contrast of each image, (N,).

        :param S: scores (N, K)
        :param classes: the K class names, where they are known

        >>> S = torch.tensor([[1.0, 3.0, 0.0]])
        >>> xcnn.versus(1, 0).value(S).item(), round(xcnn.versus(1).value(S).item(), 3)
        (2.0, 2.38)
        """
        c = class_indices(S, self.c, classes)[:, None]
        S_c = S.gather(1, c)[:, 0]
        if self.d is not None:
            return S_c - S.gather(1, class_indices(S, self.d, classes)[:, None])[:, 0]
        rivals = S.shape[1] - 1
        if not rivals:
            raise InputError("versus(c) needs two scores or more, and this network has one")
        others = S.scatter(1, c, -math.inf)
        return S_c - (others.logsumexp(1) - math.log(rivals))


def target_scores(out, target, net, N):
    """The number that is explained, one per image, (N,): of a class its score S_c.

    :param out: what the network returned for N images
    :param target: class index or name, one per image, None for each image's top class, `versus`, or
        a function of `out` that returns (N,)
    :param net: `Network`
    :param N: how many images
    :return: (N,)
    :raises InputError: see `class_indices` and `class_outputs`; a function that returns something
        else

    >>> out = {"maps": torch.ones(2, 5, 4, 4)}
    >>> mean_of_map_3 = lambda out: out["maps"][:, 3].mean((1, 2))
    >>> xcnn.engine.target.target_scores(out, mean_of_map_3, net, N=2)
    tensor([1., 1.])
    """
    if is_function(target):
        return _answer(target(out), N)
    S = class_outputs(out, N)
    net.warn_of_probabilities(S)
    if isinstance(target, Contrast):
        return target.value(S, net.classes)
    return S.gather(1, class_indices(S, target, net.classes)[:, None])[:, 0]


def target_values(out, target, net, N, score="logit"):
    """As `target_scores`; of a class with score="probability" its probability.

    Scores are taken as float64 first: the probabilities of a confident network differ little. That
    is done on the CPU: some devices have no float64.

    >>> S = torch.tensor([[0.0, 0.0]])
    >>> xcnn.engine.target.target_values(S, 1, net, N=1, score="probability").item()
    0.5
    """
    if score == "logit" or is_function(target) or isinstance(target, Contrast):
        return target_scores(out, target, net, N)
    S = class_outputs(out, N).cpu().double()
    p = net.probabilities(S)
    return p.gather(1, class_indices(S, target, net.classes)[:, None])[:, 0]


def contributions(out, target, net, N):
    """The values v that a network returned, and what each adds to the target f: v df/dv.

    Of a class c this is its score, and 0 of all others; of a contrast S_c and -S_d. Values without
    any part in f are left out.

    :param out, target, net, N: as in `target_scores`
    :return: two lists of tensors

    >>> S = torch.tensor([[1.0, 3.0]], requires_grad=True)
    >>> [v.tolist() for v in xcnn.engine.target.contributions(S, xcnn.versus(1, 0), net, N=1)[1]]
    [[[-1.0, 3.0]]]
    """
    values = []
    leaves = []

    def leaf_of(v):
        if not v.requires_grad:
            return v
        values.append(v)
        leaves.append(v.detach().requires_grad_())
        return leaves[-1]

    # One value may depend on another (features and scores): f must see each as a leaf of its own.
    f = target_scores(_with_tensors(leaf_of, out), target, net, N)
    if not f.requires_grad:
        return [], []
    slopes = torch.autograd.grad(f.sum(), leaves, allow_unused=True)
    used = [(v, (v * dv).detach()) for v, dv in zip(values, slopes, strict=True) if dv is not None]
    return [v for v, _ in used], [R for _, R in used]


def _with_tensors(change, out):
    """What a network returned, with each of its tensors changed."""
    if isinstance(out, torch.Tensor):
        return change(out)
    if dataclasses.is_dataclass(out):  # a ModelOutput is one, and a dict, too
        twin = copy.copy(out)
        for field in dataclasses.fields(out):
            setattr(twin, field.name, _with_tensors(change, getattr(out, field.name)))
        return twin
    if isinstance(out, dict):
        twin = copy.copy(out)
        for key, v in out.items():
            twin[key] = _with_tensors(change, v)
        return twin
    if isinstance(out, list | tuple):
        parts = [_with_tensors(change, v) for v in out]
        is_named = hasattr(out, "_fields")
        return type(out)(*parts) if is_named else type(out)(parts)
    return out


def is_function(target):
    """Is this target a function of what the network returns?"""
    return callable(target) and not isinstance(target, Contrast)


def settled(out, target, net, N):
    """The same target for other pictures: classes are looked up in the scores of these images.

    :param out, target, net, N: as in `target_scores`
    :return: class indices, a `Contrast` of class indices, or the function
    :raises InputError: as in `target_scores`

    >>> S = torch.tensor([[0.0, 1.0]])
    >>> xcnn.engine.target.settled(S, None, net, N=1)
    [1]
    """
    target_scores(out, target, net, N)  # raises the errors
    if is_function(target):
        return target
    S = class_outputs(out, N)
    if not isinstance(target, Contrast):
        return class_indices(S, target, net.classes).tolist()
    rivals = target.d
    if rivals is not None:
        rivals = class_indices(S, rivals, net.classes).tolist()
    return Contrast(class_indices(S, target.c, net.classes).tolist(), rivals)


def one_by_one(out, target, net, N):
    """The settled target of each image, for methods that take the images one by one.

    :param out, target, net, N: as in `target_scores`
    :return: list of N

    >>> S = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    >>> xcnn.engine.target.one_by_one(S, None, net, N=2)
    [1, 0]
    """
    target = settled(out, target, net, N)
    if is_function(target):
        return [target] * N
    if not isinstance(target, Contrast):
        return target
    rivals = target.d or [None] * N
    return [Contrast(c, d) for c, d in zip(target.c, rivals, strict=True)]


def repeated(target, times):
    """A settled target for a batch that holds the same images several times over.

    :param target: from `settled`, of classes
    :param times: how often

    >>> xcnn.engine.target.repeated([3, 5], times=2)
    [3, 5, 3, 5]
    """
    if isinstance(target, Contrast):
        rivals = None if target.d is None else target.d * times
        return Contrast(target.c * times, rivals)
    return target * times


def _answer(value, N):
    """The values (N,) that a target function returned, checked."""
    if not isinstance(value, torch.Tensor) or value.shape != (N,):
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(
            f"the function target= must return one number per image, a tensor of shape ({N},); "
            f"it returned {got}. Pick a column (S[:, 3]) or take a mean (.mean((1, 2)))"
        )
    if not value.is_floating_point():
        raise InputError(f"the function target= must return floats, not {value.dtype}")
    return value


def class_outputs(out, N):
    """The network's output, where it is class scores (N, K).

    :param out: what the network returned
    :param N: how many images
    :return: out
    :raises InputError: where it is something else, with a function that would do as target

    >>> tuple(xcnn.engine.target.class_outputs(torch.zeros(2, 5), N=2).shape)
    (2, 5)
    """
    if isinstance(out, torch.Tensor) and out.ndim == 2 and len(out) == N:
        return out
    raise InputError(
        f"the network returned {_described(out)} for {N} images. "
        "A target that is a class needs class scores of shape (N, K). "
        f"For anything else, give a function of what it returned{_example(out, N)}"
    )


def _described(out):
    if isinstance(out, torch.Tensor):
        return str(tuple(out.shape))
    kind = type(out).__name__
    return f"{kind} with {', '.join(map(repr, out))}" if isinstance(out, dict) else kind


def _example(out, N):
    """A target that works for this output, as the end of a message; "" where none is known."""
    path, tensor = _first_tensor(out, N)
    if tensor is None:
        return ""
    if tensor.ndim == 1:
        what = path
    elif tensor.ndim == 2:
        what = f"{path}[:, 0]"
    else:
        dims = ", ".join(map(str, range(1, tensor.ndim - 1)))
        dims = f"({dims})" if tensor.ndim > 3 else dims
        what = f"{path}[:, 0].mean({dims})"
    return f", such as target=lambda out: {what}"


def _first_tensor(out, N, path="out"):
    """The first tensor with a row per image in what a network returned, and how to write it."""
    if isinstance(out, torch.Tensor):
        usable = out.is_floating_point() and out.ndim and len(out) == N
        return (path, out) if usable else ("", None)
    if isinstance(out, dict):
        parts = [(f"{path}[{key!r}]", v) for key, v in out.items()]
    elif isinstance(out, list | tuple):
        parts = [(f"{path}[{k}]", v) for k, v in enumerate(out)]
    elif dataclasses.is_dataclass(out):
        names = [field.name for field in dataclasses.fields(out)]
        parts = [(f"{path}.{name}", getattr(out, name)) for name in names]
    else:
        parts = []
    for inner_path, v in parts:
        inner_path, tensor = _first_tensor(v, N, inner_path)
        if tensor is not None:
            return inner_path, tensor
    return "", None


def class_indices(S, target, classes=()):
    """One class per image.

    :param S: scores (N, K)
    :param target: int, class name, one of either per image, or None for each image's top class
    :param classes: the K class names, where they are known
    :return: LongTensor (N,)
    :raises InputError: index out of range, unknown or ambiguous name, wrong number of targets

    >>> S = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    >>> xcnn.engine.target.class_indices(S, [2, "cat"], ["cat", "dog", "bus"]).tolist()
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
        return _index_of_name(target, classes, K)
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        raise InputError(
            f"a target is a class index, a class name, xcnn.versus or a function, not {target!r}"
        )
    if not 0 <= target.__index__() < K:
        raise InputError(f"target {target} is out of range: this network has classes 0 to {K - 1}")
    return target.__index__()


def _index_of_name(name, classes, K):
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
    if indices[0] >= K:
        raise InputError(
            f"{name!r} is class {indices[0]} of {len(classes)} names, "
            f"and the network has {K} scores; give it its own class names"
        )
    return indices[0]


def are_probabilities(S):
    """Do all rows of these scores (N, K), K > 1, look like probabilities: in [0, 1], summing to 1?

    >>> S = torch.tensor([[2.0, 1.0]])
    >>> xcnn.engine.target.are_probabilities(S), xcnn.engine.target.are_probabilities(S.softmax(1))
    (False, True)
    """
    if S.shape[1] < 2:
        return False
    S = S.detach().cpu().double()  # some devices have no float64
    return bool((S >= 0).all() and ((S.sum(1) - 1).abs() < LOOKS_LIKE_ONE).all())
