"""Photographs that may be redistributed, and any picture as 8-bit RGB.

The photographs come with scikit-image and scikit-learn; credits are in data/SOURCES.md.
"""

import numpy as np
from PIL import Image

from .errors import InputError, nearest

NAMES = ("cat and coffee", "cat", "coffee", "rocket", "temple")
MAX_8_BIT = 255
MAX_16_BIT = 65535


def load(name):
    """A photograph.

    :param name: one of `NAMES`; "cat and coffee" is two photographs in one, composed here
    :return: PIL RGB image
    :raises InputError: unknown name

    >>> photo = xcnn.photos.load("coffee")
    >>> photo.mode, photo.size
    ('RGB', (600, 400))
    """
    from skimage import data
    from sklearn.datasets import load_sample_image

    if name not in NAMES:
        raise InputError(f"no photograph {name!r}; {nearest(name, NAMES)}")
    if name == "cat and coffee":
        return _one_above_the_other(load("cat"), load("coffee"))
    if name == "temple":
        return Image.fromarray(load_sample_image("china.jpg"))
    sources = {"cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}
    return Image.fromarray(np.asarray(sources[name]()))


def _one_above_the_other(top, bottom, side=448):
    """The middle of two pictures, one in each half of a square."""
    square = Image.new("RGB", (side, side))
    half = side // 2
    for k, picture in enumerate((top, bottom)):
        height = round(picture.height * side / picture.width)
        strip = picture.resize((side, height), Image.Resampling.LANCZOS)
        cut = (height - half) // 2
        square.paste(strip.crop((0, cut, side, cut + half)), (0, k * half))
    return square


def to_rgb(image):
    """Any picture as an 8-bit RGB PIL image.

    Greys of 16 bits are scaled, not clipped; transparent pixels become white.

    :param image: PIL image of any mode, or an (H, W, 3) uint8 array
    :return: PIL RGB image
    :raises InputError: for something that is not a picture

    >>> red = np.zeros((2, 4, 3), np.uint8) + np.uint8([255, 0, 0])
    >>> picture = xcnn.photos.to_rgb(red)
    >>> picture.size, picture.getpixel((0, 0))
    ((4, 2), (255, 0, 0))
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
        image = _to_8_bit(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(image):
    """A grey image of integers or floats, with white at 255 or, for brighter ones, at 65535."""
    grey = np.asarray(image, np.float64)
    if not np.isfinite(grey).all():
        raise InputError("the image holds NaN or infinite values; repair it or leave it out")
    white = MAX_16_BIT if grey.max() > MAX_8_BIT else MAX_8_BIT
    return Image.fromarray((np.clip(grey / white, 0, 1) * MAX_8_BIT).round().astype(np.uint8))
