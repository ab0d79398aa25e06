"""Pictures of maps: positive maps run from dark to bright, signed ones diverge from 0.

Both colour scales are safe for the colour-blind.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image

from .errors import InputError
from .photos import pixels, to_rgb

POSITIVE = "inferno"
SIGNED = "RdBu_r"
OPACITY_POWER = 0.7  # below 1, so that weak values of a map can still be seen
POSITIVE_OPACITY = 0.9  # of the strongest value, so that the picture shines through everywhere
OUTLINE_COLOUR = "#00d5a0"  # of masks; it occurs in neither scale


def as_map(R):
    """One map R as an (H, W) array.

    :param R: tensor or array (H, W), (C, H, W) or (1, C, H, W), of any type and any C
    :return: NumPy array (H, W), the channels summed; float32, or float64 for other numbers
    :raises InputError: several maps, another shape, NaN or infinity

    >>> xcnn.show.as_map(torch.ones(1, 3, 2, 2))
    array([[3., 3.],
           [3., 3.]], dtype=float32)
    """
    return _channels(R).sum(0)


def _channels(R):
    """One map as floats (C, H, W)."""
    R = _floats(R)
    if R.ndim == 4 and len(R) != 1:
        raise InputError(f"R holds {len(R)} maps, {R.shape}; show one of them: R[0]")
    R = R[0] if R.ndim == 4 else R
    R = R[None] if R.ndim == 2 else R
    if R.ndim != 3 or not R.size:
        raise InputError(f"a map is (H, W), (C, H, W) or (1, C, H, W), got {R.shape}")
    if not np.isfinite(R).all():
        raise InputError(
            "the map holds NaN or infinite values; leave it out, divide it by a number that is "
            "not 0, or explain in float32 if it is half precision"
        )
    return R


def _floats(values):
    """A tensor or array as an array of floats that NumPy computes with as they are."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # unknown to NumPy
        values = values.numpy()
    values = np.asarray(values)
    if values.dtype == np.float16:  # its sums overflow
        return values.astype(np.float32)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def colours(R, limit=None, signed=None):
    """A map as colours and their opacity.

    :param R: map, see `as_map`
    :param limit: the value shown at full strength; None: max |R|
    :param signed: diverge from 0; None: where R has negative values
    :return: RGB (H, W, 3) in [0, 1], opacity (H, W) in [0, 1]; a map of zeros is wholly transparent
    :raises InputError: see `as_map`

    >>> rgb, opacity = xcnn.show.colours(np.array([[-1.0, 0.0, 1.0]]))
    >>> opacity.tolist()
    [[1.0, 0.0, 1.0]]
    >>> rgb[0].round(1).tolist()  # blue, nearly white, red
    [[0.0, 0.2, 0.4], [1.0, 1.0, 1.0], [0.4, 0.0, 0.1]]
    """
    R = as_map(R)
    limit = _limit(R, limit)
    strength = np.clip(R / limit, -1, 1) if limit > 0 else np.zeros_like(R)
    if (R < 0).any() if signed is None else signed:
        return colormaps[SIGNED]((strength + 1) / 2)[..., :3], np.abs(strength) ** OPACITY_POWER
    strength = np.maximum(strength, 0)
    return colormaps[POSITIVE](strength)[..., :3], POSITIVE_OPACITY * strength**OPACITY_POWER


def _limit(R, limit):
    """The value shown at full strength."""
    limit = float(np.abs(R).max() if limit is None else limit)
    if not 0 <= limit < np.inf:
        raise InputError(f"limit is the value shown at full strength, 0 or more, not {limit}")
    return limit


def overlay(picture, R, limit=None, signed=None):
    """A map laid over its picture, the picture in grey so that all colour belongs to the map.

    :param picture: see `as_array`
    :param R: the map, same H and W, see `as_map`
    :param limit, signed: see `colours`
    :return: PIL RGB image
    :raises InputError: see `as_map` and `as_array`; a map of another height or width

    >>> grey = np.full((1, 2, 3), 0.4)
    >>> laid = xcnn.show.overlay(grey, np.array([[0.0, -1.0]]))
    >>> laid.getpixel((0, 0)), laid.getpixel((1, 0))  # where the map is 0 the picture is seen
    ((102, 102, 102), (5, 48, 97))
    """
    array = as_array(picture)
    R = as_map(R)
    _check_size("map", R, array)
    grey = array.mean(2, keepdims=True)
    rgb, opacity = colours(R, limit, signed)
    mixed = grey * (1 - opacity[..., None]) + rgb * opacity[..., None]
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def _check_size(name, values, array):
    """Refuse a map or mask (H, W) that does not lie over its picture (H, W, 3)."""
    if values.shape != array.shape[:2]:
        sizes = ["{} x {}".format(*shape[:2]) for shape in (values.shape, array.shape)]
        raise InputError(
            f"the {name} has {sizes[0]} pixels and the picture {sizes[1]} (height x width), so one "
            "does not lie over the other; of a photograph that net.preprocess resized and cropped, "
            "show what the network saw: net.picture(x)[0]"
        )


def as_array(picture):
    """A picture as (H, W, 3) float in [0, 1].

    :param picture: PIL image of any mode; array or tensor (H, W), (H, W, 1), (H, W, 3) or
        (H, W, 4), or a batch of one, of bools, whole numbers as in `photos.pixels`, or floats in
        [0, 1]
    :return: (H, W, 3) float64
    :raises InputError: something else

    >>> array = xcnn.show.as_array(scene.image)
    >>> array.shape, bool(0 <= array.min() < array.max() <= 1)
    ((128, 128, 3), True)
    """
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(picture), float) / 255
    if isinstance(picture, torch.Tensor | np.ndarray) and picture.ndim == 4:
        picture = _only_one(picture)
    return pixels(picture, brightest=1)


