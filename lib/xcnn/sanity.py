"""Checks whether a map is to be believed.

Does the map depend on what the network has learned? Does it stay where the picture hardly changes?
Does the network agree with it?
"""

import copy
import dataclasses

import numpy as np
import torch

from .engine.contract import isolated, run
from .engine.fast import run_many
from .engine.fill import blurred, filled
from .engine.target import settled, target_values
from .engine.wrappers import SCORES
from .errors import InputError, whole_number
from .networks import as_network, ready
from .packages import imported


def randomised(net, n, seed=0):
    """A copy of the network in which the weights of the n last layers are shuffled.

    These layers have forgotten what they learned. Source: Adebayo et al. 2018, arXiv 1810.03292,
    section 3.1 (cascading randomisation, from the classifier down). They draw new weights; shuffled
    ones keep each layer's scale. The layers are those of `weighted_layers`; biases and batch norm
    stay.

    :param net: `Network` or nn.Module, which stays as it is
    :param n: how many, 0 to all
    :param seed: of the shuffling
    :return: `Network`
    :raises InputError: n out of range

    >>> forgetful = xcnn.sanity.randomised(net, 3)
    >>> R, Q = (xcnn.guided_backprop(network, x, "clock") for network in (net, forgetful))
    >>> xcnn.sanity.rank_correlation(R, Q).item() > 0.9  # guided backprop hardly notices
    True
    """
    net = as_network(net)
    module = copy.deepcopy(net.module)
    generator = torch.Generator().manual_seed(seed)
    layers = weighted_layers(module)
    if not 0 <= n <= len(layers):
        raise InputError(
            f"{net.name} has {len(layers)} layers with weights; "
            f"n must be 0 to {len(layers)}, not {n}"
        )
    with torch.no_grad():
        for layer in layers[len(layers) - n :]:
            w = layer.weight
            order = torch.randperm(w.numel(), generator=generator).to(w.device)
            w.copy_(w.flatten()[order].view_as(w))
    return dataclasses.replace(net, module=module, name=f"{net.name}, last {n} shuffled")


def weighted_layers(module):
    """The layers of a module that `randomised` counts: its convolutions and linear maps.

    :param module: nn.Module
    :return: list of nn.Conv2d and nn.Linear, in the order of their definition

    >>> xcnn.sanity.weighted_layers(net.module)[-1]
    Linear(in_features=80, out_features=10, bias=True)
    """
    return [
        layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]


def randomisation(net, x, explain, last=None, shuffles=5, seed=0):
    """How much of a map survives when the last layers forget what they learned.

    Rank correlation of the map of the network with that of `randomised` copies. One shuffle may
    keep more of a map than another, so there are several. A map that explains what was learned
    comes out near 0.

    :param net, x: as in `gradient`
    :param explain: function of a network and x that returns a map (N, C, H, W), such as
        `lambda net, x: xcnn.grad_cam(net, x, "clock")`; name the class, since a shuffled network
        has another top class
    :param last: how many layers forget; None: all
    :param shuffles: how many copies
    :param seed: of the first
    :return: dict: "signed" and "unsigned" -> (shuffles, N) float64, see `rank_correlation`; NaN
        where a map is constant, such as one that died
    :raises InputError: see `randomised`

    >>> def explain(net, x):
    ...     return xcnn.grad_cam(net, x, "clock", relu=False)
    >>> survived = xcnn.sanity.randomisation(net, x, explain, shuffles=3)
    >>> tuple(survived["signed"].shape), survived["signed"].abs().mean().item() < 0.9
    ((3, 1), True)
    """
    whole_number("shuffles", shuffles, least=1)
    net = as_network(net)
    R = explain(net, x)
    last = len(weighted_layers(net.module)) if last is None else last
    maps = [explain(randomised(net, last, seed + k), x) for k in range(shuffles)]
    return {
        kind: torch.stack([rank_correlation(R, Q, signed=kind == "signed") for Q in maps])
        for kind in ("signed", "unsigned")
    }


def rank_correlation(R, Q, signed=False):
    """Spearman's rank correlation between the absolute values of two maps: 1 where they agree.

    :param R, Q: (N, C, H, W) maps, summed over channels; C may differ
    :param signed: between the values themselves: what spoke for a class and now speaks against it
        counts as a change
    :return: (N,) float64 in [-1, 1]; NaN where a map is constant
    :raises InputError: shapes that do not match

    >>> R = torch.arange(12.0).view(1, 1, 3, 4)
    >>> [round(xcnn.sanity.rank_correlation(R, Q).item(), 4) for Q in (R**3, -R, 12 - R)]
    [1.0, 1.0, -1.0]
    """
    R, Q = _same_size(R, Q, signed)
    stats = imported("scipy.stats", "a rank correlation")
    correlations = [
        stats.spearmanr(r.ravel(), q.ravel()).statistic if np.ptp(r) and np.ptp(q) else np.nan
        for r, q in zip(R, Q, strict=True)
    ]
    return torch.tensor(correlations, dtype=torch.float64)


