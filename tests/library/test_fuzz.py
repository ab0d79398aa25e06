"""Any input, from the command line or in files: a right answer, or one line on what is wrong."""

import contextlib
import copy
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xcnn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle
from xcnn import METHODS, InputError, coco, report, scenes, study
from xcnn.__main__ import main
from xcnn.loading import SMALL

from tests.helpers.oracles import examples

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def command(*argv):
    """Its exit code, and the lines it printed on stdout and stderr."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            code = main([str(a) for a in argv])
        except SystemExit as usage:  # argparse's way to refuse
            code = usage.code
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def answers(code, err, usage=True):
    """Did it work? If not, it must have said why, in one line (argparse adds how it is used)."""
    if code == 0:
        return True
    assert code == 2 and err
    if err[0].startswith("usage: ") and usage:
        assert "error: " in " ".join(err)
    else:
        assert len(err) == 1 and err[0].startswith("xcnn: ") and len(err[0]) > 12
    return False


# ---- pictures


def drawn(mode, w, h, seed):
    """A picture of any mode, of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (h, w, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0] * np.uint16(257))
    return Image.fromarray(noise, "RGBA").convert(mode)


def encoded(picture, format):
    stream = io.BytesIO()
    picture.save(stream, format)
    return stream.getvalue()


FORMATS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["P", "L"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"],
    "BMP": ["1", "L", "P", "RGB"],
    "WEBP": ["RGB", "RGBA"],
}
any_format = st.sampled_from(
    [(format, mode) for format, modes in FORMATS.items() for mode in modes]
)
sides = st.integers(1, 300)


@examples(25)
@given(any_format, sides, sides, st.integers(0, 9))
def test_pictures_of_any_mode_and_size(kind, w, h, seed):
    format, mode = kind
    Path("picture").write_bytes(encoded(drawn(mode, w, h, seed), format))
    code, out, err = command("explain", "picture", "--out", "map.png", "--method", "gradient")
    if answers(code, err, usage=False):
        assert Image.open("map.png").size == (512, 512) and out[-1] == "wrote map.png"
    else:
        assert max(w, h) > 200 * min(w, h) and f"{w} x {h} is too long" in err[0]


damage = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=6)


def damaged(content, changes, cut):
    """Some bytes changed, and maybe the end cut off."""
    content = bytearray(content)
    for at, byte in changes:
        content[at % len(content)] = byte
    return bytes(content[: max(0, len(content) - cut)])


@examples(60)
@given(any_format, damage, st.sampled_from([0, 0, 1, 9, 200, 2000]), st.booleans())
def test_broken_pictures(kind, changes, cut, start):
    format, mode = kind
    if start:  # in the header more goes wrong
        changes = [(at % 60, byte) for at, byte in changes]
    Path("picture").write_bytes(damaged(encoded(drawn(mode, 40, 30, 0), format), changes, cut))
    code, _, err = command("explain", "picture", "--out", "map.png", "--method", "gradient")
    answers(code, err, usage=False)
    if not changes and not cut:
        assert code == 0


@pytest.mark.parametrize("size", [(1, 20_000), (300_000, 1)])
def test_a_picture_too_long_to_be_resized(size):
    Image.new("L", size).save("long.png")
    code, _, err = command("explain", "long.png")
    assert code == 2 and "too long to be resized" in err[0]


# ---- options


METHOD_NAMES = [name for name in METHODS if name not in ("lime", "rise")]  # which take too long
TARGETS = ["0", "9", "10", "-1", "--5", "clock", "-", "٣", "²", "9" * 30]
LAYERS = ["layer3", "layer1.0", "fc", "features", "relu", "", "."]
EXPLAIN_OPTIONS = {
    "--method": st.sampled_from([*METHOD_NAMES, "gradcam", ""]) | text,
    "--network": st.sampled_from([*SMALL, "resnet", ""]) | text,
    "--target": st.sampled_from(TARGETS) | text,
    "--layer": st.sampled_from(LAYERS) | text,
    "--unit": st.sampled_from(["0", "3,2,1", "1,2", "-1", "1e3", "9" * 30, ","]) | text,
    "--versus": st.sampled_from([*TARGETS, "all", "ALL"]) | text,
    "--similar": st.sampled_from(["album", "empty", "nowhere", "scene.png", "", "é" * 300]),
    "--out": st.sampled_from(["map.png", "map", ".", "a/b.png", "é" * 200 + ".png", "map.jpg"]),
}


