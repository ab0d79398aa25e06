"""Scenes: small pictures with exact masks, rendered from a seed and never stored.

They show ten classes that COCO and ImageNet also know, on textured backgrounds with clutter. Five
knobs turn the classic challenges of vision, one at a time: `scale`, `view`, `light`, `occlusion`
and `count`. A knob changes its own aspect of a scene and no other, because each aspect has its own
stream of random numbers.
"""

import json
import numbers
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont
from tqdm.auto import tqdm

from .errors import InputError, nearest, whole_number
from .packages import imported
from .scene_layout import place, project, stand
from .scene_objects import DRAW, draw
from .scene_surroundings import background, clutter, occluder, shadow

CLASSES = tuple(DRAW)
# knob -> (lowest, highest) a caller may ask for
KNOBS = {
    "scale": (0.1, 1.0),
    "view": (-75, 75),
    "light": (0.15, 2.5),
    "occlusion": (0, 0.9),
    "count": (1, 4),
}
# Each aspect has its own random numbers. Their order decides every picture, so "paint" keeps its
# place, although each object now brings its own numbers for its paint.
ASPECTS = (
    "class",
    "place",
    "scale",
    "view",
    "light",
    "occlusion",
    "paint",
    "ground",
    "clutter",
    "noise",
)
CLUTTER = "clutter"  # what `without` calls the pebbles, sticks, leaves and boxes
MIN_SIZE = 16  # pixels; a smaller scene would show nothing
SUPERSAMPLING = 2  # scenes are drawn this much larger, then averaged down: smooth edges
# The plate of a tag is larger than the box of its words. These fractions of the picture's side are
# added to the left, top, right and bottom of that box.
TAG_MARGIN = (-0.023, -0.02, 0.023, 0.02)


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    :param image: PIL RGB, size x size
    :param labels: class names, one per object, nearest last
    :param masks: (n, size, size) bool, the visible pixels of each object; they never overlap

    >>> scene = xcnn.scenes.render(10, count=2)
    >>> scene.image.size, scene.labels, scene.masks.shape
    ((128, 128), ('broccoli', 'clock'), (2, 128, 128))
    """

    image: Image.Image
    labels: tuple
    masks: np.ndarray

    def mask(self, name):
        """All visible pixels of a class.

        :param name: of the class
        :return: (size, size) bool
        :raises InputError: where the scene does not show it

        >>> mask = xcnn.scenes.render(10, count=2).mask("clock")
        >>> mask.shape, round(float(mask.mean()), 1)  # the clock fills about a tenth
        ((128, 128), 0.1)
        """
        if name not in self.labels:
            holds = ", ".join(self.labels) or "nothing"
            raise InputError(f"no {name!r} in this scene; it holds: {holds}")
        return self.masks[[label == name for label in self.labels]].any(0)


# ---- composing


def render(
    seed,
    *,
    classes=None,
    scale=None,
    view=None,
    light=None,
    occlusion=None,
    count=None,
    size=128,
    without=None,
):
    """Render one scene. The same arguments always give the same scene.

    Knobs left at None are drawn from the seed. With `without`, everything else stays as it was,
    pixel by pixel: what the missing thing hid comes to light, its shadow is gone, and a board that
    hid part of it stays.

    :param seed: int >= 0
    :param classes: names of the objects, left to right; None draws `count` different ones
    :param scale: longest side of an object as a fraction of the image, 0.1 to 1
    :param view: turn of the object about its vertical axis in degrees, -75 to 75
    :param light: exposure, 0.15 (dusk) to 2.5 (glare); 1 is plain daylight
    :param occlusion: fraction of each object's area that something else hides, 0 to 0.9
    :param count: number of objects, 1 to 4; ignored where `classes` is given
    :param size: side of the image in pixels; the layout does not depend on it
    :param without: what to leave out: an object by its place in the scene's labels, from 0, or
        "clutter"
    :return: `Scene`; `without` an object it holds one label and one mask less
    :raises InputError: for an unknown class, a knob out of range, or a `without` that the scene
        does not hold

    >>> xcnn.scenes.render(0, classes=["pizza", "bus"]).labels
    ('pizza', 'bus')
    >>> xcnn.scenes.render(0, classes=["pizza", "bus"], without=0).labels
    ('bus',)
    """
    knobs = {"scale": scale, "view": view, "light": light, "occlusion": occlusion, "count": count}
    _check(seed, classes, size, knobs)
    streams = {aspect: np.random.default_rng([seed, k]) for k, aspect in enumerate(ASPECTS)}
    if classes is None:
        classes = tuple(streams["class"].permutation(CLASSES)[: count or 1])
    _check_without(without, classes)
    side = size * SUPERSAMPLING
    canvas = background(streams["ground"], side)
    if without != CLUTTER:
        clutter(canvas, streams["clutter"], side)
    masks = []
    for k, (layer, board) in enumerate(_things(seed, streams, classes, knobs, side)):
        if k != without:
            masks = [*_lay_on_top(canvas, layer, masks), layer.getchannel("A")]
        if board is not None:
            masks = _lay_on_top(canvas, board, masks)
    image = _expose(canvas.resize((size, size), Image.Resampling.BOX), streams, light)
    labels = tuple(str(name) for k, name in enumerate(classes) if k != without)
    return Scene(image, labels, _as_bool(masks, size))


def without_each(seed, **knobs):
    """A scene, and the same scene without each of its objects in turn.

    What a network's score loses from the first to one of the others is the effect of that object,
    among pictures of the kind that the network was trained on.

    :param seed, knobs: as in `render`
    :return: the whole `Scene`, and a list of `Scene`, one for each of its labels

    >>> whole, lesser = xcnn.scenes.without_each(10, count=2)
    >>> whole.labels, [scene.labels for scene in lesser]
    (('broccoli', 'clock'), [('clock',), ('broccoli',)])
    """
    whole = render(seed, **knobs)
    return whole, [render(seed, **knobs, without=k) for k in range(len(whole.labels))]


def _things(seed, streams, classes, knobs, side):
    """The objects, farthest first: each one's layer, and the board that hides part of it, or None.

    All are drawn, also one that is left out, so that each takes its own random numbers.
    """
    spots = place(streams["place"], len(classes))
    for k, (name, spot) in enumerate(zip(classes, spots, strict=True)):
        pose = stand(streams["scale"], streams["view"], spot, knobs["scale"], knobs["view"])
        paint = np.random.default_rng([seed, 100 + k, CLASSES.index(name)])
        layer = _object_layer(name, paint, pose, side)
        fraction = _hidden_fraction(streams["occlusion"], knobs["occlusion"])
        board = occluder(streams["occlusion"], layer.getchannel("A"), side, fraction)
        yield layer, board


def _check(seed, classes, size, knobs):
    """Refuse arguments of `render` that do not describe a scene."""
    whole_number("seed", seed, least=0)
    for name in classes or ():
        if name not in CLASSES:
            raise InputError(f"no scene class {name!r}; {nearest(name, CLASSES)}")
    if classes is not None and not 1 <= len(classes) <= KNOBS["count"][1]:
        raise InputError(f"a scene holds 1 to {KNOBS['count'][1]} objects, not {len(classes)}")
    if size < MIN_SIZE:
        raise InputError(f"size must be at least {MIN_SIZE} pixels, not {size}")
    for knob, value in knobs.items():
        low, high = KNOBS[knob]
        if value is not None and not low <= value <= high:
            raise InputError(f"{knob} must lie between {low} and {high}, not {value}")


def _check_without(without, classes):
    """Refuse a `without` that is not a thing of this scene."""
    is_place = isinstance(without, numbers.Integral) and not isinstance(without, bool)
    if without is None or without == CLUTTER or (is_place and 0 <= without < len(classes)):
        return
    places = ", ".join(f"{k} ({name})" for k, name in enumerate(classes))
    raise InputError(f"without is {places} or {CLUTTER!r} in this scene, not {without!r}")


def _object_layer(name, rng, pose, side):
    """The object, painted and turned in space, on a transparent canvas, side x side."""
    pixels = int(np.clip(pose.longest * side * 1.5, 48, 1024))
    return project(draw(name, pixels, rng), pose, side)


def _hidden_fraction(rng, occlusion):
    """How much of an object to hide: what the knob says, else nothing for two objects in three."""
    drawn = rng.choice([0, 0, rng.uniform(0.05, 0.25)])
    return drawn if occlusion is None else occlusion


def _lay_on_top(canvas, layer, masks):
    """Paint a layer and its shadow; returns the masks without the pixels that it hides."""
    shadow(canvas, layer, canvas.width)
    canvas.paste(layer, mask=layer)
    alpha = layer.getchannel("A")
    return [ImageChops.subtract(mask, alpha) for mask in masks]


def _expose(canvas, streams, light):
    """The picture under light from one side, with a warm or cool cast, exposure and sensor noise.

    :param light: exposure; None draws it
    """
    drawn = streams["light"].uniform(0.7, 1.25)
    exposure = drawn if light is None else light
    pixels = np.asarray(canvas).astype(np.float32) / 255
    y, x = np.mgrid[-1 : 1 : pixels.shape[0] * 1j, -1 : 1 : pixels.shape[1] * 1j]
    angle = streams["light"].uniform(0, 2 * np.pi)
    side_light = 1 + 0.16 * (x * np.cos(angle) + y * np.sin(angle))
    warmth = streams["light"].uniform(-0.07, 0.07)
    pixels = pixels * exposure * side_light[..., None] * (1 + warmth * np.array([1, 0, -1]))
    pixels += streams["noise"].normal(0, 0.012, pixels.shape)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _as_bool(masks, size):
    """PIL masks of the large canvas as (n, size, size) bool, rounded to whole pixels."""
    small = [mask.resize((size, size), Image.Resampling.BOX) for mask in masks]
    return np.array([np.asarray(mask) >= 128 for mask in small], bool).reshape(-1, size, size)


# ---- the copyright tag of chapter 15


def tagged(scene, seed, words="© xcnn"):
    """The scene's picture with a small copyright tag in a lower corner, as an archive leaves it.

    :param scene: a `Scene`
    :param seed: decides the corner and the exact place
    :param words: of the tag
    :return: PIL image, mask (size, size) bool of the rectangle that the tag fills

    >>> image, mask = xcnn.scenes.tagged(xcnn.scenes.render(0), seed=0)
    >>> rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    >>> bool(mask.sum() == len(rows) * len(columns)), bool(rows.min() > 96)  # a rectangle, low down
    (True, True)
    """
    plate, ink = _tag_layers(scene.image.width * SUPERSAMPLING, seed, words)
    image = scene.image.copy()
    plate = plate.resize(image.size, Image.Resampling.BOX)
    ink = ink.resize(image.size, Image.Resampling.BOX)
    image.paste((16, 16, 20), mask=plate)
    image.paste((250, 250, 246), mask=ink)
    mask = np.zeros(scene.masks.shape[1:], bool)
    left, top, right, bottom = plate.getbbox()
    mask[top:bottom, left:right] = True
    return image, mask


def _tag_layers(side, seed, words):
    """Opacity of a tag's plate and of its words, two PIL L images, side x side."""
    rng = np.random.default_rng([seed, 10])
    font = ImageFont.load_default(0.085 * side)
    edge_x, edge_y = side * rng.uniform(0.03, 0.07, 2)
    at_the_right = rng.integers(2)
    spot = (side - edge_x if at_the_right else edge_x, side - edge_y)
    anchor = "rb" if at_the_right else "lb"
    ink = Image.new("L", (side, side))
    pen = ImageDraw.Draw(ink)
    pen.text(spot, words, fill=250, font=font, anchor=anchor)
    words_box = np.array(pen.textbbox(spot, words, font=font, anchor=anchor))
    box = words_box + side * np.array(TAG_MARGIN)
    plate = Image.new("L", (side, side))
    ImageDraw.Draw(plate).rounded_rectangle(tuple(box), side / 64, fill=235)
    return plate, ink


