"""Is a map to be believed? Does it depend on what the network has learned, and does the network agree with it?"""

import copy
import dataclasses

import numpy as np
import torch
import torchvision.transforms.functional as TF
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from .engine.contract import check, class_indices, own_grad_mode, run
from .engine.fast import run_many
from .errors import InputError
from .networks import as_network


def randomised(net, n, seed=0):
    """A copy of the network in which the n last layers have forgotten what they learned: their weights are shuffled.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.1 (cascading randomisation, from the classifier down).
    They draw new weights; shuffled ones keep each layer's scale. Layers are the convolutions and linear maps, in the
    order of their definition; biases and batch norm stay.

    :param net: `Network` or nn.Module, which stays as it is
    :param n: how many, 0 to all
    :param seed: of the shuffling
    :return: `Network`
    :raises InputError: n out of range
    """
    net = as_network(net)
    module, generator = copy.deepcopy(net.module), torch.Generator().manual_seed(seed)
    layers = weighted(module)
    if not 0 <= n <= len(layers):
        raise InputError(
            f"{net.name} has {len(layers)} layers with weights; n must be 0 to {len(layers)}, not {n}"
        )
    with torch.no_grad():
        for layer in layers[len(layers) - n :]:
            order = torch.randperm(layer.weight.numel(), generator=generator).to(
                layer.weight.device
            )
            layer.weight.copy_(layer.weight.flatten()[order].view_as(layer.weight))
    return dataclasses.replace(net, module=module, name=f"{net.name}, last {n} shuffled")


def weighted(module):
    """The layers of a module that `randomised` counts: convolutions and linear maps, as a list."""
    return [
        part for part in module.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    ]


def rank_correlation(R, Q):
    """Spearman's rank correlation between the absolute values of two maps, summed over channels: 1 where they agree.

    :param R, Q: (N, C, H, W) maps; C may differ
    :return: (N,) float64 in [-1, 1]; NaN where a map is constant
    :raises InputError: shapes that do not match
    """
    pairs = zip(*(M.reshape(len(M), -1) for M in _sizes(R, Q)), strict=True)
    found = [spearmanr(r, q).statistic if np.ptp(r) and np.ptp(q) else np.nan for r, q in pairs]
    return torch.tensor(found, dtype=torch.float64)


def similarity(R, Q):
    """SSIM, structural similarity, of the absolute values of two maps, each divided by its maximum: 1 where they agree.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.2; the index is scikit-image's (Wang et al. 2004).

    :param R, Q: as in `rank_correlation`, 7 pixels or more in each direction
    :return: (N,) float64 in [-1, 1]; NaN where a map is 0
    :raises InputError: shapes that do not match
    """
    pairs = zip(*_sizes(R, Q), strict=True)
    return torch.tensor(
        [
            structural_similarity(r / r.max(), q / q.max(), data_range=1)
            if r.any() and q.any()
            else np.nan
            for r, q in pairs
        ],
        dtype=torch.float64,
    )


def deletion(net, x, R, target=None, steps=20):
    """The class probability while the pixels with the largest R are taken out, the first ones first.

    Source: Petsiuk, Das, Saenko 2018, arXiv 1806.07421, section 4.1. What is taken out becomes the mean colour of
    ImageNet, 0 in normalised pixels. A good map makes the curve fall early: a small mean is good.

    :param net, x, target: as in `gradient`
    :param R: (N, C, H, W), summed over channels
    :param steps: equal parts of the pixels
    :return: (N, steps + 1) float64, from the whole picture to none of it
    :raises InputError: see `contract.check`; shapes that do not match
    """
    return _curve(net, x, R, target, steps, start=x, end=torch.zeros_like(x))


def insertion(net, x, R, target=None, steps=20, blur=11):
    """The class probability while the pixels with the largest R are put into a blurred picture, the first ones first.

    A large mean is good. Source, other arguments, shape and errors as in `deletion`.

    :param blur: standard deviation of the Gaussian in pixels
    """
    size = 2 * min(2 * blur, (min(x.shape[-2:]) - 1) // 2) + 1
    return _curve(net, x, R, target, steps, start=TF.gaussian_blur(x, size, blur), end=x)


def _curve(net, x, R, target, steps, start, end):
    """Class probabilities from start to end, pixels changing hands in the order of R."""
    net = as_network(net)
    check(net.module, x)
    if R.ndim != 4 or (len(R), *R.shape[2:]) != (len(x), *x.shape[2:]):
        raise InputError(
            f"R must have shape (N, C, H, W) with N, H and W of x {tuple(x.shape)}, got {tuple(R.shape)}"
        )
    with own_grad_mode(False):
        c = class_indices(run(net.module, x.clone()), target, net.classes)[:, None]
        order = R.sum(1).flatten(1).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(1).view(len(x), 1, *x.shape[2:])
        pixels = rank[0].numel()
        p = [
            run_many(net.module, torch.where(rank < pixels * k / steps, end, start))
            for k in range(steps + 1)
        ]
    return torch.stack([one.softmax(1).gather(1, c)[:, 0] for one in p], 1).double().cpu()


def _sizes(R, Q):
    """Absolute values of two maps, summed over channels, as arrays (N, H, W)."""
    R, Q = (torch.as_tensor(M).detach().cpu().abs() for M in (R, Q))
    if R.ndim != 4 or Q.ndim != 4 or R.shape[::2] != Q.shape[::2] or R.shape[3] != Q.shape[3]:
        raise InputError(
            f"two maps (N, C, H, W) of the same N, H and W are needed, got {tuple(R.shape)}, {tuple(Q.shape)}"
        )
    return R.sum(1).numpy(), Q.sum(1).numpy()
