"""Measures of where a map lies, given the true mask of an object.

Whether the map is to be believed is another question: `sanity.py`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, label

from .errors import InputError, whole_number

PATCHES = 7  # along each side, of the control with random patches
ROUNDING = 1e-9  # 50 * 1.1 is a little over 55 in binary, and must not become 56 pixels


def energy_concentration(R, mask, dilate=0.2):
    """P = E / E_total: the share of a map's energy that lies on the object.

    The energy E is the sum of |R M|^2 over pixels and channels. Source: Kamenicky 2021. Computed in
    float64 after division by max |R|, since maps of deep networks overflow float32 when squared.

    :param R: (N, C, H, W) map of any scale
    :param mask: (N, H, W) or (H, W) bool, True on the object
    :param dilate: the mask grows evenly until its area has grown by this fraction; 0: not at all
    :return: (N,) float64 in [0, 1]; NaN where a map has no energy at all
    :raises InputError: shapes that do not match, a mask that is not bool, NaN or infinity in R

    >>> R = torch.tensor([[[[3.0, 0.0], [0.0, -4.0]]]])
    >>> mask = torch.tensor([[True, False], [False, False]])
    >>> xcnn.energy_concentration(R, mask, dilate=0)  # 9 / (9 + 16)
    tensor([0.3600], dtype=torch.float64)
    """
    R, masks = _fitting(R, mask)
    if dilate < 0:
        raise InputError(
            f"dilate is the fraction by which the mask's area grows, 0 or more, not {dilate}"
        )
    grown = torch.from_numpy(np.stack([dilated(mask, dilate) for mask in masks]))
    scaled = R / R.abs().amax((1, 2, 3), keepdim=True)  # 0 / 0 is NaN: no energy, no P
    energy = scaled.square().sum(1)
    return (energy * grown).sum((1, 2)) / energy.sum((1, 2))


def dilated(mask, fraction):
    """A mask with all pixels up to the distance at which its area has grown by a fraction.

    :param mask: (H, W) bool array
    :param fraction: 0 or more
    :return: (H, W) bool array

    >>> mask = np.array([[False, False, True, False, False]])
    >>> xcnn.evaluate.dilated(mask, 2).astype(int)  # its area grows by 2 times 1 pixel
    array([[0, 1, 1, 1, 0]])
    """
    wanted = int(np.ceil(mask.sum() * (1 + fraction) - ROUNDING))
    if not mask.any() or wanted == mask.sum():
        return mask.copy()
    if wanted >= mask.size:
        return np.ones_like(mask)
    distance = distance_transform_edt(~mask)
    return distance <= np.partition(distance, wanted - 1, axis=None)[wanted - 1]


def chance(mask, dilate=0.2):
    """The score of a uniform map: the share of the picture that the grown mask covers.

    :param mask: (N, H, W) or (H, W) bool
    :param dilate: as in `energy_concentration`
    :return: (N,) float64, N = 1 for a single mask
    :raises InputError: a mask of another shape, or one that is not bool

    >>> xcnn.evaluate.chance(np.eye(10, dtype=bool), dilate=0)
    tensor([0.1000], dtype=torch.float64)
    """
    mask = torch.as_tensor(mask).cpu()
    if mask.dtype != torch.bool or mask.ndim not in (2, 3):
        raise InputError(
            f"mask must be bool, (N, H, W) or (H, W), got {mask.dtype} {tuple(mask.shape)}"
        )
    masks = mask.view(-1, *mask.shape[-2:]).numpy()
    return torch.tensor([dilated(mask, dilate).mean() for mask in masks], dtype=torch.float64)


def pointing_game(R, mask, tolerance=15):
    """Whether the largest value of the map is on the object, or at most `tolerance` pixels away.

    Source: Zhang et al. 2018, arXiv 1608.00507, section 4.1 (15 pixels). Channels are summed first.
    A constant map has no largest value, and misses.

    :param R: (N, C, H, W) map
    :param mask: (N, H, W) or (H, W) bool
    :param tolerance: in pixels
    :return: (N,) bool
    :raises InputError: shapes that do not match

    >>> R = torch.eye(8)[None, None] * torch.arange(8)  # the largest value is at the lower right
    >>> mask = torch.eye(8) * torch.arange(8) == 4  # the object is 3 pixels up and 3 to the left
    >>> [xcnn.evaluate.pointing_game(R, mask, pixels).item() for pixels in (4, 5)]
    [False, True]
    """
    R, masks = _fitting(R, mask)
    hits = []
    for total, mask in zip(R.sum(1).numpy(), masks, strict=True):
        near = distance_transform_edt(~mask) <= tolerance if mask.any() else mask
        hits.append(bool(near.flat[total.argmax()]) and np.ptp(total) > 0)
    return torch.tensor(hits)


def box_iou(R, mask, threshold=0.15):
    """Localisation: the overlap of two boxes, intersection over union.

    One box is around the mask. The other is around the largest connected part of the map that is
    above this fraction of its maximum (Zhou et al. 2016, arXiv 1512.04150, section 3.2, with 0.2;
    Selvaraju et al. 2017 with 0.15).

    :param R: (N, C, H, W), summed over channels
    :param mask: (N, H, W) or (H, W) bool
    :param threshold: the fraction
    :return: (N,) float64 in [0, 1]; 0 where the map has no positive value, NaN where the mask is
        empty
    :raises InputError: shapes that do not match

    >>> mask = torch.ones(4, 8, dtype=torch.bool)
    >>> left_half = (torch.arange(8) < 4).float().expand(1, 1, 4, 8)
    >>> xcnn.evaluate.box_iou(left_half, mask)
    tensor([0.5000], dtype=torch.float64)
    """
    R, masks = _fitting(R, mask)
    overlaps = [
        _box_overlap(total, mask, threshold)
        for total, mask in zip(R.sum(1).numpy(), masks, strict=True)
    ]
    return torch.tensor(overlaps, dtype=torch.float64)


def controls(x, seed=0):
    """Maps that know nothing of a network: whoever cannot beat them has not shown much.

    "random pixels": uniform noise; "random patches": noise on 7 x 7 squares; "centre": a Gaussian
    around the middle, its standard deviation a quarter of the shorter side; "edges": how steep the
    picture is, the size of the gradient of its mean channel over rows and columns. None is
    negative.

    :param x: (N, C, H, W)
    :param seed: of the noise, another for each image; the caller's random state is left alone
    :return: dict: name -> (N, 1, H, W), the type of x

    >>> maps = xcnn.evaluate.controls(x)
    >>> list(maps), tuple(maps["edges"].shape)
    (['random pixels', 'random patches', 'centre', 'edges'], (1, 1, 128, 128))
    """
    whole_number("seed", seed, least=0)
    if not isinstance(x, torch.Tensor) or x.ndim != 4:
        raise InputError(
            "x must be a tensor of shape (N, C, H, W); net.preprocess(image) makes one"
        )
    x = x.detach()
    size = x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    form = {"generator": generator, "dtype": torch.float32}  # whatever the caller's default is
    pixels = torch.rand(len(x), 1, *size, **form)
    patches = torch.rand(len(x), 1, PATCHES, PATCHES, **form)
    return {
        "random pixels": pixels.to(x),
        "random patches": F.interpolate(patches, size, mode="nearest-exact").to(x),
        "centre": _centre(size).expand(len(x), 1, -1, -1).to(x),
        "edges": _edges(x),
    }


def _centre(size):
    """A Gaussian around the middle, (H, W), 1 at its height."""
    sigma = min(size) / 4
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in size)
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))


def _edges(x):
    """The steepness of the pictures' mean channel, (N, 1, H, W)."""
    grey = x.mean(1, keepdim=True)
    slopes = [
        torch.gradient(grey, dim=dim)[0] if grey.shape[dim] > 1 else torch.zeros_like(grey)
        for dim in (2, 3)
    ]
    return sum(slope.square() for slope in slopes).sqrt()


