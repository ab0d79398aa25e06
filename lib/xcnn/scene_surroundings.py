"""The surroundings of a scene's objects: background, clutter, shadows and boards in front.

Each function takes its random numbers from a NumPy generator. Their order decides the picture: a
draw that is added, dropped or moved changes every scene.
"""

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .scene_objects import ring, shade_of

GROUND_COLOURS = [
    (150, 146, 138),
    (120, 140, 150),
    (176, 160, 136),
    (112, 126, 104),
    (150, 128, 120),
    (196, 190, 180),
    (92, 98, 112),
]
PLANK_COLOURS = [(164, 118, 76), (126, 92, 64), (186, 154, 112)]
BRICK_COLOURS = [(150, 86, 70), (168, 150, 130), (120, 100, 96)]
LAND_COLOURS = [(96, 132, 66), (170, 150, 104), (110, 112, 116)]
# Clutter has the colours of the objects, so that colour alone proves little.
CLUTTER_COLOURS = [
    (204, 52, 44),
    (238, 190, 40),
    (60, 140, 70),
    (52, 104, 184),
    (240, 240, 236),
    (40, 40, 46),
    (150, 96, 50),
    (120, 124, 132),
]
SHADOW_COLOUR = (14, 14, 20)


# ---- the background


def background(rng, side):
    """A textured ground: cloud, planks, bricks, a meadow under a sky, cloth or gravel.

    :param rng: NumPy generator; it chooses the ground, its colours and its texture
    :param side: of the picture in pixels
    :return: PIL RGB image, side x side

    >>> xcnn.scene_surroundings.background(np.random.default_rng(0), 64).size
    (64, 64)
    """
    paint = GROUNDS[rng.integers(len(GROUNDS))]
    base = np.array(rng.choice(GROUND_COLOURS), np.float32)
    tone = 0.16 * _noise(rng, side, 3, 5)
    colour = np.broadcast_to(base, (side, side, 3)).copy()
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    colour, tone = paint(rng, colour, tone, x, y)
    return Image.fromarray(np.clip(colour * (1 + tone[..., None]), 0, 255).astype(np.uint8))


def _noise(rng, side, coarsest, octaves, decay=0.55):
    """Smooth noise, (side, side), mean 0, about -1 to 1: a sum of finer and finer random grids."""
    total = np.zeros((side, side), np.float32)
    for k in range(octaves):
        grid = rng.uniform(-1, 1, (coarsest * 2**k + 1,) * 2).astype(np.float32)
        smooth = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
        total += decay**k * np.asarray(smooth)
    return total / sum(decay**k for k in range(octaves)) * 1.6


# A ground takes its colour (side, side, 3), its tone (side, side), which is added to a brightness
# of 1, and the coordinates x and y of its pixels from 0 to 1. It returns the new colour and tone.


def _cloud(rng, colour, tone, x, y):
    return colour, tone


def _planks(rng, colour, tone, x, y):
    side = len(x)
    boards = rng.integers(4, 8)
    coarse = Image.fromarray(_noise(rng, side, 24, 2))
    grain = np.asarray(coarse.resize((side, 8)).resize((side, side))).T  # drawn out along a board
    colour = np.array(rng.choice(PLANK_COLOURS), np.float32)
    board = np.minimum((x * boards).astype(int), boards - 1)
    shade = rng.uniform(-1, 1, boards)[board]
    gap = (x * boards) % 1 < 0.035
    return colour * (1 + 0.14 * shade)[..., None], 0.08 * grain + 0.05 * tone - 0.35 * gap


def _bricks(rng, colour, tone, x, y):
    rows = rng.integers(6, 11)
    row = (y * rows).astype(int)
    along = x * rows * 0.5 + 0.5 * (row % 2)  # each second row is shifted by half a brick
    joint = ((y * rows) % 1 < 0.1) | (along % 1 < 0.05)
    shade = rng.uniform(-1, 1, (rows + 1, rows + 2))[row, along.astype(int)]
    colour = np.array(rng.choice(BRICK_COLOURS), np.float32)
    brick = colour * (1 + 0.12 * shade)[..., None]
    return np.where(joint[..., None], np.float32(176), brick), tone


def _landscape(rng, colour, tone, x, y):
    side = len(x)
    horizon = rng.uniform(0.3, 0.7) + 0.03 * _noise(rng, side, 3, 3)[:1]
    sky = np.array([140, 180, 214], np.float32) + 60 * y[..., None]
    colour = np.array(rng.choice(LAND_COLOURS), np.float32)
    land = colour * (1 + 0.25 * _noise(rng, side, 30, 3)[..., None])
    return np.where((y < horizon)[..., None], sky, land), tone


def _cloth(rng, colour, tone, x, y):
    n = rng.integers(5, 12)
    stripes = ((x * n) % 1 < 0.4).astype(np.float32) + ((y * n) % 1 < 0.4)
    return colour * (1 - 0.2 * stripes)[..., None], tone


def _gravel(rng, colour, tone, x, y):
    return colour, tone + 0.22 * _noise(rng, len(x), 40, 2)


GROUNDS = (_cloud, _planks, _bricks, _landscape, _cloth, _gravel)


# ---- clutter


