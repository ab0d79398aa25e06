"""Scenes: small pictures with exact masks, rendered from a seed and never stored.

Ten classes that COCO and ImageNet also know, on textured backgrounds with clutter. Five knobs turn the classic
challenges of vision, one at a time: `scale`, `view`, `light`, `occlusion` and `count`. What a knob leaves alone stays
as it was: each aspect of a scene has its own stream of random numbers.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from tqdm.auto import tqdm

from .errors import InputError, nearest
from .scene_objects import DRAW, draw, ring, shade_of

CLASSES = tuple(DRAW)
# knob -> (lowest, highest) a caller may ask for
KNOBS = {
    "scale": (0.1, 1.0),
    "view": (-75, 75),
    "light": (0.15, 2.5),
    "occlusion": (0, 0.9),
    "count": (1, 4),
}
TAG_MARGIN = (
    -0.023,
    -0.02,
    0.023,
    0.02,
)  # of the plate around the words, as fractions of the image
OVER = 2  # scenes are drawn this much larger, then averaged down: smooth edges


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    :param image: PIL RGB, size x size
    :param labels: class names, one per object, nearest last
    :param masks: (n, size, size) bool, the visible pixels of each object; they never overlap
    """

    image: Image.Image
    labels: tuple
    masks: np.ndarray

    def mask(self, name):
        """All visible pixels of the class of this name, (size, size) bool."""
        if name not in self.labels:
            raise InputError(f"no {name!r} in this scene; it holds: {', '.join(self.labels)}")
        return self.masks[[label == name for label in self.labels]].any(0)


