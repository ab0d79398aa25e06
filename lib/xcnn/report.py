"""What a study found: its records as tables, with intervals, chance and who is ahead of whom.

`graphs.py` draws these numbers.
"""

import functools
import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError, nearest
from .evaluate import gain
from .packages import imported

PICTURE = ["source", "image"]  # what is drawn: records of one picture depend on each other
QUESTION = [*PICTURE, "class"]
SIGNIFICANT = 0.05
BOOTSTRAP_DRAWS = 2000  # enough for an interval's ends to stay within about 3 % of its half length


def read(path):
    """The records of a study, with a column G: what P gained over chance, see `gain`.

    :param path: the file that `run` wrote; it may be packed (.gz)
    :return: DataFrame, a row for each record
    :raises InputError: no such file, no record in it

    >>> path = xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz"
    >>> frame = xcnn.report.read(path)
    >>> sorted(frame["network"].unique())
    ['allconv_s', 'googlenet_s', 'resnet_s', 'vgg_s']
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

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> xcnn.report.table(frame)[["mean", "low", "high", "chance"]].head(1).round(2)
                     mean   low  high  chance
    method
    guided_grad_cam  0.95  0.95  0.96     0.1
    """
    good = _with_result(frame, score)
    rows = {name: _row(group, score, seed) for name, group in good.groupby(by)}
    rows = pd.DataFrame(rows).T.astype({"records": int}).rename_axis(by)
    return rows.sort_values("mean", ascending=False)


def summary(frame, seed=0):
    """What a reader of a table must know, one row for each method, best gain first.

    P, chance, G, low, high: means over all questions, and the 95 % interval of G, as in `table`.
    G_seen, low_seen, high_seen: the same of G, where the class that was asked for is the network's
    first. pictures, records, records_seen: how many there were. left_out: records without a gain,
    those of `left_out` and those of an object that fills the picture: chance leaves nothing open.

    :param frame: from `read`
    :param seed: of the drawing
    :return: DataFrame
    :raises InputError: as `table`

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> rows = xcnn.report.summary(frame)
    >>> rows.loc["guided_grad_cam", ["G", "G_seen"]].round(2).tolist()
    [0.95, 0.96]
    """
    good = _with_result(frame, "G")
    gains = table(good, score="G", seed=seed)
    seen = good[good["rank"] == 1]
    gains_seen = table(seen, score="G", seed=seed) if len(seen) else gains[:0]
    pictures = good.drop_duplicates([*PICTURE, "method"]).groupby("method").size()
    columns = {
        "pictures": pictures,
        "records": gains.records,
        "P": table(frame, seed=seed)["mean"],
        "chance": gains.chance,
        "G": gains["mean"],
        "low": gains.low,
        "high": gains.high,
        "records_seen": gains_seen.records.reindex(gains.index, fill_value=0),
        "G_seen": gains_seen["mean"],
        "low_seen": gains_seen.low,
        "high_seen": gains_seen.high,
        "left_out": frame.G.isna().groupby(frame.method).sum(),
    }
    return pd.DataFrame(columns).loc[gains.index]


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

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> rows = xcnn.report.pairs(frame).set_index(["first", "second"])
    >>> rows.loc[("guided_grad_cam", "lrp"), ["difference", "low", "high"]].round(3).tolist()
    [0.001, -0.004, 0.007]
    """
    good = _with_result(frame, score)
    index = [*QUESTION, *(name for name in ("network", "size") if name in good)]
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
    difference = (wide[first] - wide[second]).dropna().groupby(PICTURE).mean().to_numpy()
    if len(difference) < 2:
        return None
    if difference.mean() < 0:  # of the pictures that they have in common
        first, second, difference = second, first, -difference
    return {"first": first, "second": second, **_mean_difference(difference, seed)}


def _mean_difference(difference, seed):
    """The mean of a difference for each picture, its interval, and the p of a paired t test."""
    stats = imported("scipy.stats", "a paired test")
    n = len(difference)
    low, high = _interval(np.stack([difference, np.ones(n)], 1), seed)
    p = stats.ttest_1samp(difference, 0).pvalue if np.ptp(difference) else float(not difference[0])
    return {"pictures": n, "difference": difference.mean(), "low": low, "high": high, "p": p}


def changes(frame, base, score="G", seed=0):
    """What turning a knob does to a score: each setting against the base, on the same pictures.

    A picture is one number: the difference is averaged over its networks. p: of a paired t test,
    after Holm's correction for all rows of the table.

    :param frame: records with columns knob and value, as `tools/data/study_stress.py` makes them
    :param base: knob -> the setting where it begins, such as ``knobs.BASE``
    :param score, seed: as in `table`
    :return: DataFrame with a row for each knob, method and setting but the base: knob, method,
        value, pictures, difference, low, high, p, sure (is p below 0.05?)
    :raises InputError: as `table`

    >>> path = xcnn.paths.data_folder() / "results" / "stress.jsonl.gz"
    >>> frame = xcnn.report.read(path)
    >>> light = frame[(frame.knob == "light") & (frame.method == "edges")]
    >>> len(xcnn.report.changes(light, xcnn.knobs.BASE))
    5
    """
    rows = []
    for (knob, method), part in _with_result(frame, score).groupby(["knob", "method"], sort=False):
        wide = part.pivot_table(index=[*QUESTION, "network"], columns="value", values=score)
        for value in wide.columns.drop(base[knob]):
            difference = (wide[value] - wide[base[knob]]).dropna().groupby(PICTURE).mean()
            if len(difference) > 1:
                row = _mean_difference(difference.to_numpy(), seed)
                rows.append({"knob": knob, "method": method, "value": value, **row})
    rows = pd.DataFrame(rows)
    rows["p"] = _holm(rows.p.to_numpy())
    return rows.assign(sure=rows.p < SIGNIFICANT)


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
    rank over the methods that have both.

    :param frame: from `read`
    :param scores: columns of it
    :param seed: of the drawing
    :return: DataFrame with a row for each pair: first, second, correlation, low, high
    :raises InputError: as `table`

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> row = xcnn.report.agreement(frame, ["P", "iou"]).iloc[0]
    >>> row[["correlation", "low", "high"]].astype(float).round(2).tolist()
    [0.2, 0.16, 0.23]
    """
    means = {score: _drawn_means(frame, score, seed) for score in scores}
    rows = []
    for first, second in itertools.combinations(scores, 2):
        one, other = means[first], means[second]
        both = one.columns.intersection(other.columns)
        draws = zip(one[both].to_numpy(), other[both].to_numpy(), strict=True)
        values = [_ranks_agree(*draw) for draw in draws]
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
    return pd.DataFrame(total / count, columns=grouped["sum"].columns)


