"""How good is a map? Measures that need a true mask."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from .contract import InputError


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
