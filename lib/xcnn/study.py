"""The experiment: how much of each method's energy lies on the object, for many pictures.

A study asks all combinations of data, networks, sizes and methods. A run makes one record for each
image, class, network, size and method, and appends it to a file at once. When a run is stopped, the
next one reads the file and makes the records that are missing. `report.py` turns the file into a
table and plots.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from . import coco, scenes
from .errors import InputError, nearest, one_of
from .evaluate import dilated, energy_concentration
from .loading import load
from .methods import METHODS, explain_all
from .packages import imported

# not 1,000: one map takes that many runs of the network
OPTIONS = {"lime": {"samples": 150}, "rise": {"masks": 300}}
ORIGINAL = "original"
KEY = ("source", "image", "class", "network", "size", "method")
DILATE = 0.2  # the masks grow by this fraction, as in `energy_concentration`
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


@functools.lru_cache(maxsize=1)
def _folder(source, annotations):
    """A COCO folder, read once for all its cases: its annotations are large."""
    with warnings.catch_warnings(action="ignore"):  # `cases` has opened it, and said the same
        return coco.Folder(source, annotations)


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
    pairs = [(image, name) for name in classes for image in folder.ids(name)[:images]]
    if not pairs:
        raise InputError(
            f"no image of {folder.folder} has an outline of {', '.join(classes) or 'a class'}; "
            f"left out were {dict(folder.skipped)}"
        )
    return _largest(folder, pairs) if largest else pairs


def _known(classes, known):
    """The classes, each once.

    :raises InputError: for one that is not known
    """
    classes = list(dict.fromkeys(classes))
    for name in classes:
        if name not in known:
            raise InputError(f"no class {name!r}; {nearest(name, known)}")
    return classes


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


def run(
    out, cases, networks, sizes=(ORIGINAL, 224), methods=None, batch=8, cluster=None, progress=True
):
    """Make the records that a file does not hold yet.

    :param out: the file, one JSON record per line
    :param cases: from `cases`
    :param networks: names, see `xcnn.load`
    :param sizes: "original", or sides in pixels
    :param methods: names in `METHODS`; None: all. LIME takes 150 samples here, RISE 300 masks
    :param batch: pictures of one size that go through a network together
    :param cluster: a dask.distributed Client whose workers share the work; None: this process
        does it
    :param progress: show a bar
    :return: number of records made
    :raises InputError: unknown network or method, a file of something else

    >>> cases = xcnn.study.cases(classes=["clock"], images=2)
    >>> options = {"sizes": [64], "methods": ["gradient"], "progress": False}
    >>> [xcnn.study.run(folder / "r.jsonl", cases, ["resnet_s"], **options) for _ in range(2)]
    [2, 0]
    """
    networks = dict.fromkeys(networks)  # a name that comes twice counts once
    sizes = dict.fromkeys(sizes)
    methods = dict.fromkeys(METHODS if methods is None else methods)
    for name in methods:
        one_of("method", name, METHODS)
    for name in networks:
        load(name)  # a network that cannot be loaded should fail now, and not in an hour
    with contextlib.closing(Log(out)) as log:
        jobs = [
            job
            for network, size in itertools.product(networks, sizes)
            for job in _jobs(log, cases, network, size, methods, batch)
        ]
        total = sum(len(its_cases) * len(its_methods) for its_cases, _, _, its_methods in jobs)
        made = _by_workers(cluster, jobs) if cluster else _by_this_process(jobs)
        for record in tqdm(made, total=total, disable=not progress, unit="record"):
            log.add(record)
    return total


def _jobs(log, cases, network, size, methods, batch):
    """The jobs still to do for one network and size: cases, grouped by the methods they lack.

    :return: list of the arguments of `records`
    """
    cases_that_lack = {}
    for case in cases:
        missing = tuple(m for m in methods if (*case.key, network, size, m) not in log.done)
        cases_that_lack.setdefault(missing, []).append(case)
    cases_that_lack.pop((), None)
    together = 1 if size == ORIGINAL else batch  # original pictures have all sorts of sizes
    return [
        (group[start : start + together], network, size, missing)
        for missing, group in cases_that_lack.items()
        for start in range(0, len(group), together)
    ]


def _by_this_process(jobs):
    """The records of all jobs, one job after another."""
    return itertools.chain.from_iterable(records(*job) for job in jobs)


def _by_workers(cluster, jobs):
    """Records in the order in which workers finish. When a worker dies, another repeats its job."""
    from dask.distributed import as_completed

    for future in as_completed([cluster.submit(_whole, *job, pure=False) for job in jobs]):
        yield from future.result()
        future.release()


def _whole(*job):
    """All records of a job, as a list: a worker cannot send a generator."""
    torch.set_num_threads(1)  # workers share a machine
    return list(records(*job))


class Log:
    """A file of records, one per line, each on the disk before the next is made.

    done: the keys of the records that it holds.

    :param path: of the file, which is made where there is none
    :raises InputError: a file that cannot be written, or that holds something else

    >>> log = xcnn.study.Log(folder / "records.jsonl")
    >>> log.done
    set()
    """

    def __init__(self, path):
        path = Path(path)
        self.done = set()
        self.file, lines = _opened(path)
        if lines and not lines[-1].endswith(b"\n"):  # a run was killed while it wrote
            lines.pop()
        for number, line in enumerate(lines, start=1):
            try:
                self.done.add(_key(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {path} is no record of a study; name another file"
                ) from error
        self.file.truncate(sum(map(len, lines)))

    def add(self, record):
        """Write a record.

        >>> log = xcnn.study.Log(folder / "records.jsonl")
        >>> log.add({"method": "gradient", "P": 0.25})
        >>> print((folder / "records.jsonl").read_text())
        {"method": "gradient", "P": 0.25}
        """
        self.file.write((json.dumps(record) + "\n").encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        """Close the file.

        >>> log = xcnn.study.Log(folder / "records.jsonl")
        >>> log.close()
        >>> log.file.closed
        True
        """
        self.file.close()


def _opened(path):
    """The file, open for more records, and the lines in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return path.open("ab"), lines
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another folder") from error