def _only_one(pictures):
    """The picture of a batch of one."""
    if len(pictures) != 1:
        raise InputError(f"there are {len(pictures)} pictures; show one of them: picture[0]")
    return pictures[0]


def in_colour(R, limit=None):
    """A map of pixels as a picture in its own colours: grey is 0.

    :param R: (3, H, W) map, see `as_map`. Where it has not 3 channels their sum is shown, in grey:
        brighter above 0, darker below
    :param limit: the value shown at full strength; None: the largest of those that are shown
    :return: (H, W, 3) in [0, 1]
    :raises InputError: see `as_map`

    >>> R = torch.zeros(3, 1, 2)
    >>> R[0, 0, 1] = 2  # red counts in the second pixel
    >>> xcnn.show.in_colour(R).tolist()
    [[[0.5, 0.5, 0.5], [1.0, 0.5, 0.5]]]
    """
    R = torch.from_numpy(_channels(R).astype(float))
    R = R if len(R) == 3 else R.sum(0).expand(3, -1, -1)
    limit = _limit(R.numpy(), limit)
    return (0.5 + (R / limit).clamp(-1, 1).nan_to_num() / 2).permute(1, 2, 0).numpy()


def row(*panels, **options):
    """Pictures side by side: a `grid` with one row.

    :param panels: (title, picture), (title, picture, R) or (title, picture, R, mask)
    :param options: as in `grid`
    :return: matplotlib Figure

    >>> R = xcnn.grad_cam(net, x, "clock")
    >>> figure = xcnn.show.row(("scene", scene.image), ("clock", scene.image, R))
    >>> [ax.get_title() for ax in figure.axes]
    ['scene', 'clock']
    """
    return grid([panels], **options)


def grid(rows, limit=None, bar=None, size=(7.2, 3.0), signed=None):
    """Rows of pictures, some with a map over them.

    :param rows: lists of panels, equally long; a panel is (title, picture), (title, picture, R) or
        (title, picture, R, mask). A mask is drawn as an outline
    :param limit: the value shown at full strength in all maps; None: each map's own maximum
    :param bar: label of a colour bar for the maps; needs `limit`
    :param size: of the figure in inches
    :param signed: all maps diverge from 0; None: where one of them has negative values
    :return: matplotlib Figure
    :raises InputError: rows that are not equally long; something else than panels; see `overlay`

    >>> R = xcnn.grad_cam(net, x, "clock")
    >>> panel = ("clock", scene.image, R, scene.mask("clock"))
    >>> len(xcnn.show.grid([[panel, panel], [panel, panel]], limit=1, bar="importance").axes)
    5
    """
    rows = [list(panels_of_row) for panels_of_row in rows]
    panels = _checked(rows)
    if bar and limit is None:
        raise InputError("a colour bar needs the value that all maps share: limit=")
    if signed is None:
        signed = any((as_map(panel[2]) < 0).any() for panel in panels if _has_map(panel))
    drawings = [_drawing(limit, signed, *panel) for panel in panels]  # it may fail, and no figure
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=size, layout="constrained", squeeze=False
    )
    for ax, drawing in zip(axes.flat, drawings, strict=True):
        _draw(ax, *drawing)
    if bar:
        values = Normalize(-limit if signed else 0, limit)
        scale = ScalarMappable(values, SIGNED if signed else POSITIVE)
        figure.colorbar(scale, ax=axes, label=bar, shrink=0.7, pad=0.015)
    plt.close(figure)  # the caller shows it; pyplot must not show it a second time
    return figure


def _checked(rows):
    """The panels of all rows.

    :raises InputError: rows that are not equally long, something that is not a panel
    """
    lengths = [len(row) for row in rows]
    if not any(lengths) or len(set(lengths)) > 1:
        raise InputError(
            f"a grid needs rows of equally many panels, one or more; these have {lengths}"
        )
    panels = [panel for row in rows for panel in row]
    for panel in panels:
        if not isinstance(panel, tuple | list) or not 2 <= len(panel) <= 4:
            raise InputError(
                "a panel is (title, picture), (title, picture, R) or (title, picture, R, mask), "
                f"and not {repr(panel)[:60]}"
            )
    return panels


def _has_map(panel):
    return len(panel) > 2 and panel[2] is not None


def _drawing(limit, signed, title, picture, R=None, mask=None):
    """What a panel shows: its title, the picture with the map, and the mask."""
    array = as_array(picture)
    if mask is not None:
        mask = _outlined(mask)
        _check_size("mask", mask, array)
    shown = array if R is None else overlay(array, R, limit, signed)
    return title, shown, mask


def _outlined(mask):
    """A mask as an (H, W) array that passes 0.5 at its outline."""
    mask = _channels(mask)
    if len(mask) != 1:
        raise InputError(f"the mask holds {len(mask)} masks; draw one of them: mask[0]")
    return mask[0] if mask.max() <= 1 else (mask[0] > 0).astype(float)  # 255 is True, too


def _draw(ax, title, shown, mask):
    """Draw one panel of a grid."""
    ax.imshow(shown)
    if mask is not None:
        ax.contour(mask, [0.5], colors=OUTLINE_COLOUR, linewidths=1.4)
    ax.set_title(title, fontsize=9)
    ax.axis("off")
