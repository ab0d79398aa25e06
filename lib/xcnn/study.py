"""The experiment: how well each method's evidence agrees with the truth, for many pictures.

A study asks all combinations of data, networks, sizes and methods. A run makes one record for each
image, class, network, size and method, and appends it to a file at once. When a run is stopped, the
next one reads the file and makes the records that are missing. `report.py` turns the file into a
table and plots.
"""

import contextlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from . import contestants
from .errors import InputError, one_of
from .evaluate import dilated
from .loading import load
from .study_cases import ORIGINAL, Case, cases, class_index, cut, prepared
from .study_measures import DILATE, measures, short

__all__ = ["Case", "Log", "cases", "class_index", "prepared", "records", "run"]

KEY = ("source", "image", "class", "network", "size", "method")
ASKED = ("p", "rank", "area")  # what is known of a question before a method answers


def run(
    out, cases, networks, sizes=(ORIGINAL, 224), methods=None, batch=8, cluster=None, progress=True
):
    """Make the records that a file does not hold yet.

    :param out: the file, one JSON record per line
    :param cases: from `cases`
    :param networks: names, see `xcnn.load`
    :param sizes: "original", or sides in pixels
    :param methods: names of methods and controls, see `contestants`; None: all. LIME takes 150
        samples here, RISE 300 masks
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
    known = contestants.contestants()
    methods = dict.fromkeys(known if methods is None else methods)
    for name in methods:
        one_of("method", name, known)
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
                raise InputError(f"line {number} of {path} is {_why_not(line)}") from error
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
        for name in ("P", *ASKED):
            float(record[name])  # raises an error for what is not a number
    return tuple(record[name] for name in KEY)


def _why_not(line):
    """What is wrong with a line that is not a record."""
    with contextlib.suppress(ValueError, TypeError):
        record = json.loads(line)
        if {*KEY, "P", "E_total"} <= record.keys():  # before maps were taken with their sign
            return (
                "a record of an earlier version, whose P means something else; make new ones "
                "with another --out, or name another file"
            )
    return "no record of a study; name another file"


def records(cases, network, size, methods):
    """One record for each method and case.

    p, rank: the probability of the class that is asked for, and its place among the classes, 1 for
    the top one. area: the share of the picture that the grown mask covers, which is the score of a
    uniform map. Of what the method says for the class, see `evidence`: P, see
    `energy_concentration`; mass and ranks, see `relevance_mass_accuracy` and
    `relevance_rank_accuracy`; pointing: whether its largest value is on the grown mask; iou, see
    `box_iou`; rival, of scenes: see `rival_energy`; left: the probability of the class for what the
    map leaves of the picture, see `masked`. P_raw: P of the map as it is, where what
    speaks against the class counts as if it spoke for it. seconds: what the map of this picture
    took; a batch shares its time evenly. status: "ok", or why there is no P.

    :param cases: a list of `Case`
    :param network: its name
    :param size: "original", or a side in pixels
    :param methods: names of methods and controls, see `contestants`
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
            questions.append(_question(net, case, size, key))
        except InputError as error:
            yield from (key | {"method": method, "status": str(error)} for method in methods)
    if questions:
        yield from _answers(net, questions, methods)


@dataclass
class _Question:
    """What the methods need for a case, and what is known before they answer."""

    key: dict  # of its records, without the method
    x: torch.Tensor  # (1, 3, H, W)
    grown: np.ndarray  # the object's mask, grown, (H, W) bool
    rival: np.ndarray | None  # the same of the other object
    target: int
    asked: dict  # p, rank, area


def _question(net, case, size, key):
    """The question of a case.

    :raises InputError: an image that cannot be read, no object, a class that the network lacks
    """
    x, mask = prepared(net, *case.load(), size)
    if not mask.any():  # the object was cropped away
        raise InputError("empty mask")
    target = class_index(net, case.label, x)
    p = net.predict(x)[0]
    grown = dilated(mask, DILATE)
    asked = {
        "p": short(p[target].item()),
        "rank": 1 + int((p > p[target]).sum()),
        "area": short(grown.mean()),
    }
    rival = case.rival()
    grown_rival = None if rival is None else dilated(cut(rival, size), DILATE)
    return _Question(key, x, grown, grown_rival, target, asked)


def _answers(net, questions, methods):
    """The records of one batch: of each method one for each question."""
    x = torch.cat([question.x for question in questions])
    targets = [question.target for question in questions]
    keys = [str(list(question.key.values())[:3]) for question in questions]  # source, image, class
    for method, R, E, seconds in contestants.answers(net, x, targets, methods, keys):
        head = [question.key | {"method": method} | question.asked for question in questions]
        if isinstance(R, str):  # the method refused
            yield from (key | {"status": R} for key in head)
            continue
        grown, rival = _masks(questions)
        measured = measures(net, x, targets, R, E, grown, rival)
        for key, values in zip(head, measured, strict=True):
            yield key | values | {"seconds": short(seconds / len(questions))}


def _masks(questions):
    """The grown masks of the objects and of their rivals, (N, H, W) each; no rivals: None."""
    grown = np.stack([question.grown for question in questions])
    if questions[0].rival is None:
        return grown, None
    return grown, np.stack([question.rival for question in questions])
