"""The report: tables by hand, intervals that hold, and plots that show the numbers of the table."""

import logging

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xcnn
from pypdf import PdfReader
from scipy import stats
from xcnn import report

from tools import ROOT

HUES = [None, "network", "size"]


@pytest.fixture(scope="module")
def frame():
    """The records on photographs: three networks and two sizes, but one method has only one."""
    return report.read(ROOT / "data" / "results" / "coco_study.jsonl.gz")


def test_table_by_hand():
    rows = [("a", 1, 0.2), ("a", 2, 0.4), ("b", 1, 0.9), ("b", 2, 0.7)]
    frame = pd.DataFrame(rows, columns=["method", "image", "P"])
    frame = frame.assign(**{"source": "s", "class": "c", "area": 0.1, "status": "ok"})
    table = report.table(frame)
    assert list(table.index) == ["b", "a"] and table.records.tolist() == [2, 2]
    assert table["sum"].tolist() == pytest.approx([1.6, 0.6])
    assert table["mean"].tolist() == pytest.approx([0.8, 0.3])
    assert table.low.tolist() == pytest.approx([0.7, 0.2])
    assert table.high.tolist() == pytest.approx([0.9, 0.4])


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for k in range(200):  # 30 pictures, each seen by 4 networks that nearly agree
        P = 0.3 + 0.1 * rng.normal(size=(30, 1)) + 0.01 * rng.normal(size=(30, 4))
        of_picture = np.stack([P.sum(1), np.full(30, 4)], 1)
        low, high = report._interval(of_picture, seed=k)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


# ---- plots


def drawn(figure):
    """What a plot shows: the names of its rows; (row, mean, low, high, colour) of each dot."""
    (ax,) = figure.axes
    intervals, dots = ax.collections
    ends = {}
    for (low, y), (high, y_of_high) in intervals.get_segments():
        assert y == y_of_high
        ends[y] = (low, high)
    shown = [
        (y, mean, *ends.pop(y), tuple(colour))
        for (mean, y), colour in zip(dots.get_offsets(), dots.get_facecolors(), strict=True)
    ]
    assert not ends, "an interval without a dot"
    return [label.get_text() for label in ax.get_yticklabels()], shown


def legend_of(figure):
    """Colour -> what the legend calls it."""
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    dots = [artist for artist in legend.findobj() if hasattr(artist, "get_sizes")]
    return {tuple(dot.get_facecolors()[0]): name for dot, name in zip(dots, names, strict=True)}


@pytest.mark.parametrize("hue", HUES)
def test_graph_says_what_the_table_says(frame, hue):
    figure = report.plot(frame, hue)
    methods, shown = drawn(figure)
    assert methods == list(report.table(frame).index)
    parts = {"": frame} if hue is None else {str(k): part for k, part in frame.groupby(hue)}
    tables = {name: report.table(part) for name, part in parts.items()}
    name_of = {colour: "" for *_, colour in shown} if hue is None else legend_of(figure)
    assert set(name_of.values()) == set(parts)
    wanted = {
        (name, method): tuple(table.loc[method, ["mean", "low", "high"]])
        for name, table in tables.items()
        for method in table.index
    }
    got = {
        (name_of[colour], methods[round(y)]): (mean, low, high)
        for y, mean, low, high, colour in shown
    }
    assert got == wanted and len(shown) == len(wanted)


def test_a_plot_of_networks_says_which_is_which(frame):
    """Dots of one method lie apart, in one order; the legend covers none of them."""
    figure = report.plot(frame, "network")
    figure.draw_without_rendering()
    methods, shown = drawn(figure)
    assert len({y for y, *_ in shown}) == len(shown) == 3 * len(methods)
    moves = {}
    for y, *_, colour in shown:
        moves.setdefault(colour, set()).add(round(y - round(y), 6))
    assert len(moves) == 3 and all(len(of_network) == 1 for of_network in moves.values())
    (ax,) = figure.axes
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "network"
    x_legend, y_legend = ax.transData.inverted().transform(legend.get_window_extent().corners()).T
    assert not any(high > x_legend.min() and y > y_legend.min() for y, _, _, high, _ in shown)


@pytest.mark.parametrize("hue", HUES)
def test_a_plot_has_the_line_of_chance_and_the_whole_scale(frame, hue):
    (ax,) = report.plot(frame, hue).axes
    (line,) = ax.lines
    chance = frame[frame.status == "ok"].area.mean()
    assert list(line.get_xdata()) == [chance, chance] and line.get_linestyle() == "--"
    assert [text.get_text() for text in ax.texts] == ["chance"]
    assert ax.get_xlim() == (0, 1) and ax.yaxis_inverted()


def test_pyplot_does_not_show_a_plot_a_second_time(frame):
    before = plt.get_fignums()
    assert isinstance(report.plot(frame), plt.Figure) and plt.get_fignums() == before


@pytest.fixture(scope="module")
def written(frame, tmp_path_factory):
    """The files of a frame; how often the bootstrap's draws were made and used again."""
    report._drawn.cache_clear()
    paths = report.plots(frame, tmp_path_factory.mktemp("plots"))
    return paths, report._drawn.cache_info()


def test_graphs_are_written(written):
    paths, _ = written
    assert {p.name for p in paths} == {
        f"{n}.{s}" for n in ("methods", "networks", "sizes") for s in ("png", "eps", "pdf")
    }
    assert all(p.stat().st_size > 5000 for p in paths)


SIGNATURES = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ".pdf": b"%PDF-1.",
}


