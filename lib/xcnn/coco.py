"""Images with true masks: MS COCO, or any folder in its format (scenes.write makes one), through pycocotools."""

import contextlib
import functools
import io
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from .errors import InputError, nearest
from .loading import data_folder
from .photos import to_rgb


class Folder:
    """A COCO folder: one annotation file under `annotations/`, images anywhere beside it.

    :param folder: its path
    :param annotations: name of the annotation file; None: the only `instances*.json` there
    :raises InputError: no such folder, or no annotation file in it that can be read
    """

    def __init__(self, folder, annotations=None):
        self.folder = Path(folder)
        found = sorted((self.folder / "annotations").glob(annotations or "instances*.json"))
        if len(found) != 1:
            raise InputError(
                f"{len(found)} annotation files in {self.folder / 'annotations'}; "
                + (
                    "name one with annotations="
                    if found
                    else "a COCO folder holds annotations/instances_*.json and its images"
                )
            )
        try:
            with contextlib.redirect_stdout(
                io.StringIO()
            ):  # pycocotools reports its progress by print
                self.coco = COCO(str(found[0]))
            _check(self.coco)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            AssertionError,
            RecursionError,
            OSError,
        ) as error:
            raise InputError(
                f"{found[0]} is not a COCO annotation file ({error}); download it again"
            ) from error
        self.categories = {c["name"]: c["id"] for c in self.coco.dataset["categories"]}

    def ids(self, category=None):
        """Ids of the images that show a category (None: of all images), in ascending order."""
        return sorted(
            self.coco.getImgIds(catIds=[] if category is None else [self._category(category)])
        )

    def image(self, image_id):
        """One image.

        :param image_id: one of `ids`
        :return: PIL RGB image
        :raises InputError: unknown id; file missing or broken
        """
        record = self._record(image_id)
        name, size = record["file_name"], (record["width"], record["height"])
        folders = [self.folder, *sorted(p for p in self.folder.iterdir() if p.is_dir())]
        path = next((folder / name for folder in folders if os.path.exists(folder / name)), None)
        if path is None:
            raise InputError(
                f"image {image_id} ({name}) is not in {self.folder} or a folder below it; download it"
            )
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
                image = to_rgb(opened)
        except Exception as error:  # a decoder raises all sorts of things where a file is broken
            raise InputError(
                f"{path} cannot be read as an image ({error}); download it again"
            ) from error
        if image.size != size:  # its masks would lie elsewhere
            raise InputError(
                f"{path} is {image.size}, the annotations say {size}: width, height; download both again"
            )
        return image

    def mask(self, image_id, category):
        """Where the image `image_id` shows the category, all its instances together: (H, W) bool."""
        record = self._record(image_id)
        which = self.coco.getAnnIds(imgIds=[image_id], catIds=[self._category(category)])
        mask = np.zeros((record["height"], record["width"]), bool)
        for annotation in self.coco.loadAnns(which):
            segmentation = annotation.get("segmentation")
            if not _is_mask(segmentation, *mask.shape):
                raise InputError(
                    f"annotation {annotation['id']} of image {image_id} in {self.folder} holds no outlines or run "
                    f"lengths of {len(mask)} x {mask.shape[1]} pixels; download the annotations again"
                )
            if isinstance(
                segmentation, list
            ):  # two points enclose nothing; pycocotools would take them for a box
                segmentation = [p for p in segmentation if len(p) >= 6]
            if segmentation:
                mask |= self.coco.annToMask(annotation | {"segmentation": segmentation}).astype(
                    bool
                )
        return mask

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


RECORDS = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}
MOST = 2**28  # pixels


def _check(coco):
    """Refuse what pycocotools would pass over: records without what they need, and two that have one id or name.

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
        if not (
            min(image["height"], image["width"]) > 0 and image["height"] * image["width"] <= MOST
        ):
            raise ValueError(f"image {image['id']} is {image['width']} x {image['height']} pixels")


def _is_mask(segmentation, h, w):
    """Are these polygons or run lengths that fill a picture of h x w? pycocotools believes everything."""
    if isinstance(segmentation, list):
        return bool(segmentation) and all(_is_polygon(p, 2 * max(h, w)) for p in segmentation)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [h, w]:
        return False
    runs = segmentation.get("counts")
    runs = _runs(runs) if isinstance(runs, str) else runs
    return (
        isinstance(runs, list)
        and all(type(n) is int and n >= 0 for n in runs)
        and sum(runs) == h * w
    )


def _is_polygon(p, far):
    if (
        not isinstance(p, list)
        or not p
        or len(p) % 2
        or not all(type(v) in (int, float) for v in p)
    ):
        return False
    return all(math.isfinite(v) and abs(v) <= far for v in p)


def _runs(code):
    """The run lengths that a string holds, None where it ends too early or is no such string.

    A character is 48 plus six bits: five of a number, the lowest first, and whether more follow. From the fourth number
    on it is the difference to the run before the last one.
    """
    runs, number, bits = [], 0, 0
    for six in (ord(character) - 48 for character in code):
        if not 0 <= six < 64 or bits > 30:
            return None
        number, bits = number | (six & 31) << bits, bits + 5
        if not six & 32:
            number -= (six & 16) << bits - 4  # the highest of its bits is the sign
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = bits = 0
    return runs if bits == 0 else None


@functools.cache
def class_map():
    """COCO category -> the ImageNet classes that are kinds of it: dict name -> {index: ImageNet name}."""
    table = json.loads((data_folder() / "class_map.json").read_text())
    return {
        name: {int(index): imagenet for index, imagenet in classes.items()}
        for name, classes in table.items()
    }
