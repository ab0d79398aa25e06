"""Images with true masks: MS COCO, or any folder in its format (`scenes.write` makes one).

pycocotools reads the annotations. It hardly checks them, so this module does. Files as tools write
them are read, too: ids may be strings, sizes floats, and annotations may lack an outline.
"""

import contextlib
import functools
import io
import json
import math
import os
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from .errors import MAX_LISTED, InputError, nearest
from .packages import imported
from .paths import data_folder
from .photos import read, to_rgb, upright

# kind of record -> what one is called, and the keys that it needs, with what they hold
RECORDS = {
    "categories": ("category", {"id": "id", "name": "text"}),
    "images": ("image", {"id": "id", "file_name": "text", "height": "size", "width": "size"}),
    "annotations": ("annotation", {"id": "id", "image_id": "id", "category_id": "id"}),
}
MAX_PIXELS = 2**28  # of an image; its mask has to fit into memory
MIN_COORDINATES = 6  # of a polygon: two points enclose nothing, and pycocotools reads four as a box
WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
# why an annotation is left out -> how a message says it
LEFT_OUT = {
    "box only": "has a box and not an outline",
    "no outline": "has no outline",
    "unknown image": "belongs to an image that the file does not list",
    "unknown category": "belongs to a category that the file does not list",
}


