"""What a study found: its records as a table, with intervals and chance, and as graphs."""

import functools
import gzip
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .errors import InputError

PICTURE = ["source", "image", "class"]


def read(path):
    """The records of a study.

    :param path: the file that `run` wrote; it may be packed (.gz)
    :return: DataFrame, a row for each record
    :raises InputError: no such file, no record in it
    """
    try:
        with gzip.open(path, "rt") if Path(path).suffix == ".gz" else open(path) as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; `python -m xcnn study` makes it"
        ) from error
    if not lines:
        raise InputError(f"{path} holds no records yet")
    return pd.DataFrame([json.loads(line) for line in lines])


def table(frame, by="method", seed=0):
    """How many records there are of each method, the sum and mean of their P, and what chance would get.

    low, high: 95 % interval of the mean, by drawing pictures anew with replacement. All records of a picture are drawn
    together: four networks that look at one picture are not four pictures. chance: the mean share of the picture that
    the grown mask covers.

    :param frame: from `read`
    :param by: what has a row each: "method", or another column of the frame
    :param seed: of the drawing
    :return: DataFrame, best mean first
    """
    if not (frame.status == "ok").any():
        reasons = "; ".join(map(str, frame.status.unique()[:3]))
        raise InputError(f"no record has a result: {reasons}")
    rows = {}
    for name, group in frame[frame.status == "ok"].groupby(by):
        of_picture = group.groupby(PICTURE).P.agg(["sum", "count"]).to_numpy()
        low, high = _interval(of_picture, seed)
        rows[name] = {"records": len(group), "sum": group.P.sum(), "mean": group.P.mean(), "low": low, "high": high,
                      "chance": group.area.mean()}  # fmt: skip
    return (
        pd.DataFrame(rows)
        .T.astype({"records": int})
        .rename_axis(by)
        .sort_values("mean", ascending=False)
    )


def _interval(of_picture, seed, times=2000):
    """Bootstrap interval of sum / count over pictures, (n, 2) -> low, high."""
    total, count = (_drawn(len(of_picture), seed, times) @ of_picture).T
    return np.quantile(total / count, [0.025, 0.975])


@functools.lru_cache(8)  # one draw serves all methods that saw the same pictures
def _drawn(n, seed, times):
    """How often each of n pictures is drawn in each of so many draws of n, (times, n)."""
    drawn = np.random.default_rng(seed).integers(n, size=(times, n))
    return np.stack([np.bincount(one, minlength=n) for one in drawn])


def left_out(frame):
    """Records of a frame without a P, counted by reason and method: nothing disappears in silence."""
    rest = frame[frame.status != "ok"]
    return rest.groupby(["status", "method"]).size().rename("records").reset_index()


def graph(frame, hue=None):
    """What `table` says, drawn: the mean P of each method, its 95 % interval; a dashed line at the mean chance.

    :param frame: from `read`
    :param hue: "network" or "size", a dot for each; None: one dot over all of them
    :return: matplotlib Figure
    """
    good, rows = frame[frame.status == "ok"], table(frame)
    order, parts = list(rows.index), [(None, rows)]
    if hue:
        parts = [(name, table(part).reindex(order)) for name, part in good.groupby(hue, sort=False)]
    with plt.style.context("tableau-colorblind10"):
        figure, ax = plt.subplots(figsize=(7.2, 0.8 + 0.3 * len(order)), layout="constrained")
    for k, (name, rows) in enumerate(parts):
        y = np.arange(len(order)) + 0.5 * ((k + 0.5) / len(parts) - 0.5)
        (dots,) = ax.plot(rows["mean"], y, "o", ms=4, label=name)
        ax.hlines(y, rows.low, rows.high, color=dots.get_color(), lw=1.4)
    ax.axvline(good.area.mean(), color="0.5", ls="--", lw=1)
    ax.annotate("chance", (good.area.mean(), 1), (2, -9), xycoords=("data", "axes fraction"),
                textcoords="offset points", color="0.4", fontsize=8)  # fmt: skip
    ax.set(xlabel="energy concentration P, mean and 95 % interval", xlim=(0, 1), yticks=range(len(order)),
           yticklabels=order, ylim=(len(order) - 0.5, -0.5))  # fmt: skip
    if hue:
        ax.legend(title=hue)
    plt.close(figure)
    return figure


def graphs(frame, folder):
    """`graph` of a frame over methods, networks and sizes, each as PNG and PDF in the folder; the paths written."""
    written = []
    for name, hue in [("methods", None), ("networks", "network"), ("sizes", "size")]:
        figure = graph(frame, hue)
        for suffix in ("png", "pdf"):
            written.append(Path(folder) / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=150)
    return written
