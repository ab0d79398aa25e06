"""Measures of a map against the truth: where an object lies, and what it did to the score.

Whether the map depends on the network, and the network on it, is another question: `sanity.py`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, label

from .engine.contract import isolated, run
from .engine.fast import run_many
from .engine.target import is_function, repeated, settled, target_values
from .engine.wrappers import SCORES
from .errors import InputError, one_of, whole_number
from .methods import CHANGE, SIGNS
from .networks import ready
from .packages import imported

PATCHES = 7  # along each side, of the control with random patches
ROUNDING = 1e-9  # 50 * 1.1 is a little over 55 in binary, and must not become 56 pixels


def evidence(R, method, signed=False):
    """What a map says for the class, one value a place: the same question to all methods.

    E = max(0, sum of R over channels) where a positive value of the method speaks for the class,
    and E = sqrt(sum of R^2 over channels) where the sign is a direction, in which the pixel should
    change: gradient, SmoothGrad, deconvnet, guided backprop, Guided Grad-CAM. To square a map whose
    sign has a meaning would count what speaks against the class as if it spoke for it.

    :param R: (N, C, H, W), a map of that method
    :param method: its name, see `METHODS`
    :param signed: keep what speaks against the class, too, where the method can say it
    :return: (N, 1, H, W), the type of R
    :raises InputError: unknown method, a map of another form

    >>> R = torch.tensor([[[[3.0, -1.0]], [[-1.0, -1.0]]]])  # two channels, two pixels
    >>> xcnn.evaluate.evidence(R, "lrp").tolist(), xcnn.evaluate.evidence(R, "lrp", True).tolist()
    ([[[[2.0, 0.0]]]], [[[[2.0, -2.0]]]])
    """
    one_of("method", method, SIGNS)
    R = torch.as_tensor(R)
    if R.ndim != 4:
        raise InputError(f"R must have shape (N, C, H, W), got {tuple(R.shape)}")
    if SIGNS[method] == CHANGE:
        height = R.abs().amax((1, 2, 3), keepdim=True)
        scaled = R / height.clamp(min=torch.finfo(R.dtype).tiny)  # squares overflow in deep nets
        return height * scaled.norm(dim=1, keepdim=True)
    total = R.sum(1, keepdim=True)
    return total if signed else total.relu()


def energy_concentration(R, mask, dilate=0.2):
    """P = E / E_total: the share of a map's energy that lies on the object.

    The energy E is the sum of |R M|^2 over pixels and channels. Source: Kamenicky 2021. Near
    relatives, with sums instead of squares: the energy-based pointing game (Wang et al. 2020, arXiv
    1910.01279), the inside-total ratio (Kohlbrenner et al. 2020, arXiv 1910.09840) and relevance
    mass accuracy (Arras et al. 2022, arXiv 2003.07258). Computed in float64 after division by
    max |R|, since maps of deep networks overflow float32 when squared.

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


def gain(P, chance):
    """G = (P - P0) / (1 - P0): the share of what chance left open.

    :param P: what maps scored, numbers in [0, 1], an array or tensor
    :param chance: P0, what a uniform map scores there, see `chance`
    :return: array or tensor: 1 at best, 0 at chance, below 0 where a map does worse; NaN where P0
        is 1

    >>> xcnn.evaluate.gain(np.array([0.2, 0.6, 1.0]), 0.2).round(6)
    array([0. , 0.5, 1. ])
    """
    P, chance = (v if isinstance(v, torch.Tensor) else np.asarray(v, float) for v in (P, chance))
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return (P - chance) / (1 - chance)


def relevance_mass_accuracy(R, mask):
    """The share of what speaks for the class that lies on the object: P without the squares.

    Source: Arras et al. 2022, arXiv 2003.07258. Channels are summed first, and what is
    negative then does not count.

    :param R: (N, C, H, W) map
    :param mask: (N, H, W) or (H, W) bool
    :return: (N,) float64 in [0, 1]; NaN where nothing is positive
    :raises InputError: shapes that do not match

    >>> R = torch.tensor([[[[3.0, -2.0, 1.0]]]])
    >>> xcnn.evaluate.relevance_mass_accuracy(R, torch.tensor([[True, True, False]]))  # 3 / (3 + 1)
    tensor([0.7500], dtype=torch.float64)
    """
    R, masks = _fitting(R, mask)
    mass = R.sum(1).relu()
    return (mass * torch.from_numpy(masks)).sum((1, 2)) / mass.sum((1, 2))


def relevance_rank_accuracy(R, mask):
    """The share of the object among the K strongest pixels, K the object's size.

    Source: Arras et al. 2022, arXiv 2003.07258. Channels are summed first. Of pixels
    that are equally strong each counts in part, so a constant map scores as chance does.

    :param R: (N, C, H, W) map
    :param mask: (N, H, W) or (H, W) bool
    :return: (N,) float64 in [0, 1]; NaN where the mask is empty
    :raises InputError: shapes that do not match

    >>> R = torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]])
    >>> xcnn.evaluate.relevance_rank_accuracy(R, torch.tensor([[True, False, True, False]]))
    tensor([0.5000], dtype=torch.float64)
    """
    R, masks = _fitting(R, mask)
    shares = [_rank_accuracy(*pair) for pair in zip(R.sum(1).numpy(), masks, strict=True)]
    return torch.tensor(shares, dtype=torch.float64)


