"""Pictures of maps: positive ones run from dark to bright, signed ones diverge from 0. Safe for the colour-blind."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image

POSITIVE, SIGNED = "inferno", "RdBu_r"


def as_map(R):
    """One map R as an (H, W) array: tensors (1, H, W) or (1, 1, H, W) lose their 1s, colours are summed."""
    R = R.detach().cpu().numpy() if isinstance(R, torch.Tensor) else np.asarray(R)
    R = R.reshape(R.shape[-3:]) if R.ndim > 3 else R
    return R.sum(0) if R.ndim == 3 else R


def colours(R, limit=None, signed=None):
    """A map as colours and their opacity.

    :param R: (H, W) map
    :param limit: the value shown at full strength; None: max |R|
    :param signed: diverge from 0; None: where R has negative values
    :return: RGB (H, W, 3) in [0, 1], opacity (H, W) in [0, 1]; a map of zeros is wholly transparent
    """
    limit = float(np.abs(R).max()) if limit is None else limit
    strength = np.clip(R / limit, -1, 1) if limit > 0 else np.zeros_like(R)
    if (R < 0).any() if signed is None else signed:
        return colormaps[SIGNED]((strength + 1) / 2)[..., :3], np.abs(strength) ** 0.7
    strength = np.maximum(strength, 0)
    return colormaps[POSITIVE](strength)[..., :3], 0.9 * strength**0.7


def overlay(picture, R, limit=None, signed=None):
    """A map laid over its picture, the picture in grey so that all colour belongs to the map.

    :param picture: PIL image or (H, W, 3) array in [0, 1]
    :param R: the map, same H and W
    :param limit, signed: see `colours`
    :return: PIL RGB image
    """
    grey = as_array(picture).mean(2, keepdims=True)
    rgb, opacity = colours(as_map(R), limit, signed)
    mixed = grey * (1 - opacity[..., None]) + rgb * opacity[..., None]
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def as_array(picture):
    """A picture, PIL image or array, as (H, W, 3) float in [0, 1]."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"), float) / 255
    return np.asarray(picture, float)


def in_colour(R, limit=None):
    """A map of pixels as a picture in its own colours: grey is 0.

    :param R: (3, H, W) map
    :param limit: the value shown at full strength; None: max |R|
    :return: (H, W, 3) in [0, 1]
    """
    R = torch.as_tensor(R).detach().cpu().double()
    limit = R.abs().max().item() if limit is None else limit
    return (0.5 + (R / limit).clamp(-1, 1).nan_to_num() / 2).permute(1, 2, 0).numpy()


def row(*panels, **options):
    """Pictures side by side: a `grid` whose one row is made of these panels; options as in `grid`."""
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
    """
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=size, layout="constrained", squeeze=False
    )
    panels = [panel for panels in rows for panel in panels]
    if signed is None:
        signed = any((as_map(p[2]) < 0).any() for p in panels if len(p) > 2)
    for ax, (title, picture, *rest) in zip(axes.flat, panels, strict=True):
        ax.imshow(as_array(picture) if not rest else overlay(picture, rest[0], limit, signed))
        if len(rest) > 1:
            ax.contour(rest[1], [0.5], colors="#00d5a0", linewidths=1.4)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    if bar:
        scale = ScalarMappable(
            Normalize(-limit if signed else 0, limit), SIGNED if signed else POSITIVE
        )
        figure.colorbar(scale, ax=axes, label=bar, shrink=0.7, pad=0.015)
    plt.close(figure)  # the caller shows it; pyplot must not show it a second time
    return figure