class Folder:
    """A COCO folder: annotation files under `annotations/`, images anywhere beside it.

    :param folder: its path
    :param annotations: the annotation file: its name in `annotations/` or in the folder, or its
        path; None: the only `instances*.json` in `annotations/`
    :raises InputError: no such folder; no annotation file in it, or several; a file that is not
        one, or that has a broken record

    >>> _ = xcnn.scenes.write(folder, 2, seed=10, count=2)
    >>> list(xcnn.coco.Folder(folder).categories)[:3]
    ['banana', 'broccoli', 'bus']
    """

    def __init__(self, folder, annotations=None):
        self.folder = Path(folder)
        self.file = _annotation_file(self.folder, annotations)
        self.coco = imported("pycocotools.coco", "a COCO folder").COCO()
        self.coco.dataset = _dataset(self.file)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            self.coco.createIndex()
        self.categories = {c["name"]: c["id"] for c in self.coco.dataset["categories"]}
        self._images = {category_id: set() for category_id in self.coco.cats}  # with an outline
        self._left_out = self._sort_out()
        if self.skipped:
            warnings.warn(self._report(), stacklevel=2)

    @property
    def skipped(self):
        """How many annotations are left out, as a Counter: reason -> number.

        The reasons are "box only" and "no outline", and "unknown image" and "unknown category" for
        records that the file does not list.

        >>> _ = xcnn.scenes.write(folder, 1)
        >>> xcnn.coco.Folder(folder).skipped["box only"]
        0
        """
        return Counter({why: len(annotations) for why, annotations in self._left_out.items()})

    def ids(self, category=None):
        """Ids of the images that show a category, and have an outline of it.

        :param category: its name; None: all images
        :return: list of int, in ascending order; ids that are not numbers follow, as str
        :raises InputError: unknown category

        >>> _ = xcnn.scenes.write(folder, 2, seed=10, count=2)
        >>> coco = xcnn.coco.Folder(folder)
        >>> coco.ids(), coco.ids("broccoli")
        ([10, 11], [10])
        """
        ids = self.coco.imgs if category is None else self._images[self._category(category)]
        return sorted(ids, key=lambda image_id: (isinstance(image_id, str), image_id))

    def image(self, image_id):
        """One image, as its outlines were drawn on it.

        Annotation tools show a picture upright, as its EXIF orientation says, and so does this
        method wherever the upright picture has the width and height of the annotations. Where only
        the picture as it is stored has them, it stays as it is stored; COCO's own tools do not look
        at the orientation. A square picture, or one that stands on its head, fits both ways, and is
        upright.

        :param image_id: one of `ids`
        :return: PIL RGB image
        :raises InputError: unknown id; file missing, truncated or broken; another size than the
            annotations say

        >>> _ = xcnn.scenes.write(folder, 1, seed=10, count=2)
        >>> picture = xcnn.coco.Folder(folder).image(10)
        >>> bool((np.asarray(picture) == np.asarray(scene.image)).all())  # `scene` is render(10)
        True
        """
        record = self._record(image_id)
        size = record["width"], record["height"]
        path = self._image_file(record)
        otherwise = f"or take image {record['id']} out of {self.file.name}"
        try:
            stored = read(path, as_stored=True)
            pictures = [upright(stored), stored]
            fitting = [picture for picture in pictures if picture.size == size]
            if fitting:
                return to_rgb(fitting[0])
        except InputError as error:
            raise InputError(
                f"image {record['id']} ({record['file_name']}) cannot be read: {error}; {otherwise}"
            ) from error
        sizes = " or ".join(dict.fromkeys("{} x {}".format(*picture.size) for picture in pictures))
        raise InputError(
            f"image {record['id']}: {path} has {sizes} pixels (width x height), and "
            f"{self.file.name} says {size[0]} x {size[1]}; put the picture there that was "
            f"annotated, {otherwise}"
        )

    def mask(self, image_id, category):
        """Where an image shows a category, all its instances together.

        :param image_id: one of `ids`
        :param category: its name
        :return: (H, W) bool; False everywhere where nothing is annotated
        :raises InputError: unknown id or category; annotations of which none has an outline;
            outlines or run lengths that are not a mask

        >>> _ = xcnn.scenes.write(folder, 1, seed=10, count=2)
        >>> mask = xcnn.coco.Folder(folder).mask(10, "clock")
        >>> mask.shape, bool((mask == scene.mask("clock")).all())
        ((128, 128), True)
        """
        record = self._record(image_id)
        h, w = record["height"], record["width"]
        mask = np.zeros((h, w), bool)
        category_id = self._category(category)
        annotation_ids = self.coco.getAnnIds(imgIds=[record["id"]], catIds=[category_id])
        annotations = self.coco.loadAnns(annotation_ids)
        outlined = [annotation for annotation in annotations if not _lacks_outline(annotation)]
        if annotations and not outlined:
            raise InputError(
                f"image {record['id']} has no outline of {category!r}: "
                f"{_sentence(annotations[0], _lacks_outline(annotations[0]))}; export polygons or "
                f"masks to {self.file.name}, or leave this image out, as ids({category!r}) does"
            )
        for annotation in outlined:
            fault = _fault(annotation["segmentation"], h, w)
            if fault:
                raise InputError(
                    f"annotation {annotation['id']} of image {record['id']} {fault}; "
                    f"correct it in {self.file}, or take it out"
                )
            outline = {"segmentation": _usable(annotation["segmentation"], h, w)}
            mask |= self.coco.annToMask(annotation | outline).astype(bool)
        return mask

    def _sort_out(self):
        """The annotations that are left out, by reason; the others' images are noted down."""
        left_out = {why: [] for why in LEFT_OUT}
        for annotation in self.coco.dataset["annotations"]:
            why = _lacks_outline(annotation)
            if annotation["image_id"] not in self.coco.imgs:
                why = "unknown image"
            elif annotation["category_id"] not in self.coco.cats:
                why = "unknown category"
            if why:
                left_out[why].append(annotation)
            else:
                self._images[annotation["category_id"]].add(annotation["image_id"])
        return {why: annotations for why, annotations in left_out.items() if annotations}

    def _report(self):
        """A sentence on what is left out, with an example of each reason."""
        examples = []
        for why, annotations in self._left_out.items():
            others = f" (and {len(annotations) - 1} more)" if len(annotations) > 1 else ""
            examples.append(_sentence(annotations[0], why) + others)
        return (
            f"{self.file.name}: {self.skipped.total()} of {len(self.coco.dataset['annotations'])} "
            f"annotations are left out: {'; '.join(examples)}; `skipped` has the numbers"
        )

    def _image_file(self, record):
        """The path of an image, in the folder or in one below it."""
        name = record["file_name"]
        folders = [self.folder, *sorted(p for p in self.folder.iterdir() if p.is_dir())]
        for folder in folders:
            for path in (folder / name, folder / name.replace("\\", "/")):  # Windows writes \
                if os.path.exists(path):
                    return path
        raise InputError(
            f"image {record['id']} ({name}) is not in {self.folder} or a folder below it; "
            f"download it, or take the image out of {self.file.name}"
        )

    def _record(self, image_id):
        known = _as_id(image_id.item() if isinstance(image_id, np.generic) else image_id)
        if known not in self.coco.imgs:
            raise InputError(
                f"no image {image_id} in {self.folder}; ids(category) lists those there are"
            )
        return self.coco.imgs[known]

    def _category(self, name):
        if name not in self.categories:
            raise InputError(f"no category {name!r}; {nearest(name, self.categories)}")
        return self.categories[name]