def some_of(data, options):
    """Any of these options, with any of their values."""
    return [
        f"{name}={data.draw(values)}"
        for name, values in options.items()
        if data.draw(st.booleans())
    ]


@examples(30)
@given(st.data())
def test_explain_with_any_options(data):
    scenes.render(0).image.save("scene.png")
    for folder in "album", "empty":
        Path(folder).mkdir(exist_ok=True)
    scenes.render(1).image.save("album/other.png")
    Path("album/broken.png").write_bytes(b"no picture")
    argv = some_of(data, EXPLAIN_OPTIONS)
    code, out, err = command("explain", "scene.png", *argv)
    if answers(code, without_bar(err)):
        written = Path(out[-1].removeprefix("wrote "))
        size = Image.open(written).size
        assert size == (512, 512) or any(option.startswith("--similar=album") for option in argv)
        written.unlink()


DOCTOR_OPTIONS = {
    name: EXPLAIN_OPTIONS[name] for name in ("--method", "--network", "--target", "--layer")
}


@examples(15)
@given(st.data(), st.sampled_from([None, "scene.png", "nowhere.png", "text.png", "dot.png", ""]))
def test_doctor_with_any_options(data, picture):
    scenes.render(0).image.save("scene.png")
    Image.new("L", (1, 1)).save("dot.png")
    Path("text.png").write_text("no picture")
    argv = [*some_of(data, DOCTOR_OPTIONS), *([] if picture is None else ["--", picture])]
    code, out, err = command("doctor", *argv)
    if code == 1 or answers(code, err):
        verdicts = {line.split("  ")[0] for line in out[:-1] if not line.startswith(" ")}
        assert verdicts <= {"ok", "look", "wrong", "not tried"}
        assert (code == 1) == ("wrong" in verdicts)


@pytest.mark.parametrize("method", ["gradient", "deconvnet", "guided_backprop", "cnn_fixations"])
def test_a_layer_without_a_name_is_unknown(method):
    with pytest.raises(InputError, match="no layer ''"):
        METHODS[method](xcnn.load("resnet_s"), torch.zeros(1, 3, 64, 64), layer="", unit=3)


numbers = st.sampled_from(["1", "2", "0", "-1", "1.5", "x", "", "9" * 5000])


QUICK = [
    "--images=1",
    "--networks=resnet_s",
    "--sizes=48",
    "--methods=gradient",
    "--classes=clock",
]
CLASSES = ["clock", "pizza,clock", "clock,clock", "", ",", "piza"]
SIZES = ["original", "48", "1", "0", "-3", "48,48", "", "big", "²"]
STUDY_OPTIONS = {
    "--classes": st.sampled_from(CLASSES) | text,
    "--images": numbers,
    "--seed": numbers,
    "--networks": st.sampled_from(["resnet_s", "allconv_s,resnet_s", "vgg_s", "", ","]) | text,
    "--sizes": st.sampled_from(SIZES) | text,
    "--methods": st.sampled_from(["gradient", "cam", "gradient,cam", "", "gradient,gradient"])
    | text,
    "--out": st.sampled_from(["out", "taken", "taken/out", "é" * 300]),
}


def without_bar(lines):
    """Lines of stderr without those of the bar that shows progress."""
    bars = re.compile(r"\d+/\d+ \[|\?(record|picture)|(record|picture)/s|s/(record|picture)")
    return [line for line in lines if line.strip() and not bars.search(line)]


@examples(10)
@given(st.data())
def test_study_with_any_options(data):
    argv = some_of(data, STUDY_OPTIONS)
    out_option = argv.pop() if argv and argv[-1].startswith("--out") else "--out=out"
    with tempfile.TemporaryDirectory(dir=".") as folder:
        (Path(folder) / "taken").write_text("a file")
        argv.append(f"--out={folder}/{out_option.split('=')[1]}")
        code, out, err = command("study", *QUICK, *argv)
        if answers(code, without_bar(err)):
            frame = report.read(out[-1].split()[-1])
            assert report.table(frame).records.sum() == (frame.status == "ok").sum() > 0
            assert not frame.duplicated(list(study.KEY)).any()


