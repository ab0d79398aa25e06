"""The questions of a study: where is this class in this image?"""

import functools
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from . import coco, scenes
from .errors import InputError, nearest
from .packages import imported

ORIGINAL = "original"
DEFAULT_SCENE_CLASSES = scenes.CLASSES[:6]
SEEDS_PER_CLASS = 1000  # classes share no seed, as long as each has at most so many pictures
OTHER_OBJECT_STREAM = 7  # keeps these random numbers apart from those that draw the scene


@dataclass(frozen=True)
class Case:
    """One question: where is this class in this image?

    :param source: "scenes", or a COCO folder
    :param image: the scene's seed, or the image's id in the folder
    :param label: name of the class
    :param annotations: of a folder: name of its annotation file; None: the only one

    >>> xcnn.study.Case("scenes", image=3, label="clock")
    Case(source='scenes', image=3, label='clock')
    """

    source: str
    image: int | str
    label: str
    annotations: str | None = field(default=None, repr=False)

    @property
    def key(self):
        """What records call it: (source, image, class).

        A folder is called by its last name, so that a study can move to another machine.

        >>> xcnn.study.Case("/data/coco", image=3, label="clock").key
        ('coco', 3, 'clock')
        """
        source = Path(self.source).name
        if self.annotations:
            source += f"/{self.annotations}"
        return source, self.image, self.label

    def load(self):
        """Its picture and mask.

        :return: PIL image, (H, W) bool array
        :raises InputError: an image that cannot be read

        >>> image, mask = xcnn.study.Case("scenes", image=3, label="clock").load()
        >>> image.size, mask.shape
        ((128, 128), (128, 128))
        """
        if self.source == "scenes":
            scene = _scene(self.image, self.label)
            return scene.image, scene.mask(self.label)
        folder = _folder(self.source, self.annotations)
        return folder.image(self.image), folder.mask(self.image, self.label)

    def rival(self):
        """The mask of the other object of a scene, which is not asked for.

        :return: (H, W) bool array; None for a photograph, whose other objects vary

        >>> case = xcnn.study.Case("scenes", image=3, label="clock")
        >>> bool((case.rival() & case.load()[1]).any())  # a pixel shows one object
        False
        """
        if self.source != "scenes":
            return None
        scene = _scene(self.image, self.label)
        (other,) = [name for name in scene.labels if name != self.label]
        return scene.mask(other)


@functools.lru_cache(maxsize=1)
def _folder(source, annotations):
    """A COCO folder, read once for all its cases: its annotations are large."""
    with warnings.catch_warnings(action="ignore"):  # `cases` has opened it, and said the same
        return coco.Folder(source, annotations)


@functools.lru_cache(maxsize=1024)  # every network and size asks for it again
def _scene(seed, label):
    """A scene of two objects: the one that is asked for, left or right of another."""
    rng = np.random.default_rng([seed, OTHER_OBJECT_STREAM])
    other = rng.choice([name for name in scenes.CLASSES if name != label])
    return scenes.render(seed, classes=rng.permutation([label, other]).tolist())


def cases(source="scenes", classes=None, images=30, seed=0, largest=False, annotations=None):
    """The questions of a study.

    :param source: "scenes", or a COCO folder
    :param classes: their names; None: six of the scenes' classes, or all categories of the folder
        that networks may know
    :param images: how many pictures of each class, at most
    :param seed: of the first scene
    :param largest: of a folder: ask each image for one class only, the one that covers most of it
    :param annotations: of a folder: name of its annotation file; None: the only one
    :return: list of `Case`
    :raises InputError: unknown class, no such folder

    >>> xcnn.study.cases(classes=["clock"], images=2)
    [Case(source='scenes', image=0, label='clock'), Case(source='scenes', image=1, label='clock')]
    """
    if source == "scenes":
        pairs = _scene_pairs(classes, images, seed)
    else:
        pairs = _folder_pairs(coco.Folder(source, annotations), classes, images, largest)
    return [Case(str(source), image, name, annotations) for image, name in pairs]


