"""Photographs by name, files of pictures, and pictures of every kind as 8-bit RGB."""

import io

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image, ImageCms
from xcnn import photos
from xcnn.__main__ import main


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
        [[0, 255]],
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 3), complex),
        np.full((4, 4), "a"),
        Image.fromarray(np.full((4, 4), np.nan, np.float32)),
        np.full((4, 4, 3), np.inf),
    ],
)
def test_what_is_no_picture(nothing):
    with pytest.raises(xcnn.InputError, match=r"uint8|NaN"):
        xcnn.load("resnet_s").preprocess(nothing)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0), (0, 0, 1)])
def test_a_picture_without_pixels(shape):
    with pytest.raises(xcnn.InputError, match="no pixels"):
        photos.to_rgb(np.zeros(shape, np.uint8))
    with pytest.raises(xcnn.InputError, match="no pixels"):
        photos.to_rgb(Image.new("F", (shape[1], shape[0])))


# ---- the scale of floats and of other numbers


def greys(picture):
    """The greys of the first row of an RGB picture, whose channels must be equal."""
    rgb = np.asarray(photos.to_rgb(picture))
    assert np.ptp(rgb, axis=2).max() == 0
    return rgb[0, :, 0].tolist()


def test_a_float_picture_from_0_to_1_is_not_black():
    grey = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert grey.mode == "F" and greys(grey) == [128] * 4


LEVELS = [0, 0.25, 0.5, 1]
IN_8_BITS = [0, 64, 128, 255]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("white", [1, 255])
def test_floats_are_0_to_1_or_0_to_255(dtype, white):
    row = (np.array([LEVELS]) * white).astype(dtype)
    assert greys(row) == IN_8_BITS
    assert greys(row[..., None]) == IN_8_BITS
    assert greys(np.repeat(row[..., None], 3, axis=2)) == IN_8_BITS
    assert greys(torch.from_numpy(row)) == IN_8_BITS


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_the_scale_of_a_pil_picture_of_floats(white):
    assert greys(Image.fromarray((np.array([LEVELS]) * white).astype(np.float32))) == IN_8_BITS


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 128, 255]], np.uint8), [0, 128, 255]),
        (np.array([[0, 1]], np.uint8), [0, 1]),  # 8 bits are 8 bits
        (np.array([[0, 128, 255]], np.uint16), [0, 128, 255]),
        (np.array([[0, 257 * 64, 65535]], np.uint16), [0, 64, 255]),
        (np.array([[0, 257 * 64, 65535]], ">u2"), [0, 64, 255]),
        (np.array([[0, 128, 255]]), [0, 128, 255]),
        (np.array([[255, 128, 0]], np.uint8)[:, ::-1], [0, 128, 255]),
    ],
)
def test_the_scale_of_other_numbers(values, wanted):
    assert greys(values) == wanted
    assert greys(values[..., None]) == wanted
    assert greys(np.repeat(values[..., None], 3, axis=2)) == wanted


def test_a_little_beyond_the_scale_is_rounding():
    assert greys(np.array([[-1e-4, 0.5, 1 + 1e-4]])) == [0, 128, 255]
    assert greys(np.array([[-0.01, 127.5, 255.01]])) == [0, 128, 255]


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [
        (-0.5, 0.5, lambda v: v + 0.5),
        (-2.1, 2.6, lambda v: (v + 2.1) / 4.7),  # as a network sees it
        (-1, 200, lambda v: np.clip(v, 0, 255)),
        (0, 1.3, lambda v: np.clip(v, 0, 1)),
        (0, 1.3, lambda v: v / 255),
        (0, 7, lambda v: v / 255),
        (0, 300, lambda v: v / 300),
        (0, 65535, lambda v: v / 65535),
    ],
)
def test_floats_whose_scale_is_not_clear(low, high, remedy):
    values = np.linspace(low, high, 12).reshape(2, 2, 3)
    for picture in (values, values.reshape(2, 6), torch.from_numpy(values).float()):
        with pytest.raises(xcnn.InputError, match=r"(0|white) .*1.* 255"):
            photos.to_rgb(picture)
    assert photos.to_rgb(remedy(values)).size == (2, 2)


@pytest.mark.parametrize("values", [[[-5, 100]], [[0, 70000]]])
@pytest.mark.parametrize("kind", [np.asarray, lambda v: Image.fromarray(np.int32(v))])
def test_whole_numbers_beyond_16_bits(values, kind):
    with pytest.raises(xcnn.InputError, match=r"not 8 or 16 bits; scale them to 0 .* to 255"):
        photos.to_rgb(kind(values))
    assert greys(kind(np.interp(values, np.ravel(values), [0, 255]))) == [0, 255]


@pytest.mark.parametrize("low", [-0.5, -200])
def test_a_pil_picture_of_floats_below_0(low):
    with pytest.raises(xcnn.InputError, match="are not a picture"):
        photos.to_rgb(Image.fromarray(np.array([[low, 100]], np.float32)))


# ---- the shape of arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_lets_white_through(dtype):
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    rgba = np.array([[[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0.4]]])
    rgb = np.asarray(photos.to_rgb((rgba * white).astype(dtype)))
    assert rgb.tolist() == [[[255, 255, 255], [255, 0, 0], [153, 153, 153]]]