def _key(line):
    """The key of the record in a line.

    :raises ValueError, KeyError, TypeError: where the line does not hold a record
    """
    record = json.loads(line)
    if record["status"] == "ok":
        for name in ("P", "area"):
            float(record[name])  # raises an error for what is not a number
    return tuple(record[name] for name in KEY)


def records(cases, network, size, methods):
    """One record for each method and case.

    P, E, E_total: see `energy_concentration`. area: the share of the picture that the grown mask
    covers, which is the score of a uniform map. seconds: what the map of this picture took; a batch
    shares its time evenly. status: "ok", or why there is no P.

    :param cases: a list of `Case`
    :param network: its name
    :param size: "original", or a side in pixels
    :param methods: names in `METHODS`
    :return: generator of dicts; cases that cannot be asked come first

    >>> cases = xcnn.study.cases(classes=["clock"], images=1)
    >>> for record in xcnn.study.records(cases, "resnet_s", 64, ["gradient", "grad_cam"]):
    ...     print(record["method"], record["status"], record["P"] > record["area"])
    gradient ok True
    grad_cam ok True
    """
    net = load(network)
    questions = []
    for case in cases:
        key = dict(zip(KEY, (*case.key, network, size), strict=False))  # the method comes later
        try:
            questions.append((key, *_question(net, case, size)))
        except InputError as error:
            yield from (key | {"method": method, "status": str(error)} for method in methods)
    if questions:
        yield from _answers(net, questions, methods)


def _question(net, case, size):
    """What the methods need for a case: x (1, 3, H, W), its mask (H, W) and the index of its class.

    :raises InputError: an image that cannot be read, no object, a class that the network lacks
    """
    x, mask = prepared(net, *case.load(), size)
    if not mask.any():  # the object was cropped away
        raise InputError("empty mask")
    return x, mask, class_index(net, case.label, x)


def _answers(net, questions, methods):
    """The records of one batch: of each method one for each question (key, x, mask, class)."""
    keys, x, masks, targets = zip(*questions, strict=True)
    grown = torch.from_numpy(np.stack([dilated(mask, DILATE) for mask in masks]))
    areas = [mask.double().mean().item() for mask in grown]
    for method, R, seconds in explain_all(net, torch.cat(x), list(targets), methods, OPTIONS):
        if isinstance(R, str):  # the method refused
            yield from (key | {"method": method, "status": R} for key in keys)
            continue
        P = energy_concentration(R, grown, dilate=0).tolist()
        E_total = R.double().square().sum((1, 2, 3)).tolist()
        for key, p, total, area in zip(keys, P, E_total, areas, strict=True):
            yield {
                **key,
                "method": method,
                **_energy(p, total),
                "E_total": total,
                "area": area,
                "seconds": seconds / len(keys),
            }


def _energy(P, E_total):
    """The part of a record that a map without energy does not have."""
    if math.isnan(P):
        return {"status": "no energy"}
    return {"P": P, "E": P * E_total, "status": "ok"}


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
    if size == ORIGINAL:
        return net.preprocess(image, None), mask
    TF = imported("torchvision.transforms.functional", "a picture of another size")
    x = net.preprocess(image, size)
    mask = torch.from_numpy(mask)[None].to(torch.uint8)
    mask = TF.resize(mask, size, TF.InterpolationMode.NEAREST_EXACT)
    return x, TF.center_crop(mask, size)[0].bool().numpy()


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
