"""The gallery: whole, small, of photographs that may be shown, and true to its recorded numbers."""

import copy
import hashlib
import io
import json
import re
from itertools import product

import numpy as np
import pytest
import torchvision.models as zoo
import xcnn
from PIL import Image
from xcnn import photos
from xcnn.explorer import _render, frames
from xcnn.loading import REAL as NETWORKS
from xcnn.loading import weights_path
from xcnn.methods import LABELS

from tools import ROOT
from tools.data.draw_gallery import FOLDER, FRAMES_URL, baked, numbered
from tools.data.gallery_sheets import CAT, CUP, EXPLORERS, LAYERS, RANKS, RULES
from tools.data.observe_gallery import observations

INDEX = json.loads((FOLDER / "index.json").read_text())
HTML = {name: (FOLDER / f"{name}.html").read_text() for name in EXPLORERS}
PAGE = (ROOT / "book" / "gallery.md").read_text()
FRONT = (ROOT / "book" / "intro.md").read_text()
SOURCES = (ROOT / "data" / "SOURCES.md").read_text()
MAX_BYTES = 10e6
MAX_PIXEL_DIFFERENCE = 2  # of 255, on average, between a frame and one that is drawn again


def records(name):
    """The records of one explorer's frames."""
    return [frame for frame in INDEX["frames"] if frame["explorer"] == name]


def weights(name):
    """torchvision's weights of a network."""
    return next(iter(zoo.get_model_weights(name)))


def test_every_frame_is_there_and_none_is_unused():
    shown = {file for html in HTML.values() for file in baked(html)["frames"]}
    assert shown == {path.name for path in FOLDER.glob("*.webp")}
    assert shown == {frame["file"] for frame in INDEX["frames"]}
    for name, html in HTML.items():
        assert html.count("<img") == 1
        assert f'src="{FRAMES_URL}/{records(name)[0]["file"]}"' in html


def test_the_folder_is_small_and_holds_nothing_else():
    text = {"index.json", "observations.md", *(f"{name}.html" for name in EXPLORERS)}
    files = list(FOLDER.iterdir())
    assert {path.name for path in files if path.suffix != ".webp"} == text
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    for path in FOLDER.glob("*.webp"):
        with Image.open(path) as picture:
            assert picture.format == "WEBP"
            assert 500 <= picture.width <= 700  # narrow, so that a phone can show its text
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_choice_has_its_frame(name):
    choices = EXPLORERS[name].choices
    assert [{key: frame[key] for key in choices} for frame in records(name)] == frames(choices)
    page = baked(HTML[name])
    assert page["options"] == [list(map(str, options)) for options in choices.values()]
    assert page["frames"] == [frame["file"] for frame in records(name)]
    assert len(set(page["frames"])) == len(page["frames"])  # no control without effect


def test_all_methods_of_all_networks_on_all_photographs():
    assert INDEX["methods"].keys() == xcnn.METHODS.keys() == LABELS.keys()
    asked = {(f["network"], f["photograph"], f["class_"]) for f in records("methods")}
    assert asked == set(product(NETWORKS, photos.NAMES, RANKS))
    for frame in [*records("methods"), *records("cat_or_cup")]:
        assert list(frame["maps"]) == list(LABELS.values())
    classes = {(f["network"], tuple(f["class"])) for f in records("cat_or_cup")}
    assert classes == set(product(NETWORKS, [(CAT, "tiger cat"), (CUP, "cup")]))
    assert all(list(frame["maps"]) == RULES == INDEX["rules"] for frame in records("rules"))


def test_every_photograph_may_be_shown():
    assert INDEX["photographs"] == list(photos.NAMES)
    assert {frame["photograph"] for frame in INDEX["frames"]} == set(photos.NAMES)
    licences = dict(re.findall(r"^\| `([a-z ]+)` \|.*\| ([^|]+) \|$", SOURCES, re.M))
    for name in photos.NAMES:
        free = ("CC0", "public domain", "CC BY 2.0")
        assert any(licence in licences[name] for licence in free), name
        assert f"*{name}*" in PAGE  # with its author


def test_classes_and_layers_are_those_of_the_networks():
    for frame in INDEX["frames"]:
        c, name = frame["class"]
        assert weights(frame["network"]).meta["categories"][c] == name and 0 <= frame["p"] <= 1
    for name in NETWORKS:
        noted = INDEX["networks"][name]
        # Names and shapes of layers need no trained weights.
        net = xcnn.Network(zoo.get_model(name, weights=None).eval(), name)
        assert noted["weights"] == weights_path(weights(name)).name
        assert re.fullmatch("[0-9a-f]{64}", noted["sha256"])
        assert {layer: tuple(shape) for layer, shape in noted["layers"].items()} == net.layers
        for frame in records("layers"):
            if frame["network"] == name:
                assert frame["at"] == list(net.layers)[-LAYERS:][frame["layer"] - 1]
                assert tuple(frame["shape"]) == net.layers[frame["at"]]


def test_likelier_classes_come_first_and_share_a_scale():
    for asked in product(NETWORKS, photos.NAMES):
        three = [f for f in records("methods") if (f["network"], f["photograph"]) == asked]
        p = [frame["p"] for frame in three]
        assert p == sorted(p, reverse=True) and len({frame["class"][0] for frame in three}) == 3
        scales = [[numbers["limit"] for numbers in frame["maps"].values()] for frame in three]
        assert scales[0] == scales[1] == scales[2]


