"""The command line: what it writes, and one line on stderr for everything that can go wrong."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xcnn
from PIL import Image
from xcnn import METHODS, coco, report, scenes, show
from xcnn.__main__ import main


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.png"
    scenes.render(0, classes=["clock"], scale=0.6, occlusion=0, light=1).image.save(path)
    return path


def refused(capsys, *argv):
    """Run something that must fail; its one line on stderr."""
    assert main([str(a) for a in argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xcnn: ")
    return line


@pytest.mark.parametrize("method", METHODS)
def test_explain(method, scene, capsys, offline, monkeypatch):
    monkeypatch.setattr("xcnn.engine.progress.SHOWN_FROM", np.inf)  # on a busy machine, too
    assert main(["explain", str(scene), "--method", method, "--target", "clock"]) == 0
    out, err = capsys.readouterr()
    *tops, last = out.splitlines()
    assert len(tops) == 5 and "clock" in tops[0] and "%" in tops[0] and err == ""
    assert last == f"wrote scene_{method}_resnet_s.png"
    pixels = np.asarray(Image.open(f"scene_{method}_resnet_s.png"))
    assert pixels.shape == (512, 512, 3) and np.ptp(pixels, axis=2).max() > 30, "a map has colours"


OPTIONS = [
    ["--layer", "inception2"],
    ["--layer", "inception4"],
    ["--target", "bus"],
    ["--method", "deconvnet", "--layer", "inception2", "--unit", "3"],
    ["--method", "deconvnet", "--layer", "inception2", "--unit", "3,5,6"],
]


def test_options(scene, tmp_path, capsys):
    maps = []
    for k, options in enumerate(OPTIONS):
        out = tmp_path / f"{k}.png"
        argv = ["explain", str(scene), "--network", "googlenet_s", "--out", str(out), *options]
        assert main(argv) == 0
        maps.append(out.read_bytes())
    assert len(set(maps)) == 5


def grey_ramp():
    """A picture of 16 bits a pixel."""
    return Image.fromarray(np.linspace(0, 65535, 6400).astype(np.uint16).reshape(80, 80))


PICTURES = {
    "cmyk.jpg": Image.new("CMYK", (90, 60), (10, 200, 30, 0)),
    "deep.png": grey_ramp(),
    "dot.png": Image.new("RGB", (1, 1), "red"),
    "clear.png": Image.new("RGBA", (50, 40), (9, 9, 9, 0)),
    "moving.gif": Image.new("P", (50, 40)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_unusual_pictures(name, capsys):
    PICTURES[name].save(name)
    assert main(["explain", name, "--out", "map.png"]) == 0
    assert Image.open("map.png").size == (512, 512) and capsys.readouterr().err == ""


WRONG_OPTIONS = [
    (["--method", "grad_kam"], "unknown method 'grad_kam'; did you mean 'grad_cam'"),
    (["--network", "resnet_x"], "unknown network 'resnet_x'; did you mean 'resnet_s'"),
    (["--network", "resnet18"], "cannot download resnet18-f37072fd.pth"),
    (["--layer", "layer_3"], "no layer 'layer_3' in this network; did you mean 'layer3'"),
    (["--layer", "fc"], "'fc' puts out (1, 10)"),
    (["--method", "cam", "--network", "vgg_s"], "CAM needs a head of global average pooling"),
    (["--method", "gradient", "--layer", "layer3"], "both, layer= and unit="),
    (["--method", "gradient", "--layer", "layer3", "--unit", "80"], "no unit"),
    (["--method", "grad_cam", "--unit", "3"], "grad_cam has no option --unit"),
    (["--target", "umbrela"], "unknown class 'umbrela'; did you mean 'umbrella'"),
    (["--target", "10"], "target 10 is out of range"),
    (["--target", "-1"], "target -1 is out of range"),
    (["--out", "no/such/folder/map.png"], "cannot write no/such/folder/map.png"),
    (["--out", "map.xyz"], "cannot write map.xyz"),
    *(
        ([*extra, "--out", out], f"cannot write {out}: name a file with an ending")
        for out in ("map", ".", "..", ".png", "a/map")
        for extra in ([], ["--similar", "."])
    ),
]


@pytest.mark.parametrize(("options", "says"), WRONG_OPTIONS)
def test_wrong_options(options, says, scene, capsys, offline):
    assert says in refused(capsys, "explain", scene, *options)


def write(name, content):
    with open(name, "wb") as file:
        file.write(content)


def noise():
    stream = io.BytesIO()
    Image.effect_noise((99, 99), 50).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.png", "cannot open nowhere.png: No such file"),
        (".", "cannot open .: Is a directory"),
        ("text.png", "cannot open text.png: not an image"),
        ("empty.jpg", "cannot open empty.jpg: not an image"),
        ("half.png", "cannot open half.png"),
    ],
)
def test_wrong_pictures(name, says, capsys):
    write("text.png", b"this is not a picture\n")
    write("empty.jpg", b"")
    write("half.png", noise()[:3000])
    assert says in refused(capsys, "explain", name)


def test_scenes(tmp_path, capsys):
    assert main(["scenes", "made/here", "-n", "3", "--seed", "40"]) == 0
    assert "wrote made/here/annotations/instances.json" in capsys.readouterr().out
    read = coco.Folder(tmp_path / "made/here")
    assert read.ids() == [40, 41, 42]
    for seed in read.ids():
        truth = scenes.render(seed)
        assert (np.asarray(read.image(seed)) == np.asarray(truth.image)).all()
        assert (read.mask(seed, truth.labels[0]) == truth.masks[0]).all()


def test_scenes_where_they_cannot_go(capsys):
    write("file", b"")
    assert "cannot write" in refused(capsys, "scenes", "file", "-n", "1")


def test_scenes_with_a_bad_seed(capsys):
    assert main(["scenes", "made", "-n", "1", "--seed", "-1"]) == 2
    assert "xcnn: seed must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explian"],
        ["explain"],
        ["scenes", "x", "-n", "many"],
        ["study", "--sizes", "big"],
        ["study", "--sizes", "224,5000"],
    ],
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "usage: python -m xcnn" in capsys.readouterr().err


STUDY = [
    "study",
    "--classes=pizza, clock",
    "--images=2",
    "--networks=resnet_s",
    "--sizes=original,96",
    "--methods=gradient,grad_cam",
    "--out=out",
]


def test_study(tmp_path, capsys):
    assert main(STUDY) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/summary.csv", index_col="method")
    assert set(table.index) == {"gradient", "grad_cam"} and (table.records == 8).all()
    assert "grad_cam" in printed and "first in 4 of 8 questions" in printed
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"methods.png", "methods.eps", "networks.pdf", "sizes.png", "pairs.csv"}
    before = (tmp_path / "out/records.jsonl").read_bytes()
    assert main(STUDY) == 0 and (tmp_path / "out/records.jsonl").read_bytes() == before


def test_report_of_records(tmp_path, capsys):
    assert main(STUDY) == 0
    capsys.readouterr()
    records = str(tmp_path / "out/records.jsonl")
    assert main(["report", records, "--score", "P", "--size", "96", "--seen"]) == 0
    means, pairs = capsys.readouterr().out.split("first")
    frame = report.read(records)
    asked = frame[(frame["size"] == 96) & (frame["rank"] == 1)]
    P = asked.groupby("method").P.mean()
    assert f"{P.grad_cam:.3f}" in means and f"{P.gradient:.3f}" in means
    assert f"{abs(P.grad_cam - P.gradient):.3f}" in pairs
    assert main(["report", records, "--score", "PP"]) == 2
    assert "no column 'PP'" in capsys.readouterr().err
    assert main(["report", "nowhere.jsonl"]) == 2


def test_study_says_what_has_no_result(capsys):
    assert main([*STUDY, "--networks", "vgg_s", "--methods", "gradient,cam"]) == 0
    printed = capsys.readouterr().out
    assert "without a result" in printed and "CAM needs a head" in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--classes", "piza"], "no class 'piza'; did you mean 'pizza'"),
        (["--networks", "resnet_t"], "unknown network 'resnet_t'"),
        (["--methods", "grad_kam"], "unknown method 'grad_kam'"),
        (["--dask", "tcp://127.0.0.1:1"], "no Dask scheduler answers"),
        (["nowhere"], "annotation files in nowhere"),
    ],
)
def test_study_with_wrong_options(options, says, capsys, monkeypatch):
    monkeypatch.setattr("xcnn.__main__.DASK_TIMEOUT", 1)
    argv = [*STUDY, *options] if options[0].startswith("-") else ["study", *options]
    assert main(argv) == 2
    assert says in capsys.readouterr().err


def test_a_real_network(real, capsys):
    picture = real / "coco/val2017/000000104455.jpg"
    assert main(["explain", str(picture), "--network", "resnet18", "--out", "zebra.png"]) == 0
    assert "zebra (340)" in capsys.readouterr().out.splitlines()[0]
    assert Image.open("zebra.png").size == (448, 448)


def test_a_files_name_that_is_no_text(scene, tmp_path):
    """Linux names are bytes: what cannot be shown is escaped, in answers and errors."""
    path = os.fsencode(tmp_path) + b"/clock\xff.png"
    try:
        os.link(scene, path)
    except OSError:
        pytest.skip("this file system wants names that are text")
    run = [sys.executable, "-m", "xcnn", "explain"]
    done = subprocess.run([*run, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == r"wrote clock\udcff_grad_cam_resnet_s.png"
    assert os.path.exists(b"clock\xff_grad_cam_resnet_s.png")
    lost = subprocess.run([*run, path + b"x"], capture_output=True, text=True, timeout=300)
    (line,) = lost.stderr.splitlines()
    assert lost.returncode == 2 and line.startswith("xcnn: ") and r"clock\udcff.pngx" in line


# ---- contrasts, similar pictures, annotations by name


@pytest.mark.parametrize("method", ["grad_cam", "gradient", "lrp", "shap_cam"])
def test_versus_is_the_contrast_of_two_classes(method, scene, offline):
    """`--versus clock` gives the map of xcnn.versus(top, "clock")."""
    net = xcnn.load("resnet_s")
    x = net.preprocess(Image.open(scene))
    argv = ["explain", str(scene), "--method", method, "--target", "pizza"]
    assert main([*argv, "--versus", "clock", "--out", "one.png"]) == 0
    R = METHODS[method](net, x, xcnn.versus("pizza", "clock"))
    wanted = show.overlay(net.picture(x)[0], R[0]).resize((512, 512), Image.Resampling.BICUBIC)
    assert (np.asarray(Image.open("one.png")) == np.asarray(wanted)).all()
    assert main([*argv, "--versus", "all", "--out", "all.png"]) == 0
    assert (np.asarray(Image.open("all.png")) != np.asarray(Image.open("one.png"))).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--versus", "clok"], "unknown class 'clok'.*did you mean 'clock'"),
        (["--versus", "99"], "99 is out of range"),
        (["--versus", "clock", "--layer", "layer1", "--unit", "3"], "--versus is for classes"),
        (["--similar", "nowhere"], "nowhere"),
    ],
)
def test_contrasts_and_folders_that_will_not_do(options, says, scene, capsys, offline):
    method = ["--method", "gradient"]
    assert re.search(says, refused(capsys, "explain", scene, *method, *options))


def test_similar_pictures_on_one_sheet(scene, tmp_path, capsys, offline):
    album = tmp_path / "album"
    album.mkdir()
    for seed in range(7):
        scenes.render(seed, count=1).image.save(album / f"{seed}.png")
    argv = ["explain", str(scene), "--similar", str(album), "--target", "clock"]
    assert main([*argv, "--out", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "7 pictures in" in out and len(re.findall(r"^ *-?[01]\.\d{3}  ", out, re.M)) == 5
    assert Image.open(tmp_path / "sheet.png").width > 600
    assert (tmp_path / "album_resnet_s.similar").exists()
    assert len(list(album.iterdir())) == 7, "the folder of photographs is left alone"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 0, "all 17 are ok"),
        (["--method", "guided_backprop"], 0, "1 of 17 to look at"),
        (["--layer", "layer1"], 0, "1 of 17 to look at"),
        (["--layer", "layer7"], 1, "did you mean 'layer3'"),
        (["--target", "clok"], 1, "did you mean 'clock'"),
    ],
)
def test_doctor(options, code, says, scene, capsys, offline):
    assert main(["doctor", str(scene), *options]) == code
    assert says in capsys.readouterr().out


def test_doctor_without_a_picture(capsys, offline):
    assert main(["doctor"]) == 0
    assert "all 17 are ok" in capsys.readouterr().out


def test_study_with_one_of_two_annotation_files(tmp_path, capsys):
    folder = tmp_path / "coco"
    scenes.write(folder, 2, seed=10, count=2)
    annotations = folder / "annotations"
    (annotations / "instances_b.json").write_text((annotations / "instances.json").read_text())
    argv = ["study", folder, "--networks", "resnet_s", "--sizes", "64", "--methods", "gradient"]
    out = ["--out", tmp_path / "study"]
    assert "instances_b.json" in refused(capsys, *argv, *out)
    chosen = [*argv, "--annotations", "instances_b.json", *out]
    assert main([str(word) for word in chosen]) == 0
    records = (tmp_path / "study" / "records.jsonl").read_text().splitlines()
    assert all('"source": "coco/instances_b.json"' in record for record in records)
