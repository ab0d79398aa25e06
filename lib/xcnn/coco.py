"""Images with true masks: MS COCO, or any folder in its format (`scenes.write` makes one).

pycocotools reads the annotations. It hardly checks them, so this module does.
"""

import contextlib
import functools
import io
import json
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from .errors import InputError, nearest
from .paths import data_folder
from .photos import to_rgb

# What pycocotools raises for a file that does not hold annotations, and `_check` for bad records.
BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    OSError,
)
# kind of record -> the keys that it needs, with their types
RECORDS = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}
MAX_PIXELS = 2**28  # of an image; its mask has to fit into memory
MIN_COORDINATES = 6  # of a polygon: two points enclose nothing, and pycocotools reads four as a box


class Folder:
    """A COCO folder: one annotation file under `annotations/`, images anywhere beside it.

    :param folder: its path
    :param annotations: name of the annotation file; None: the only `instances*.json` there
    :raises InputError: no such folder, or no annotation file in it that can be read

    >>> _ = xcnn.scenes.write(folder, 2, seed=10, count=2)
    >>> list(xcnn.coco.Folder(folder).categories)[:3]
    ['banana', 'broccoli', 'bus']
    """

    def __init__(self, folder, annotations=None):
        self.folder = Path(folder)
        path = self._annotation_file(annotations)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                self.coco = COCO(str(path))
            _check(self.coco)
        except BROKEN as error:
            raise InputError(
                f"{path} is not a COCO annotation file ({error}); download it again"
            ) from error
        self.categories = {c["name"]: c["id"] for c in self.coco.dataset["categories"]}

    def ids(self, category=None):
        """Ids of the images that show a category.

        :param category: its name; None: all images
        :return: list of int, in ascending order
        :raises InputError: unknown category

        >>> _ = xcnn.scenes.write(folder, 2, seed=10, count=2)
        >>> coco = xcnn.coco.Folder(folder)
        >>> coco.ids(), coco.ids("broccoli")
        ([10, 11], [10])
        """
        category_ids = [] if category is None else [self._category(category)]
        return sorted(self.coco.getImgIds(catIds=category_ids))

    def image(self, image_id):
        """One image.

        :param image_id: one of `ids`
        :return: PIL RGB image
        :raises InputError: unknown id; file missing or broken

        >>> _ = xcnn.scenes.write(folder, 1, seed=10, count=2)
        >>> picture = xcnn.coco.Folder(folder).image(10)
        >>> bool((np.asarray(picture) == np.asarray(scene.image)).all())  # `scene` is render(10)
        True
        """
        path = self._image_file(image_id)
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
                image = to_rgb(opened)
        except Exception as error:  # a decoder raises all sorts of things where a file is broken
            raise InputError(
                f"{path} cannot be read as an image ({error}); download it again"
            ) from error
        record = self._record(image_id)
        size = record["width"], record["height"]
        if image.size != size:  # its masks would lie elsewhere
            raise InputError(
                f"{path} is {image.size}, the annotations say {size}: width, height; "
                "download both again"
            )
        return image

    def mask(self, image_id, category):
        """Where an image shows a category, all its instances together.

        :param image_id: one of `ids`
        :param category: its name
        :return: (H, W) bool
        :raises InputError: unknown id or category; outlines or run lengths that are not a mask

        >>> _ = xcnn.scenes.write(folder, 1, seed=10, count=2)
        >>> mask = xcnn.coco.Folder(folder).mask(10, "clock")
        >>> mask.shape, bool((mask == scene.mask("clock")).all())
        ((128, 128), True)
        """
        record = self._record(image_id)
        h, w = record["height"], record["width"]
        mask = np.zeros((h, w), bool)
        category_id = self._category(category)
        annotation_ids = self.coco.getAnnIds(imgIds=[image_id], catIds=[category_id])
        for annotation in self.coco.loadAnns(annotation_ids):
            segmentation = annotation.get("segmentation")
            if not _is_mask(segmentation, h, w):
                raise InputError(
                    f"annotation {annotation['id']} of image {image_id} in {self.folder} holds "
                    f"no outlines or run lengths of {h} x {w} pixels; "
                    "download the annotations again"
                )
            if isinstance(segmentation, list):
                segmentation = [p for p in segmentation if len(p) >= MIN_COORDINATES]
            if segmentation:
                instance = self.coco.annToMask(annotation | {"segmentation": segmentation})
                mask |= instance.astype(bool)
        return mask

    def _annotation_file(self, name):
        """The path of the file of this name; None: of the only `instances*.json`."""
        folder = self.folder / "annotations"
        paths = sorted(folder.glob(name or "instances*.json"))
        if len(paths) == 1:
            return paths[0]
        if paths:
            remedy = "name one with annotations="
        else:
            remedy = "a COCO folder holds annotations/instances_*.json and its images"
        raise InputError(f"{len(paths)} annotation files in {folder}; {remedy}")

    def _image_file(self, image_id):
        """The path of an image, in the folder or in one below it."""
        name = self._record(image_id)["file_name"]
        folders = [self.folder, *sorted(p for p in self.folder.iterdir() if p.is_dir())]
        for folder in folders:
            if os.path.exists(folder / name):
                return folder / name
        raise InputError(
            f"image {image_id} ({name}) is not in {self.folder} or a folder below it; download it"
        )

    def _record(self, image_id):
        if image_id not in self.coco.imgs:
            raise InputError(
                f"no image {image_id} in {self.folder}; ids(category) lists those there are"
            )
        return self.coco.imgs[image_id]

    def _category(self, name):
        if name not in self.categories:
            raise InputError(f"no category {name!r}; {nearest(name, self.categories)}")
        return self.categories[name]