@pytest.mark.parametrize("name", EXPLORERS)
def test_alt_texts_say_what_the_frames_show(name):
    for frame, alt in zip(records(name), baked(HTML[name])["alts"], strict=True):
        c, label = frame["class"]
        assert frame["network"] in alt
        assert frame["photograph"] in alt
        assert f"{label} ({c})" in alt
        assert all(method in alt for method in frame["maps"])
        assert frame.get("at", "") in alt
        for method, numbers in frame["maps"].items():
            assert re.search(rf"{numbers['most']}: [^;]*{re.escape(method)}", alt)


def test_observations_follow_from_the_numbers():
    sentences = observations(INDEX)
    assert (FOLDER / "observations.md").read_text() == numbered(sentences)
    assert 4 <= len(sentences) <= 6


def _blind(index):
    for frame in index["frames"]:
        frame["maps"].get("Shap-CAM", {})["upper"] = 0.5


def _colourful(index):
    index["correlations"]["two photographs"]["deconvnet"]["mobilenet_v2"][3] = 0.5


def _same_classes(index):
    for row in index["correlations"]["top and second class"]["LIME"].values():
        row.update(dict.fromkeys(row, 0.99))


def _no_twins(index):
    index["correlations"]["two methods"]["CAM, Grad-CAM"]["resnet18"][0] = 0.9


def _early(index):
    for frame in index["frames"]:
        if frame.get("question", "").endswith("cup") and "Grad-CAM" in frame["maps"]:
            frame["maps"]["Grad-CAM"]["upper"] = 0.9


def _whole(index):
    for frame in index["frames"]:
        frame["maps"].get("epsilon_plus", {})["sum"] = frame.get("score")


@pytest.mark.parametrize("change", [_blind, _colourful, _same_classes, _no_twins, _early, _whole])
def test_other_numbers_refuse_the_sentences(change):
    index = copy.deepcopy(INDEX)
    change(index)
    with pytest.raises(AssertionError):
        observations(index)


def test_the_page_includes_all_of_it():
    on_front, on_page = (
        re.findall(r":file: \.\./data/gallery/(\w+)\.html", page) for page in (FRONT, PAGE)
    )
    assert on_front == ["three_answers"] and on_front + on_page == list(EXPLORERS)
    assert "{include} ../data/gallery/observations.md" in PAGE


def test_the_front_page_says_what_its_pictures_measure():
    shares = {"Grad-CAM": [], "guided backprop": [], "deconvnet": []}
    for network in NETWORKS:
        cup, cat = (
            next(f for f in records("three_answers") if (f["why"], f["network"]) == (why, network))
            for why in ("cup", "tiger cat")
        )
        for label, both in shares.items():
            both.append([1 - cup["maps"][label]["upper"], cat["maps"][label]["upper"]])
    assert "leaves about a third of its energy there at most" in FRONT
    assert max(cup for cup, _ in shares["guided backprop"]) < 0.35
    assert "about half of it lies on either thing" in FRONT
    assert all(abs(share - 0.5) < 0.05 for both in shares["deconvnet"] for share in both)
    assert all(share > 0.6 for both in shares["Grad-CAM"] for share in both)


def test_nothing_names_this_machine():
    for path in FOLDER.iterdir():
        if path.suffix != ".webp":
            assert not re.search(r"/(work|home|root|tmp|Users)/", path.read_text()), path.name


def small(picture):
    """A picture as an array of few pixels, so that fine differences do not count."""
    return np.asarray(picture.convert("RGB").resize((40, 60)), float)


@pytest.mark.parametrize(
    "name, choice",
    [
        ("layers", {"layer": 4, "question": "cat and coffee: cup", "network": "squeezenet1_1"}),
        ("layers", {"layer": 2, "question": "cat: top class", "network": "mobilenet_v2"}),
        ("rules", {"question": "temple: top class", "network": "resnet18"}),
    ],
)
def test_a_recorded_frame_comes_out_again(real, name, choice):
    """With the same weights: the same class and numbers, and nearly the same picture."""
    network = choice["network"]
    digest = hashlib.sha256(weights_path(weights(network)).read_bytes()).hexdigest()
    if digest != INDEX["networks"][network]["sha256"]:
        pytest.skip(
            f"the gallery was drawn with other weights of {network}; "
            "`make gallery` draws it with these"
        )
    (kept,) = [frame for frame in records(name) if choice.items() <= frame.items()]
    sheet_of, columns, size, _ = EXPLORERS[name]
    sheet = sheet_of(**choice)
    again = sheet.record()
    assert again["class"] == kept["class"] and again["p"] == pytest.approx(kept["p"], rel=0.01)
    for label, numbers in kept["maps"].items():
        for key in {"limit", "upper"} & numbers.keys():
            assert again["maps"][label][key] == pytest.approx(numbers[key], rel=0.02), (label, key)
    webp, _ = _render(lambda: sheet.draw(columns, size), lambda: sheet.alt(), {})
    picture = small(Image.open(io.BytesIO(webp)))
    off = {
        frame["file"]: np.abs(small(Image.open(FOLDER / frame["file"])) - picture).mean()
        for frame in records(name)
    }
    assert min(off, key=off.get) == kept["file"]
    assert off[kept["file"]] < MAX_PIXEL_DIFFERENCE