def _scene_pairs(classes, images, seed):
    """(seed, class) of each scene."""
    classes = _known(DEFAULT_SCENE_CLASSES if classes is None else classes, scenes.CLASSES)
    return [
        (int(seed + SEEDS_PER_CLASS * k + image), name)
        for k, name in enumerate(classes)
        for image in range(images)
    ]


def _folder_pairs(folder, classes, images, largest):
    """(image, class) of each question to a COCO folder."""
    known = [
        name for name in folder.categories if name in coco.class_map() or name in scenes.CLASSES
    ]
    classes = _known(known if classes is None else classes, known)
    pairs = [(image, name) for name in classes for image in folder.ids(name)]
    if not pairs:
        raise InputError(
            f"no image of {folder.folder} has an outline of {', '.join(classes) or 'a class'}; "
            f"left out were {dict(folder.skipped)}"
        )
    return _at_most(images, _largest(folder, pairs) if largest else pairs)


def _known(classes, known):
    """The classes, each once.

    :raises InputError: for one that is not known
    """
    classes = list(dict.fromkeys(classes))
    for name in classes:
        if name not in known:
            raise InputError(f"no class {name!r}; {nearest(name, known)}")
    return classes


def _at_most(images, pairs):
    """The first pairs of each class, so many at most."""
    count = Counter()
    kept = []
    for image, name in pairs:
        count[name] += 1
        if count[name] <= images:
            kept.append((image, name))
    return kept


def _largest(folder, pairs):
    """Each image with its class of the largest mask, in order of images."""
    areas = {}
    names = {}
    for image, name in pairs:
        area = folder.mask(image, name).sum()
        if image not in areas or area > areas[image]:
            areas[image] = area
            names[image] = name
    return [(image, names[image]) for image in folder.ids() if image in names]


def prepared(net, image, mask, size):
    """The picture as the network wants it, and the mask cut in the same way.

    :param net: `Network`
    :param image, mask: of a case, as `Case.load` returns them
    :param size: "original", or a side in pixels
    :return: x (1, 3, H, W), mask (H, W) bool

    >>> x, mask = xcnn.study.prepared(net, scene.image, scene.mask("clock"), size=64)
    >>> tuple(x.shape), mask.shape
    ((1, 3, 64, 64), (64, 64))
    """
    x = net.preprocess(image, None if size == ORIGINAL else size)
    return x, cut(mask, size)


def cut(mask, size):
    """A mask, resized and cut as `Network.preprocess` does it with the picture.

    :param mask: (H, W) bool
    :param size: "original", or a side in pixels
    :return: (H, W) bool

    >>> xcnn.study_cases.cut(np.ones((20, 40), bool), 8).shape
    (8, 8)
    """
    if size == ORIGINAL:
        return mask
    TF = imported("torchvision.transforms.functional", "a picture of another size")
    mask = torch.from_numpy(mask)[None].to(torch.uint8)
    mask = TF.resize(mask, size, TF.InterpolationMode.NEAREST_EXACT)
    return TF.center_crop(mask, size)[0].bool().numpy()


def class_index(net, label, x):
    """The class to explain: the label itself, or the likeliest of its kinds in ImageNet.

    :param net: `Network`
    :param label: name of a scene's class, or of a COCO category
    :param x: (1, 3, H, W)
    :return: int
    :raises InputError: where the network knows no kind of it

    >>> net.classes[xcnn.study.class_index(net, "clock", x)]
    'clock'
    """
    if label in net.classes:
        return net.classes.index(label)
    kinds = [
        k
        for k, name in coco.class_map().get(label, {}).items()
        if k < len(net.classes) and net.classes[k] == name
    ]
    if not kinds:
        raise InputError(f"{net.name} knows no kind of {label}")
    return kinds[int(net.predict(x)[0, kinds].argmax())]
