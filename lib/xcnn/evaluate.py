"""Where does a map lie, given the true mask of an object? (Whether to believe it is another question: `sanity.py`.)"""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label

from .errors import InputError


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
    R, masks = _fitting(R, mask)
    if dilate < 0:
        raise InputError(
            f"dilate is the fraction by which the mask's area grows, 0 or more, not {dilate}"
        )
    grown = torch.from_numpy(np.stack([dilated(m, dilate) for m in masks]))
    energy = (
        (R / R.abs().amax((1, 2, 3), keepdim=True)).square().sum(1)
    )  # 0 / 0 = NaN: no energy, no verdict
    return (energy * grown).sum((1, 2)) / energy.sum((1, 2))


def dilated(mask, fraction):
    """The mask (H, W) bool, and all pixels up to the distance at which its area has grown by this fraction."""
    wanted = int(np.ceil(mask.sum() * (1 + fraction) - 1e-9))
    if not mask.any() or wanted == mask.sum():
        return mask.copy()
    if wanted >= mask.size:
        return np.ones_like(mask)
    distance = distance_transform_edt(~mask)
    return distance <= np.partition(distance, wanted - 1, axis=None)[wanted - 1]


def chance(mask, dilate=0.2):
    """What a map gets that knows nothing: the share of the picture that the grown mask covers.

    :param mask: (N, H, W) or (H, W) bool
    :param dilate: as in `energy_concentration`
    :return: (N,) float64, N = 1 for a single mask
    :raises InputError: a mask of another shape, or that is not bool
    """
    mask = torch.as_tensor(mask).cpu()
    if mask.dtype != torch.bool or mask.ndim not in (2, 3):
        raise InputError(
            f"mask must be bool, (N, H, W) or (H, W), got {mask.dtype} {tuple(mask.shape)}"
        )
    masks = mask.view(-1, *mask.shape[-2:]).numpy()
    return torch.tensor([dilated(m, dilate).mean() for m in masks], dtype=torch.float64)


def pointing_game(R, mask, tolerance=15):
    """Is the largest value of the map on the object, or at most `tolerance` pixels away?

    Source: Zhang et al. 2018, arXiv 1608.00507, section 4.1 (15 pixels). Channels are summed first. A map of one value
    has no largest, and misses.

    :param R: (N, C, H, W) map
    :param mask: (N, H, W) or (H, W) bool
    :param tolerance: in pixels
    :return: (N,) bool
    :raises InputError: shapes that do not match
    """
    R, masks = _fitting(R, mask)
    hits = []
    for total, m in zip(R.sum(1).numpy(), masks, strict=True):
        near = distance_transform_edt(~m) <= tolerance if m.any() else m
        hits.append(bool(near.flat[total.argmax()]) and np.ptp(total) > 0)
    return torch.tensor(hits)


def box_iou(R, mask, threshold=0.15):
    """Localisation: overlap of two boxes, intersection over union.

    One box is around the mask. The other is around the largest connected part of the map that is above this fraction
    of its maximum (Zhou et al. 2016, arXiv 1512.04150, section 3.2, with 0.2; Selvaraju et al. 2017 with 0.15).

    :param R: (N, C, H, W), summed over channels
    :param mask: (N, H, W) or (H, W) bool
    :param threshold: the fraction
    :return: (N,) float64 in [0, 1]; 0 where the map has no positive value, NaN where the mask is empty
    :raises InputError: shapes that do not match
    """
    R, masks = _fitting(R, mask)
    found = []
    for total, m in zip(R.sum(1).numpy(), masks, strict=True):
        parts = (
            label(total > threshold * total.max())[0] if total.max() > 0 else np.zeros(m.shape, int)
        )
        sizes = np.bincount(parts.flat)[1:]
        found.append(
            _overlap(_box(m), _box(parts == 1 + sizes.argmax())) if len(sizes) and m.any() else 0.0
        )
        found[-1] = found[-1] if m.any() else np.nan
    return torch.tensor(found, dtype=torch.float64)


def _box(m):
    """First and last row and column, the last ones not included."""
    rows, columns = np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _overlap(a, b):
    height, width = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    common = max(height, 0) * max(width, 0)
    area = lambda box: (box[1] - box[0]) * (box[3] - box[2])  # noqa: E731
    return common / (area(a) + area(b) - common)


def _fitting(R, mask):
    """The map as float64 (N, C, H, W), and a mask (H, W) bool for each of its pictures.

    :raises InputError: shapes that do not match, a mask that is not bool, NaN or infinity in R
    """
    R, mask = torch.as_tensor(R).detach().double().cpu(), torch.as_tensor(mask).cpu()
    if R.ndim != 4:
        raise InputError(f"R must have shape (N, C, H, W), got {tuple(R.shape)}")
    if mask.dtype != torch.bool:
        raise InputError(f"mask must be bool, got {mask.dtype}; write mask > 0")
    if mask.shape not in (R.shape[2:], (len(R), *R.shape[2:])):
        raise InputError(
            f"mask {tuple(mask.shape)} does not fit R {tuple(R.shape)}; it must be (N, H, W) or (H, W)"
        )
    if not torch.isfinite(R).all():
        raise InputError(
            "R holds NaN or infinite values; leave this map out, or explain in float32 if it is half precision"
        )
    return R, mask.expand(len(R), *R.shape[2:]).numpy()
