"""What a study found: its records as a table with intervals and chance, and as plots.

The plots are drawn by seaborn, from the numbers of the table.
"""

import functools
import gzip
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so

from .errors import InputError, nearest
from .evaluate import gain
from .packages import imported

PICTURE = ["source", "image", "class"]
SIGNIFICANT = 0.05
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
    """The records of a study, with a column G: what P gained over chance, see `gain`.

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
    frame = pd.DataFrame([json.loads(line) for line in lines])
    if {"P", "area"} <= {*frame.columns}:
        frame["G"] = gain(frame.P, frame.area)
    return frame


def table(frame, by="method", score="P", seed=0):
    """The number of records of each method, the sum and mean of their score, and chance.

    low, high: 95 % interval of the mean, by drawing pictures anew with replacement. All records of
    a picture are drawn together: four networks that look at one picture are not four pictures.
    chance: the mean share of the picture that the grown mask covers, which is the P of a uniform
    map.

    :param frame: from `read`, or a part of it, such as `frame[frame["rank"] == 1]`
    :param by: what has a row each: "method", or another column of the frame
    :param score: "P", "G", or another column of the frame that holds numbers
    :param seed: of the drawing
    :return: DataFrame, best mean first
    :raises InputError: where no record has a result, or there is no such column

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> xcnn.report.table(frame)[["mean", "low", "high", "chance"]].head(1).round(2)
                     mean   low  high  chance
    method
    guided_grad_cam  0.56  0.51  0.61    0.26
    """
    good = _with_result(frame, score)
    rows = {name: _row(group, score, seed) for name, group in good.groupby(by)}
    rows = pd.DataFrame(rows).T.astype({"records": int}).rename_axis(by)
    return rows.sort_values("mean", ascending=False)


def _with_result(frame, score):
    """The records that have this score.

    :raises InputError: where there is none, or no such column
    """
    good = frame[frame.status == "ok"]
    if len(good) and score not in good.columns:
        raise InputError(f"no column {score!r} in these records; {nearest(score, frame.columns)}")
    if len(good):
        good = good[good[score].notna()]
    if good.empty:
        reasons = "; ".join(map(str, frame.status.unique()[:3]))
        raise InputError(f"no record has a result: {reasons}")
    return good


def _row(group, score, seed):
    """The row of a table for some records."""
    of_picture = group.groupby(PICTURE)[score].agg(["sum", "count"]).to_numpy()
    low, high = _interval(of_picture, seed)
    return {
        "records": len(group),
        "sum": group[score].sum(),
        "mean": group[score].mean(),
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


def pairs(frame, score="P", seed=0):
    """Who is ahead of whom: each two methods on the same pictures, corrected for many looks.

    The difference is taken for each picture, network and size that both have, and averaged over
    the networks and sizes of a picture: a picture is one number. low, high: 95 % interval of the
    mean difference, by drawing pictures anew. p: of a paired t test, after Holm's correction for
    all pairs of the table (Holm 1979): at 0.05, one table in twenty holds a false "ahead" at most.

    :param frame, score, seed: as in `table`
    :return: DataFrame with a row for each pair, the better one first: first, second, pictures,
        difference, low, high, p, ahead (is p below 0.05?)
    :raises InputError: as `table`; fewer than two methods

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> rows = xcnn.report.pairs(frame).set_index(["first", "second"])
    >>> rows.loc[("grad_cam", "guided_backprop"), ["difference", "low", "high"]].round(3).tolist()
    [0.019, -0.003, 0.04]
    """
    good = _with_result(frame, score)
    index = [*PICTURE, *(name for name in ("network", "size") if name in good)]
    wide = good.pivot_table(index=index, columns="method", values=score)
    order = wide.mean().sort_values(ascending=False).index
    if len(order) < 2:
        raise InputError("two methods or more are needed to compare them")
    rows = [_pair(wide, *names, seed) for names in itertools.combinations(order, 2)]
    rows = pd.DataFrame([row for row in rows if row is not None])
    rows["p"] = _holm(rows.p.to_numpy())
    return rows.assign(ahead=rows.p < SIGNIFICANT)


def _pair(wide, first, second, seed):
    """The row of two methods; None where they have fewer than two pictures in common."""
    stats = imported("scipy.stats", "a paired test")
    difference = (wide[first] - wide[second]).dropna().groupby(PICTURE).mean().to_numpy()
    n = len(difference)
    if n < 2:
        return None
    if difference.mean() < 0:  # of the pictures that they have in common
        first, second, difference = second, first, -difference
    low, high = _interval(np.stack([difference, np.ones(n)], 1), seed)
    p = stats.ttest_1samp(difference, 0).pvalue if np.ptp(difference) else float(not difference[0])
    return {
        "first": first,
        "second": second,
        "pictures": n,
        "difference": difference.mean(),
        "low": low,
        "high": high,
        "p": p,
    }


def _holm(p):
    """Holm's step-down correction: the smallest p times m, the next times m - 1, never falling."""
    order = np.argsort(p)
    steps = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps * p[order]).clip(max=1)
    return corrected


def agreement(frame, scores, seed=0):
    """Do two measures order the methods alike? Rank correlations, with intervals over pictures.

    For each draw of pictures the methods' means are taken anew, by each measure, and correlated by
    rank over the methods.

    :param frame: from `read`
    :param scores: columns of it
    :param seed: of the drawing
    :return: DataFrame with a row for each pair: first, second, correlation, low, high
    :raises InputError: as `table`

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "coco_study.jsonl.gz")
    >>> row = xcnn.report.agreement(frame, ["P", "G"]).iloc[0]
    >>> row[["correlation", "low", "high"]].astype(float).round(2).tolist()
    [1.0, 0.92, 1.0]
    """
    means = {score: _drawn_means(frame, score, seed) for score in scores}
    rows = []
    for first, second in itertools.combinations(scores, 2):
        values = [_ranks_agree(a, b) for a, b in zip(means[first], means[second], strict=True)]
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        rows.append((first, second, values[0], low, high))
    return pd.DataFrame(rows, columns=["first", "second", "correlation", "low", "high"])


def _drawn_means(frame, score, seed):
    """Each method's mean: first of all pictures, then of each draw, (1 + draws, methods)."""
    good = _with_result(frame, score)
    grouped = good.groupby([*PICTURE, "method"])[score].agg(["sum", "count"]).unstack(fill_value=0)
    pictures = len(grouped)
    drawn = np.vstack([np.ones(pictures), _drawn(pictures, seed, BOOTSTRAP_DRAWS)])
    total, count = (drawn @ grouped[name].to_numpy() for name in ("sum", "count"))
    return total / count


def _ranks_agree(a, b):
    """Spearman's correlation of two lists of means."""
    return imported("scipy.stats", "a rank correlation").spearmanr(a, b).statistic


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
