"""The tables of `report` as graphs, by seaborn: what is drawn are the numbers of the tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so

from . import report
from .contestants import CONTROLS, TITLES

GREY = "0.45"  # of controls, which never look at the network
AHEAD, LEVEL, BEHIND = 1, 0, -1
SCORES = {  # column -> what the axis calls it
    "P": "energy concentration P",
    "G": "gain over chance G",
    "causal_signs": "agreement of signs with the effects",
    "causal_ranks": "rank correlation with the effects",
}
LIMITS = {"P": (0, 1), "G": (-0.25, 1), "causal_signs": (-1, 1), "causal_ranks": (-1, 1)}
PLOTS = (("methods", None), ("networks", "network"), ("sizes", "size"))  # name of the file, hue
FORMATS = ("png", "eps", "pdf")
STYLE = {
    **sns.axes_style("whitegrid"),
    "grid.color": "0.9",
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
    "legend.framealpha": 1,  # EPS has no transparency
}


def means(frame, hue=None, score="P"):
    """What `report.table` says, drawn: the mean of each method with its 95 % interval.

    Methods are in the order of the table, best first; controls are grey. The dashed line is the
    mean of a map that knows nothing: chance for P, 0 for a gain or a correlation.

    :param frame: from `report.read`
    :param hue: "network" or "size": a dot for each; None: one dot over all of them
    :param score: a column of the frame, as in `report.table`
    :return: matplotlib Figure
    :raises InputError: where no record has a result

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> [label.get_text() for label in xcnn.graphs.means(frame).axes[0].get_yticklabels()][:2]
    ['Guided Grad-CAM', 'LRP']
    """
    rows = report.table(frame, score=score)
    methods = list(rows.index)
    lines = len(methods)
    if hue is not None:
        rows = _tables(frame, hue, score)
        lines = max(lines, frame[hue].nunique() + 2)  # the legend needs as much room
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.2, 0.8 + 0.3 * lines), layout="constrained")
    _dots(rows.reset_index(), methods, hue, score).on(ax).plot()
    _name_rows(ax, methods)
    _mark_nothing_known(ax, frame, score)
    for legend in figure.legends:  # best first: the lower right corner is empty
        legend.set_loc("lower right")
        legend.set_bbox_to_anchor((1, 0), ax.transAxes)
    plt.close(figure)  # a notebook shows it once, as the cell's result
    return figure


def _tables(frame, hue, score):
    """The tables of all networks or sizes, one below the other."""
    parts = frame[(frame.status == "ok") & frame[score].notna()].groupby(hue, sort=False)
    tables = {str(name): report.table(part, score=score) for name, part in parts}
    return pd.concat(tables, names=[hue])


def _dots(rows, methods, hue, score):
    """A dot and an interval for each row of a table, as a seaborn Plot."""
    moves = [so.Dodge()] if hue else []
    plot = so.Plot(rows, x="mean", xmin="low", xmax="high", y="method", color=hue)
    looks = sns.color_palette("colorblind")[0]
    groups = [(rows, {} if hue else {"color": looks})]
    if not hue:
        blind = rows.method.isin(CONTROLS)
        groups = [(rows[~blind], {"color": looks}), (rows[blind], {"color": GREY})]
    for part, colour in groups:
        if len(part):
            dots, ranges = so.Dot(pointsize=4.5, **colour), so.Range(linewidth=1.4, **colour)
            plot = plot.add(ranges, *moves, orient="y", data=part)
            plot = plot.add(dots, *moves, orient="y", data=part)
    if score in LIMITS:
        plot = plot.limit(x=LIMITS[score])
    return (
        plot.scale(y=so.Nominal(order=methods), color="colorblind")
        .label(x=f"{SCORES.get(score, score)}, mean and 95 % interval", y="")
        .theme(STYLE)
    )


def _name_rows(ax, methods):
    """Titles in place of the names that records use, those of controls in grey."""
    ax.set_yticks(ax.get_yticks(), [TITLES.get(name, name) for name in methods])
    for label, name in zip(ax.get_yticklabels(), methods, strict=True):
        label.set_color(GREY if name in CONTROLS else "black")


def _mark_nothing_known(ax, frame, score):
    """A dashed line where a map lands that knows nothing."""
    if score not in SCORES:
        return
    at = frame[frame.status == "ok"].area.mean() if score == "P" else 0
    ax.axvline(at, color="0.5", linestyle="--", linewidth=1)
    ax.annotate(
        "chance" if score in ("P", "G") else "unrelated",
        (at, 1),
        (2, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="0.4",
        fontsize=8,
    )


def ahead(pairs):
    """Who is ahead of whom, as a matrix: blue where the row's method is ahead of the column's.

    Orange: behind; white: level, or too few pictures in common. "Ahead" is what `report.pairs`
    says: after Holm's correction for all pairs of the table.

    :param pairs: from `report.pairs`
    :return: matplotlib Figure; methods are in the order of how many they are ahead of

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> figure = xcnn.graphs.ahead(xcnn.report.pairs(frame[frame.network == "resnet_s"]))
    >>> len(figure.axes[0].get_yticklabels())
    27
    """
    sure = pairs[pairs.ahead]
    score = pd.concat([pairs[["first", "second"]].stack()]).unique()
    won = {name: (sure["first"] == name).sum() - (sure.second == name).sum() for name in score}
    order = sorted(won, key=won.get, reverse=True)
    place = {name: k for k, name in enumerate(order)}
    matrix = np.full((len(order), len(order)), LEVEL)
    for first, second in zip(sure["first"], sure.second, strict=True):
        matrix[place[first], place[second]] = AHEAD
        matrix[place[second], place[first]] = BEHIND
    return _matrix(matrix, order)


def _matrix(matrix, order):
    """The figure of a matrix of 1, 0 and -1."""
    n = len(order)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, ax = plt.subplots(figsize=(7.2, 0.9 + 0.24 * n), layout="constrained")
    colours = sns.color_palette("colorblind")
    blue, orange = colours[0], colours[1]
    ax.imshow(matrix, cmap=plt.matplotlib.colors.ListedColormap([orange, "white", blue]))
    ax.set_yticks(range(n), [f"{TITLES.get(name, name)}  {k + 1}" for k, name in enumerate(order)])
    ax.set_xticks(range(n), range(1, n + 1), fontsize=8)
    for label, name in zip(ax.get_yticklabels(), order, strict=True):
        label.set_color(GREY if name in CONTROLS else "black")
    ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    plt.close(figure)
    return figure


def write(frame, folder, score="P"):
    """`means` of a frame over methods, networks and sizes, each as PNG, EPS and PDF.

    :param frame: from `report.read`
    :param folder: where to write them
    :param score: as in `means`
    :return: list of the paths written
    :raises InputError: where no record has a result

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> [path.name for path in xcnn.graphs.write(frame, folder)][:3]
    ['methods.png', 'methods.eps', 'methods.pdf']
    """
    paths = []
    for name, hue in PLOTS:
        figure = means(frame, hue, score)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # or every file would lay it out anew
        for suffix in FORMATS:
            path = Path(folder) / f"{name}.{suffix}"
            figure.savefig(path, dpi=150)
            paths.append(path)
    return paths
