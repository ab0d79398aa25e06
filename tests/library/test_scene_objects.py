"""The ten objects: they fill their square, each seed draws its own, and a pen draws in place."""

import numpy as np
import pytest
from xcnn.scene_objects import DRAW, Pen, draw, pick, ring, shade_of

NAMES = pytest.mark.parametrize("name", DRAW)


def pixels(name, size=120, seed=0):
    return np.asarray(draw(name, size, np.random.default_rng(seed))).astype(int)


@NAMES
def test_an_object_fills_its_square(name):
    for seed in range(5):
        opacity = pixels(name, seed=seed)[..., 3]
        rows, columns = np.nonzero(opacity >= 128)
        assert max(np.ptp(rows), np.ptp(columns)) > 0.8 * 120
        assert 0.15 < (opacity >= 128).mean() < 0.95
        assert opacity[0, 0] == opacity[0, -1] == 0  # its upper corners are empty


@NAMES
def test_a_generator_decides_the_details(name):
    first = pixels(name)
    assert (first == pixels(name)).all()
    assert any((first != pixels(name, seed=seed)).any() for seed in (1, 2))


@NAMES
def test_the_size_does_not_change_the_drawing(name):
    small = pixels(name, 60)[..., 3] >= 128
    large = pixels(name, 240)[2::4, 2::4, 3] >= 128
    assert (small & large).sum() / (small | large).sum() > 0.85


def test_light_falls_from_the_upper_left():
    sign = pixels("stop sign")
    assert sign[30, 40, 0] > sign[70, 80, 0]  # the same red, nearer to the light and farther away


def test_a_ball_is_a_disc():
    rows, columns = np.mgrid[-1:1:120j, -1:1:120j]
    distance = np.hypot(rows, columns)
    opacity = pixels("sports ball")[..., 3]
    assert (opacity[distance < 0.93] == 255).all() and not opacity[distance > 0.99].any()


def test_three_lamps_of_which_one_is_lit():
    lit = set()
    for seed in range(20):
        picture = pixels("traffic light", seed=seed)
        brightness = [picture[round((1 + y) * 60), 60, :3].sum() for y in (-0.66, -0.12, 0.42)]
        assert sorted(brightness)[2] > 1.5 * sorted(brightness)[1]
        lit.add(int(np.argmax(brightness)))
    assert lit == {0, 1, 2}


def test_a_pen_draws_where_it_is_told():
    pen = Pen(101)
    pen.box(-1, -1, 0, 0, (255, 0, 0))
    pen.disc(0.5, 0.5, 0.3, (0, 255, 0))
    pen.polygon([(0.2, -0.8), (0.8, -0.8), (0.5, -0.2)], (0, 0, 255))
    pen.line([(-0.9, 0.5), (-0.1, 0.5)], (9, 9, 9), width=0.1)

    def at(x, y):
        return pen.image.getpixel((round((x + 1) * 50), round((y + 1) * 50)))

    assert at(-0.5, -0.5) == (255, 0, 0, 255) and at(0.5, 0.5) == (0, 255, 0, 255)
    assert at(0.5, -0.6) == (0, 0, 255, 255) and at(-0.5, 0.5) == (9, 9, 9, 255)
    assert at(0.25, 0.25)[3] == at(0.25, -0.3)[3] == at(-0.5, 0.7)[3] == 0


def test_an_ellipse_is_as_high_as_it_is_told():
    pen = Pen(200)
    pen.disc(0, 0, 0.8, (1, 2, 3), ry=0.2)
    left, top, right, bottom = pen.image.getbbox()
    assert right - left == pytest.approx(160, abs=2) and bottom - top == pytest.approx(40, abs=2)


def test_a_shade_stays_a_colour():
    assert shade_of((100, 200, 0), 2) == (200, 255, 0)
    assert shade_of((100, 200, 0, 77), 0.5) == (50, 100, 0)


def test_pick_takes_all_colours_and_changes_them_little():
    rng = np.random.default_rng(0)
    colours = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    picked = [pick(rng, *colours.values()) for _ in range(50)]
    assert {int(np.argmax(colour)) for colour in picked} == {0, 1, 2}
    assert all(170 <= max(colour) <= 224 and sum(colour) == max(colour) for colour in picked)


def test_a_ring_lies_on_its_circle():
    points = ring(7, 0.5, turn=0.3)
    assert np.allclose(np.hypot(*points.T), 0.5)
    steps = np.diff(np.unwrap(np.arctan2(points[:, 1], points[:, 0])))
    assert np.allclose(steps, 2 * np.pi / 7) and np.allclose(points.sum(0), 0)
    assert np.allclose(points[0], [0.5 * np.cos(0.3), 0.5 * np.sin(0.3)])
