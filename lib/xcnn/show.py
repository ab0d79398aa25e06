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

POSITIVE = "inferno"
SIGNED = "RdBu_r"
OPACITY_POWER = 0.7  # below 1, so that weak values of a map can still be seen
POSITIVE_OPACITY = 0.9  # of the strongest value, so that the picture shines through everywhere
OUTLINE_COLOUR = "#00d5a0"  # of masks; it occurs in neither scale


def as_map(R):
    """One map R as an (H, W) array.

    :param R: tensor or array (H, W), (C, H, W) or (1, C, H, W)
    :return: NumPy array (H, W), the channels summed

    >>> xcnn.show.as_map(torch.ones(1, 3, 2, 2))
    array([[3., 3.],
           [3., 3.]], dtype=float32)
    """
    R = R.detach().cpu().numpy() if isinstance(R, torch.Tensor) else np.asarray(R)
    R = R.reshape(R.shape[-3:]) if R.ndim > 3 else R
    return R.sum(0) if R.ndim == 3 else R


def colours(R, limit=None, signed=None):
    """A map as colours and their opacity.

    :param R: (H, W) map
    :param limit: the value shown at full strength; None: max |R|
    :param signed: diverge from 0; None: where R has negative values
    :return: RGB (H, W, 3) in [0, 1], opacity (H, W) in [0, 1]; a map of zeros is wholly transparent

    >>> rgb, opacity = xcnn.show.colours(np.array([[-1.0, 0.0, 1.0]]))
    >>> opacity.tolist()
    [[1.0, 0.0, 1.0]]
    >>> rgb[0].round(1).tolist()  # blue, nearly white, red
    [[0.0, 0.2, 0.4], [1.0, 1.0, 1.0], [0.4, 0.0, 0.1]]
    """
    limit = float(np.abs(R).max()) if limit is None else limit
    strength = np.clip(R / limit, -1, 1) if limit > 0 else np.zeros_like(R)
    if (R < 0).any() if signed is None else signed:
        return colormaps[SIGNED]((strength + 1) / 2)[..., :3], np.abs(strength) ** OPACITY_POWER
    strength = np.maximum(strength, 0)
    return colormaps[POSITIVE](strength)[..., :3], POSITIVE_OPACITY * strength**OPACITY_POWER


def overlay(picture, R, limit=None, signed=None):
    """A map laid over its picture, the picture in grey so that all colour belongs to the map.

    :param picture: PIL image or (H, W, 3) array in [0, 1]
    :param R: the map, same H and W
    :param limit, signed: see `colours`
    :return: PIL RGB image

    >>> grey = np.full((1, 2, 3), 0.4)
    >>> laid = xcnn.show.overlay(grey, np.array([[0.0, -1.0]]))
    >>> laid.getpixel((0, 0)), laid.getpixel((1, 0))  # where the map is 0 the picture is seen
    ((102, 102, 102), (5, 48, 97))
    """
    grey = as_array(picture).mean(2, keepdims=True)
    rgb, opacity = colours(as_map(R), limit, signed)
    mixed = grey * (1 - opacity[..., None]) + rgb * opacity[..., None]
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def as_array(picture):
    """A picture, PIL image or array, as (H, W, 3) float in [0, 1].

    >>> array = xcnn.show.as_array(scene.image)
    >>> array.shape, bool(0 <= array.min() < array.max() <= 1)
    ((128, 128, 3), True)
    """
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"), float) / 255
    return np.asarray(picture, float)


def in_colour(R, limit=None):
    """A map of pixels as a picture in its own colours: grey is 0.

    :param R: (3, H, W) map
    :param limit: the value shown at full strength; None: max |R|
    :return: (H, W, 3) in [0, 1]

    >>> R = torch.zeros(3, 1, 2)
    >>> R[0, 0, 1] = 2  # red counts in the second pixel
    >>> xcnn.show.in_colour(R).tolist()
    [[[0.5, 0.5, 0.5], [1.0, 0.5, 0.5]]]
    """
    R = torch.as_tensor(R).detach().cpu().double()
    limit = R.abs().max().item() if limit is None else limit
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

    >>> R = xcnn.grad_cam(net, x, "clock")
    >>> panel = ("clock", scene.image, R, scene.mask("clock"))
    >>> len(xcnn.show.grid([[panel, panel], [panel, panel]], limit=1, bar="importance").axes)
    5
    """
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=size, layout="constrained", squeeze=False
    )
    panels = [panel for panels_of_row in rows for panel in panels_of_row]
    if signed is None:
        signed = any((as_map(panel[2]) < 0).any() for panel in panels if len(panel) > 2)
    for ax, panel in zip(axes.flat, panels, strict=True):
        _draw(ax, limit, signed, *panel)
    if bar:
        values = Normalize(-limit if signed else 0, limit)
        scale = ScalarMappable(values, SIGNED if signed else POSITIVE)
        figure.colorbar(scale, ax=axes, label=bar, shrink=0.7, pad=0.015)
    plt.close(figure)  # the caller shows it; pyplot must not show it a second time
    return figure


def _draw(ax, limit, signed, title, picture, R=None, mask=None):
    """Draw one panel of a grid."""
    ax.imshow(as_array(picture) if R is None else overlay(picture, R, limit, signed))
    if mask is not None:
        ax.contour(mask, [0.5], colors=OUTLINE_COLOUR, linewidths=1.4)
    ax.set_title(title, fontsize=9)
    ax.axis("off")
