"""Photographs by name, and pictures of every kind as 8-bit RGB."""

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from xcnn import photos


@pytest.mark.parametrize("name", photos.NAMES)
def test_every_photograph_loads(name):
    photo = photos.load(name)
    assert photo.mode == "RGB" and min(photo.size) >= 300
    assert np.asarray(photo).std() > 20  # there is something to see
    assert np.array_equal(np.asarray(photos.load(name)), np.asarray(photo))


def test_an_unknown_photograph():
    with pytest.raises(xcnn.InputError, match=r"no photograph 'rockett'; did you mean 'rocket'"):
        photos.load("rockett")


def test_cat_and_coffee_fill_a_half_each():
    square = photos.load("cat and coffee")
    assert square.size == (448, 448)
    for name, top in (("cat", 0), ("coffee", 224)):
        photo = photos.load(name)
        height = round(photo.height * 448 / photo.width)
        whole = photo.resize((448, height), Image.Resampling.LANCZOS)
        above = (height - 224) // 2
        middle = np.asarray(whole)[above : above + 224]
        assert np.array_equal(np.asarray(square)[top : top + 224], middle)


def ramp(mode):
    """A horizontal ramp from black to white in any mode, 160 x 120."""
    wide = np.tile(np.linspace(0, 1, 160), (120, 1))
    if mode in ("I;16", "I"):
        number = np.uint16 if mode == "I;16" else np.int32
        return Image.fromarray((wide * 65535).round().astype(number))
    if mode == "F":
        return Image.fromarray((wide * 255).astype(np.float32))
    grey = Image.fromarray((wide * 255).round().astype(np.uint8))
    return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F"])
def test_pictures_of_every_mode(mode):
    net = xcnn.load("resnet_s")
    picture = ramp(mode)
    assert picture.mode == mode
    x = net.preprocess(picture, size=None)
    assert x.shape == (1, 3, 120, 160) and x.dtype == torch.float32
    expected = np.broadcast_to(np.linspace(0, 1, 160)[None, :, None], (120, 160, 3))
    np.testing.assert_allclose(net.picture(x)[0], expected, atol=1.01 / 255)


def test_two_tone_pictures():
    assert np.unique(np.asarray(photos.to_rgb(ramp("L").convert("1")))).tolist() == [0, 255]


def test_transparent_means_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(photos.to_rgb(clear)).min() == 255


def test_a_grey_of_32_bits_that_is_no_brighter_than_255_is_not_scaled():
    dim = Image.fromarray(np.array([[0, 100, 255]], np.int32))
    assert np.asarray(photos.to_rgb(dim))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    "nothing",
    [
        "cat.jpg",
        None,
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        torch.zeros(3, 4, 4),
        Image.fromarray(np.full((4, 4), np.nan, np.float32)),
    ],
)
def test_what_is_no_picture(nothing):
    with pytest.raises(xcnn.InputError, match=r"uint8|NaN"):
        xcnn.load("resnet_s").preprocess(nothing)
