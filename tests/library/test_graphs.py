"""Graphs show the numbers of the tables, name who is a control, and open as what they are."""

import logging

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pypdf import PdfReader
from xcnn import graphs, report
from xcnn.contestants import CONTROLS, TITLES

from tools import ROOT

HUES = [None, "network", "size"]


@pytest.fixture(scope="module")
def frame():
    """The records on scenes: four networks and two sizes, but one method has only one."""
    every = report.read(ROOT / "data" / "results" / "contest_scenes.jsonl.gz")
    at_both_sizes = every[every["size"] == 224].method.unique()
    every = every[every.method.isin(at_both_sizes)]
    return every[(every.method != "gradient") | (every["size"] == 224)]


def drawn(figure):
    """What a plot shows: the names of its rows; (row, mean, low, high, colour) of each dot."""
    (ax,) = figure.axes
    ends = {}
    shown = []
    for intervals, dots in zip(ax.collections[::2], ax.collections[1::2], strict=True):
        for (low, y), (high, y_of_high) in intervals.get_segments():
            assert y == y_of_high
            ends[y] = (low, high)
        colours = [dots.get_facecolors()[k % len(dots.get_facecolors())] for k in range(99)]
        for (mean, y), colour in zip(dots.get_offsets(), colours, strict=False):
            shown.append((y, mean, *ends.pop(y), tuple(colour)))
    assert not ends, "an interval without a dot"
    name_of = {title: name for name, title in TITLES.items()}
    return [name_of[label.get_text()] for label in ax.get_yticklabels()], shown


def legend_of(figure):
    """Colour -> what the legend calls it."""
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    dots = [artist for artist in legend.findobj() if hasattr(artist, "get_sizes")]
    return {tuple(dot.get_facecolors()[0]): name for dot, name in zip(dots, names, strict=True)}


@pytest.mark.parametrize("hue", HUES)
def test_graph_says_what_the_table_says(frame, hue):
    figure = graphs.means(frame, hue)
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


def test_controls_are_grey(frame):
    figure = graphs.means(frame, score="G")
    methods, shown = drawn(figure)
    labels = figure.axes[0].get_yticklabels()
    grey = to_rgb(graphs.GREY)
    for y, *_, colour in shown:
        name = methods[round(y)]
        assert (np.allclose(colour[:3], grey)) == (name in CONTROLS)
        assert (np.allclose(to_rgb(labels[round(y)].get_color()), grey)) == (name in CONTROLS)


def test_a_score_of_another_kind(frame):
    """A line at 0 for a gain; none for a column that the graphs do not know."""
    (ax,) = graphs.means(frame, score="G").axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 0] and ax.get_xlabel().startswith("gain over chance G")
    (ax,) = graphs.means(frame, score="iou").axes
    assert not ax.lines and ax.get_xlabel() == "iou, mean and 95 % interval"


def test_who_is_ahead_of_whom(frame):
    pairs = report.pairs(frame, "G")
    figure = graphs.ahead(pairs)
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    name_of = {title: name for name, title in TITLES.items()}
    names = [name_of[label.rsplit(" ", 2)[0]] for label in labels]
    matrix = ax.images[0].get_array()
    assert sorted(names) == sorted(frame.method.unique()) and matrix.shape == (20, 20)
    place = {name: k for k, name in enumerate(names)}
    assert (matrix == -matrix.T).all() and (matrix == 1).sum() == pairs.ahead.sum() > 100
    for row in pairs.itertuples():
        assert matrix[place[row.first], place[row.second]] == int(row.ahead)


def test_a_plot_of_networks_says_which_is_which(frame):
    """Dots of one method lie apart, in one order; the legend covers none of them."""
    figure = graphs.means(frame, "network")
    figure.draw_without_rendering()
    methods, shown = drawn(figure)
    assert len({y for y, *_ in shown}) == len(shown) == 4 * len(methods) - 1  # no CAM of vgg_s
    moves = {}
    for y, *_, colour in shown:
        moves.setdefault(colour, set()).add(round(y - round(y), 6))
    assert len(moves) == 4 and all(len(of_network) == 1 for of_network in moves.values())
    (ax,) = figure.axes
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "network"
    x_legend, y_legend = ax.transData.inverted().transform(legend.get_window_extent().corners()).T
    assert not any(high > x_legend.min() and y > y_legend.min() for y, _, _, high, _ in shown)


@pytest.mark.parametrize("hue", HUES)
def test_a_plot_has_the_line_of_chance_and_the_whole_scale(frame, hue):
    (ax,) = graphs.means(frame, hue).axes
    (line,) = ax.lines
    chance = frame[frame.status == "ok"].area.mean()
    assert list(line.get_xdata()) == [chance, chance] and line.get_linestyle() == "--"
    assert [text.get_text() for text in ax.texts] == ["chance"]
    assert ax.get_xlim() == (0, 1) and ax.yaxis_inverted()


def test_pyplot_does_not_show_a_plot_a_second_time(frame):
    before = plt.get_fignums()
    assert isinstance(graphs.means(frame), plt.Figure) and plt.get_fignums() == before


@pytest.fixture(scope="module")
def written(frame, tmp_path_factory):
    """The files of a frame; how often the bootstrap's draws were made and used again."""
    report._drawn.cache_clear()
    paths = graphs.write(frame, tmp_path_factory.mktemp("plots"))
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
            assert "Guided Grad-CAM" in text and "energy concentration P" in text


def test_the_bootstrap_draws_once_for_each_number_of_pictures(written):
    _, draws = written
    assert draws.misses == draws.currsize <= 3 and draws.hits > 20


@pytest.mark.parametrize("hue", HUES)
def test_an_eps_needs_no_transparency(frame, hue, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        graphs.means(frame, hue).savefig(tmp_path / "plot.eps")
    assert caplog.messages == []