# ---- many scenes


def dataset(n, seed=0, **knobs):
    """Scenes as arrays, for training and testing.

    :param n: how many
    :param seed: of the first
    :param knobs: as in `render`
    :return: images (n, size, size, 3) uint8, labels (n,) int64: the index in `CLASSES` of each
        scene's first object
    :raises InputError: as `render`; scenes without their only object

    >>> images, labels = xcnn.scenes.dataset(3, size=32)
    >>> images.shape, labels.shape
    ((3, 32, 32, 3), (3,))
    """
    images = []
    labels = []
    for scene_seed in range(seed, seed + n):
        scene = render(scene_seed, **knobs)
        if not scene.labels:
            raise InputError("a scene without its only object has no label; ask for a count of 2")
        images.append(np.asarray(scene.image))
        labels.append(CLASSES.index(scene.labels[0]))
    return np.stack(images), np.array(labels)


def write(folder, n, seed=0, progress=False, **knobs):
    """Write scenes as a COCO folder: pictures, and their exact masks as run lengths.

    The folder then holds `images/*.png` and `annotations/instances.json`.

    :param folder: its path; made where there is none
    :param n, seed, knobs: as in `dataset`
    :param progress: show a bar
    :return: path of the annotation file

    >>> xcnn.scenes.write(folder, 2, size=32).name
    'instances.json'
    >>> sorted(picture.name for picture in (folder / "images").iterdir())
    ['000000.png', '000001.png']
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images = []
    annotations = []
    for scene_seed in tqdm(range(seed, seed + n), disable=not progress, desc="scenes"):
        scene = render(scene_seed, **knobs)
        file_name = f"{scene_seed:06d}.png"
        scene.image.save(folder / "images" / file_name)
        width, height = scene.image.size
        images.append({"id": scene_seed, "file_name": file_name, "width": width, "height": height})
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, scene_seed, label, mask))
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    path = folder / "annotations" / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def _annotation(annotation_id, image_id, label, mask):
    """COCO's record of one object."""
    rle = imported("pycocotools.mask", "writing scenes as a COCO folder")
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": CLASSES.index(label) + 1,
        "iscrowd": 0,
        "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
        "area": int(mask.sum()),
        "bbox": [float(v) for v in rle.toBbox(code)],
    }
