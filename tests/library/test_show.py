"""Pictures of maps: which colour means what, what stays visible, and on which scale."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from xcnn import InputError, show

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


TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_a_map_of_any_type_and_number_of_channels(dtype, channels):
    whole = torch.arange(channels * 6).reshape(channels, 2, 3) % 2
    wanted = whole.sum(0).numpy()
    for R in (whole.to(dtype), whole.to(dtype)[None]):
        shown = show.as_map(R)
        assert shown.dtype in (np.float32, np.float64) and np.array_equal(shown, wanted)
        if dtype != torch.bfloat16:
            assert np.array_equal(show.as_map(R.numpy()[..., ::-1]), wanted[:, ::-1])


def test_a_half_map_is_summed_without_overflow():
    R = torch.full((1, 3, 2, 2), 60000.0, dtype=torch.float16)
    assert (show.as_map(R) == 180000).all() and (show.as_map(R.numpy()) == 180000).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_batch_of_maps_is_not_one_map(n):
    R = torch.rand(n, 3, 5, 7)
    grey = PICTURE[..., 0]
    for use in (show.as_map, show.colours, show.in_colour, lambda R: show.overlay(grey, R)):
        with pytest.raises(InputError, match=rf"R holds {n} maps.*R\[0\]"):
            use(R)
        use(R[0])
        use(R[:1])


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 1, 2, 2), (0, 3), (3, 0, 2)])
def test_what_is_not_a_map(shape):
    for R in (np.zeros(shape), torch.zeros(shape)):
        with pytest.raises(InputError, match=r"a map is \(H, W\), \(C, H, W\) or \(1, C, H, W\)"):
            show.as_map(R)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_map_with_nan_is_refused(value, dtype):
    R = torch.ones(1, 3, 5, 7, dtype=dtype)
    R[0, 1, 2, 3] = value
    for use in (
        show.as_map,
        show.colours,
        show.in_colour,
        lambda R: show.overlay(PICTURE, R),
        lambda R: show.row(("map", PICTURE, R)),
    ):
        with pytest.raises(InputError, match="the map holds NaN or infinite values"):
            use(R)
    show.row(("map", PICTURE, R.nan_to_num(0, 0, 0)))


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


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), -1])
def test_a_limit_that_is_none(limit):
    for use in (show.colours, show.in_colour):
        with pytest.raises(
            InputError, match="limit is the value shown at full strength, 0 or more"
        ):
            use(np.ones((2, 2)), limit)
        use(np.ones((2, 2)), torch.tensor(2.0))


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


@pytest.mark.parametrize("dtype", TYPES)
def test_an_overlay_of_a_map_of_any_type(dtype):
    R = torch.from_numpy(RNG.integers(0, 2, (1, 1, 5, 7))).to(dtype)
    wanted = show.overlay(PICTURE / 255, R[0, 0].numpy() if dtype != torch.bfloat16 else R.float())
    assert np.array_equal(np.asarray(show.overlay(PICTURE / 255, R)), np.asarray(wanted))


def test_the_same_picture_as_pil_and_as_bytes():
    R = RNG.normal(size=(5, 7))
    laid = [
        np.asarray(show.overlay(picture, R))
        for picture in (Image.fromarray(PICTURE), PICTURE, PICTURE / 255, torch.tensor(PICTURE))
    ]
    assert all(np.array_equal(other, laid[0]) for other in laid[1:])


def test_a_photograph_does_not_lie_under_its_map():
    net = xcnn.load("resnet_s")
    photo = Image.fromarray(RNG.integers(0, 256, (150, 200, 3), np.uint8))
    x = net.preprocess(photo)
    R = xcnn.grad_cam(net, x, 3)
    for use in (lambda p: show.overlay(p, R), lambda p: show.row(("where?", p, R))):
        with pytest.raises(InputError, match=r"128 x 128.*150 x 200.*net\.picture\(x\)\[0\]"):
            use(photo)
        use(net.picture(x)[0])
        use(net.picture(x))


@pytest.mark.parametrize("shape", [(7, 5), (5, 6), (1, 1), (1, 7), (10, 14)])
def test_a_map_or_mask_of_another_size(shape):
    for panel in [
        (np.ones(shape),),
        (np.ones((5, 7)), np.ones(shape, bool)),
        (None, np.ones(shape)),
    ]:
        with pytest.raises(InputError, match=r"5 x 7 \(height x width\).*net\.picture\(x\)\[0\]"):
            show.row(("title", PICTURE, *panel))


# ---- pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_picture_as_an_array(mode):
    picture = Image.fromarray(PICTURE).convert(mode)
    array = show.as_array(picture)
    assert array.shape == (5, 7, 3) and array.dtype == float
    assert np.array_equal((array * 255).round(), np.asarray(picture.convert("RGB")))
    assert np.array_equal(show.as_array(array), array)


def colours_of(picture):
    return (show.as_array(picture) * 255).round().astype(int)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int64, bool, np.float16, np.float32, np.float64]
)
def test_pictures_as_arrays_of_any_type(dtype):
    grey = RNG.integers(0, 2, (5, 7))
    white = 255 if dtype in (np.uint8, np.uint16, np.int64) else 1
    wanted = np.repeat(255 * grey[..., None], 3, axis=2)
    values = (grey * white).astype(dtype)
    for array in (values, values[..., None], np.repeat(values[..., None], 3, axis=2)):
        for picture in (array, array.copy(), np.repeat(array[None], 1, axis=0)):
            if picture.ndim == 3 and picture.shape[0] == 1 and array.ndim == 2:
                continue  # (1, H, W) of a grey: its channel comes first
            assert np.array_equal(colours_of(picture), wanted)
            assert np.array_equal(colours_of(torch.from_numpy(picture.copy())), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pictures_in_half_precision(dtype):
    picture = torch.tensor([[[0.0, 0.5, 1.0], [0.25, 1.0, 0.0]]], dtype=dtype)
    wanted = [[[0, 128, 255], [64, 255, 0]]]
    assert colours_of(picture).tolist() == colours_of(picture[None]).tolist() == wanted


def test_pictures_of_16_bits_and_of_floats():
    grey = np.linspace(0, 65535, 35).reshape(5, 7)
    wanted = np.repeat((grey / 257).round()[..., None], 3, axis=2)
    deep = Image.fromarray(grey.astype(np.uint16))
    floats = Image.fromarray((grey / 65535).astype(np.float32))
    assert deep.mode == "I;16" and floats.mode == "F"
    for picture in (deep, floats, Image.fromarray(grey.astype(np.int32))):
        assert np.abs(colours_of(picture) - wanted).max() <= 1
        show.overlay(picture, np.ones((5, 7)))


@pytest.mark.parametrize(
    "values",
    [
        PICTURE.astype(float),
        PICTURE / 255 - 0.5,
        PICTURE / 127.5 - 1,
        PICTURE / 200,
        np.full((5, 7), np.nan),
    ],
)
def test_floats_beyond_1_are_not_a_picture_to_show(values):
    for picture in (values, torch.from_numpy(values).float()):
        with pytest.raises(InputError, match=r"0 \(black\) to 1 \(white\).*net\.picture|NaN"):
            show.as_array(picture)
        with pytest.raises(InputError):
            show.row(("title", picture))


def test_images_as_a_network_sees_them_are_not_pictures():
    net = xcnn.load("resnet_s")
    x = net.preprocess(Image.fromarray(PICTURE), 16)
    with pytest.raises(InputError, match=r"permute\(1, 2, 0\)"):
        show.row(("x", x))
    with pytest.raises(InputError, match=r"net\.picture\(x\)\[0\]"):
        show.row(("x", x[0].permute(1, 2, 0)))
    with pytest.raises(InputError, match=r"there are 2 pictures; show one of them: picture\[0\]"):
        show.row(("x", net.picture(torch.cat([x, x]))))
    show.row(("x", net.picture(torch.cat([x, x]))[0]))


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


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_in_colour_shows_the_sum_of_other_channels_in_grey(channels):
    R = RNG.normal(size=(channels, 5, 7))
    total = R.sum(0)
    wanted = 0.5 + 0.5 * total / np.abs(total).max()
    for values in (R, R[None], torch.from_numpy(R)):
        shown = show.in_colour(values)
        assert shown.shape == (5, 7, 3) and np.allclose(shown, wanted[..., None])
    assert np.allclose(show.in_colour(R, 100), 0.5 + total[..., None] / 200)
    assert np.array_equal(show.in_colour(total), show.in_colour(total[None]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_colour_of_half_precision(dtype):
    R = torch.tensor([[[1.0]], [[-0.5]], [[0.0]]], dtype=dtype)
    assert show.in_colour(R).tolist() == show.in_colour(R[None]).tolist() == [[[1, 0.25, 0.5]]]


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
    assert outline_of(with_mask) == ([1.5, 0.5], [4.5, 3.5])


def outline_of(ax):
    """The least and largest x and y of the outline in a panel."""
    outline = ax.collections[0].get_paths()[0].vertices
    return outline.min(0).tolist(), outline.max(0).tolist()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("lead", [(), (1,), (1, 1)])
def test_a_mask_of_any_type(dtype, lead):
    mask = torch.zeros(*lead, 5, 7)
    mask[..., 1:4, 2:5] = 1
    for R in (None, torch.ones(5, 7)):
        (ax,) = show.row(("mask", PICTURE, R, mask.to(dtype))).axes
        assert outline_of(ax) == ([1.5, 0.5], [4.5, 3.5])
    if dtype != torch.bfloat16:
        (ax,) = show.row(("mask", PICTURE, None, mask.to(dtype).numpy())).axes
        assert outline_of(ax) == ([1.5, 0.5], [4.5, 3.5])


@pytest.mark.parametrize("white", [255, 2])
def test_a_mask_of_255(white):
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 2:5] = white
    (ax,) = show.row(("mask", PICTURE, None, mask)).axes
    assert outline_of(ax) == ([1.5, 0.5], [4.5, 3.5])


def test_two_masks_are_not_one():
    with pytest.raises(InputError, match=r"holds 2 masks; draw one of them: mask\[0\]"):
        show.row(("mask", PICTURE, None, np.ones((2, 5, 7), bool)))


def test_rows_must_be_equally_long():
    panel = ("picture", PICTURE / 255)
    with pytest.raises(InputError, match=r"equally many panels.*\[2, 1\]"):
        show.grid([[panel, panel], [panel]])
    for nothing in ([], [[]]):
        with pytest.raises(InputError, match="one or more"):
            show.grid(nothing)


@pytest.mark.parametrize(
    "panel", [("title",), "title", PICTURE, Image.fromarray(PICTURE), ("a", PICTURE, None, None, 1)]
)
def test_what_is_not_a_panel(panel):
    with pytest.raises(InputError, match=r"a panel is \(title, picture\)"):
        show.row(panel)


def test_a_colour_bar_needs_a_limit():
    with pytest.raises(InputError, match="limit="):
        show.row(("map", PICTURE, np.ones((5, 7))), bar="relevance")


def test_no_figure_stays_open():
    before = plt.get_fignums()
    show.row(("picture", PICTURE / 255))
    with pytest.raises(InputError):
        show.row(("picture", PICTURE, np.ones((2, 2))))
    assert plt.get_fignums() == before