@pytest.mark.parametrize(
    ("colour", "alpha", "dtype"),
    [(255, 1, float), (1, 255, float), (0.5, 255, np.float32), (65535, 255, np.uint16)],
)
def test_alpha_of_another_scale(colour, alpha, dtype):
    rgba = np.array([[[colour, colour, colour, alpha]]], dtype)
    with pytest.raises(xcnn.InputError, match="different scales"):
        photos.to_rgb(rgba)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 8, 6, 3), (5, 8, 6, 1), (2, 8, 6, 4)])
def test_a_batch_of_pictures(shape):
    for batch in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(
            xcnn.InputError, match=r"batch of pictures; give one of them: batch\[0\]"
        ):
            photos.to_rgb(batch)
        assert photos.to_rgb(batch[0]).size == (6, 8)


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 8, 6), (4, 8, 6), (3, 4, 4)])
def test_channels_that_come_first(shape):
    for wrong in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(xcnn.InputError, match=r"permute\(1, 2, 0\)") as error:
            photos.to_rgb(wrong)
        assert str(shape) in str(error.value)
    assert photos.to_rgb(torch.zeros(shape).permute(1, 2, 0)).size == shape[:0:-1]
    assert photos.to_rgb(np.zeros(shape).transpose(1, 2, 0)).size == shape[:0:-1]


def test_a_batch_as_a_network_takes_it():
    with pytest.raises(xcnn.InputError, match=r"batch\[0\] and \.permute\(1, 2, 0\)"):
        photos.to_rgb(torch.zeros(2, 3, 8, 6))
    assert photos.to_rgb(torch.zeros(2, 3, 8, 6)[0].permute(1, 2, 0)).size == (6, 8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(dtype):
    colours = torch.tensor([[[0, 1, 0], [1, 0, 1]]])
    tensor = (colours * (255 if dtype == torch.uint8 else 1)).to(dtype)
    if tensor.is_floating_point():
        tensor.requires_grad_()
    assert np.asarray(photos.to_rgb(tensor)).tolist() == (255 * colours).tolist()


def test_pixels_are_not_rounded():
    values = np.random.default_rng(0).random((3, 5, 3))
    assert np.array_equal(photos.pixels(values), values)
    wide = np.array([[0, 1, 65535]], np.uint16)
    assert photos.pixels(wide)[0, :, 1].tolist() == [0, 1 / 65535, 1]


# ---- modes that Pillow writes seldom


def test_pictures_of_rare_modes():
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    rgb = Image.fromarray(colours).resize((30, 30))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    back = np.asarray(ImageCms.profileToProfile(lab, *profiles[::-1], outputMode="RGB"), int)
    assert lab.mode == "LAB" and np.ptp(back) > 100
    assert np.abs(np.asarray(photos.to_rgb(lab), int) - back).max() <= 30  # it was white
    assert np.abs(np.asarray(photos.to_rgb(rgb.convert("HSV")), int) - np.asarray(rgb)).max() < 9
    half = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 51)])
    wanted = np.asarray(photos.to_rgb(half), int)
    assert abs(wanted[0, 0, 0] - (0.2 * 100 + 0.8 * 255)) <= 1
    for mode in ("La", "RGBA", "RGBa"):
        other = half.convert("RGBA").convert(mode) if "RGB" in mode else half.convert(mode)
        assert other.mode == mode
        assert np.abs(np.asarray(photos.to_rgb(other), int) - wanted).max() <= 3, mode


# ---- orientation


