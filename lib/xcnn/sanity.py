"""Checks whether a map is to be believed.

Does the map depend on what the network has learned? Does the network agree with it?
"""

import copy
import dataclasses

import numpy as np
import torch

from .engine.contract import isolated, run
from .engine.fast import run_many
from .engine.fill import blurred
from .engine.target import settled, target_values
from .engine.wrappers import SCORES
from .errors import InputError
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


def rank_correlation(R, Q):
    """Spearman's rank correlation between the absolute values of two maps: 1 where they agree.

    :param R, Q: (N, C, H, W) maps, summed over channels; C may differ
    :return: (N,) float64 in [-1, 1]; NaN where a map is constant
    :raises InputError: shapes that do not match

    >>> R = torch.arange(12.0).view(1, 1, 3, 4)
    >>> [round(xcnn.sanity.rank_correlation(R, Q).item(), 4) for Q in (R**3, -R, 12 - R)]
    [1.0, 1.0, -1.0]
    """
    R, Q = _same_size(R, Q)
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


def deletion(net, x, R, target=None, steps=20):
    """The class probability while pixels are taken out, those with the largest R first.

    Source: Petsiuk, Das, Saenko 2018, arXiv 1806.07421, section 4.1. A pixel that is taken out gets
    the mean colour, 0 in normalised pixels. A good map makes the curve fall early: a
    small mean is good.

    :param net, x, target: as in `gradient`; of `versus` and of a function its value is taken
    :param R: (N, C, H, W), summed over channels
    :param steps: equal parts of the pixels
    :return: (N, steps + 1) float64, from the whole picture to none of it
    :raises InputError: see `ready`; shapes that do not match

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()  # the clock goes first
    >>> p = xcnn.sanity.deletion(net, x, R, "clock", steps=4)
    >>> tuple(p.shape), bool(p[0, 1] < p[0, 0])
    ((1, 5), True)
    """
    return _curve(net, x, R, target, steps, start=x, end=torch.zeros_like(x))


def insertion(net, x, R, target=None, steps=20, blur=11):
    """The class probability while pixels are put into a blurred picture, the largest R first.

    A large mean is good. Source, other arguments, shape and errors as in `deletion`.

    :param blur: standard deviation of the Gaussian in pixels

    >>> R = torch.from_numpy(scene.mask("clock"))[None, None].float()
    >>> first, last = (xcnn.sanity.insertion(net, x, M, "clock", steps=4) for M in (R, -R))
    >>> (first.mean() > last.mean()).item()
    True
    """
    return _curve(net, x, R, target, steps, start=blurred(x, blur), end=x)


def _curve(net, x, R, target, steps, start, end):
    """Class probabilities on the way from start to end, whose pixels replace start's in R's order.

    :param start, end: pictures as x
    :return: (N, steps + 1) float64
    """
    net, x = ready(net, x, SCORES)
    if R.ndim != 4 or (len(R), *R.shape[2:]) != (len(x), *x.shape[2:]):
        raise InputError(
            f"R must have shape (N, C, H, W) with N, H and W of x {tuple(x.shape)}, "
            f"got {tuple(R.shape)}"
        )
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


def _same_size(R, Q):
    """Absolute values of two maps, tensors or arrays, summed over channels, as arrays (N, H, W)."""
    R, Q = (_magnitude(M) for M in (R, Q))
    if R.ndim != 4 or Q.ndim != 4 or R.shape[::2] != Q.shape[::2] or R.shape[3] != Q.shape[3]:
        raise InputError(
            "two maps (N, C, H, W) of the same N, H and W are needed, "
            f"got {tuple(R.shape)}, {tuple(Q.shape)}"
        )
    return R.sum(1).numpy(), Q.sum(1).numpy()


def _magnitude(M):
    """Absolute values of a map, on the CPU, in float32 or what is more exact."""
    if not isinstance(M, torch.Tensor):
        M = torch.from_numpy(np.array(M, float))
    M = M.detach().cpu()
    return M.to(torch.promote_types(M.dtype, torch.float32)).abs()
