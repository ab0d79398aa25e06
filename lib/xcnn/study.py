"""The experiment: how much of each method's energy lies on the object, over data x networks x sizes x methods.

A run makes one record for each image, class, network, size and method, and appends it to a file as soon as it is
known. Whatever stops the run, the next one reads the file and goes on where it was. `report.py` turns the file into a
table and graphs.
"""

import contextlib
import functools
import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as TF
from tqdm.auto import tqdm

from . import coco, scenes
from .errors import InputError, nearest
from .evaluate import dilated, energy_concentration
from .loading import load
from .methods import METHODS, explain_all

OPTIONS = {"lime": {"samples": 150}}  # not 1,000: one map costs that many runs of the network
ORIGINAL = "original"
KEY = ("source", "image", "class", "network", "size", "method")


@dataclass(frozen=True)
class Case:
    """One question: where is this class in this image?

    :param source: "scenes", or a COCO folder
    :param image: the scene's seed, or the image's id in the folder
    :param label: name of the class
    """

    source: str
    image: int
    label: str

    @property
    def key(self):
        """What records call it: a folder by its last name, so that a study may move to another machine."""
        return Path(self.source).name, self.image, self.label

    def load(self):
        """Its picture and mask.

        :return: PIL image, (H, W) bool
        :raises InputError: an image that cannot be read
        """
        if self.source == "scenes":
            scene = _scene(self.image, self.label)
            return scene.image, scene.mask(self.label)
        folder = _folder(self.source)
        return folder.image(self.image), folder.mask(self.image, self.label)


@functools.lru_cache(maxsize=1)
def _folder(source):
    """Read once for all its cases: COCO's annotations are large."""
    return coco.Folder(source)


def _scene(seed, label):
    """Two objects, the one that is asked for left or right of another."""
    rng = np.random.default_rng([seed, 7])
    other = rng.choice([name for name in scenes.CLASSES if name != label])
    return scenes.render(seed, classes=rng.permutation([label, other]).tolist())


def cases(source="scenes", classes=None, images=30, seed=0, largest=False):
    """What to ask.

    :param source: "scenes", or a COCO folder
    :param classes: their names; None: six of the scenes' classes, all categories of the folder that networks may know
    :param images: how many pictures of each class, at most
    :param seed: of the first scene
    :param largest: of a folder: ask each image for one class only, the one that covers most of it
    :return: list of `Case`
    :raises InputError: unknown class, no such folder
    """
    if source == "scenes":
        known = scenes.CLASSES
        classes = dict.fromkeys(known[:6] if classes is None else classes)
        numbered = {
            name: range(seed + 1000 * k, seed + 1000 * k + images) for k, name in enumerate(classes)
        }
    else:
        folder = coco.Folder(source)
        known = [
            name for name in folder.categories if name in coco.class_map() or name in scenes.CLASSES
        ]
        classes = dict.fromkeys(known if classes is None else classes)
        numbered = {name: folder.ids(name)[:images] for name in classes if name in known}
    for name in classes:
        if name not in known:
            raise InputError(f"no class {name!r}; {nearest(name, known)}")
    pairs = [(int(image), name) for name, ids in numbered.items() for image in ids]
    if largest and source != "scenes":
        covered = {(image, name): folder.mask(image, name).sum() for image, name in pairs}
        best = {
            image: max((p for p in pairs if p[0] == image), key=covered.get) for image, _ in pairs
        }
        pairs = sorted(best.values())
    return [Case(str(source), image, name) for image, name in pairs]


def run(
    out, cases, networks, sizes=(ORIGINAL, 224), methods=None, batch=8, cluster=None, progress=True
):
    """Make the records that a file does not hold yet.

    :param out: the file, one JSON record per line
    :param cases: from `cases`
    :param networks: names, see `xcnn.load`
    :param sizes: "original", or sides in pixels
    :param methods: names in `METHODS`; None: all. LIME takes 150 samples here
    :param batch: pictures of one size that go through a network together
    :param cluster: a dask.distributed Client whose workers share the work; None: this process does it
    :param progress: show a bar
    :return: number of records made
    :raises InputError: unknown network or method, a file of something else
    """
    methods = METHODS if methods is None else methods
    networks, sizes, methods = map(
        dict.fromkeys, (networks, sizes, methods)
    )  # what is named twice is asked once
    for name in methods:
        if name not in METHODS:
            raise InputError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    for name in networks:
        load(name)  # what cannot be loaded should fail now, and not in an hour
    with contextlib.closing(Log(out)) as log:
        pairs = itertools.product(networks, sizes)
        jobs = [
            job
            for network, size in pairs
            for job in _jobs(log, cases, network, size, methods, batch)
        ]
        total = sum(len(some) * len(left) for some, *_, left in jobs)
        made = (
            _by_workers(cluster, jobs)
            if cluster
            else itertools.chain.from_iterable(records(*job) for job in jobs)
        )
        for record in tqdm(made, total=total, disable=not progress, unit="record"):
            log.add(record)
    return total


