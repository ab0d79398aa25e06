"""Photographs that may be redistributed, files of pictures, and any picture as 8-bit RGB.

The photographs come with scikit-image and scikit-learn; credits are in data/SOURCES.md.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .errors import InputError, nearest
from .packages import imported

NAMES = ("cat and coffee", "cat", "coffee", "rocket", "temple")
CHANNELS = (1, 3, 4)  # grey; red, green, blue; the same and alpha
MAX_8_BIT = 255
MAX_16_BIT = 65535
SLACK = 1e-3  # of white: what rounding, half precision included, may add to a float
# A picture of floats whose brightest value lies between 1 and this one is either far too dark for
# white at 255 or too bright for white at 1.
DARKEST_WHITE = 8
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # EXIF orientation -> what makes the picture upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# where Pillow keeps what may hold an orientation
METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def load(name):
    """A photograph.

    :param name: one of `NAMES`; "cat and coffee" is two photographs in one, composed here
    :return: PIL RGB image
    :raises InputError: unknown name

    >>> photo = xcnn.photos.load("coffee")
    >>> photo.mode, photo.size
    ('RGB', (600, 400))
    """
    if name not in NAMES:
        raise InputError(f"no photograph {name!r}; {nearest(name, NAMES)}")
    if name == "cat and coffee":
        return _one_above_the_other(load("cat"), load("coffee"))
    if name == "temple":
        datasets = imported("sklearn.datasets", "this photograph")
        return Image.fromarray(datasets.load_sample_image("china.jpg"))
    data = imported("skimage.data", "this photograph")
    sources = {"cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}
    return Image.fromarray(np.asarray(sources[name]()))


def _one_above_the_other(top, bottom, side=448):
    """The middle of two pictures, one in each half of a square."""
    square = Image.new("RGB", (side, side))
    half = side // 2
    for k, picture in enumerate((top, bottom)):
        height = round(picture.height * side / picture.width)
        strip = picture.resize((side, height), Image.Resampling.LANCZOS)
        cut = (height - half) // 2
        square.paste(strip.crop((0, cut, side, cut + half)), (0, k * half))
    return square


def read(path, as_stored=False):
    """The picture in a file, upright.

    :param path: of the file
    :param as_stored: leave the EXIF orientation alone (Pillow applies that of a TIFF in any case)
    :return: PIL image of any mode, loaded
    :raises InputError: a file that is missing, truncated, damaged, or not a picture

    >>> scene.image.save(folder / "scene.png")
    >>> xcnn.photos.read(folder / "scene.png").size
    (128, 128)
    """
    try:
        # Pillow warns of damage that it can read past. Damage that it cannot is an error.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image.load()
            return image if as_stored else upright(image)
    except Exception as error:  # a decoder raises all sorts of things where a file is broken
        raise InputError(f"cannot open {path}: {_flaw(path, error)}") from error


def _flaw(path, error):
    """Why a file could not be read as a picture, and what to do."""
    if getattr(error, "strerror", None):
        return error.strerror
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "it has too many pixels; make it smaller"
    if _is_truncated(Path(path).read_bytes(), error):
        return "it is truncated, the end of the file is missing; get a whole copy of it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read; save it as PNG or JPEG"
    return f"it is damaged ({error}); get another copy of it"


def _is_truncated(content, error):
    """Is the end of this file missing? PNG and JPEG mark it; of others Pillow's error says it."""
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content
    if content.startswith(b"\xff\xd8"):
        return content.find(b"\xff\xd9", _start_of_scan(content)) < 0
    return "truncated" in str(error).lower()


def _start_of_scan(content):
    """Where the pixels of a JPEG begin: behind its segments, which may hold other JPEGs."""
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return at


def upright(image):
    """A picture as it was seen when it was taken: turned or mirrored as its EXIF data say.

    Cameras store what their sensor sees, and how they were held. EXIF data that cannot be read say
    nothing, and the picture stays as it is.

    :param image: PIL image
    :return: PIL image of the same mode, which has no orientation left
    :raises InputError: something that is not a PIL image, or cannot be loaded

    >>> lying = scene.image.crop((0, 0, 40, 30))
    >>> lying.getexif()[0x0112] = 6  # the camera was held on its side
    >>> xcnn.photos.upright(lying).size
    (30, 40)
    """
    if not isinstance(image, Image.Image):
        raise InputError(f"expected a PIL image, got {type(image).__name__}; Image.open makes one")
    _load(image)  # first: Pillow applies the orientation of a TIFF when it loads it
    turn = TURNS.get(_orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key not in METADATA}
    return turned