def test_the_files_are_what_they_say(written):
    paths, _ = written
    for path in paths:
        assert path.read_bytes().startswith(SIGNATURES[path.suffix]), path
        if path.suffix == ".pdf":
            (page,) = PdfReader(path).pages
            text = page.extract_text()
            assert "guided_grad_cam" in text and "energy concentration P" in text


def test_the_bootstrap_draws_once_for_each_number_of_pictures(written):
    _, draws = written
    assert draws.misses == draws.currsize <= 3 and draws.hits > 20


@pytest.mark.parametrize("hue", HUES)
def test_an_eps_needs_no_transparency(frame, hue, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report.plot(frame, hue).savefig(tmp_path / "plot.eps")
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "says"), [(None, "python -m xcnn study"), ("", "no records")])
def test_nothing_to_report(tmp_path, text, says):
    if text is not None:
        (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(xcnn.InputError, match=says):
        report.read(tmp_path / "r.jsonl")


# ---- pairs, gains and the agreement of measures


def made_up(scores, **columns):
    """Records with these scores: method -> a number for each picture."""
    rows = [
        {"source": "s", "class": "c", "image": image, "method": method, "P": P}
        for method, values in scores.items()
        for image, P in enumerate(values)
        if P is not None
    ]
    return pd.DataFrame(rows).assign(status="ok", area=0.1, **columns)


def test_pairs_by_hand():
    rng = np.random.default_rng(0)
    hard = rng.random(40)  # some pictures are hard for all: the intervals of the means overlap
    scores = {
        "a": 0.05 + hard + 0.02 * rng.normal(size=40),
        "b": hard + 0.02 * rng.normal(size=40),
        "c": hard + 0.02 * rng.normal(size=40),
    }
    frame = made_up(scores)
    means = report.table(frame)
    assert means.low["a"] < means.high["b"]
    rows = report.pairs(frame).set_index(["first", "second"])
    assert len(rows) == 3 and rows.ahead.to_dict() == {pair: "a" in pair for pair in rows.index}
    raw = {}
    for first, second in rows.index:
        d = scores[first] - scores[second]
        row = rows.loc[(first, second)]
        assert row.difference == pytest.approx(d.mean()) and row.pictures == 40
        half = 1.96 * d.std(ddof=1) / 40**0.5
        assert (row.low, row.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.002)
        raw[first, second] = stats.ttest_rel(scores[first], scores[second]).pvalue
    ordered = sorted(raw, key=raw.get)
    by_hand = 0
    for k, pair in enumerate(ordered):
        by_hand = max(by_hand, min(1, (3 - k) * raw[pair]))
        assert rows.p[pair] == pytest.approx(by_hand)


def test_pairs_take_only_what_both_have_seen():
    frame = made_up({"a": [0.9, 0.1, 0.2, 0.3], "b": [None, 0.2, 0.3, 0.45]})
    (row,) = report.pairs(frame).to_dict("records")
    # the mean of a is larger, on the pictures that both saw b is ahead
    assert row["first"] == "b" and row["pictures"] == 3
    assert row["difference"] == pytest.approx((0.1 + 0.1 + 0.15) / 3)


def test_a_picture_is_one_number_in_a_pair():
    once = made_up({"a": [0.5, 0.6, 0.8, 0.6], "b": [0.45, 0.5, 0.7, 0.65]}, network="n", size=1)
    thrice = pd.concat([once.assign(network=str(k)) for k in range(3)])
    (alone,), (many,) = (report.pairs(frame).to_dict("records") for frame in (once, thrice))
    assert alone == pytest.approx(many)


def test_pairs_of_equals_and_of_too_few():
    frame = made_up({"a": [0.5, 0.6, 0.7], "b": [0.5, 0.6, 0.7], "c": [0.1, None, None]})
    (row,) = report.pairs(frame).to_dict("records")  # c has one picture: nothing to average
    assert row["p"] == 1 and not row["ahead"] and row["difference"] == 0
    with pytest.raises(xcnn.InputError, match="two methods or more"):
        report.pairs(made_up({"a": [0.5, 0.6]}))


def test_holm_keeps_its_promise():
    """Ten methods that are alike: a false "ahead" in at most one table of twenty."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(60):
        scores = {name: rng.random(30) for name in "abcdefghij"}
        false += report.pairs(made_up(scores)).ahead.any()
    assert false <= 8  # 3 expected; more than 8 of 60 by luck once in 300


def test_gain_is_a_column_and_any_column_can_be_the_score(frame):
    good = frame[frame.status == "ok"]
    wanted = (good.P - good.area) / (1 - good.area)
    assert np.allclose(good.G, wanted, equal_nan=True)  # an object that fills the picture
    assert (good.G.isna() == (good.area == 1)).all()
    table = report.table(frame, score="G")
    of_one = good[good.method == "lrp"]
    assert table["mean"]["lrp"] == pytest.approx(of_one.G.mean())
    assert table["sum"]["lrp"] == pytest.approx(of_one.G.sum())
    with pytest.raises(xcnn.InputError, match="no column 'GG'"):
        report.table(frame, score="GG")


def test_agreement_of_measures_that_are_known():
    rng = np.random.default_rng(2)
    methods = {name: k + rng.random(50) for k, name in enumerate("abcdef")}
    frame = made_up(methods)
    frame = frame.assign(same=frame.P**3, turned=-frame.P, noise=rng.random(len(frame)))
    rows = report.agreement(frame, ["P", "same", "turned", "noise"])
    found = rows.set_index(["first", "second"])
    assert found.correlation["P", "same"] == 1 and found.low["P", "same"] == 1
    assert found.correlation["P", "turned"] == -1 and found.high["P", "turned"] == -1
    noise = found.loc[("P", "noise")]
    assert noise.low < 0 < noise.high and noise.low <= noise.correlation <= noise.high
