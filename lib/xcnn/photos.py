"""Photographs that may be redistributed, from scikit-image and scikit-learn; credits in data/SOURCES.md."""

import numpy as np
from PIL import Image

from .errors import InputError, nearest

NAMES = ("cat and coffee", "cat", "coffee", "rocket", "temple")


def load(name):
    """A photograph.

    :param name: one of `NAMES`; "cat and coffee" is two photographs in one, composed here
    :return: PIL RGB image
    :raises InputError: unknown name
    """
    from skimage import data
    from sklearn.datasets import load_sample_image

    if name == "cat and coffee":
        return _one_above_the_other(load("cat"), load("coffee"))
    sources = {"cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket,
               "temple": lambda: load_sample_image("china.jpg")}  # fmt: skip
    if name not in sources:
        raise InputError(f"no photograph {name!r}; {nearest(name, NAMES)}")
    return Image.fromarray(np.asarray(sources[name]()))


def _one_above_the_other(top, bottom, side=448):
    """The middle of two pictures, one in each half of a square."""
    square = Image.new("RGB", (side, side))
    for k, picture in enumerate((top, bottom)):
        height = round(picture.height * side / picture.width)
        strip = picture.resize((side, height), Image.Resampling.LANCZOS)
        cut = (height - side // 2) // 2
        square.paste(strip.crop((0, cut, side, cut + side // 2)), (0, k * side // 2))
    return square


def to_rgb(image):
    """Any picture as an 8-bit RGB PIL image; 16-bit greys are scaled, not clipped, transparency goes onto white.

    :raises InputError: for something that is no picture
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"an image array must be (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"expected a PIL image or an (H, W, 3) uint8 array, got {type(image).__name__}"
        )
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image, np.float64)
        if not np.isfinite(grey).all():
            raise InputError("the image holds NaN or infinite values; repair it or leave it out")
        top = 65535 if grey.max() > 255 else 255
        image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
