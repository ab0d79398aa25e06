"""Surroundings: every ground has its structure, and a board hides the fraction it is told."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from xcnn import scene_surroundings
from xcnn.scene_surroundings import background, clutter, occluder, shadow

SIDE = 96


def grounds():
    """kind -> a background of that kind, as an array: the first draw of a generator decides it."""
    kinds = {}
    for seed in range(60):
        kind = int(np.random.default_rng(seed).integers(6))
        picture = background(np.random.default_rng(seed), SIDE)
        kinds.setdefault(kind, np.asarray(picture).astype(float))
    return kinds


def white():
    return Image.new("RGB", (SIDE, SIDE), "white")


def test_there_are_six_grounds_and_each_is_a_texture():
    kinds = grounds()
    assert sorted(kinds) == list(range(len(scene_surroundings.GROUNDS))) == [0, 1, 2, 3, 4, 5]
    for picture in kinds.values():
        assert picture.shape == (SIDE, SIDE, 3) and picture.std() > 3


def test_a_sky_is_above_its_land():
    sky_and_land = grounds()[3]
    sky, land = sky_and_land[:20], sky_and_land[-20:]
    assert sky[..., 2].mean() > sky[..., 0].mean() + 20  # blue
    assert land[..., 2].mean() < land[..., 0].mean() + 20
    assert sky.mean() > land.mean()


def test_planks_run_upwards_and_bricks_lie():
    kinds = grounds()
    across, along = (kinds[1].mean(2).mean(axis).std() for axis in (0, 1))
    assert across > 2 * along  # columns differ from each other, rows do not
    joints = np.abs(np.diff(kinds[2].mean(2), axis=0)).mean(1)
    assert joints.max() > 3 * np.median(joints)  # whole rows of mortar


def test_noise_is_smooth_and_about_0():
    rng = np.random.default_rng(0)
    coarse, fine = (scene_surroundings._noise(rng, SIDE, cells, 3) for cells in (3, 30))
    assert abs(coarse.mean()) < 0.4 and abs(fine.mean()) < 0.1 and np.abs(fine).max() < 2
    assert np.abs(np.diff(coarse)).mean() < 0.5 * np.abs(np.diff(fine)).mean()


def test_clutter_changes_a_part_of_the_canvas():
    shares = []
    for seed in range(10):
        canvas = white()
        clutter(canvas, np.random.default_rng(seed), SIDE)
        shares.append((np.asarray(canvas) < 200).any(2).mean())
    assert 0 < min(shares) and max(shares) < 0.4 and len(set(shares)) == 10


@pytest.mark.parametrize("shape", scene_surroundings.SHAPES)
def test_a_piece_of_clutter_grows_with_its_radius(shape):
    small, large = (shape(np.random.default_rng(0), radius) for radius in (5.0, 10.0))
    assert np.allclose(large, 2 * small) and np.allclose(small.mean(0), 0, atol=1.5)
    assert 3 < np.hypot(*small.T).max() < 13


def test_a_shadow_falls_to_the_lower_right_and_is_soft():
    layer = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    layer.paste("red", (30, 30, 60, 60))
    canvas = white()
    shadow(canvas, layer, SIDE)
    dark = 255 - np.asarray(canvas)[..., 0].astype(float)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    assert (dark * xs).sum() / dark.sum() > 44.5 + 0.5  # its centre, beyond that of the layer
    assert (dark * ys).sum() / dark.sum() > 44.5 + 1
    assert 90 < dark.max() < 130 and len(np.unique(dark)) > 10 and dark[0, 0] == 0


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_a_board_hides_its_fraction(fraction, seed):
    alpha = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(alpha).ellipse((20, 30, 80, 70), fill=255)
    board = occluder(np.random.default_rng(seed), alpha, SIDE, fraction)
    thing = np.asarray(alpha) > 0
    hidden = np.asarray(board.getchannel("A"))[thing] > 0
    assert hidden.mean() == pytest.approx(fraction, abs=0.06)
    assert board.mode == "RGBA" and board.size == (SIDE, SIDE)


def test_where_nothing_is_to_be_hidden_there_is_no_board():
    rng = np.random.default_rng(0)
    square = Image.new("L", (SIDE, SIDE), 255)
    assert occluder(rng, square, SIDE, 0) is None
    assert occluder(rng, Image.new("L", (SIDE, SIDE), 0), SIDE, 0.5) is None


def test_a_board_that_is_left_out_draws_as_many_numbers():
    """Knobs must not move what they leave alone: the numbers after the board are the same."""
    square = Image.new("L", (SIDE, SIDE), 255)
    numbers = []
    for fraction in (0, 0.2, 0.8):
        rng = np.random.default_rng(3)
        occluder(rng, square, SIDE, fraction)
        numbers.append(rng.random())
    assert len(set(numbers)) == 1