def render(
    seed, *, classes=None, scale=None, view=None, light=None, occlusion=None, count=None, size=128
):
    """Render one scene. The same arguments always give the same scene; knobs left at None are drawn from the seed.

    :param seed: int >= 0
    :param classes: names of the objects, left to right; None draws `count` different ones
    :param scale: longest side of an object as a fraction of the image, 0.1 to 1
    :param view: turn of the object about its vertical axis in degrees, -75 to 75
    :param light: exposure, 0.15 (dusk) to 2.5 (glare); 1 is plain daylight
    :param occlusion: fraction of each object's area that something else hides, 0 to 0.9
    :param count: number of objects, 1 to 4; ignored where `classes` is given
    :param size: side of the image in pixels; the layout does not depend on it
    :return: `Scene`
    :raises InputError: for an unknown class or a knob out of range
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed must be a whole number, 0 or more, not {seed!r}")
    _check(classes, size, scale=scale, view=view, light=light, occlusion=occlusion, count=count)
    rng = {aspect: np.random.default_rng([seed, k]) for k, aspect in enumerate(
        ["class", "place", "scale", "view", "light", "occlusion", "paint", "ground", "clutter", "noise"])}  # fmt: skip
    if classes is None:
        classes = tuple(rng["class"].permutation(CLASSES)[: count or 1])
    side = size * OVER
    canvas = _background(rng["ground"], side)
    _clutter(canvas, rng["clutter"], side)
    masks = []
    for k, (name, (cx, cy, room)) in enumerate(
        zip(classes, _places(rng["place"], len(classes)), strict=True)
    ):
        drawn = rng["scale"].uniform(0.58, 1.0) * room
        longest = drawn if scale is None else scale
        turn, tilt, roll = rng["view"].uniform([-30, -12, -10], [30, 12, 10])
        turn = turn if view is None else view
        if len(classes) == 1:  # anywhere, as long as most of it stays inside
            slack = max(0.0, 1 - longest) / 2
            cx, cy = 0.5 + slack * cx, 0.5 + slack * cy
        paint = np.random.default_rng([seed, 100 + k, CLASSES.index(name)])
        thing = draw(name, int(np.clip(longest * side * 1.5, 48, 1024)), paint)
        layer = _place(thing, side, cx, cy, longest, turn, tilt, roll)
        _shadow(canvas, layer, side)
        canvas.paste(layer, mask=layer)
        alpha = layer.getchannel("A")
        hide = rng["occlusion"].choice([0, 0, rng["occlusion"].uniform(0.05, 0.25)])
        masks = [ImageChops.subtract(mask, alpha) for mask in masks] + [alpha]
        cover = _occluder(rng["occlusion"], alpha, side, hide if occlusion is None else occlusion)
        if cover is not None:
            _shadow(canvas, cover, side)
            canvas.paste(cover, mask=cover)
            masks = [ImageChops.subtract(mask, cover.getchannel("A")) for mask in masks]
    canvas = canvas.resize((size, size), Image.Resampling.BOX)
    exposure = rng["light"].uniform(0.7, 1.25)
    image = _expose(canvas, rng["light"], rng["noise"], exposure if light is None else light)
    masks = np.stack(
        [np.asarray(m.resize((size, size), Image.Resampling.BOX)) >= 128 for m in masks]
    )
    return Scene(image, tuple(str(name) for name in classes), masks)


def tagged(scene, seed, words="© xcnn"):
    """The scene's picture with a small copyright tag in a lower corner, as an archive of photographs might leave it.

    :param scene: a `Scene`
    :param seed: decides the corner and the exact place
    :param words: of the tag
    :return: PIL image, mask (size, size) bool of the rectangle that the tag fills
    """
    side, rng = scene.image.width * OVER, np.random.default_rng([seed, 10])
    font, edge = ImageFont.load_default(0.085 * side), side * rng.uniform(0.03, 0.07, 2)
    right = rng.integers(2)
    spot, anchor = (side - edge[0] if right else edge[0], side - edge[1]), "rb" if right else "lb"
    plate, ink = (Image.new("L", (side, side)) for _ in range(2))
    ImageDraw.Draw(ink).text(spot, words, fill=250, font=font, anchor=anchor)
    box = np.array(
        ImageDraw.Draw(ink).textbbox(spot, words, font=font, anchor=anchor)
    ) + side * np.array(TAG_MARGIN)
    ImageDraw.Draw(plate).rounded_rectangle(tuple(box), side / 64, fill=235)
    image, mask = scene.image.copy(), np.zeros(scene.masks.shape[1:], bool)
    plate, ink = (layer.resize(image.size, Image.Resampling.BOX) for layer in (plate, ink))
    image.paste((16, 16, 20), mask=plate)
    image.paste((250, 250, 246), mask=ink)
    left, top, end, bottom = plate.getbbox()
    mask[top:bottom, left:end] = True
    return image, mask


def dataset(n, seed=0, **knobs):
    """Scenes as arrays, for training and testing.

    :param n: how many
    :param seed: of the first
    :param knobs: as in `render`
    :return: images (n, size, size, 3) uint8, labels (n,) int64: the index in `CLASSES` of each scene's first object
    """
    scenes = (render(s, **knobs) for s in range(seed, seed + n))
    pairs = [(np.asarray(scene.image), CLASSES.index(scene.labels[0])) for scene in scenes]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def write(folder, n, seed=0, progress=False, **knobs):
    """Write scenes as a COCO folder: `images/*.png` and `annotations/instances.json`, exact masks as run lengths.

    :param folder: its path; made where there is none
    :param n, seed, knobs: as in `dataset`
    :param progress: show a bar
    :return: path of the annotation file
    """
    from pycocotools import mask as rle

    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for s in tqdm(range(seed, seed + n), disable=not progress, desc="scenes"):
        scene = render(s, **knobs)
        file_name = f"{s:06d}.png"
        scene.image.save(folder / "images" / file_name)
        images.append(
            {
                "id": s,
                "file_name": file_name,
                "width": scene.image.width,
                "height": scene.image.height,
            }
        )
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            annotations.append({
                "id": len(annotations) + 1, "image_id": s, "category_id": CLASSES.index(label) + 1, "iscrowd": 0,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "area": int(mask.sum()), "bbox": [float(v) for v in rle.toBbox(code)],
            })  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    path = folder / "annotations" / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def _check(classes, size, **knobs):
    for name in classes or ():
        if name not in CLASSES:
            raise InputError(f"no scene class {name!r}; {nearest(name, CLASSES)}")
    if classes is not None and not 1 <= len(classes) <= KNOBS["count"][1]:
        raise InputError(f"a scene holds 1 to {KNOBS['count'][1]} objects, not {len(classes)}")
    if size < 16:
        raise InputError(f"size must be at least 16 pixels, not {size}")
    for knob, value in knobs.items():
        low, high = KNOBS[knob]
        if value is not None and not low <= value <= high:
            raise InputError(f"{knob} must lie between {low} and {high}, not {value}")


def _places(rng, n):
    """Centres and room for n objects: for one, a direction from the middle; for more, cells with a little jitter."""
    if n == 1:
        return [(*rng.uniform(-1, 1, 2), 0.72)]
    if n == 2:
        cells, room = [(0.27, 0.5), (0.73, 0.5)], 0.5
    else:
        cells, room = [(0.27, 0.28), (0.73, 0.28), (0.27, 0.74), (0.73, 0.74)][:n], 0.46
    return [
        (x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.12, 0.12) * (n == 2), room)
        for x, y in cells
    ]


def _place(thing, side, cx, cy, longest, turn, tilt, roll):
    """Turn the object in space, project it and lay it on an empty canvas."""
    yaw, pitch, rolled = np.deg2rad([turn, tilt, roll])
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * longest / 2
    spin = np.array(
        [[np.cos(rolled), -np.sin(rolled), 0], [np.sin(rolled), np.cos(rolled), 0], [0, 0, 1]]
    )
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    x, y, z = (corners @ (about_x @ about_y @ spin).T).T
    distance = 1.6
    target = (
        np.stack([cx + x * distance / (distance + z), cy + y * distance / (distance + z)], 1) * side
    )
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * thing.width
    # Eight unknowns of the homography that takes a canvas pixel back to a pixel of the object.
    rows = []
    for (u, v), (s, t) in zip(target, source, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -s * u, -s * v], [0, 0, 0, u, v, 1, -t * u, -t * v]]
    homography = np.linalg.solve(np.array(rows), source.reshape(-1))
    return thing.transform(
        (side, side), Image.Transform.PERSPECTIVE, homography, Image.Resampling.BICUBIC
    )


def _shadow(canvas, layer, side):
    blurred = layer.getchannel("A").filter(ImageFilter.GaussianBlur(side * 0.02))
    shifted = ImageChops.offset(blurred, round(side * 0.015), round(side * 0.025)).point(
        lambda a: a * 0.45
    )
    canvas.paste((14, 14, 20), mask=shifted)


def _noise(rng, side, coarsest, octaves, decay=0.55):
    """Smooth noise, (side, side), mean 0, about -1 to 1: random grids of growing fineness, added up."""
    total = np.zeros((side, side), np.float32)
    for k in range(octaves):
        grid = rng.uniform(-1, 1, (coarsest * 2**k + 1,) * 2).astype(np.float32)
        total += decay**k * np.asarray(
            Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
        )
    return total / sum(decay**k for k in range(octaves)) * 1.6


def _background(rng, side):
    """A textured ground: cloud, planks, bricks, meadow under a sky, cloth or gravel."""
    kind = rng.integers(6)
    base = np.array(rng.choice([(150, 146, 138), (120, 140, 150), (176, 160, 136), (112, 126, 104), (150, 128, 120),
                                (196, 190, 180), (92, 98, 112)]), np.float32)  # fmt: skip
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    tone = 0.16 * _noise(rng, side, 3, 5)
    colour = np.broadcast_to(base, (side, side, 3)).copy()
    if kind == 1:  # planks, with grain along them
        boards = rng.integers(4, 8)
        grain = np.asarray(
            Image.fromarray(_noise(rng, side, 24, 2)).resize((side, 8)).resize((side, side))
        )
        colour = np.array(rng.choice([(164, 118, 76), (126, 92, 64), (186, 154, 112)]), np.float32)
        colour = (
            colour
            * (
                1
                + 0.14
                * rng.uniform(-1, 1, boards)[np.minimum((x * boards).astype(int), boards - 1)]
            )[..., None]
        )
        tone = 0.08 * grain.T + 0.05 * tone - 0.35 * ((x * boards) % 1 < 0.035)
    elif kind == 2:  # bricks
        rows = rng.integers(6, 11)
        row = (y * rows).astype(int)
        along = x * rows * 0.5 + 0.5 * (row % 2)
        joint = ((y * rows) % 1 < 0.1) | (along % 1 < 0.05)
        shade = rng.uniform(-1, 1, (rows + 1, rows + 2))[row, along.astype(int)]
        colour = np.array(rng.choice([(150, 86, 70), (168, 150, 130), (120, 100, 96)]), np.float32)
        colour = np.where(joint[..., None], np.float32(176), colour * (1 + 0.12 * shade)[..., None])
    elif kind == 3:  # sky above, ground below
        horizon = rng.uniform(0.3, 0.7) + 0.03 * _noise(rng, side, 3, 3)[:1]
        sky = np.array([140, 180, 214], np.float32) + 60 * y[..., None]
        land = np.array(rng.choice([(96, 132, 66), (170, 150, 104), (110, 112, 116)]), np.float32)
        colour = np.where(
            (y < horizon)[..., None], sky, land * (1 + 0.25 * _noise(rng, side, 30, 3)[..., None])
        )
    elif kind == 4:  # cloth: two crossing stripes
        n = rng.integers(5, 12)
        stripes = ((x * n) % 1 < 0.4).astype(np.float32) + ((y * n) % 1 < 0.4)
        colour = colour * (1 - 0.2 * stripes)[..., None]
    elif kind == 5:  # gravel
        tone = tone + 0.22 * _noise(rng, side, 40, 2)
    return Image.fromarray(np.clip(colour * (1 + tone[..., None]), 0, 255).astype(np.uint8))


def _clutter(canvas, rng, side):
    """Things that are nothing in particular, in the objects' own colours, so that colour alone proves little."""
    colours = [(204, 52, 44), (238, 190, 40), (60, 140, 70), (52, 104, 184)]
    colours += [(240, 240, 236), (40, 40, 46), (150, 96, 50), (120, 124, 132)]
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.integers(4, 11)):
        colour = shade_of(colours[rng.integers(len(colours))], rng.uniform(0.6, 1.1))
        x, y, r = *rng.uniform(0, side, 2), side * rng.uniform(0.03, 0.11)
        kind = rng.integers(4)
        if kind == 0:  # a pebble
            points = ring(9, 1.0, rng.uniform(0, 1)) * rng.uniform(0.7, 1.1, (9, 1)) * r + (x, y)
        elif kind == 1:  # a stick
            along, across = (
                ring(2, 1.0, a := rng.uniform(0, 6.3))[0] * r * 2.2,
                ring(2, 1.0, a + 1.57)[0] * r * 0.2,
            )
            points = np.array(
                [along + across, along - across, -along - across, -along + across]
            ) + (x, y)
        elif kind == 2:  # a leaf
            t, a = np.linspace(0, 2 * np.pi, 18), rng.uniform(0, 6.3)
            leaf = np.stack([1.6 * np.cos(t), 0.7 * np.sin(t) ** 3], 1) * r
            points = leaf @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + (x, y)
        else:  # a box
            points = ring(4, 1.0, rng.uniform(0, 1.6)) * r * (1, rng.uniform(0.6, 1)) + (x, y)
        pen.polygon([tuple(p) for p in points], fill=colour)
    _shadow(canvas, layer, side)
    canvas.paste(layer, mask=layer)


