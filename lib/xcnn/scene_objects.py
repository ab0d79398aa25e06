"""The ten things that appear in scenes, each drawn by one short function.

Every object lives in its own square, x to the right and y down, both from -1 to 1. A function takes
a `Pen`, which turns those coordinates into pixels, and a NumPy generator, from which it takes its
colours and details. The order of its draws decides the picture.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


class Pen:
    """A transparent square on which shapes are drawn in coordinates from -1 to 1.

    `image` is the PIL RGBA image, size x size. Colours are (red, green, blue), 0 to 255.

    :param size: side in pixels

    >>> pen = xcnn.scene_objects.Pen(100)
    >>> pen.image.size, pen.image.mode
    ((100, 100), 'RGBA')
    """

    def __init__(self, size):
        self.size = size
        self.image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def pixels(self, points):
        """Points (n, 2) as a list of n pairs of pixels.

        >>> np.array(xcnn.scene_objects.Pen(100).pixels([(-1, -1), (0, 0.5)])).tolist()
        [[0.0, 0.0], [50.0, 75.0]]
        """
        points = np.asarray(points, float).reshape(-1, 2)
        return [tuple(p) for p in (points + 1) * self.size / 2]

    def polygon(self, points, colour):
        """Fill the polygon with these corners, (n, 2).

        >>> pen = xcnn.scene_objects.Pen(100)
        >>> pen.polygon([(-1, 0), (1, 0), (1, 1), (-1, 1)], (0, 0, 255))
        >>> pen.image.getpixel((50, 20)), pen.image.getpixel((50, 80))  # the upper half is empty
        ((0, 0, 0, 0), (0, 0, 255, 255))
        """
        self.draw.polygon(self.pixels(points), fill=colour)

    def line(self, points, colour, width):
        """Draw a line through these points, (n, 2).

        >>> pen = xcnn.scene_objects.Pen(100)
        >>> pen.line([(-1, 0), (1, 0)], (0, 0, 255), width=0.1)
        >>> pen.image.getbbox()  # 5 pixels wide
        (0, 48, 100, 53)
        """
        width_in_pixels = max(1, round(width * self.size / 2))
        self.draw.line(self.pixels(points), fill=colour, width=width_in_pixels, joint="curve")

    def disc(self, x, y, r, colour, ry=None):
        """Fill a disc about (x, y); with `ry` an ellipse, r wide and ry high.

        >>> pen = xcnn.scene_objects.Pen(100)
        >>> pen.disc(0, 0, 0.5, (255, 0, 0))
        >>> pen.image.getpixel((50, 50)), pen.image.getpixel((10, 10))
        ((255, 0, 0, 255), (0, 0, 0, 0))
        """
        ry = r if ry is None else ry
        self.draw.ellipse(self.pixels([(x - r, y - ry), (x + r, y + ry)]), fill=colour)

    def box(self, x0, y0, x1, y1, colour, radius=0.0):
        """Fill a box from its upper left to its lower right corner, rounded with this radius.

        >>> pen = xcnn.scene_objects.Pen(100)
        >>> pen.box(-0.5, -0.5, 0.5, 0.5, (255, 0, 0))
        >>> pen.image.getbbox()
        (25, 25, 76, 76)
        """
        corners = self.pixels([(x0, y0), (x1, y1)])
        self.draw.rounded_rectangle(corners, radius * self.size / 2, fill=colour)

    def text(self, x, y, words, colour, height):
        """Write words about (x, y), in letters of this height.

        >>> pen = xcnn.scene_objects.Pen(100)
        >>> pen.text(0, 0, "STOP", (255, 255, 255), 0.4)
        >>> left, top, right, bottom = pen.image.getbbox()
        >>> left < 50 < right, top < 50 < bottom
        (True, True)
        """
        font = ImageFont.load_default(height * self.size / 2)
        self.draw.text(
            self.pixels([(x, y)])[0],
            words,
            fill=colour,
            font=font,
            anchor="mm",
            stroke_width=self.size // 120,
        )


def shade_of(colour, factor):
    """The same colour, lighter (factor > 1) or darker (factor < 1).

    >>> xcnn.scene_objects.shade_of((200, 100, 0), 0.5)
    (100, 50, 0)
    """
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour[:3])


def pick(rng, *colours):
    """One of the colours, a little lighter or darker.

    >>> xcnn.scene_objects.pick(np.random.default_rng(0), (100, 0, 0), (0, 100, 0))
    (0, 92, 0)
    """
    return shade_of(colours[rng.integers(len(colours))], rng.uniform(0.85, 1.12))


def ring(n, radius, turn=0.0):
    """n points on a circle about (0, 0), shape (n, 2); the first lies at the angle `turn`.

    >>> (xcnn.scene_objects.ring(4, 1.0).round(6) + 0).tolist()
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    """
    angles = turn + 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


# ---- the objects, by name


def _banana(pen, rng):
    skin = pick(rng, (246, 208, 48), (250, 220, 80), (214, 205, 70))
    for lift in np.linspace(0, 0.42, rng.integers(1, 4)):
        t = np.linspace(0.12, 0.88, 40) * np.pi
        width = 0.24 * np.sin(np.linspace(0.12, np.pi - 0.12, 40)) ** 0.55
        bow = np.stack([np.cos(t), np.sin(t)], 1)
        outer = bow * (0.98 - lift * 0.3)[..., None]
        inner = bow * (0.98 - lift * 0.3 - 2 * width)[..., None]
        shift = np.array([0, -0.52 - lift * 0.5])
        pen.polygon(np.concatenate([outer, inner[::-1]]) + shift, shade_of(skin, 1 - 0.25 * lift))
        ridge = bow * (0.98 - lift * 0.3 - 0.75 * width)[..., None] + shift
        pen.line(ridge[5:-5], shade_of(skin, 0.8), 0.03)
        for end in (0, -1):
            tip = (outer[end] + inner[end]) / 2 + shift
            pen.disc(*tip, 0.075, (92, 66, 28))
    for x, y in rng.uniform([-0.5, 0.12], [0.5, 0.32], (rng.integers(0, 5), 2)):  # brown spots
        pen.disc(x, y - 0.6 * x * x, 0.022, (122, 84, 30))


def _broccoli(pen, rng):
    stem = pick(rng, (150, 190, 96), (168, 200, 120))
    head = pick(rng, (52, 120, 44), (40, 104, 52), (74, 134, 44))
    pen.polygon([(-0.2, 0), (0.2, 0), (0.17, 0.9), (-0.17, 0.9)], stem)
    pen.polygon([(-0.55, -0.1), (-0.35, -0.2), (0.1, 0.45), (-0.1, 0.6)], shade_of(stem, 0.92))
    pen.polygon([(0.55, -0.1), (0.35, -0.2), (-0.1, 0.45), (0.1, 0.6)], shade_of(stem, 1.06))
    florets = [
        (-0.55, -0.2, 0.36),
        (0.55, -0.2, 0.36),
        (-0.3, -0.5, 0.38),
        (0.3, -0.5, 0.38),
        (0, -0.3, 0.42),
    ]
    for x, y, r in florets:
        pen.disc(x, y, r, shade_of(head, 0.82))
        for _ in range(26):
            angle = rng.uniform(0, 2 * np.pi)
            distance = r * np.sqrt(rng.uniform(0, 1))
            light = 1.0 - 0.35 * np.sin(angle) * distance / r + rng.uniform(-0.12, 0.12)
            bud_x = x + distance * np.cos(angle)
            bud_y = y + distance * np.sin(angle)
            pen.disc(bud_x, bud_y, rng.uniform(0.07, 0.12), shade_of(head, light))


def _bus(pen, rng):
    body = pick(rng, (238, 176, 30), (204, 52, 44), (52, 104, 184), (60, 140, 96))
    pen.box(-0.97, -0.52, 0.97, 0.42, body, 0.14)
    pen.box(-0.97, 0.1, 0.97, 0.2, shade_of(body, 0.65))
    glass = pick(rng, (174, 206, 222), (120, 150, 170))
    for x in np.linspace(-0.88, 0.32, rng.integers(4, 7))[:-1]:
        pen.box(x, -0.38, x + 0.2, 0.0, glass, 0.03)
        gleam = [(x + 0.03, -0.02), (x + 0.1, -0.36), (x + 0.15, -0.36), (x + 0.08, -0.02)]
        pen.polygon(gleam, shade_of(glass, 1.15))
    pen.box(0.36, -0.36, 0.56, 0.38, shade_of(glass, 0.8), 0.03)
    pen.line([(0.46, -0.36), (0.46, 0.38)], shade_of(body, 0.6), 0.025)
    pen.box(0.64, -0.4, 0.97, 0.02, shade_of(glass, 1.05), 0.06)
    pen.disc(0.9, 0.28, 0.06, (255, 244, 190))
    pen.disc(-0.92, 0.28, 0.04, (220, 60, 50))
    for x in (-0.56, 0.66):
        pen.disc(x, 0.42, 0.2, (34, 34, 38))
        pen.disc(x, 0.42, 0.1, (168, 170, 176))
        pen.disc(x, 0.42, 0.04, (90, 92, 98))


def _clock(pen, rng):
    rim = pick(rng, (50, 50, 56), (150, 96, 50), (188, 60, 60), (70, 110, 150))
    face = pick(rng, (245, 243, 234))
    if rng.random() < 0.3:
        pen.box(-0.92, -0.92, 0.92, 0.92, rim, 0.16)
    else:
        pen.disc(0, 0, 0.95, rim)
    pen.disc(0, 0, 0.8, face)
    ink = (36, 36, 40)
    for hour, (x, y) in enumerate(ring(12, 1.0, -np.pi / 2)):
        quarter = hour % 3 == 0
        inner = 0.58 if quarter else 0.65
        mark = [(inner * x, inner * y), (0.74 * x, 0.74 * y)]
        pen.line(mark, ink, 0.07 if quarter else 0.04)
    time = rng.uniform(0, 12)
    for angle, length, width in [(time / 12, 0.4, 0.1), (time % 1, 0.62, 0.065)]:
        x, y = np.sin(2 * np.pi * angle), -np.cos(2 * np.pi * angle)
        pen.line([(-0.12 * x, -0.12 * y), (length * x, length * y)], ink, width)
    pen.disc(0, 0, 0.07, pick(rng, (190, 50, 46), ink))


def _laptop(pen, rng):
    case = pick(rng, (186, 190, 196), (70, 74, 80), (204, 196, 182))
    pen.box(-0.74, -0.82, 0.74, 0.28, shade_of(case, 0.55), 0.06)
    screen_colours = [(70, 130, 200), (90, 70, 160), (40, 150, 140), (236, 240, 246)]
    top = np.array(pick(rng, *screen_colours))
    bottom = np.array(pick(rng, *screen_colours))
    for y in np.linspace(-0.74, 0.18, 32):
        mix = (y + 0.74) / 0.92
        pen.box(-0.66, y, 0.66, y + 0.04, tuple(int(c) for c in (1 - mix) * top + mix * bottom))
    pen.box(-0.56, -0.64, rng.uniform(-0.2, 0.2), 0.02, (248, 249, 251), 0.02)
    for y in np.linspace(-0.54, -0.1, 5):
        pen.line([(-0.5, y), (rng.uniform(-0.4, -0.25), y)], (120, 124, 132), 0.04)
    pen.polygon([(-0.74, 0.28), (0.74, 0.28), (0.98, 0.72), (-0.98, 0.72)], case)
    pen.polygon([(-0.98, 0.72), (0.98, 0.72), (0.96, 0.8), (-0.96, 0.8)], shade_of(case, 0.7))
    for row in range(4):
        y = 0.33 + 0.065 * row
        half_width = 0.66 + 0.04 * row
        for x in np.linspace(-half_width, half_width, 13)[:-1]:
            pen.box(x + 0.01, y, x + 0.1, y + 0.045, shade_of(case, 0.45), 0.01)
    pen.polygon([(-0.2, 0.61), (0.2, 0.61), (0.22, 0.7), (-0.22, 0.7)], shade_of(case, 0.85))


def _pizza(pen, rng):
    crust = pick(rng, (206, 148, 78), (188, 124, 60))
    cheese = pick(rng, (248, 208, 110), (244, 196, 90))
    pen.disc(0, 0, 0.97, crust)
    for x, y in ring(36, 0.9, rng.uniform(0, 1)):
        pen.disc(x, y, rng.uniform(0.04, 0.08), shade_of(crust, rng.uniform(0.8, 1.15)))
    pen.disc(0, 0, 0.83, (190, 60, 34))
    pen.disc(0, 0, 0.78, cheese)
    for _ in range(30):
        angle = rng.uniform(0, 2 * np.pi)
        distance = 0.74 * np.sqrt(rng.uniform())
        radius = rng.uniform(0.03, 0.09)
        colour = shade_of(cheese, rng.uniform(0.86, 1.1))
        pen.disc(distance * np.cos(angle), distance * np.sin(angle), radius, colour)
    turn = rng.uniform(0, 7)
    _pizza_toppings(pen, rng, cheese, turn)
    if rng.random() < 0.4:  # a slice is missing
        angle = rng.uniform(0, 2 * np.pi)
        rim = [[np.cos(angle + s), np.sin(angle + s)] for s in (0, 0.35, 0.7)]
        pen.polygon([(0, 0), *(1.5 * np.array(rim))], (0, 0, 0, 0))


def _pizza_toppings(pen, rng, cheese, turn):
    sausage = pick(rng, (184, 52, 40), (160, 44, 40))
    for x, y in np.concatenate([ring(7, 0.56, turn), ring(3, 0.22, turn)]):
        pen.disc(x, y, 0.145, shade_of(sausage, 0.75))
        pen.disc(x, y, 0.125, sausage)
    for x, y in ring(9, 0.4, turn + 0.4) * rng.uniform(0.5, 1.7, (9, 1)):
        if rng.random() < 0.5:  # an olive, else a leaf
            pen.disc(x, y, 0.06, (44, 44, 40))
            pen.disc(x, y, 0.025, cheese)
        else:
            pen.disc(x, y, 0.09, (70, 130, 50), ry=0.045)


def _sports_ball(pen, rng):
    dark = pick(rng, (30, 30, 34), (30, 44, 90), (120, 30, 40))
    white = pick(rng, (244, 244, 242))
    pen.disc(0, 0, 0.96, white)
    turn = rng.uniform(0, 2 * np.pi)
    pen.polygon(ring(5, 0.34, turn), dark)
    for vertex in ring(5, 1.0, turn):
        pen.line([0.34 * vertex, 0.66 * vertex], dark, 0.035)
        for sign in (-1, 1):
            c, s = np.cos(sign * np.pi / 5), np.sin(sign * np.pi / 5)
            edge = np.array([[c, -s], [s, c]]) @ vertex  # middle of the next pentagon at the rim
            side = sign * np.array([edge[1], -edge[0]])
            corner = 0.8 * edge + 0.26 * side
            pen.line([0.66 * vertex, corner], dark, 0.035)
            pen.polygon([0.68 * edge, corner, 0.98 * edge + 0.2 * side, 0.98 * edge], dark)
    outline = Image.new("L", pen.image.size, 0)
    ImageDraw.Draw(outline).ellipse(pen.pixels([(-0.96, -0.96), (0.96, 0.96)]), fill=255)
    pen.image.putalpha(outline)


def _stop_sign(pen, rng):
    red = pick(rng, (200, 30, 38), (184, 28, 30))
    pen.box(-0.06, 0.3, 0.06, 1.0, pick(rng, (150, 152, 156), (120, 110, 96)))
    shift = np.array([0, -0.22])
    pen.polygon(ring(8, 0.8, np.pi / 8) + shift, (246, 246, 246))
    pen.polygon(ring(8, 0.74, np.pi / 8) + shift, red)
    pen.text(0, -0.22, "STOP", (250, 250, 250), 0.46)


def _traffic_light(pen, rng):
    case = pick(rng, (38, 40, 44), (44, 62, 50), (216, 168, 40))
    pen.box(-0.06, 0.5, 0.06, 1.0, (96, 98, 102))
    pen.box(-0.34, -0.97, 0.34, 0.72, case, 0.12)
    lit = rng.integers(3)
    for lamp, colour in enumerate([(240, 56, 44), (250, 190, 40), (66, 206, 96)]):
        y = -0.66 + 0.54 * lamp
        pen.disc(0, y, 0.25, shade_of(case, 0.6))
        pen.disc(0, y, 0.21, colour if lamp == lit else shade_of(colour, 0.32))
        if lamp == lit:
            pen.disc(-0.03, y - 0.03, 0.12, tuple((c + 2 * 255) // 3 for c in colour))
        outer = [(-0.27, y - 0.1), (-0.2, y - 0.24), (0.2, y - 0.24), (0.27, y - 0.1)]
        inner = [(0.2, y - 0.17), (-0.2, y - 0.17)]
        pen.polygon(outer + inner, shade_of(case, 0.8))  # the hood above the lamp


def _umbrella(pen, rng):
    panel_colours = [(204, 50, 60), (46, 92, 160), (236, 170, 40), (90, 60, 130), (40, 130, 110)]
    even = pick(rng, *panel_colours)
    odd = pick(rng, *panel_colours)
    if rng.random() < 0.4:
        odd = shade_of(even, 0.86)
    pen.line([(0, -0.8), (0, 0.76)], (92, 70, 52), 0.06)
    t = np.linspace(0, np.pi, 12)
    hook = np.stack([0.14 * np.cos(t) + 0.14, 0.14 * np.sin(t) + 0.76], 1)
    pen.line(hook, (92, 70, 52), 0.08)
    edges = np.linspace(-0.96, 0.96, rng.integers(5, 8))
    t = np.linspace(0, 1, 14)
    # Ribs are quarter ellipses from the tip to the rim; panels hang between two of them.
    rib_y = 0.1 - 0.9 * np.cos(t * np.pi / 2)
    for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        rib_a = np.stack([a * np.sin(t * np.pi / 2), rib_y], 1)
        rib_b = np.stack([b * np.sin(t * np.pi / 2), rib_y], 1)
        hem = np.stack([a + (b - a) * t, 0.1 - 0.12 * np.sin(np.pi * t)], 1)
        panel = np.concatenate([rib_a, hem, rib_b[::-1]])
        pen.polygon(panel, shade_of(odd if k % 2 else even, 1.1 - 0.06 * k))
    pen.line([(0, -0.97), (0, -0.78)], (70, 54, 42), 0.05)


DRAW = {
    "banana": _banana,
    "broccoli": _broccoli,
    "bus": _bus,
    "clock": _clock,
    "laptop": _laptop,
    "pizza": _pizza,
    "sports ball": _sports_ball,
    "stop sign": _stop_sign,
    "traffic light": _traffic_light,
    "umbrella": _umbrella,
}
ROUND = {"sports ball", "broccoli"}  # shaded like a sphere, not like a sheet


def draw(name, size, rng):
    """One object, shaded from its upper left.

    :param name: a key of `DRAW`
    :param size: side of the square in pixels
    :param rng: NumPy generator for colours and details
    :return: PIL image, RGBA, size x size

    >>> sign = xcnn.scene_objects.draw("stop sign", 100, np.random.default_rng(0))
    >>> red, green, blue, opacity = sign.getpixel((50, 20))  # above the word
    >>> red > 2 * green, opacity, sign.getpixel((2, 2))[3]  # the corner is transparent
    (True, 255, 0)
    """
    pen = Pen(size)
    DRAW[name](pen, rng)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    if name in ROUND:
        light = 1.18 - 0.5 * ((x + 0.35) ** 2 + (y + 0.4) ** 2)
    else:
        light = 1.0 - 0.14 * (x + y)
    pixels = np.asarray(pen.image).astype(np.float32)
    pixels[..., :3] = np.clip(pixels[..., :3] * np.clip(light, 0.45, 1.25)[..., None], 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))