def ssim(R, Q):
    """SSIM, structural similarity, of the absolute values of two maps: 1 where they agree.

    Each map is divided by its maximum. Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.2;
    the index is scikit-image's (Wang et al. 2004).

    :param R, Q: as in `rank_correlation`, 7 pixels or more in each direction
    :return: (N,) float64 in [-1, 1]; NaN where a map is 0
    :raises InputError: shapes that do not match

    >>> R = torch.arange(64.0).view(1, 1, 8, 8)
    >>> xcnn.sanity.ssim(R, 2 * R).item(), xcnn.sanity.ssim(R, R.flip(2)).item() < 0.1
    (1.0, True)
    """
    R, Q = _same_size(R, Q)
    metrics = imported("skimage.metrics", "the structural similarity of maps")
    similarities = [
        metrics.structural_similarity(r / r.max(), q / q.max(), data_range=1)
        if r.any() and q.any()
        else np.nan
        for r, q in zip(R, Q, strict=True)
    ]
    return torch.tensor(similarities, dtype=torch.float64)


def max_sensitivity(net, x, explain, radius=0.02, samples=10, seed=0):
    """How far a map can move when the picture hardly does: max of |R(x + d) - R(x)| / |R(x)|.

    The noise d is uniform in [-radius, radius] in every pixel, in normalised units. The largest of
    a few samples is a lower bound of the true maximum. Source: Yeh et al. 2019, arXiv 1901.09392,
    there without the division, which makes maps of different scales comparable.

    :param net, x: as in `gradient`
    :param explain: as in `randomisation`; name the class, which must not change with the noise
    :param radius: of the noise; one grey level of 255 is about 0.017
    :param samples: how many noises
    :param seed: of the noise; the caller's random state is left alone
    :return: (N,) float64, 0 at best; NaN where the map is 0
    :raises InputError: a radius or number of samples out of range

    >>> def explain(net, x):
    ...     return xcnn.grad_cam(net, x, "clock")
    >>> xcnn.sanity.max_sensitivity(net, x, explain, samples=3).item() < 0.2
    True
    """
    whole_number("samples", samples, least=1)
    if not radius > 0:
        raise InputError(f"radius must be above 0, not {radius}")
    net, x = ready(net, x)
    R = _on_cpu(explain(net, x)).double().flatten(1)
    generator = torch.Generator().manual_seed(seed)
    moved = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(samples):
        noise = (2 * torch.rand(x.shape, generator=generator, dtype=torch.float32) - 1) * radius
        Q = _on_cpu(explain(net, x + noise.to(x))).double().flatten(1)
        moved = torch.maximum(moved, (Q - R).norm(dim=1))
    return moved / R.norm(dim=1)


# ---- does the network agree?


def masked(x, R):
    """What a map leaves of pictures: each pixel times the map, positive part, over its maximum.

    Source: Chattopadhyay et al. 2018, arXiv 1710.11063. The product is taken of normalised pixels,
    so what the map takes out turns to the mean colour.

    :param x: (N, C, H, W)
    :param R: (N, C, H, W), summed over channels; C may differ
    :return: as x
    :raises InputError: shapes that do not match

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()
    >>> xcnn.sanity.masked(x, R).equal(x * R)
    True
    """
    _check_map(R, x)
    total = R.sum(1, keepdim=True).to(x).relu()
    height = total.amax((2, 3), keepdim=True)
    return x * (total / height.clamp(min=torch.finfo(x.dtype).tiny))


def masked_probability(net, x, R, target=None):
    """The probability of the class for the picture, and for what the map leaves of it.

    Source: as `masked`, which says what is left.

    :param net, x, target: as in `gradient`
    :param R: (N, C, H, W), summed over channels
    :return: p, q: two tensors (N,) float64: of the whole picture and of what is left
    :raises InputError: see `ready`; shapes that do not match

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()
    >>> p, q = xcnn.sanity.masked_probability(net, x, R, "clock")
    >>> bool(q > 0.5)  # the clock alone is a clock
    True
    """
    net, x = ready(net, x, SCORES)
    pictures = masked(x, R)
    with isolated(grad=False):
        out = run(net.module, x)
        target = settled(out, target, net, len(x))
        outputs = [out, run_many(net.module, pictures)]
        p, q = (target_values(out, target, net, len(x), "probability") for out in outputs)
    return p.cpu().double(), q.cpu().double()


