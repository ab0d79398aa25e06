"""One thing about a picture is changed, and all else stays: knobs of scenes and of photographs.

`SCENES` and `PHOTOGRAPHS` name the knobs and their settings; `BASE` is where each one begins.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from . import scenes
from .errors import one_of

BASE = {"scale": 0.5, "view": 0, "light": 1, "occlusion": 0, "noise": 0, "patch": 0, "padding": 1}
SCENES = {
    "scale": (0.15, 0.2, 0.3, 0.5, 0.7, 1.0),
    "view": (0, 20, 35, 50, 65, 75),
    "light": (0.3, 0.5, 0.7, 1, 1.6, 2.5),
    "occlusion": (0, 0.2, 0.4, 0.6, 0.75, 0.9),
    "noise": (0, 0.1, 0.2, 0.3, 0.4, 0.7),
}
PHOTOGRAPHS = {
    "light": (0.3, 0.5, 0.7, 1, 1.6, 2.5),
    "patch": (0, 0.2, 0.4, 0.6, 0.75, 0.9),
    "padding": (1, 0.8, 0.6, 0.45, 0.3, 0.2),
}
RENDERED = ("scale", "view", "light", "occlusion")  # those that the generator of scenes knows
MEAN_COLOUR = (124, 116, 104)  # of ImageNet's pictures


def scene(seed, label, knob, value):
    """A scene of one object, with one knob turned and the others at `BASE`.

    scale: longest side of the object, as a share of the picture. view: turn in degrees. light:
    exposure. occlusion: the share of the object that something hides. noise: the share of coloured
    noise that is mixed into everything but the object.

    :param seed: of the scene
    :param label: class of the object
    :param knob: a key of `SCENES`
    :param value: a number
    :return: `Scene`
    :raises InputError: unknown knob, class or value, see `scenes.render`

    >>> small, large = (xcnn.knobs.scene(0, "bus", "scale", value) for value in (0.3, 0.7))
    >>> bool(small.masks.sum() < large.masks.sum())
    True
    """
    one_of("knob", knob, SCENES)
    settings = {name: BASE[name] for name in RENDERED} | {knob: value}
    noise = settings.pop("noise", BASE["noise"])
    drawn = scenes.render(seed, classes=[label], **settings)
    return replace(drawn, image=_with_noise(drawn.image, drawn.masks[0], noise)) if noise else drawn


def _with_noise(image, mask, share):
    """The picture with noise mixed into everything but the object."""
    values = np.asarray(image, float)
    grain = np.random.default_rng(0).uniform(0, 255, values.shape)
    mixed = np.where(mask[..., None], values, (1 - share) * values + share * grain)
    return Image.fromarray(mixed.round().astype(np.uint8))


def photograph(image, mask, knob, value):
    """A photograph with one knob turned, and what is still to be seen of the object.

    light: all values times a number. patch: the share of the object that a grey patch hides, from
    the left. padding: the picture shrunk to this share of its side, on grey.

    :param image: PIL image
    :param mask: (H, W) bool, of the object
    :param knob: a key of `PHOTOGRAPHS`
    :param value: a number
    :return: PIL image, (H, W) bool mask
    :raises InputError: unknown knob

    >>> mask = scene.mask("clock")
    >>> image, seen = xcnn.knobs.photograph(scene.image, mask, "patch", 0.6)
    >>> round(float(seen.sum() / mask.sum()), 1)
    0.4
    """
    one_of("knob", knob, PHOTOGRAPHS)
    turned = {"light": _lit, "patch": _covered, "padding": _padded}[knob]
    return turned(image.convert("RGB"), mask, value)


def _lit(image, mask, factor):
    """Brighter or darker."""
    values = np.asarray(image, float) * factor
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)), mask


def _covered(image, mask, share):
    """A grey patch over the columns that hold this share of the object, from the left."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not share or not len(columns):
        return image, mask
    so_far = mask.sum(0).cumsum()
    right = np.searchsorted(so_far, share * mask.sum()) + 1
    place = np.s_[rows[0] : rows[-1] + 1, columns[0] : right]
    values, seen = np.array(image), mask.copy()
    values[place] = MEAN_COLOUR
    seen[place] = False
    return Image.fromarray(values), seen


def _padded(image, mask, share):
    """Smaller, in the middle of a grey picture of the same size."""
    width, height = image.size
    size = max(1, round(width * share)), max(1, round(height * share))
    corner = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = Image.new("RGB", image.size, MEAN_COLOUR)
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), corner)
    seen = Image.new("1", image.size)
    seen.paste(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), corner)
    return canvas, np.asarray(seen)