def clutter(canvas, rng, side):
    """Paint pebbles, sticks, leaves and boxes in the objects' colours, 4 to 10 of them.

    :param canvas: PIL RGB image, side x side; it is painted on
    :param rng: NumPy generator
    :param side: of the canvas in pixels

    >>> canvas = xcnn.photos.to_rgb(np.full((64, 64, 3), 255, np.uint8))
    >>> xcnn.scene_surroundings.clutter(canvas, np.random.default_rng(0), 64)
    >>> bool((np.asarray(canvas) < 255).any())  # it was white, and is so no longer
    True
    """
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.integers(4, 11)):
        colour = CLUTTER_COLOURS[rng.integers(len(CLUTTER_COLOURS))]
        colour = shade_of(colour, rng.uniform(0.6, 1.1))
        centre = rng.uniform(0, side, 2)
        radius = side * rng.uniform(0.03, 0.11)
        shape = SHAPES[rng.integers(len(SHAPES))]
        points = shape(rng, radius) + centre
        pen.polygon([tuple(p) for p in points], fill=colour)
    shadow(canvas, layer, side)
    canvas.paste(layer, mask=layer)


def _pebble(rng, radius):
    return ring(9, 1.0, rng.uniform(0, 1)) * rng.uniform(0.7, 1.1, (9, 1)) * radius


def _stick(rng, radius):
    angle = rng.uniform(0, 6.3)
    along = ring(2, 1.0, angle)[0] * radius * 2.2
    across = ring(2, 1.0, angle + 1.57)[0] * radius * 0.2
    return np.array([along + across, along - across, -along - across, -along + across])


def _leaf(rng, radius):
    t = np.linspace(0, 2 * np.pi, 18)
    angle = rng.uniform(0, 6.3)
    c, s = np.cos(angle), np.sin(angle)
    leaf = np.stack([1.6 * np.cos(t), 0.7 * np.sin(t) ** 3], 1) * radius
    return leaf @ np.array([[c, s], [-s, c]])


def _box(rng, radius):
    return ring(4, 1.0, rng.uniform(0, 1.6)) * radius * (1, rng.uniform(0.6, 1))


SHAPES = (_pebble, _stick, _leaf, _box)


# ---- shadows and boards


def shadow(canvas, layer, side):
    """Paint the soft shadow that a layer throws to its lower right.

    What leaves the picture comes back, faintly, at the opposite edge.

    :param canvas: PIL RGB image, side x side; it is painted on
    :param layer: PIL RGBA image of the same size
    :param side: of both in pixels

    >>> canvas = xcnn.photos.to_rgb(np.full((64, 64, 3), 255, np.uint8))
    >>> pizza = xcnn.scene_objects.draw("pizza", 64, np.random.default_rng(0))
    >>> xcnn.scene_surroundings.shadow(canvas, pizza, 64)
    >>> canvas.getpixel((0, 0))[0], canvas.getpixel((32, 32))[0] < 200  # in light, in shadow
    (255, True)
    """
    blurred = layer.getchannel("A").filter(ImageFilter.GaussianBlur(side * 0.02))
    shifted = ImageChops.offset(blurred, round(side * 0.015), round(side * 0.025))
    canvas.paste(SHADOW_COLOUR, mask=shifted.point(lambda alpha: alpha * 0.45))


def occluder(rng, alpha, side, fraction):
    """A board that hides this fraction of an object's pixels.

    :param rng: NumPy generator; it chooses the board's direction and colour
    :param alpha: PIL L image, side x side, 128 or more where the object is
    :param side: of the picture in pixels
    :param fraction: of the object's pixels, 0 to 0.9
    :return: PIL RGBA image, side x side; None where there is nothing to hide

    >>> square = xcnn.photos.to_rgb(np.full((64, 64, 3), 255, np.uint8)).convert("L")
    >>> board = xcnn.scene_surroundings.occluder(np.random.default_rng(0), square, 64, 0.5)
    >>> hidden = np.asarray(board.getchannel("A")) > 0
    >>> bool(0.45 < hidden.mean() < 0.55)
    True
    """
    angle = rng.uniform(0, 2 * np.pi)
    colour = np.array([*rng.integers(60, 190, 3)])
    ys, xs = np.nonzero(np.asarray(alpha) >= 128)
    if fraction <= 0 or len(xs) == 0:
        return None
    board = _board(np.stack([xs, ys], 1), angle, side, fraction)
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    pen.polygon([tuple(corner) for corner in board], fill=shade_of(colour, 1.0))
    for t in np.linspace(0.2, 0.8, 4):  # the grain of the wood
        start = (1 - t) * board[0] + t * board[3]
        end = (1 - t) * board[1] + t * board[2]
        line = [tuple(start), tuple(end)]
        pen.line(line, fill=shade_of(colour, 0.88), width=max(1, side // 128))
    return layer


def _board(points, angle, side, fraction):
    """The four corners of a rectangle that holds this fraction of the points (n, 2).

    One edge runs through the object, at right angles to the direction `angle`; the other three lie
    just outside it.
    """
    out = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    edge = np.quantile(points @ out, 1 - fraction)
    reach = (points @ out).max() + 0.04 * side
    low = (points @ across).min() - 0.05 * side
    high = (points @ across).max() + 0.05 * side
    return [
        edge * out + low * across,
        edge * out + high * across,
        reach * out + high * across,
        reach * out + low * across,
    ]