def noise(size=(40, 30), seed=0):
    """A picture of coarse noise, which no turning leaves as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def with_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


# by hand: what EXIF's table says is to be done with the rows and columns that are stored
BY_HAND = {
    1: lambda v: v,
    2: lambda v: v[:, ::-1],
    3: lambda v: v[::-1, ::-1],
    4: lambda v: v[::-1],
    5: lambda v: v.swapaxes(0, 1),
    6: lambda v: v[::-1].swapaxes(0, 1),
    7: lambda v: v[::-1, ::-1].swapaxes(0, 1),
    8: lambda v: v[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("number", BY_HAND)
@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp"])
def test_a_picture_is_upright(number, suffix, tmp_path):
    path = tmp_path / f"picture.{suffix}"
    noise().save(path, exif=with_orientation(number))
    stored = tmp_path / f"stored.{suffix}"
    noise().save(stored)
    wanted = BY_HAND[number](np.asarray(photos.to_rgb(Image.open(stored))))
    upright = photos.read(path)
    assert np.array_equal(np.asarray(photos.to_rgb(upright)), wanted)
    twice = photos.upright(photos.upright(Image.open(path)))
    assert np.array_equal(np.asarray(twice), np.asarray(upright))
    if suffix != "tiff":  # Pillow turns it itself
        as_stored = photos.to_rgb(photos.read(path, as_stored=True))
        assert np.array_equal(BY_HAND[number](np.asarray(as_stored)), wanted)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I", "F", "I;16"])
def test_turning_keeps_the_mode(mode):
    picture = ramp("L").convert(mode) if mode != "I;16" else ramp(mode)
    picture.getexif()[0x0112] = 8
    turned = photos.upright(picture)
    assert turned.mode == mode and turned.size == (120, 160)
    assert 0x0112 not in turned.getexif()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\xff\xff",
        with_orientation(0).tobytes(),
        with_orientation(9).tobytes(),
    ],
)
def test_exif_data_that_say_nothing(exif, tmp_path):
    noise().save(tmp_path / "a.jpg", exif=exif)
    noise().save(tmp_path / "b.jpg")
    read = [np.asarray(photos.read(tmp_path / name)) for name in ("a.jpg", "b.jpg")]
    assert np.array_equal(*read)


def test_a_transparent_colour_is_still_transparent_when_it_is_turned(tmp_path):
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "p.png", transparency=0, exif=with_orientation(6))
    rgb = photos.to_rgb(photos.read(tmp_path / "p.png"))
    assert rgb.size == (2, 4) and rgb.getpixel((1, 0)) == (255, 255, 255)
    assert rgb.getpixel((0, 0)) == (0, 0, 255)


def test_upright_wants_a_picture():
    with pytest.raises(xcnn.InputError, match="expected a PIL image, got ndarray"):
        photos.upright(np.zeros((4, 4, 3)))


@pytest.mark.parametrize("number", [3, 6])
def test_explain_turns_a_photograph(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene = np.asarray(xcnn.scenes.render(3, classes=["clock"]).image)
    Image.fromarray(scene).save("upright.png")
    back = {3: 3, 6: 8}[number]  # how the sensor saw it
    stored = Image.fromarray(np.ascontiguousarray(BY_HAND[back](scene)))
    stored.save("phone.png", exif=with_orientation(number))
    for name in ("upright", "phone"):
        assert main(["explain", f"{name}.png", "--target", "clock", "--out", f"m{name}.png"]) == 0
    maps = [np.asarray(Image.open(f"m{name}.png")) for name in ("upright", "phone")]
    assert np.array_equal(*maps)
    out = capsys.readouterr().out.splitlines()
    assert out[:5] == out[6:11]


# ---- files that are broken


def encoded(format, **options):
    stream = io.BytesIO()
    noise((80, 60)).save(stream, format, **options)
    return stream.getvalue()


def with_thumbnail():
    """A JPEG of a camera: its EXIF data hold another whole JPEG."""
    exif = Image.Exif()
    exif.get_ifd(0xFFFE)[0x0131] = "camera"
    small = io.BytesIO()
    noise((16, 12)).save(small, "JPEG")
    return encoded("JPEG", exif=b"Exif\0\0" + exif.tobytes()[6:] + small.getvalue())


FILES = {
    "plain.jpg": encoded("JPEG"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "thumbnail.jpg": with_thumbnail(),
    "picture.png": encoded("PNG"),
    "palette.png": encoded("PNG", bits=8),
}


def test_a_thumbnail_has_an_end_of_its_own():
    ends = [FILES[name].count(b"\xff\xd9") for name in ("plain.jpg", "thumbnail.jpg")]
    assert ends == [1, 2]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_says_so(name, tmp_path, capsys):
    content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    whole = np.asarray(photos.read(path))
    refused = 0
    for end in [*range(8, len(content), 97), len(content) - 2, len(content) - 1]:
        path.write_bytes(content[:end])
        try:
            assert np.array_equal(np.asarray(photos.read(path)), whole)  # only the tail is missing
        except xcnn.InputError as error:
            assert "truncated, the end of the file is missing; get a whole copy" in str(error)
            refused += 1
    assert refused > len(content) // 97 - 2
    path.write_bytes(content[: len(content) // 2])
    assert main(["explain", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xcnn: cannot open") and name in line and "truncated" in line


def test_a_damaged_file_is_not_called_truncated(tmp_path):
    content = bytearray(FILES["picture.png"])
    middle = content.index(b"IDAT") + 40
    content[middle : middle + 60] = bytes(60)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(xcnn.InputError, match=r"it is damaged \(.*\); get another copy"):
        photos.read(tmp_path / "a.png")


def test_other_things_than_pictures(tmp_path, monkeypatch):
    with pytest.raises(xcnn.InputError, match=r"cannot open .*nowhere\.png: No such file"):
        photos.read(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(xcnn.InputError, match=r"not an image that Pillow can read; save it as PNG"):
        photos.read(tmp_path / "text.png")
    noise((80, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(xcnn.InputError, match="too many pixels; make it smaller"):
        photos.read(tmp_path / "large.png")


def test_a_picture_that_is_truncated_or_closed_before_it_is_loaded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(FILES["plain.jpg"][:-400])
    with pytest.raises(xcnn.InputError, match=r"cannot be loaded .*truncated.*photos\.read"):
        xcnn.load("resnet_s").preprocess(Image.open(tmp_path / "a.jpg"))
    noise().save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as closed:
        pass
    for use in (photos.to_rgb, photos.upright):
        with pytest.raises(xcnn.InputError, match="cannot be loaded"):
            use(closed)
    assert photos.read(tmp_path / "b.png").size == (40, 30)