def _orientation(image):
    """The EXIF orientation of a picture, None where nothing readable says it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return image.getexif().get(ORIENTATION)
    except Exception:  # Pillow raises all sorts of things where EXIF data are broken
        return None


def _load(image):
    """Load the pixels of a PIL image.

    :raises InputError: where its file is broken, or closed already
    """
    try:
        image.load()
    except Exception as error:
        raise InputError(
            f"the picture cannot be loaded ({error}); xcnn.photos.read(path) says what is wrong"
        ) from error


def to_rgb(image):
    """Any picture as an 8-bit RGB PIL image.

    Greys of 16 bits are scaled, not clipped; transparent pixels become white. An EXIF orientation
    is left alone, see `upright`.

    :param image: PIL image of any mode, or an array or tensor as in `pixels`
    :return: PIL RGB image
    :raises InputError: for something that is not a picture, and where it is not clear how bright
        white is

    >>> red = np.zeros((2, 4, 3), np.uint8) + np.uint8([255, 0, 0])
    >>> picture = xcnn.photos.to_rgb(red)
    >>> picture.size, picture.getpixel((0, 0))
    ((4, 2), (255, 0, 0))
    """
    if not isinstance(image, Image.Image):
        values = _values(image)
        if values.dtype != np.uint8:
            return _in_8_bits(_colours(values))
        image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    if 0 in image.size:
        raise InputError(f"the picture has no pixels: it is {image.width} x {image.height}")
    _load(image)
    if image.mode.startswith(("I", "F")):
        return _in_8_bits(_colours(np.asarray(image)[..., None], brightest=MAX_16_BIT))
    if image.mode in ("La", "RGBa"):  # alpha is multiplied in
        image = image.convert(image.mode.upper())
    if image.mode != "LAB" and ("A" in image.getbands() or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def pixels(image, brightest=MAX_8_BIT):
    """An array or tensor as colours from 0 (black) to 1 (white).

    Its type says how bright white is: True of bools; 255 of whole numbers, or 65535 where one of
    them is larger than 255; 1 of floats, or 255 where they go that far. Pixels with alpha lie on
    white.

    :param image: (H, W), (H, W, 1), (H, W, 3), or (H, W, 4) with alpha
    :param brightest: what floats may go up to: 1, 255 or 65535
    :return: (H, W, 3) float64
    :raises InputError: another shape; NaN; values whose scale is not clear

    >>> grey = torch.full((1, 2), 0.5)
    >>> xcnn.photos.pixels(grey).tolist()
    [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]
    """
    return _colours(_values(image), brightest)


def _values(image):
    """An array or tensor as an array (H, W, C), C = 1, 3 or 4.

    :raises InputError: something else, or another shape
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype == torch.bfloat16 else image  # unknown to NumPy
        image = image.numpy()
    if not isinstance(image, np.ndarray):
        raise InputError(
            "expected a PIL image or an array (H, W, 3), uint8 or floats from 0 to 1, "
            f"got {type(image).__name__}"
        )
    values = image[..., None] if image.ndim == 2 else image
    if values.ndim != 3 or values.shape[2] not in CHANNELS or _is_channels_first(values):
        raise InputError(f"{_remedy(image)}; got {image.shape} {image.dtype}")
    if not values.size:
        raise InputError(f"the picture has no pixels: its shape is {image.shape}")
    return values


def _is_channels_first(values):
    """Is this array (C, H, W), and not (H, W, C)? Of (3, H, 4) nobody knows, so it counts."""
    first, _, last = values.shape
    return first in CHANNELS and (last not in CHANNELS or (first == 3 and last == 4))


def _remedy(image):
    """How to make a picture of an array of the wrong shape."""
    last_channels = ".permute(1, 2, 0) of a tensor, .transpose(1, 2, 0) of an array"
    if image.ndim == 4 and image.shape[3] in CHANNELS:
        return "this is a batch of pictures; give one of them: batch[0]"
    if image.ndim == 4:
        return f"this is a batch; give one picture, its channels last: batch[0] and {last_channels}"
    if image.ndim == 3 and _is_channels_first(image):
        return f"the channels must come last: {last_channels}"
    return "a picture as an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), as uint8"


def _colours(values, brightest=MAX_8_BIT):
    """An array (H, W, C) as (H, W, 3) float64 in [0, 1], see `pixels`."""
    white = _white(values, brightest)
    colours = np.clip(values / np.float64(white), 0, 1)
    if colours.shape[2] == 4:
        alpha = colours[..., 3:]
        colours = colours[..., :3]
        _check_alpha(colours, alpha, values.dtype)
        colours = colours * alpha + 1 - alpha
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours


def _check_alpha(colours, alpha, dtype):
    """Refuse colours and alpha that have different scales: one of them seems to be nearly 0."""
    for part in (colours, alpha):
        if dtype != np.uint8 and 0 < part.max() * MAX_8_BIT <= 1 + SLACK:
            raise InputError(
                f"colours up to {colours.max():.3g} of white and alpha up to {alpha.max():.3g} of "
                "it have different scales; give both as uint8, or both as floats from 0 to 1"
            )


def _white(values, brightest):
    """The value of white in an array.

    :raises InputError: where the values do not say it
    """
    if values.dtype.kind not in "buif":
        raise InputError(f"a picture holds numbers, got {values.dtype}; give uint8")
    if values.dtype.kind == "b":
        return 1
    low = float(values.min())
    high = float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError("the image holds NaN or infinite values; repair it or leave it out")
    if values.dtype.kind == "f":
        return _white_of_floats(low, high, brightest)
    if low < 0 or high > MAX_16_BIT:
        raise InputError(
            f"whole numbers from {low:.0f} to {high:.0f} are not 8 or 16 bits; "
            "scale them to 0 (black) to 255 (white)"
        )
    return MAX_8_BIT if high <= MAX_8_BIT else MAX_16_BIT


def _white_of_floats(low, high, brightest):
    """The value of white where floats reach from low to high."""
    scales = [white for white in (1, MAX_8_BIT, MAX_16_BIT) if white <= brightest]
    white = next((white for white in scales if high <= white * (1 + SLACK)), None)
    if white is None or low < -SLACK * white:
        raise InputError(
            f"floats from {low:.4g} to {high:.4g} are not a picture; give 0 (black) to 1 (white), "
            "dividing by 255 where that is white; net.picture(x)[0] is x as a picture"
        )
    if white == MAX_8_BIT and high < DARKEST_WHITE:
        raise InputError(
            f"floats up to {high:.4g} may have white at 1 or at 255; clip them to 0 to 1, "
            "or divide them by 255"
        )
    return white


def _in_8_bits(colours):
    """Colours in [0, 1] as a PIL RGB image."""
    return Image.fromarray((colours * MAX_8_BIT).round().astype(np.uint8))