FILES = ["instances.json", "instances_b.json", "broken.json", "nowhere.json", "../sub", "", "."]
FOLDER_OPTIONS = {
    "--annotations": st.sampled_from(FILES) | text,
    "--classes": st.sampled_from(CLASSES) | text,
    "--images": numbers,
    "--seed": numbers,
}


@examples(10)
@given(st.data(), st.booleans())
def test_study_of_a_folder_with_any_options(data, largest):
    with tempfile.TemporaryDirectory(dir=".") as folder:
        annotations = Path(folder) / "made" / "annotations"
        with contextlib.redirect_stderr(io.StringIO()):  # a bar
            whole = scenes.write(annotations.parent, 2, seed=10, count=2).read_bytes()
        (annotations / "instances_b.json").write_bytes(whole)
        (annotations / "broken.json").write_bytes(whole[:-9])
        argv = ["study", annotations.parent, *QUICK, *some_of(data, FOLDER_OPTIONS)]
        argv += ["--largest"] * largest + [f"--out={folder}/out"]
        code, out, err = command(*argv)
        if answers(code, without_bar(err)):
            frame = report.read(out[-1].split()[-1])
            assert (frame.status == "ok").any()


def test_a_study_that_has_no_result_says_why():
    code, _, err = command(
        "study", "--classes=clock", "--images=1", "--networks=vgg_s", "--methods=cam", "--out=out"
    )
    assert code == 2 and "no record has a result: CAM needs a head" in err[-1]


RECORD = {
    "source": "scenes",
    "image": 0,
    "class": "clock",
    "network": "resnet_s",
    "size": "48",
    "method": "gradient",
    "p": 0.9,
    "rank": 1,
    "area": 0.2,
    "P": 0.5,
    "status": "ok",
    "seconds": 0.1,
}


@examples(30)
@given(
    st.sampled_from(["source", "image", "status", "P", "p", "rank", "area", "method"]),
    st.none() | text | st.lists(text),
    damage,
)
def test_a_file_of_broken_records(key, value, changes):
    """A study believes what is in its file only if it is whole."""
    broken = RECORD | {key: value}
    if value is None:
        del broken[key]
    lines = (json.dumps(RECORD) + "\n" + json.dumps(broken) + "\n").encode()
    Path("records.jsonl").write_bytes(damaged(lines, changes, 0))
    try:
        study.Log("records.jsonl").close()
        frame = report.read("records.jsonl")
        table = report.table(frame)
    except InputError:
        return
    assert table.records.sum() == (frame.status == "ok").sum()


@examples(12)
@given(st.sampled_from(["new", "a/b", ".", "taken", "taken/b", "é" * 300, ""]), numbers, numbers)
def test_scenes_with_any_options(folder, n, seed):
    Path("taken").write_text("a file")
    code, out, err = command("scenes", folder, f"-n={n}", f"--seed={seed}")
    err = [line for line in err if "scenes:" not in line[:9] and line.strip()]  # the bar
    if answers(code, err):
        assert len(coco.Folder(folder).ids()) == int(n) and out[-1].startswith("wrote ")


# ---- COCO folders


def run_lengths(mask):
    """The lengths of runs of 0s and 1s in turn, column by column, as COCO writes them."""
    runs = [0]  # of 0s; it stays empty where the mask begins with a 1
    last = 0
    for value in mask.flatten(order="F").tolist():
        if value != last:
            runs.append(0)
            last = value
        runs[-1] += 1
    return runs


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small folder in which every kind of mask occurs, and its annotations."""
    folder = tmp_path_factory.mktemp("coco")
    path = scenes.write(folder, 3, seed=11, count=2)
    data = json.loads(path.read_text())
    first, second, third = data["annotations"][:3]
    first["segmentation"]["counts"] = run_lengths(coco.Folder(folder).coco.annToMask(first))
    second["segmentation"] = [[10.5, 10, 100, 12, 90, 101.25], [1, 1, 9, 1, 9, 9, 1, 9]]
    third["iscrowd"] = 1
    return folder, data


def read(folder, data):
    """Everything that a folder holds; InputError is the only way to refuse."""
    path = folder / "annotations/instances.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    opened = coco.Folder(folder)
    masks = {}
    refused = 0
    for name in opened.categories:
        for image in opened.ids(name):
            try:
                picture = opened.image(image)
                mask = opened.mask(image, name)
            except InputError:
                refused += 1
                continue
            assert mask.dtype == bool and picture.mode == "RGB" and picture.size == mask.shape[::-1]
            masks[name, image] = mask
    return masks, refused


def test_every_kind_of_mask_is_read(good):
    folder, data = good
    masks, refused = read(folder, data)
    assert refused == 0 and len(masks) >= 5
    names = {c["id"]: c["name"] for c in data["categories"]}
    runs, polygons = data["annotations"][:2]
    label = names[runs["category_id"]]
    truth = scenes.render(runs["image_id"], count=2).mask(label)
    assert (masks[label, runs["image_id"]] == truth).all()
    outline = rle.decode(rle.merge(rle.frPyObjects(polygons["segmentation"], 128, 128)))
    label = names[polygons["category_id"]]
    assert (masks[label, polygons["image_id"]] == outline.astype(bool)).all()
    assert outline.sum() > 3000


def test_two_points_enclose_nothing(good):
    """pycocotools reads four numbers that come first as a box, and then the outline as one, too."""
    folder, data = good
    data = copy.deepcopy(data)
    wanted, _ = read(folder, data)
    data["annotations"][1]["segmentation"].insert(0, [5, 5, 60, 60])
    masks, _ = read(folder, data)
    assert all((masks[case] == mask).all() for case, mask in wanted.items())


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in nested data, as the keys that lead there."""
    yield path
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:4])
    for key, inner in items:
        yield from places(inner, (*path, key))


