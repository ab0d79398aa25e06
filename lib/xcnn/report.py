"""What a study found: its records as a table with intervals and chance, and as plots.

The plots are drawn by seaborn, from the numbers of the table.
"""

import functools
import gzip
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so

from .errors import InputError

PICTURE = ["source", "image", "class"]
BOOTSTRAP_DRAWS = 2000  # enough for an interval's ends to stay within about 3 % of its half length
PLOTS = (("methods", None), ("networks", "network"), ("sizes", "size"))  # name of the file, hue
FORMATS = ("png", "eps", "pdf")
STYLE = {
    **sns.axes_style("whitegrid"),
    "grid.color": "0.9",
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
    "legend.framealpha": 1,  # EPS has no transparency
}


def read(path):
    """The records of a study.

    :param path: the file that `run` wrote; it may be packed (.gz)
    :return: DataFrame, a row for each record
    :raises InputError: no such file, no record in it

    >>> path = xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz"
    >>> frame = xcnn.report.read(path)
    >>> sorted(frame["network"].unique())
    ['mobilenet_v2', 'resnet18', 'squeezenet1_1']
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
    """The number of records of each method, the sum and mean of their P, and chance.

    low, high: 95 % interval of the mean, by drawing pictures anew with replacement. All records of
    a picture are drawn together: four networks that look at one picture are not four pictures.
    chance: the mean share of the picture that the grown mask covers.

    :param frame: from `read`
    :param by: what has a row each: "method", or another column of the frame
    :param seed: of the drawing
    :return: DataFrame, best mean first
    :raises InputError: where no record has a result

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> xcnn.report.table(frame)[["mean", "low", "high", "chance"]].head(1).round(2)
                     mean   low  high  chance
    method
    guided_grad_cam  0.56  0.51  0.61    0.26
    """
    good = frame[frame.status == "ok"]
    if good.empty:
        reasons = "; ".join(map(str, frame.status.unique()[:3]))
        raise InputError(f"no record has a result: {reasons}")
    rows = {name: _row(group, seed) for name, group in good.groupby(by)}
    rows = pd.DataFrame(rows).T.astype({"records": int}).rename_axis(by)
    return rows.sort_values("mean", ascending=False)


def _row(group, seed):
    """The row of a table for some records."""
    of_picture = group.groupby(PICTURE).P.agg(["sum", "count"]).to_numpy()
    low, high = _interval(of_picture, seed)
    return {
        "records": len(group),
        "sum": group.P.sum(),
        "mean": group.P.mean(),
        "low": low,
        "high": high,
        "chance": group.area.mean(),
    }


def _interval(of_picture, seed, times=BOOTSTRAP_DRAWS):
    """Bootstrap interval of sum / count over pictures, (n, 2) -> low, high."""
    total, count = (_drawn(len(of_picture), seed, times) @ of_picture).T
    return np.quantile(total / count, [0.025, 0.975])


@functools.lru_cache(8)  # one draw serves all methods that saw the same pictures
def _drawn(n, seed, times):
    """How often each of n pictures is drawn in each of so many draws of n, (times, n)."""
    drawn = np.random.default_rng(seed).integers(n, size=(times, n))
    return np.stack([np.bincount(pictures, minlength=n) for pictures in drawn])


def left_out(frame):
    """Records of a frame without a P, counted by reason and method: nothing disappears in silence.

    :param frame: from `read`
    :return: DataFrame with columns status, method and records

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> xcnn.report.left_out(frame).head(1)
           status method  records
    0  empty mask    cam       18
    """
    rest = frame[frame.status != "ok"]
    return rest.groupby(["status", "method"]).size().rename("records").reset_index()


def plot(frame, hue=None):
    """What `table` says, drawn: the mean P of each method with its 95 % interval, and chance.

    Methods are in the order of the table, best first. The dashed line is the mean chance.

    :param frame: from `read`
    :param hue: "network" or "size": a dot for each; None: one dot over all of them
    :return: matplotlib Figure
    :raises InputError: where no record has a result

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> [label.get_text() for label in xcnn.report.plot(frame).axes[0].get_yticklabels()][:3]
    ['guided_grad_cam', 'shap_cam', 'lrp']
    """
    rows = table(frame)
    methods = list(rows.index)
    lines = len(methods)
    if hue is not None:
        rows = _tables(frame, hue)
        lines = max(lines, frame[hue].nunique() + 2)  # the legend needs as much room
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.2, 0.8 + 0.3 * lines), layout="constrained")
    _dots(rows.reset_index(), methods, hue).on(ax).plot()
    _mark_chance(ax, frame[frame.status == "ok"].area.mean())
    for legend in figure.legends:  # best first: the lower right corner is empty
        legend.set_loc("lower right")
        legend.set_bbox_to_anchor((1, 0), ax.transAxes)
    plt.close(figure)  # a notebook shows it once, as the cell's result
    return figure


def _tables(frame, hue):
    """The tables of all networks or sizes, one below the other."""
    parts = frame[frame.status == "ok"].groupby(hue, sort=False)
    return pd.concat({str(name): table(part) for name, part in parts}, names=[hue])


def _dots(rows, methods, hue):
    """A dot and an interval for each row of a table, as a seaborn Plot."""
    color = {} if hue else {"color": sns.color_palette("colorblind")[0]}
    moves = [so.Dodge()] if hue else []
    return (
        so.Plot(rows, x="mean", xmin="low", xmax="high", y="method", color=hue)
        .add(so.Range(linewidth=1.4, **color), *moves, orient="y")
        .add(so.Dot(pointsize=4.5, **color), *moves, orient="y")
        .scale(y=so.Nominal(order=methods), color="colorblind")
        .limit(x=(0, 1))
        .label(x="energy concentration P, mean and 95 % interval", y="")
        .theme(STYLE)
    )


def _mark_chance(ax, chance):
    """A dashed line at the score of a uniform map."""
    ax.axvline(chance, color="0.5", linestyle="--", linewidth=1)
    ax.annotate(
        "chance",
        (chance, 1),
        (2, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="0.4",
        fontsize=8,
    )


def plots(frame, folder):
    """`plot` of a frame over methods, networks and sizes, each as PNG, EPS and PDF.

    :param frame: from `read`
    :param folder: where to write them
    :return: list of the paths written
    :raises InputError: where no record has a result

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> [path.name for path in xcnn.report.plots(frame, folder)][:3]
    ['methods.png', 'methods.eps', 'methods.pdf']
    """
    paths = []
    for name, hue in PLOTS:
        figure = plot(frame, hue)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # or every file would lay it out anew
        for suffix in FORMATS:
            path = Path(folder) / f"{name}.{suffix}"
            figure.savefig(path, dpi=150)
            paths.append(path)
    return paths
