"""Where objects stand, and the homography that turns them in space."""

import numpy as np
import pytest
from PIL import Image
from xcnn import scene_layout
from xcnn.scene_layout import VIEWING_DISTANCE, Pose, Spot, place, project, stand


def pose(**changes):
    return Pose(**{"x": 0.5, "y": 0.5, "longest": 0.6, "turn": 0, "tilt": 0, "roll": 0} | changes)


def box(picture):
    """Width and height of what is opaque."""
    left, top, right, bottom = picture.getbbox()
    return right - left, bottom - top


@pytest.mark.parametrize("n", [2, 3, 4])
def test_objects_have_cells_of_their_own(n):
    for seed in range(20):
        spots = place(np.random.default_rng(seed), n)
        assert len(spots) == n and not any(spot.free for spot in spots)
        for k, a in enumerate(spots):
            for b in spots[:k]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) > 0.3
        assert all(0.2 < spot.x < 0.8 and 0.2 < spot.y < 0.8 for spot in spots)


def test_one_object_may_stand_anywhere():
    spots = [place(np.random.default_rng(seed), 1)[0] for seed in range(50)]
    assert all(spot.free for spot in spots)
    assert min(spot.x for spot in spots) < -0.8 and max(spot.x for spot in spots) > 0.8


@pytest.mark.parametrize("direction", [(-1, -1), (1, 0.5), (0.2, -0.7)])
@pytest.mark.parametrize("longest", [0.1, 0.6, 1.0])
def test_a_free_object_stays_in_the_picture(direction, longest):
    spot = Spot(*direction, room=0.72, free=True)
    rng = np.random.default_rng(0)
    stood = stand(rng, rng, spot, scale=longest)
    for centre in (stood.x, stood.y):
        assert longest / 2 <= centre + 1e-12 and centre + longest / 2 <= 1 + 1e-12


def test_a_knob_replaces_its_number_and_no_other():
    spot = Spot(0.27, 0.5, room=0.5)

    def numbers(**knobs):
        scale_rng, view_rng = np.random.default_rng(1), np.random.default_rng(2)
        stood = stand(scale_rng, view_rng, spot, **knobs)
        after = scale_rng.random(), view_rng.random()
        return (stood.x, stood.y, stood.longest, stood.turn, stood.tilt, stood.roll), after

    drawn, after = numbers()
    assert 0.58 * 0.5 <= drawn[2] <= 0.5 and abs(drawn[3]) <= 30
    for knob, value, position in (("scale", 0.9, 2), ("view", 70, 3)):
        changed, after_changed = numbers(**{knob: value})
        assert after_changed == after and changed[position] == value
        assert [k for k in range(6) if changed[k] != drawn[k]] == [position]


def test_a_frontal_object_is_only_scaled_and_moved():
    square = Image.new("RGBA", (50, 50), "red")
    picture = project(square, pose(x=0.4, longest=0.5), 200)
    left, top, right, bottom = picture.getbbox()
    assert (left, top) == pytest.approx((30, 50), abs=1)
    assert (right, bottom) == pytest.approx((130, 150), abs=1)
    assert picture.getpixel((80, 100)) == (255, 0, 0, 255)


@pytest.mark.parametrize("degrees", [30, 60, -60])
def test_a_turn_narrows_and_shows_perspective(degrees):
    square = Image.new("RGBA", (200, 200), "red")
    width, height = box(project(square, pose(turn=degrees), 300))
    front_width, front_height = box(project(square, pose(), 300))
    assert width < front_width and height > front_height  # one edge has come nearer
    corners = scene_layout._projected_corners(pose(turn=degrees))
    left_edge = corners[3, 1] - corners[0, 1]
    right_edge = corners[2, 1] - corners[1, 1]
    assert (left_edge > right_edge) == (degrees < 0) or (left_edge < right_edge) == (degrees > 0)
    # By hand: the edges at distance D -+ (longest / 2) sin(turn) appear longer by D over that.
    depth = 0.3 * np.sin(np.deg2rad(degrees))
    wanted = sorted(0.6 * VIEWING_DISTANCE / (VIEWING_DISTANCE + z) for z in (depth, -depth))
    assert sorted([left_edge, right_edge]) == pytest.approx(wanted)


def test_a_quarter_roll_takes_the_upper_edge_to_the_right():
    two_tone = Image.new("RGBA", (100, 100), "red")
    two_tone.paste("blue", (0, 50, 100, 100))
    rolled = project(two_tone, pose(roll=90), 200)
    assert rolled.getpixel((140, 100))[:3] == (255, 0, 0)
    assert rolled.getpixel((60, 100))[:3] == (0, 0, 255)


def test_a_homography_meets_its_four_points():
    rng = np.random.default_rng(0)
    points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + rng.uniform(-0.2, 0.2, (4, 2))
    sources = np.array([[0, 0], [50, 0], [50, 50], [0, 50]])
    a, b, c, d, e, f, g, h = scene_layout._homography(points, sources)
    for (x, y), source in zip(points, sources, strict=True):
        w = g * x + h * y + 1
        assert ((a * x + b * y + c) / w, (d * x + e * y + f) / w) == pytest.approx(tuple(source))