def _rank_accuracy(total, mask):
    """`relevance_rank_accuracy` of one map and one mask, (H, W) each."""
    K = int(mask.sum())
    if K == 0:
        return np.nan
    limit = np.partition(total, -K, axis=None)[-K]  # the K-th strongest
    above = total > limit
    equal = total == limit
    share = (K - above.sum()) / equal.sum()
    return ((above & mask).sum() + share * (equal & mask).sum()) / K


def rival_energy(R, mask, rival, dilate=0.2):
    """The share of a map's energy on another object, of its energy on the two.

    A map that tells classes apart keeps away from the other object: 0 at best. A map that lights
    both alike scores by their areas. With two pictures side by side this is the grid pointing game.

    :param R: (N, C, H, W) map
    :param mask, rival: (N, H, W) or (H, W) bool, of the object asked for and of the other
    :param dilate: as in `energy_concentration`; where the two meet, a pixel counts for both
    :return: (N,) float64 in [0, 1]; NaN where a map has no energy on either
    :raises InputError: shapes that do not match

    >>> R = torch.tensor([[[[3.0, 1.0, 7.0]]]])
    >>> mask, rival = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    >>> xcnn.evaluate.rival_energy(R, mask, rival, dilate=0)  # 1 / (9 + 1)
    tensor([0.1000], dtype=torch.float64)
    """
    own, other = (energy_concentration(R, M, dilate) for M in (mask, rival))
    return other / (own + other)


# ---- what a thing did to the score


def causal_effects(net, x, without, target=None):
    """What the score loses when a thing is taken out of the picture: S_c(x) - S_c(x without it).

    An experiment, and so the truth to which a map's values can be held. It stays among pictures of
    the kind that the network knows where the picture without the thing is as natural as the whole
    one: `scenes.without_each`.

    :param net: as in `gradient`
    :param x: (1, C, H, W), the whole picture
    :param without: (n, C, H, W), the same picture without each of n things
    :param target: as in `gradient`; None: the top class of the whole picture
    :return: (n,) float64
    :raises InputError: see `ready`; a batch of whole pictures

    >>> whole, lesser = xcnn.scenes.without_each(10, count=2)  # broccoli and clock
    >>> without = torch.cat([net.preprocess(scene.image) for scene in lesser])
    >>> xcnn.evaluate.causal_effects(net, net.preprocess(whole.image), without, "clock").argmax()
    tensor(1)
    """
    net, x = ready(net, x, SCORES)
    _, without = ready(net, without, SCORES)
    if len(x) != 1:
        raise InputError(f"one whole picture is needed, (1, C, H, W), got {len(x)}")
    with isolated(grad=False):
        out = run(net.module, x)
        target = settled(out, target, net, 1)
        whole = target_values(out, target, net, 1)
        n = len(without)
        many = target if is_function(target) else repeated(target, n)
        lesser = target_values(run_many(net.module, without), many, net, n)
        return (whole - lesser).cpu().double()


def relevance_of(R, masks):
    """What a map says of each thing: the sum of its values over the thing's pixels.

    :param R: (1, C, H, W) map, best signed, see `evidence`
    :param masks: (n, H, W) bool, of each thing
    :return: (n,) float64
    :raises InputError: shapes that do not match

    >>> R = torch.tensor([[[[3.0, -1.0, 1.0]]]])
    >>> xcnn.evaluate.relevance_of(R, np.array([[[True, True, False]], [[False, False, True]]]))
    tensor([2., 1.], dtype=torch.float64)
    """
    masks = _tensor(masks)
    R, masks = _fitting(_tensor(R, float).expand(len(masks), -1, -1, -1), masks)
    return (R.sum(1) * torch.from_numpy(masks)).sum((1, 2))


def causal_agreement(relevance, effects):
    """Does what a map says of the things agree with what they did?

    signs: the mean of sign(relevance) sign(effect), 1 where all agree, -1 where none does, over the
    things that had an effect. ranks: Spearman's rank correlation over the things of the picture.
    Both are 0 on average for relevances drawn at random about 0.

    :param relevance: (n,), of each thing, see `relevance_of`
    :param effects: (n,), see `causal_effects`
    :return: (signs, ranks), two floats in [-1, 1]; signs is NaN where nothing had an effect, ranks
        where all relevances or all effects are equal
    :raises InputError: fewer than 2 things, or different numbers of them

    >>> xcnn.evaluate.causal_agreement([5.0, -1.0, 2.0], [9.0, -1.0, -3.0])
    (0.3333333333333333, 0.5)
    """
    relevance, effects = (_tensor(v, float).double().numpy() for v in (relevance, effects))
    if relevance.shape != effects.shape or relevance.ndim != 1 or len(effects) < 2:
        raise InputError(
            "two lists of the same length are needed, of two things or more, "
            f"got shapes {relevance.shape} and {effects.shape}"
        )
    acted = effects != 0
    agree = np.sign(relevance) * np.sign(effects)
    signs = agree[acted].mean() if acted.any() else np.nan
    if not np.ptp(relevance) or not np.ptp(effects):
        return float(signs), np.nan
    stats = imported("scipy.stats", "a rank correlation")
    return float(signs), float(stats.spearmanr(relevance, effects).statistic)


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