# ---- the annotation file


def _annotation_file(folder, name):
    """The path of the annotation file of this name; None: of the only `instances*.json`."""
    inside = folder / "annotations"
    if name is not None:
        for path in (inside / name, folder / name, Path(name)):
            if path.is_file():
                return path
        names = [path.name for path in [*inside.glob("*.json"), *folder.glob("*.json")]]
        remedy = nearest(name, names) if names else "there is none at all"
        raise InputError(f"no annotation file {str(name)!r} in {folder} or {inside}; {remedy}")
    paths = sorted(inside.glob("instances*.json"))
    if len(paths) == 1:
        return paths[0]
    remedy = "a COCO folder holds annotations/instances_*.json and its images"
    names = [path.name for path in paths]
    if not paths:
        names = sorted(path.name for path in [*inside.glob("*.json"), *folder.glob("*.json")])
    if names:
        more = ", ..." * (len(names) > MAX_LISTED)
        remedy = (
            f"name one, annotations={names[0]!r} in Python or --annotations {names[0]} for "
            f"`study`; there are {', '.join(names[:MAX_LISTED])}{more}"
        )
    raise InputError(f"{len(paths)} annotation files in {inside}; {remedy}")


def _dataset(path):
    """What an annotation file holds, its records checked, ids and sizes as numbers.

    :raises InputError: saying what is wrong, and with which record
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a COCO annotation file: {_not_json(content, error)}"
        ) from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path} is not a COCO annotation file: it holds a {type(data).__name__}, as results "
            "of a detector do, and not images, annotations and categories; name another file"
        )
    for kind in RECORDS:
        if not isinstance(data.get(kind), list):
            raise InputError(
                f"{path} is not a COCO annotation file: it has no list of {kind}; "
                "name another file, or export it as COCO instances"
            )
    try:
        _check(data)
    except ValueError as error:
        raise InputError(f"{path} has a broken record: {error}") from error
    return data


def _not_json(content, error):
    """What is in a file that is not JSON, and what to do."""
    text = content.strip()
    if not text:
        return "it is empty; get it again"
    if text.startswith(b"<"):
        return "it is a web page; download the file that the page offers"
    if text.startswith(b"version https://git-lfs"):
        return "it only says where the file is; `git lfs pull` gets it"
    if text.startswith((b"PK", b"\x1f\x8b")):
        return "it is packed; unpack it"
    if text.startswith((b"{", b"[")) and (
        not text.endswith((b"}", b"]")) or getattr(error, "pos", 0) >= len(text)
    ):
        return f"it is truncated, it ends in the middle ({error}); get a whole copy of it"
    return f"it is not JSON ({error}); export or download it again"


def _check(data):
    """Refuse records with mistakes that pycocotools would pass over; ids and sizes become numbers.

    The mistakes are records that lack a key, two records with the same id or name, and images
    without pixels or with too many.

    :raises ValueError: saying what is wrong, and what to do
    """
    for kind, (name, needed) in RECORDS.items():
        for number, record in enumerate(data[kind], start=1):
            if not isinstance(record, dict):
                raise ValueError(f"number {number} of the {kind} is {_short(record)}; take it out")
            for key, what in needed.items():
                _check_value(name, number, record, key, what)
        for key in [key for key in ("id", "name") if key in needed]:
            counts = Counter(record[key] for record in data[kind])
            value, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
            if count > 1:
                raise ValueError(
                    f"{count} {kind} have the same {key!r}, {value!r}; give each its own"
                )
    for image in data["images"]:
        h, w = image["height"], image["width"]
        if min(h, w) <= 0 or h * w > MAX_PIXELS:
            raise ValueError(f"image {image['id']} is {w} x {h} pixels; correct its size")


def _check_value(name, number, record, key, what):
    """Check one value of a record; an id or a size is put in its place as a number."""
    value = record.get(key)
    if what == "text":
        checked = value if isinstance(value, str) else None
    else:
        checked = _as_id(value)
        if what == "size" and isinstance(checked, str):
            checked = None
    if checked is None:
        this = f"{name} {_short(record['id'])}" if "id" in record else f"{name} number {number}"
        wrong = f"has {key!r} {_short(value)}" if key in record else f"lacks {key!r}"
        wanted = {"id": "a whole number or a name", "size": "a whole number", "text": "a name"}
        raise ValueError(f"{this} {wrong}; it must be {wanted[what]}")
    record[key] = checked


def _as_id(value):
    """An id as int, also where it was written as a float or in digits; else as str.

    :return: None for something that is not an id
    """
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and value:
        return int(value) if WHOLE_NUMBER.fullmatch(value) else value
    return None


def _short(value):
    """A value as it is shown in a message."""
    return repr(value)[:40]


# ---- outlines


def _lacks_outline(annotation):
    """Why an annotation has no outline, a key of `LEFT_OUT`; "" where it has one."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        parts = _parts(segmentation)
        is_empty = all(isinstance(part, list) and len(part) < MIN_COORDINATES for part in parts)
    else:
        is_empty = not segmentation
    if not is_empty:
        return ""
    return "box only" if annotation.get("bbox") else "no outline"