def _box_overlap(total, mask, threshold):
    """`box_iou` of one map and one mask, (H, W) each."""
    if not mask.any():
        return np.nan
    if total.max() <= 0:
        return 0.0
    parts, _ = label(total > threshold * total.max())
    sizes = np.bincount(parts.flat)[1:]  # part 0 is what lies below the threshold
    if not len(sizes):
        return 0.0
    return _overlap(_box(mask), _box(parts == 1 + sizes.argmax()))


def _box(mask):
    """First and last row, first and last column; the last ones are not included."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _overlap(box, other):
    """Intersection over union of two boxes."""
    height = min(box[1], other[1]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[2], other[2])
    common = max(height, 0) * max(width, 0)
    return common / (_area(box) + _area(other) - common)


def _area(box):
    top, bottom, left, right = box
    return (bottom - top) * (right - left)


def _fitting(R, mask):
    """The map as float64 (N, C, H, W), and a mask (H, W) bool for each of its pictures.

    :raises InputError: shapes that do not match, a mask that is not bool, NaN or infinity in R
    """
    R = _tensor(R, float).double()
    mask = _tensor(mask)
    if R.ndim != 4:
        raise InputError(f"R must have shape (N, C, H, W), got {tuple(R.shape)}")
    if mask.dtype != torch.bool:
        raise InputError(f"mask must be bool, got {mask.dtype}; write mask > 0")
    if mask.shape not in (R.shape[2:], (len(R), *R.shape[2:])):
        raise InputError(
            f"mask {tuple(mask.shape)} does not fit R {tuple(R.shape)}; "
            "it must be (N, H, W) or (H, W)"
        )
    if not torch.isfinite(R).all():
        raise InputError(
            "R holds NaN or infinite values; "
            "leave this map out, or explain in float32 if it is half precision"
        )
    return R, mask.expand(len(R), *R.shape[2:]).numpy()


def _tensor(values, dtype=None):
    """A tensor or array as a tensor on the CPU: some devices have no float64."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    # a copy: torch takes no array that is flipped, and warns of one that is read-only
    return torch.from_numpy(np.array(values, dtype))