def average_drop(p, q):
    """max(0, p - q) / p of each picture; its mean is the Average Drop, small where maps are good.

    Source: Chattopadhyay et al. 2018, arXiv 1710.11063. Large maps drop little: look
    at the control "centre" beside it.

    :param p, q: (N,), from `masked_probability`
    :return: (N,)

    >>> xcnn.sanity.average_drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.9]))
    tensor([0.2500, 0.0000])
    """
    return (p - q).relu() / p


def increase_in_confidence(p, q):
    """Is the class likelier in what the map leaves? The share of pictures is large for good maps.

    Source: Chattopadhyay et al. 2018, arXiv 1710.11063.

    :param p, q: (N,), from `masked_probability`
    :return: (N,) bool

    >>> xcnn.sanity.increase_in_confidence(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.9]))
    tensor([False,  True])
    """
    return q > p


def deletion(net, x, R, target=None, steps=20, fill="zero"):
    """The class probability while pixels are taken out, those with the largest R first.

    Source: Petsiuk, Das, Saenko 2018, arXiv 1806.07421, section 4.1. A good map makes the curve
    fall early: a small mean is good. A network has not learned what pictures with holes show: try
    more than one fill. Only a picture that could have been taken, such as the same scene without
    the object, is of a kind that the network knows.

    :param net, x, target: as in `gradient`; of `versus` and of a function its value is taken
    :param R: (N, C, H, W), summed over channels
    :param steps: equal parts of the pixels
    :param fill: what a pixel gets that is taken out: "zero", which is ImageNet's mean colour,
        "black", "grey", "white", "mean", "blur", see `occlusion`; or pictures as x, (N, C, H, W)
    :return: (N, steps + 1) float64, from the whole picture to none of it
    :raises InputError: see `ready`; shapes that do not match

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()  # the clock goes first
    >>> p = xcnn.sanity.deletion(net, x, R, "clock", steps=4)
    >>> tuple(p.shape), bool(p[0, 1] < p[0, 0])
    ((1, 5), True)
    """
    net, x = ready(net, x, SCORES)
    own = isinstance(fill, torch.Tensor) and fill.shape == x.shape
    end = ready(net, fill, SCORES)[1].to(x) if own else filled(net, x, fill)
    return _curve(net, x, R, target, steps, start=x, end=end)


def insertion(net, x, R, target=None, steps=20, blur=11):
    """The class probability while pixels are put into a blurred picture, the largest R first.

    A large mean is good. Source, other arguments, shape and errors as in `deletion`.

    :param blur: standard deviation of the Gaussian in pixels

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()
    >>> first, last = (xcnn.sanity.insertion(net, x, M, "clock", steps=4) for M in (R, -R))
    >>> (first.mean() > last.mean()).item()
    True
    """
    net, x = ready(net, x, SCORES)
    return _curve(net, x, R, target, steps, start=blurred(x, blur), end=x)


def _curve(net, x, R, target, steps, start, end):
    """Class probabilities on the way from start to end, whose pixels replace start's in R's order.

    :param net, x: from `ready`
    :param start, end: pictures as x
    :return: (N, steps + 1) float64
    """
    _check_map(R, x)
    with isolated(grad=False):
        target = settled(run(net.module, x), target, net, len(x))
        order = R.sum(1).flatten(1).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(1).view(len(x), 1, *x.shape[2:])
        pixels = rank[0].numel()
        outputs = [
            run_many(net.module, torch.where(rank < pixels * k / steps, end, start))
            for k in range(steps + 1)
        ]
        p = [target_values(out, target, net, len(x), "probability") for out in outputs]
    return torch.stack(p, 1).cpu().double()


def _check_map(R, x):
    """Refuse a map that is not one of these pictures."""
    if R.ndim != 4 or (len(R), *R.shape[2:]) != (len(x), *x.shape[2:]):
        raise InputError(
            f"R must have shape (N, C, H, W) with N, H and W of x {tuple(x.shape)}, "
            f"got {tuple(R.shape)}"
        )


def _same_size(R, Q, signed=False):
    """Two maps, tensors or arrays, summed over channels, as arrays (N, H, W).

    :param signed: False: of absolute values
    """
    R, Q = (_on_cpu(M) if signed else _on_cpu(M).abs() for M in (R, Q))
    if R.ndim != 4 or Q.ndim != 4 or R.shape[::2] != Q.shape[::2] or R.shape[3] != Q.shape[3]:
        raise InputError(
            "two maps (N, C, H, W) of the same N, H and W are needed, "
            f"got {tuple(R.shape)}, {tuple(Q.shape)}"
        )
    return R.sum(1).numpy(), Q.sum(1).numpy()


def _on_cpu(M):
    """A map on the CPU, in float32 or what is more exact."""
    if not isinstance(M, torch.Tensor):
        M = torch.from_numpy(np.array(M, float))
    M = M.detach().cpu()
    return M.to(torch.promote_types(M.dtype, torch.float32))