def _sentence(annotation, why):
    """Which annotation is left out, and why."""
    return f"annotation {annotation['id']} of image {annotation['image_id']} {LEFT_OUT[why]}"


def _parts(polygons):
    """A list of polygons; a polygon that stands alone is one of them."""
    is_alone = polygons and all(type(v) in (int, float) for v in polygons)
    return [polygons] if is_alone else polygons


def _usable(segmentation, h, w):
    """A segmentation without a `_fault` as pycocotools takes it."""
    if isinstance(segmentation, list):
        return [part for part in _parts(segmentation) if len(part) >= MIN_COORDINATES]
    return {"size": [h, w], "counts": segmentation["counts"]}


def _fault(segmentation, h, w):
    """What is wrong with polygons or run lengths of a picture of h x w pixels; "" if nothing is."""
    if isinstance(segmentation, list):
        # pycocotools takes memory in proportion to the length of an outline, so a point may lie
        # outside the picture, but not far.
        farthest = 2 * max(h, w)
        if all(part == [] or _is_polygon(part, farthest) for part in _parts(segmentation)):
            return ""
        return f"has an outline that is not x, y, x, y, ... in pixels of its image, {w} x {h}"
    if not isinstance(segmentation, dict):
        return f"has an outline that is neither polygons nor run lengths: {_short(segmentation)}"
    if segmentation.get("size") != [h, w]:
        return (
            f"has run lengths for [height, width] {_short(segmentation.get('size'))}, "
            f"and its image has {[h, w]}"
        )
    counts = segmentation.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if (
        isinstance(runs, list)
        and all(type(n) is int and n >= 0 for n in runs)
        and sum(runs) == h * w
    ):
        return ""
    return f"has run lengths that do not add up to its image, {w} x {h}"


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