@examples(80)
@given(data=st.data())
def test_annotations_with_anything_anywhere(good, data):
    """One value replaced or taken out: all other masks are as before, or it is refused."""
    folder, true = good
    broken = copy.deepcopy(true)
    path = data.draw(st.sampled_from([p for p in places(true) if p]))
    *above, key = path
    inner = broken
    for step in above:
        inner = inner[step]
    if data.draw(st.booleans()):
        del inner[key]
    else:
        inner[key] = data.draw(
            junk | st.sampled_from([inner[key], -1, 0, 2**31, 1e308, [], {}, "", True])
        )
    try:
        masks, _ = read(folder, broken)
    except InputError:
        return
    wanted, _ = read(folder, true)
    changed = [case for case in wanted.keys() & masks.keys() if (wanted[case] != masks[case]).any()]
    assert len(changed) <= (2 if path[0] == "annotations" else 0)


@examples(60)
@given(changes=damage, cut=st.sampled_from([0, 0, 1, 50, 3000]))
def test_annotations_with_broken_bytes(good, changes, cut):
    folder, data = good
    with contextlib.suppress(InputError):
        read(folder, damaged(json.dumps(data).encode(), changes, cut))


run_length_codes = st.fixed_dictionaries(
    {
        "size": st.sampled_from([[128, 128], [128], [1, 2**40]]),
        "counts": text | junk | st.text("0123JQo`^~", max_size=40),
    }
)
outlines = st.lists(st.lists(st.floats() | st.integers(-(2**70), 2**70), max_size=9), max_size=3)


@examples(60)
@given(segmentation=junk | run_length_codes | outlines)
def test_masks_of_anything(good, segmentation):
    folder, data = good
    data = copy.deepcopy(data)
    data["annotations"][0]["segmentation"] = segmentation
    masks, refused = read(folder, data)
    assert refused <= 1 and len(masks) + refused >= 5


@examples(60)
@given(runs=st.lists(st.integers(0, 400), min_size=1, max_size=40), h=st.integers(1, 30))
def test_run_lengths_are_read_as_pycocotools_writes_them(runs, h):
    runs = [*runs, -sum(runs) % h]
    code = rle.frPyObjects({"size": [h, sum(runs) // h], "counts": runs}, h, sum(runs) // h)
    assert coco._runs(code["counts"].decode()) == runs


@examples(25)
@given(
    changes=damage,
    cut=st.sampled_from([0, 1, 300, 10**6]),
    size=st.sampled_from([(128, 128), (64, 128), (1, 1)]),
)
def test_images_that_are_broken_or_others(good, tmp_path_factory, changes, cut, size):
    folder, data = good
    path = folder / "images/000011.png"
    kept = path.read_bytes()
    picture = scenes.render(11, count=2).image.resize(size)
    try:
        path.write_bytes(damaged(encoded(picture, "PNG"), changes, cut))
        masks, refused = read(folder, data)
        assert refused or (size == (128, 128) and len(masks) >= 5)
    finally:
        path.write_bytes(kept)