# ---- checks that pycocotools does not make


def _check(coco):
    """Refuse a file with mistakes that pycocotools would pass over.

    These are records that lack a key, two records with the same id or name, and images without
    pixels or with too many.

    :raises KeyError, ValueError: saying what is wrong
    """
    for kind, needed in RECORDS.items():
        records = coco.dataset[kind]
        for record in records:
            for key, wanted in needed.items():
                if type(record[key]) is not wanted:
                    raise ValueError(f"{key!r} of one of the {kind} is {str(record[key])[:40]!r}")
        for key in {"id", "name"} & needed.keys():
            if len({record[key] for record in records}) < len(records):
                raise ValueError(f"two of the {kind} have the same {key!r}")
    for image in coco.dataset["images"]:
        h, w = image["height"], image["width"]
        if min(h, w) <= 0 or h * w > MAX_PIXELS:
            raise ValueError(f"image {image['id']} is {w} x {h} pixels")


def _is_mask(segmentation, h, w):
    """Are these polygons or run lengths of a picture of h x w pixels?"""
    if isinstance(segmentation, list):
        # pycocotools takes memory in proportion to the length of an outline, so a point may lie
        # outside the picture, but not far.
        farthest = 2 * max(h, w)
        return bool(segmentation) and all(_is_polygon(p, farthest) for p in segmentation)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [h, w]:
        return False
    counts = segmentation.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        return False
    return all(type(n) is int and n >= 0 for n in runs) and sum(runs) == h * w


def _is_polygon(coordinates, farthest):
    """Is this a list x, y, x, y, ... of finite numbers, none of them beyond `farthest`?"""
    if not isinstance(coordinates, list) or not coordinates or len(coordinates) % 2:
        return False
    if not all(type(v) in (int, float) for v in coordinates):
        return False
    return all(math.isfinite(v) and abs(v) <= farthest for v in coordinates)


# COCO writes run lengths as a string of numbers. A character is "0" plus six bits: the upper bit
# says whether more characters of this number follow, the lower five are digits of the number, the
# lowest digits first. So "P" to "o" are followed by more, and "0" to "O" end a number. The highest
# bit of all is its sign. Seven characters hold any number up to `MAX_PIXELS`.
NUMBER = re.compile("[P-o]{0,6}[0-O]")
NUMBERS = re.compile(f"(?:{NUMBER.pattern})*")


def _runs(code):
    """The run lengths that a string holds; None where it does not hold any, or ends too early.

    From the fourth number on, a number is the difference to the run before the last one.
    """
    if not NUMBERS.fullmatch(code):
        return None
    runs = []
    for characters in NUMBER.findall(code):
        before = runs[-2] if len(runs) > 2 else 0
        runs.append(before + _number(characters))
    return runs


def _number(characters):
    """The number that these characters stand for, in two's complement."""
    number = 0
    for character in reversed(characters):
        number = number * 32 + (ord(character) - ord("0")) % 32
    range_of_numbers = 32 ** len(characters)
    is_negative = number >= range_of_numbers // 2
    return number - range_of_numbers if is_negative else number


@functools.cache
def class_map():
    """COCO category -> the ImageNet classes that are kinds of it: dict name -> {index: name}.

    >>> xcnn.coco.class_map()["zebra"]
    {340: 'zebra'}
    """
    table = json.loads((data_folder() / "class_map.json").read_text())
    return {
        name: {int(index): imagenet for index, imagenet in classes.items()}
        for name, classes in table.items()
    }
