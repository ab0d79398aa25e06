"""How good is a map? Where it lies, given a true mask, and whether it depends on what the network has learned."""

import copy
import dataclasses

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

from .contract import InputError
from .networks import as_network


def energy_concentration(R, mask, dilate=0.2):
    """P = E / E_total: the share of a map's energy that lies on the object, E = sum |R M|^2 over pixels and channels.

    Source: Kamenicky 2021. Computed in float64 after division by max |R|, since maps of deep networks overflow float32
    when squared.

    :param R: (N, C, H, W) map of any scale
    :param mask: (N, H, W) or (H, W) bool, True on the object
    :param dilate: the mask grows evenly until its area has grown by this fraction; 0 takes it as it is
    :return: (N,) float64 in [0, 1]; NaN where a map has no energy at all
    :raises InputError: shapes that do not match, a mask that is not bool, NaN or infinity in R
    """
    R, mask = torch.as_tensor(R).detach().double().cpu(), torch.as_tensor(mask).cpu()
    if R.ndim != 4:
        raise InputError(f"R must have shape (N, C, H, W), got {tuple(R.shape)}")
    if mask.dtype != torch.bool:
        raise InputError(f"mask must be bool, got {mask.dtype}; write mask > 0")
    if mask.shape not in (R.shape[2:], (len(R), *R.shape[2:])):
        raise InputError(f"mask {tuple(mask.shape)} does not fit R {tuple(R.shape)}; it must be (N, H, W) or (H, W)")
    if not torch.isfinite(R).all():
        raise InputError("R holds NaN or infinite values")
    if dilate < 0:
        raise InputError(f"dilate is the fraction by which the mask's area grows, 0 or more, not {dilate}")
    masks = mask.expand(len(R), *R.shape[2:]).numpy()
    grown = torch.from_numpy(np.stack([dilated(m, dilate) for m in masks]))
    energy = (R / R.abs().amax((1, 2, 3), keepdim=True)).square().sum(1)  # 0 / 0 = NaN: no energy, no verdict
    return (energy * grown).sum((1, 2)) / energy.sum((1, 2))


def dilated(mask, fraction):
    """The mask and all pixels up to the distance at which its area has grown by this fraction. (H, W) bool."""
    wanted = int(np.ceil(mask.sum() * (1 + fraction) - 1e-9))
    if not mask.any() or wanted == mask.sum():
        return mask.copy()
    if wanted >= mask.size:
        return np.ones_like(mask)
    distance = distance_transform_edt(~mask)
    return distance <= np.partition(distance, wanted - 1, axis=None)[wanted - 1]


def randomised(net, n, seed=0):
    """A copy of the network in which the n last layers have forgotten what they learned: their weights are shuffled.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.1 (cascading randomisation, from the classifier down).
    They draw new weights; shuffled ones keep each layer's scale. Layers are the convolutions and linear maps, in the
    order of their definition; biases and batch norm stay.

    :param net: `Network` or nn.Module, which stays as it is
    :param n: how many, 0 to all
    :return: `Network`
    :raises InputError: n out of range
    """
    net = as_network(net)
    module, generator = copy.deepcopy(net.module), torch.Generator().manual_seed(seed)
    layers = weighted(module)
    if not 0 <= n <= len(layers):
        raise InputError(f"{net.name} has {len(layers)} layers with weights; n must be 0 to {len(layers)}, not {n}")
    with torch.no_grad():
        for layer in layers[len(layers) - n :]:
            order = torch.randperm(layer.weight.numel(), generator=generator).to(layer.weight.device)
            layer.weight.copy_(layer.weight.flatten()[order].view_as(layer.weight))
    return dataclasses.replace(net, module=module, name=f"{net.name}, last {n} shuffled")


def weighted(module):
    """The layers that `randomised` counts: convolutions and linear maps."""
    return [part for part in module.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]


def rank_correlation(R, Q):
    """Spearman's rank correlation between the absolute values of two maps, summed over channels: 1 where they agree.

    :param R, Q: (N, C, H, W) maps; C may differ
    :return: (N,) float64 in [-1, 1]; NaN where a map is constant
    :raises InputError: shapes that do not match
    """
    R, Q = (torch.as_tensor(M).detach().cpu().abs() for M in (R, Q))
    if R.ndim != 4 or Q.ndim != 4 or R.shape[::2] != Q.shape[::2] or R.shape[3] != Q.shape[3]:
        raise InputError(
            f"two maps (N, C, H, W) of the same N, H and W are needed, got {tuple(R.shape)}, {tuple(Q.shape)}"
        )
    pairs = zip(R.sum(1).flatten(1).numpy(), Q.sum(1).flatten(1).numpy(), strict=True)
    return torch.tensor([spearmanr(r, q).statistic if np.ptp(r) and np.ptp(q) else np.nan for r, q in pairs])
