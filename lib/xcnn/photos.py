"""Photographs that may be redistributed, from scikit-image and scikit-learn; credits in data/SOURCES.md."""

import numpy as np
from PIL import Image

from .contract import InputError, nearest

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