def _ranks_agree(a, b):
    """Spearman's correlation of two lists of means."""
    return imported("scipy.stats", "a rank correlation").spearmanr(a, b).statistic


def write(frame, folder):
    """The tables of a study as CSV, to compute with, and as Markdown, to read.

    summary: as `summary`. everywhere: P and G for each method, network and size. pairs: as `pairs`,
    of G. left_out: as `left_out`.

    :param frame: from `read`
    :param folder: where to write them
    :return: list of the paths written

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> [path.name for path in xcnn.report.write(frame[frame["size"] == 224], folder)][:2]
    ['summary.csv', 'summary.md']
    """
    tables = {
        "summary": summary(frame).reset_index(),
        "everywhere": _everywhere(frame),
        "left_out": left_out(frame),
    }
    if frame[frame.status == "ok"].method.nunique() > 1:
        tables["pairs"] = pairs(frame, "G")
    paths = []
    for name, rows in tables.items():
        paths += [Path(folder) / f"{name}.csv", Path(folder) / f"{name}.md"]
        rows.to_csv(paths[-2], index=False)
        paths[-1].write_text(markdown(rows))
    return paths


def _everywhere(frame):
    """The means of P and G for each method, network and size."""
    good = _with_result(frame, "G")
    by = [name for name in ("method", "network", "size") if name in good]
    return good.groupby(by)[["P", "G"]].mean().reset_index()


def markdown(rows, digits=3):
    """A table in Markdown, numbers rounded.

    :param rows: DataFrame; its index is left out
    :param digits: behind the point
    :return: str

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> print(xcnn.report.markdown(frame[["method", "P"]].head(1)))
    | method | P |
    | --- | --- |
    | gradient | 0.405 |
    <BLANKLINE>
    """
    lines = [list(rows.columns), ["---"] * len(rows.columns)]
    for values in rows.itertuples(index=False):
        lines.append([f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in values])
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def left_out(frame):
    """Records of a frame without a P, counted by reason and method: nothing disappears in silence.

    :param frame: from `read`
    :return: DataFrame with columns status, method and records

    >>> frame = xcnn.report.read(xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz")
    >>> xcnn.report.left_out(frame)[["method", "records"]].to_numpy().tolist()
    [['cam', 360], ['deep_taylor', 189], ['lrp', 1]]
    """
    rest = frame[frame.status != "ok"]
    return rest.groupby(["status", "method"]).size().rename("records").reset_index()
