"""Images with true masks: MS COCO, or any folder in its format (scenes.write makes one), through pycocotools."""

import contextlib
import functools
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from .contract import InputError, nearest
from .networks import data_folder, to_rgb


class Folder:
    """A COCO folder: one annotation file under `annotations/`, images anywhere beside it.

    folder: its path. annotations: name of the annotation file; None: the only `instances*.json` there.
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
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
                self.coco = COCO(str(found[0]))
            self.categories = {c["name"]: c["id"] for c in self.coco.dataset["categories"]}
        except (ValueError, KeyError, AssertionError) as error:
            raise InputError(f"{found[0]} is not a COCO annotation file ({error}); download it again") from error

    def ids(self, category=None):
        """Ids of the images that show a category (None: of all images), in ascending order."""
        return sorted(self.coco.getImgIds(catIds=[] if category is None else [self._category(category)]))

    def image(self, image_id):
        """PIL RGB image.

        :raises InputError: unknown id; file missing or broken
        """
        name = self._record(image_id)["file_name"]
        path = next((p for p in [self.folder / name, *sorted(self.folder.glob(f"*/{name}"))] if p.exists()), None)
        if path is None:
            raise InputError(f"image {image_id} ({name}) is not in {self.folder} or a folder below it; download it")
        try:
            with Image.open(path) as image:
                return to_rgb(image)
        except OSError as error:
            raise InputError(f"{path} cannot be read as an image ({error}); download it again") from error

    def mask(self, image_id, category):
        """True where the image shows the category, all its instances together: (H, W) bool."""
        record = self._record(image_id)
        which = self.coco.getAnnIds(imgIds=[image_id], catIds=[self._category(category)])
        mask = np.zeros((record["height"], record["width"]), bool)
        for annotation in self.coco.loadAnns(which):
            mask |= self.coco.annToMask(annotation).astype(bool)
        return mask

    def _record(self, image_id):
        if image_id not in self.coco.imgs:
            raise InputError(f"no image {image_id} in {self.folder}; ids(category) lists those there are")
        return self.coco.imgs[image_id]

    def _category(self, name):
        if name not in self.categories:
            raise InputError(f"no category {name!r}; {nearest(name, self.categories)}")
        return self.categories[name]


@functools.cache
def class_map():
    """COCO category -> the ImageNet classes that are kinds of it: dict name -> {index: ImageNet name}."""
    table = json.loads((data_folder() / "class_map.json").read_text())
    return {name: {int(index): imagenet for index, imagenet in classes.items()} for name, classes in table.items()}