def _occluder(rng, alpha, side, fraction):
    """A board that hides this fraction of an object's pixels, as an RGBA layer; None for nothing to hide."""
    angle, colour = rng.uniform(0, 2 * np.pi), np.array([*rng.integers(60, 190, 3)])
    if fraction <= 0:
        return None
    ys, xs = np.nonzero(np.asarray(alpha) >= 128)
    if len(xs) == 0:
        return None
    out, across = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    points = np.stack([xs, ys], 1)
    edge, reach = np.quantile(points @ out, 1 - fraction), (points @ out).max() + 0.04 * side
    low, high = (points @ across).min() - 0.05 * side, (points @ across).max() + 0.05 * side
    board = [
        edge * out + low * across,
        edge * out + high * across,
        reach * out + high * across,
        reach * out + low * across,
    ]
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    pen.polygon([tuple(p) for p in board], fill=shade_of(colour, 1.0))
    for t in np.linspace(0.2, 0.8, 4):  # grain
        a, b = (1 - t) * board[0] + t * board[3], (1 - t) * board[1] + t * board[2]
        pen.line([tuple(a), tuple(b)], fill=shade_of(colour, 0.88), width=max(1, side // 128))
    return layer


def _expose(canvas, light, noise, exposure):
    """Light from one side, a warm or cool cast, exposure, sensor noise."""
    pixels = np.asarray(canvas).astype(np.float32) / 255
    y, x = np.mgrid[-1 : 1 : pixels.shape[0] * 1j, -1 : 1 : pixels.shape[1] * 1j]
    a = light.uniform(0, 2 * np.pi)
    side_light = 1 + 0.16 * (x * np.cos(a) + y * np.sin(a))
    warmth = light.uniform(-0.07, 0.07)
    pixels = pixels * exposure * side_light[..., None] * (1 + warmth * np.array([1, 0, -1]))
    pixels += noise.normal(0, 0.012, pixels.shape)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