def _jobs(log, cases, network, size, methods, batch):
    """What is missing for one network and size, as arguments of `records`: batches of cases that lack the same."""
    missing = {}
    for case in cases:
        left = tuple(m for m in methods if (*case.key, network, size, m) not in log.done)
        missing.setdefault(left, []).append(case)
    missing.pop((), None)
    together = 1 if size == ORIGINAL else batch  # original pictures have all sorts of sizes
    return [
        (some[k : k + together], network, size, left)
        for left, some in missing.items()
        for k in range(0, len(some), together)
    ]


def _by_workers(cluster, jobs):
    """Records as workers finish. The job of a worker that dies is done again by another one."""
    from dask.distributed import as_completed

    for future in as_completed([cluster.submit(_whole, *job, pure=False) for job in jobs]):
        yield from future.result()
        future.release()


def _whole(*job):
    torch.set_num_threads(1)  # workers share a machine
    return list(records(*job))


class Log:
    """A file of records, one per line, each on the disk before the next is made. done: the keys of those it holds."""

    def __init__(self, path):
        self.done, path = set(), Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            self.file = path.open("ab")
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; name another folder"
            ) from error
        if lines and not lines[-1].endswith(b"\n"):  # a run was killed while it wrote
            lines.pop()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self.done.add(tuple(record[name] for name in KEY))
                if record["status"] == "ok":
                    float(record["P"]), float(record["area"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {path} is no record of a study; name another file"
                ) from error
        self.file.truncate(sum(map(len, lines)))

    def add(self, record):
        self.file.write((json.dumps(record) + "\n").encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        self.file.close()


def records(cases, network, size, methods):
    """One record for each method and case.

    P, E, E_total: see `energy_concentration`. area: share of the picture that the grown mask covers, which is what a
    map gets that knows nothing. seconds: for this picture, of a batch its part. status: "ok", or why there is no P.

    :param cases: a list of `Case`
    :param network: its name
    :param size: "original", or a side in pixels
    :param methods: names in `METHODS`
    :return: generator of dicts, those that have no result first
    """
    net, ready = load(network), []
    for case in cases:
        key = dict(zip(KEY, (*case.key, network, size), strict=False))
        try:
            x, mask = prepared(net, *case.load(), size)
            if not mask.any():  # the object was cropped away
                raise InputError("empty mask")
            ready.append((key, x, mask, class_index(net, case.label, x)))
        except InputError as error:
            yield from (key | {"method": method, "status": str(error)} for method in methods)
    if not ready:
        return
    keys, x, masks, targets = zip(*ready, strict=True)
    grown = torch.from_numpy(np.stack([dilated(mask, 0.2) for mask in masks]))
    for method, R, seconds in explain_all(net, torch.cat(x), list(targets), methods, OPTIONS):
        if isinstance(R, str):
            yield from (key | {"method": method, "status": R} for key in keys)
            continue
        P, E_total = energy_concentration(R, grown, dilate=0), R.double().square().sum((1, 2, 3))
        for key, p, e, mask in zip(keys, P.tolist(), E_total.tolist(), grown, strict=True):
            found = (
                {"P": p, "E": p * e, "status": "ok"}
                if not math.isnan(p)
                else {"status": "no energy"}
            )
            area = mask.double().mean().item()
            yield key | {
                "method": method,
                **found,
                "E_total": e,
                "area": area,
                "seconds": seconds / len(keys),
            }


def prepared(net, image, mask, size):
    """The picture as the network wants it, and the mask cut in the same way.

    :param net: `Network`
    :param image, mask: of a case, as `Case.load` gives them
    :param size: "original", or a side in pixels
    :return: x (1, 3, H, W), mask (H, W) bool
    """
    size = None if size == ORIGINAL else size
    x = net.preprocess(image, size)
    if size is not None:
        mask = torch.from_numpy(mask)[None]
        mask = TF.resize(mask.to(torch.uint8), size, TF.InterpolationMode.NEAREST_EXACT)
        mask = TF.center_crop(mask, size)[0].bool().numpy()
    return x, mask


def class_index(net, label, x):
    """The class to explain: the label itself, or the likeliest of the ImageNet classes that are kinds of it.

    :param net: `Network`
    :param label: name of a scene's class, or of a COCO category
    :param x: (1, 3, H, W)
    :return: int
    :raises InputError: where the network knows no kind of it
    """
    if label in net.classes:
        return net.classes.index(label)
    kinds = [
        k for k, name in coco.class_map().get(label, {}).items() if net.classes[k : k + 1] == [name]
    ]
    if not kinds:
        raise InputError(f"{net.name} knows no kind of {label}")
    return kinds[int(net.predict(x)[0, kinds].argmax())]
