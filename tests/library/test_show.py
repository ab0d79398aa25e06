"""Pictures of maps: which colour means what, what stays visible, and on which scale."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from xcnn import show

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def images_of(figure):
    """What each panel of a figure shows, as (H, W, 3) in [0, 1]."""
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]
    return [np.asarray(a) / (255 if a.dtype == np.uint8 else 1) for a in drawn]


# ---- a map as an array


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (1, 1, 2, 3)])
def test_a_map_loses_its_ones(shape):
    values = np.arange(6.0)
    for R in (values.reshape(shape), torch.tensor(values, requires_grad=True).reshape(shape)):
        assert np.array_equal(show.as_map(R), values.reshape(2, 3))


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 3, 2, 2)])
def test_colours_of_a_map_are_summed(shape):
    R = torch.arange(12.0).reshape(shape)
    assert np.array_equal(show.as_map(R), [[12, 15], [18, 21]])


# ---- colours


def test_a_signed_map_is_blue_below_0_and_red_above():
    rgb, opacity = show.colours(np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]))
    red, _, blue = rgb[0].T
    assert (blue > red)[:2].all() and (red > blue)[3:].all()
    assert np.ptp(rgb[0, 2]) < 0.01 and rgb[0, 2].min() > 0.95  # 0 is nearly white
    assert opacity[0].tolist() == opacity[0, ::-1].tolist()  # both signs count alike
    assert opacity[0, 2] == 0 and opacity[0, 0] == 1


def test_a_positive_map_runs_from_dark_to_bright():
    rgb, opacity = show.colours(np.linspace(0, 1, 20)[None])
    assert (np.diff(rgb[0].mean(1)) > 0).all() and (np.diff(opacity[0]) > 0).all()
    assert opacity[0, 0] == 0 and opacity[0, -1] < 1  # the picture shines through everywhere


def test_the_scale_of_signs_can_be_asked_for():
    R = np.array([[0.0, 1.0]])
    positive, _ = show.colours(R)
    diverging, _ = show.colours(R, signed=True)
    assert diverging[0, 1, 0] < positive[0, 1, 0]  # dark red, not bright yellow
    rgb, opacity = show.colours(np.array([[-1.0, 1.0]]), signed=False)
    assert opacity[0, 0] == 0 and np.array_equal(rgb[0, 1], positive[0, 1])


def test_a_limit_fixes_the_scale():
    R = np.array([[0.5, -0.25]])
    small, _ = show.colours(R, limit=1)
    large, _ = show.colours(2 * R, limit=2)
    assert np.array_equal(small, large) and not np.array_equal(small, show.colours(R)[0])
    beyond, opacity = show.colours(4 * R, limit=1)
    assert np.array_equal(beyond, show.colours(np.array([[1.0, -1.0]]))[0])
    assert (opacity == 1).all()


@pytest.mark.parametrize("signed", [None, False, True])
def test_a_map_of_zeros_is_transparent(signed):
    rgb, opacity = show.colours(np.zeros((2, 2)), signed=signed)
    assert (opacity == 0).all() and np.isfinite(rgb).all()


def test_equal_values_have_equal_colours_whatever_the_scale():
    R = RNG.normal(size=(4, 4))
    for factor in (1e-30, 1e30):
        for ours, theirs in zip(show.colours(factor * R), show.colours(R), strict=True):
            assert np.allclose(ours, theirs, atol=1e-2)  # matplotlib's scales have 256 steps


# ---- overlays


def test_an_overlay_of_zeros_is_the_grey_picture():
    laid = np.asarray(show.overlay(Image.fromarray(PICTURE), np.zeros((5, 7))), int)
    grey = PICTURE.mean(2)
    assert np.ptp(laid, axis=2).max() == 0 and np.abs(laid[..., 0] - grey).max() <= 0.5 + 1e-9


def test_colour_stands_only_where_the_map_is_not_0():
    R = np.zeros((5, 7))
    R[1, 2] = -1
    R[3, 4] = 0.1
    laid = np.asarray(show.overlay(PICTURE / 255, torch.tensor(R)), int)
    assert np.argwhere(np.ptp(laid, axis=2) > 0).tolist() == [[1, 2], [3, 4]]
    assert laid[1, 2, 2] > laid[1, 2, 0] and laid[3, 4, 0] > laid[3, 4, 2]


def test_an_overlay_mixes_by_opacity():
    R = np.array([[0.2, 0.9, -0.4]])
    picture = np.array([[[0.1, 0.2, 0.3], [0.9, 0.9, 0.9], [0.0, 0.5, 1.0]]])
    rgb, opacity = show.colours(R)
    laid = np.asarray(show.overlay(picture, R))
    for k in range(3):
        for c in range(3):
            wanted = (1 - opacity[0, k]) * picture[0, k].mean() + opacity[0, k] * rgb[0, k, c]
            assert abs(laid[0, k, c] - 255 * wanted) <= 0.5 + 1e-9


# ---- pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_picture_as_an_array(mode):
    picture = Image.fromarray(PICTURE).convert(mode)
    array = show.as_array(picture)
    assert array.shape == (5, 7, 3) and array.dtype == float
    assert np.array_equal((array * 255).round(), np.asarray(picture.convert("RGB")))
    assert np.array_equal(show.as_array(array), array)


def test_in_colour_0_is_grey_and_each_channel_keeps_its_sign():
    R = torch.zeros(3, 2, 2)
    R[0, 0, 1] = 4  # red counts for it
    R[2, 1, 0] = -2  # blue counts against it
    shown = show.in_colour(R)
    assert shown.shape == (2, 2, 3)
    assert shown[0, 0].tolist() == shown[1, 1].tolist() == [0.5, 0.5, 0.5]
    assert shown[0, 1].tolist() == [1, 0.5, 0.5] and shown[1, 0].tolist() == [0.5, 0.5, 0.25]
    assert (show.in_colour(torch.zeros(3, 2, 2)) == 0.5).all()


def test_in_colour_stays_in_its_range():
    R = torch.tensor(RNG.normal(size=(3, 4, 4)))
    for limit in (None, 0.01, 100):
        shown = show.in_colour(R, limit)
        assert shown.min() >= 0 and shown.max() <= 1
    assert np.abs(show.in_colour(R, 100) - 0.5).max() < 0.05 < np.abs(show.in_colour(R) - 0.5).max()


# ---- grids


def test_a_row_is_a_grid_of_one_row():
    R = RNG.normal(size=(5, 7))
    panels = [("picture", PICTURE / 255), ("map", PICTURE / 255, R)]
    row, grid = show.row(*panels, limit=2), show.grid([panels], limit=2)
    assert [ax.get_title() for ax in row.axes] == ["picture", "map"]
    for ours, theirs in zip(images_of(row), images_of(grid), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_grid_shows_its_panels_in_reading_order():
    names = ["".join(pair) for pair in itertools.product("ab", "xyz")]
    figure = show.grid([[(name, PICTURE / 255) for name in names[k : k + 3]] for k in (0, 3)])
    assert [ax.get_title() for ax in figure.axes] == names
    assert all(np.array_equal(shown, PICTURE / 255) for shown in images_of(figure))


def test_a_grid_shares_the_scale():
    small, large = np.full((5, 7), 0.5), np.full((5, 7), 1.0)
    panels = [("small", PICTURE / 255, small), ("large", PICTURE / 255, large)]
    alone = images_of(show.row(*panels))
    shared = images_of(show.row(*panels, limit=1))
    assert np.array_equal(*alone)  # each map's own maximum: they look alike
    assert not np.array_equal(*shared) and np.array_equal(shared[1], alone[1])


def test_one_signed_map_makes_all_maps_of_a_grid_diverge():
    R = np.abs(RNG.normal(size=(5, 7)))
    panels = [("positive", PICTURE / 255, R), ("signed", PICTURE / 255, -R)]
    first, _ = images_of(show.row(*panels))
    assert np.array_equal(first, np.asarray(show.overlay(PICTURE / 255, R, signed=True)) / 255)
    (alone,) = images_of(show.row(panels[0]))
    assert np.array_equal(alone, np.asarray(show.overlay(PICTURE / 255, R)) / 255)


@pytest.mark.parametrize(("signed", "lowest"), [(False, 0), (True, -2)])
def test_a_colour_bar_names_the_scale(signed, lowest):
    R = np.ones((5, 7))
    figure = show.row(("map", PICTURE / 255, R), limit=2, bar="relevance", signed=signed)
    bar = figure.axes[-1]
    assert len(figure.axes) == 2 and bar.get_ylabel() == "relevance"
    assert bar.get_ylim() == (lowest, 2)


def test_a_mask_is_drawn_as_an_outline():
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = True
    figure = show.row(("a", PICTURE / 255, np.ones((5, 7)), mask), ("b", PICTURE / 255))
    with_mask, without = figure.axes
    assert len(with_mask.collections) == 1 and not without.collections
    outline = with_mask.collections[0].get_paths()[0].vertices
    assert outline.min(0).tolist() == [1.5, 0.5] and outline.max(0).tolist() == [4.5, 3.5]


def test_rows_must_be_equally_long():
    panel = ("picture", PICTURE / 255)
    with pytest.raises(ValueError):
        show.grid([[panel, panel], [panel]])
    plt.close("all")


def test_no_figure_stays_open():
    before = plt.get_fignums()
    show.row(("picture", PICTURE / 255))
    assert plt.get_fignums() == before
