"""Where the objects of a scene stand, and how they look when they are turned in space."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

VIEWING_DISTANCE = 1.6  # from the eye to the picture, in sides of the picture
# Cells for two objects, and for three or four: the centre of each, as fractions of the picture.
TWO_CELLS = [(0.27, 0.5), (0.73, 0.5)]
FOUR_CELLS = [(0.27, 0.28), (0.73, 0.28), (0.27, 0.74), (0.73, 0.74)]


@dataclass(frozen=True)
class Spot:
    """A place for one object, in fractions of the picture.

    :param x, y: its centre; for a `free` spot a direction from the middle, -1 to 1
    :param room: side of the square that an object may fill
    :param free: the object is alone and may stand anywhere

    >>> spot = xcnn.scene_layout.Spot(0.27, 0.5, room=0.5)
    >>> spot.x, spot.free
    (0.27, False)
    """

    x: float
    y: float
    room: float
    free: bool = False


@dataclass(frozen=True)
class Pose:
    """How an object stands.

    :param x, y: its centre as fractions of the picture
    :param longest: its longest side as a fraction of the picture
    :param turn: about the vertical axis, in degrees
    :param tilt: about the horizontal axis, in degrees
    :param roll: in the plane of the picture, in degrees

    >>> xcnn.scene_layout.Pose(0.5, 0.5, longest=0.8, turn=45, tilt=0, roll=0).turn
    45
    """

    x: float
    y: float
    longest: float
    turn: float
    tilt: float
    roll: float


def place(rng, n):
    """A `Spot` for each of n objects: a free one for one object, else cells with a little jitter.

    :param rng: NumPy generator
    :param n: 1 to 4
    :return: list of n spots, from left to right and from top to bottom

    >>> left, right = xcnn.scene_layout.place(np.random.default_rng(0), 2)
    >>> bool(left.x < 0.5 < right.x)
    True
    """
    if n == 1:
        x, y = rng.uniform(-1, 1, 2)
        return [Spot(x, y, 0.72, free=True)]
    cells = TWO_CELLS if n == 2 else FOUR_CELLS[:n]
    room = 0.5 if n == 2 else 0.46
    spots = []
    for x, y in cells:
        jitter_x = rng.uniform(-0.03, 0.03)
        jitter_y = rng.uniform(-0.12, 0.12) * (n == 2)  # two objects have room above and below
        spots.append(Spot(x + jitter_x, y + jitter_y, room))
    return spots


def stand(scale_rng, view_rng, spot, scale=None, view=None):
    """The pose of an object. All its numbers are drawn, also those that a knob replaces.

    :param scale_rng, view_rng: NumPy generators
    :param spot: a `Spot`
    :param scale: longest side as a fraction of the picture; None: as drawn
    :param view: turn in degrees; None: as drawn
    :return: `Pose`

    >>> rng = np.random.default_rng(0)
    >>> spot = xcnn.scene_layout.Spot(1, 0, room=0.7, free=True)  # as far to the right as possible
    >>> pose = xcnn.scene_layout.stand(rng, rng, spot, scale=0.5, view=30)
    >>> pose.x, pose.y, pose.longest, pose.turn
    (0.75, 0.5, 0.5, 30)
    """
    longest = scale_rng.uniform(0.58, 1.0) * spot.room
    turn, tilt, roll = view_rng.uniform([-30, -12, -10], [30, 12, 10])
    if scale is not None:
        longest = scale
    if view is not None:
        turn = view
    x, y = spot.x, spot.y
    if spot.free:  # anywhere, as long as most of it stays inside
        slack = max(0.0, 1 - longest) / 2
        x = 0.5 + slack * x
        y = 0.5 + slack * y
    return Pose(x, y, longest, turn, tilt, roll)


def project(picture, pose, side):
    """The picture of an object, turned in space and projected onto an empty canvas.

    :param picture: PIL RGBA image, square
    :param pose: a `Pose`
    :param side: of the canvas in pixels
    :return: PIL RGBA image, side x side

    >>> sign = xcnn.scene_objects.draw("stop sign", 96, np.random.default_rng(0))
    >>> pose = xcnn.scene_layout.Pose(0.25, 0.5, longest=0.4, turn=0, tilt=0, roll=0)
    >>> left, top, right, bottom = xcnn.scene_layout.project(sign, pose, 100).getbbox()
    >>> left < 25 < right < 50, top < 50 < bottom  # left of the middle
    (True, True)
    """
    sources = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * picture.width
    homography = _homography(_projected_corners(pose) * side, sources)
    return picture.transform(
        (side, side), Image.Transform.PERSPECTIVE, homography, Image.Resampling.BICUBIC
    )


def _projected_corners(pose):
    """Where the corners of an object's square lie in the picture, (4, 2), from 0 to 1."""
    yaw, pitch, roll = np.deg2rad([pose.turn, pose.tilt, pose.roll])
    c, s = np.cos(roll), np.sin(roll)
    in_plane = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(yaw), np.sin(yaw)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(pitch), np.sin(pitch)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * pose.longest / 2
    x, y, z = (corners @ (about_x @ about_y @ in_plane).T).T
    depth = VIEWING_DISTANCE + z
    return np.stack(
        [pose.x + x * VIEWING_DISTANCE / depth, pose.y + y * VIEWING_DISTANCE / depth], 1
    )


def _homography(points, sources):
    """The eight numbers of the homography that takes four points (4, 2) to four sources (4, 2).

    Pillow asks for this direction: from a pixel of the canvas back to a pixel of the object.
    """
    rows = []
    for (u, v), (s, t) in zip(points, sources, strict=True):
        rows.append([u, v, 1, 0, 0, 0, -s * u, -s * v])
        rows.append([0, 0, 0, u, v, 1, -t * u, -t * v])
    return np.linalg.solve(np.array(rows), sources.reshape(-1))
