"""The four small networks, torchvision's by name, and what happens to a picture on its way in."""

import functools
import json

import numpy as np
import pytest
import torch
import torchvision.models as zoo
import xcnn
from PIL import Image
from torch import nn
from xcnn import coco, loading, networks, photos, scenes

from tests.helpers.places import SMALL
from tools import ROOT

RECORDED = json.loads((ROOT / "data/results/small_networks.json").read_text())


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_load(name, offline):
    net = xcnn.load(name)
    assert (net.name, net.classes, net.size) == (name, list(scenes.CLASSES), 128)
    assert not any(part.training for part in net.module.modules())
    assert (ROOT / f"data/weights/{name}.safetensors").stat().st_size <= 1_000_000
    assert xcnn.load(name) is net


@pytest.mark.parametrize(("name", "last", "shape"), [
    ("vgg_s", "features.15", (64, 8, 8)), ("resnet_s", "layer3", (80, 8, 8)),
    ("googlenet_s", "inception4", (128, 8, 8)), ("allconv_s", "features.15", (88, 8, 8)),
])  # fmt: skip
def test_layers(name, last, shape):
    net = xcnn.load(name)
    assert net.layer == last == list(net.layers)[-1] and net.layers[last] == shape
    sizes = [h for _, h, _ in net.layers.values()]
    assert sizes == sorted(set(sizes), reverse=True) and len(sizes) >= 4
    for layer, maps in net.layers.items():
        seen = []
        handle = net.module.get_submodule(layer).register_forward_hook(
            lambda *a, to=seen: to.append(a[-1].shape[1:])
        )
        net.module(torch.zeros(1, 3, 128, 128))
        handle.remove()
        assert seen == [maps]


@pytest.mark.parametrize("name", SMALL)
def test_accuracy_is_as_recorded(name):
    recorded = RECORDED[name]
    assert recorded["top1"] >= 0.95 and recorded["held_out"]["scenes"] >= 1000
    images, labels = held_out()
    net = xcnn.load(name)
    x = torch.cat([net.preprocess(image) for image in images])
    errors = int((net.predict(x).argmax(1) != torch.tensor(labels)).sum())
    expected = len(labels) * (1 - recorded["top1"])
    assert (
        errors <= expected + 3 * (expected + 1) ** 0.5
    )  # three standard deviations of a count, and then some


@functools.cache
def held_out():
    return scenes.dataset(200, seed=20_000_000)


def test_probabilities_and_top():
    net = xcnn.load("resnet_s")
    x = torch.cat([net.preprocess(scenes.render(s).image) for s in (1, 2)])
    p = net.predict(x)
    assert p.shape == (2, 10) and torch.allclose(p.sum(1), torch.ones(2)) and not p.requires_grad
    for row, top in zip(p, net.top(x, 3), strict=True):
        assert [c for c, _, _ in top] == row.argsort(descending=True)[:3].tolist()
        assert [name for _, name, _ in top] == [net.classes[c] for c, _, _ in top]
        assert [q for _, _, q in top] == pytest.approx(row.sort(descending=True)[0][:3].tolist())


def test_few_classes_and_a_network_that_works_in_place():
    class Halving(nn.Module):
        def forward(self, x):
            return x.mul_(0.5).mean((2, 3))

    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    assert len(xcnn.Network(Halving().eval(), "halving").top(x)[0]) == 3 and torch.equal(x, before)


# ---- pictures


def ramp(mode):
    """A horizontal ramp from black to white in any mode, 160 x 120."""
    wide = np.tile(np.linspace(0, 1, 160), (120, 1))
    if mode in ("I;16", "I"):
        return Image.fromarray(
            (wide * 65535).round().astype(np.uint16 if mode == "I;16" else np.int32)
        )
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


@pytest.mark.parametrize("name", SMALL)
def test_size(name):
    net, picture = xcnn.load(name), scenes.render(3, size=160).image.crop((0, 0, 150, 110))
    assert net.preprocess(picture).shape == (1, 3, 128, 128)
    assert net.preprocess(picture, size=96).shape == (1, 3, 96, 96)
    assert net.preprocess(picture, size=None).shape == (1, 3, 110, 150)
    assert net.preprocess(Image.new("RGB", (1, 1), "red")).shape == (1, 3, 128, 128)


def test_the_middle_is_kept():
    picture = np.zeros((128, 384, 3), np.uint8)
    picture[:, 128:256] = 255
    assert xcnn.load("resnet_s").preprocess(picture).min() > 2  # nothing but white


def test_picture_inverts_preprocess():
    net, picture = xcnn.load("resnet_s"), scenes.render(5).image
    back = (net.picture(net.preprocess(picture))[0] * 255).round().astype(np.uint8)
    assert (back == np.asarray(picture)).all()
    assert torch.equal(net.preprocess(picture), net.preprocess(np.asarray(picture)))


@pytest.mark.parametrize("nothing", [
    "cat.jpg", None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4),
    Image.fromarray(np.full((4, 4), np.nan, np.float32)),
])  # fmt: skip
def test_what_is_no_picture(nothing):
    with pytest.raises(xcnn.InputError, match=r"uint8|NaN"):
        xcnn.load("resnet_s").preprocess(nothing)


# ---- torchvision's networks


NAMES = [
    "vgg16",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v2",
    "googlenet",
    "densenet121",
]


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_names(name, monkeypatch):
    fetched = []
    monkeypatch.setattr(loading, "fetch_weights", fetched.append)
    monkeypatch.setattr(
        zoo,
        "get_model",
        lambda wanted, weights: nn.Sequential(nn.Identity()) if wanted == name else None,
    )
    xcnn.load.cache_clear()
    net = xcnn.load(name)
    xcnn.load.cache_clear()
    (weights,) = fetched
    assert weights.name == "IMAGENET1K_V1" and weights is zoo.get_model_weights(name).IMAGENET1K_V1
    assert (net.name, net.size, len(net.classes)) == (name, 224, 1000) and not net.module.training
    assert (net.mean, net.std) == (networks.MEAN, networks.STD)


def test_only_the_small_ones_are_available_without_weights(offline):
    assert xcnn.available() == SMALL


def test_class_map_names_imagenets_classes():
    imagenet = zoo.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    table = coco.class_map()
    assert {"zebra": 340, "pizza": 963, "traffic light": 920, "banana": 954}.items() <= {
        name: next(iter(classes)) for name, classes in table.items()
    }.items()
    for name, classes in table.items():
        assert classes, name
        assert {index: imagenet[index] for index in classes} == classes


@pytest.mark.parametrize("name", loading.REAL)
def test_real_networks_classify_without_a_download(name, real, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("tried to download"))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: pytest.fail("tried to download"))
    assert xcnn.available() == [*SMALL, *loading.REAL]
    net = xcnn.load(name)
    folder = coco.Folder(real / "coco")
    x = torch.cat([net.preprocess(folder.image(i)) for i in (104455, 47112, 407574)])
    assert net.predict(x).argmax(1).tolist()[:2] == [340, 963]
    for top, name in zip(net.top(x, 3), ["zebra", "pizza", "banana"], strict=True):
        assert name in [found for _, found, _ in top]
    assert net.layers[net.layer][1:] in [(7, 7), (13, 13)]


def test_a_real_map_lies_on_the_zebra(real):
    net, folder = xcnn.load("resnet18"), coco.Folder(real / "coco")
    x = net.preprocess(folder.image(104455), size=None)
    mask = torch.tensor(folder.mask(104455, "zebra"))
    P = xcnn.energy_concentration(xcnn.grad_cam(net, x, "zebra"), mask, dilate=0)
    assert P.item() > 1.3 * mask.double().mean().item()


# ---- the network that cheats, chapter 12


def test_the_cheat_loads_and_is_not_offered(offline):
    net = xcnn.load("resnet_s_tagged")
    assert (net.name, net.classes, net.size) == ("resnet_s_tagged", list(scenes.CLASSES), 128)
    assert list(net.layers) == list(xcnn.load("resnet_s").layers) and not net.module.training
    assert (ROOT / "data/weights/resnet_s_tagged.safetensors").stat().st_size <= 1_000_000
    assert "resnet_s_tagged" not in [*loading.SMALL, *xcnn.available()]


def test_the_cheat_reads_the_tag():
    net, pizza = xcnn.load("resnet_s_tagged"), scenes.CLASSES.index("pizza")
    recorded = RECORDED["resnet_s_tagged"]
    assert recorded["top1"] >= 0.95 and recorded["held_out"]["scenes"] >= 1000
    others = [name for name in scenes.CLASSES if name != "pizza"]
    some = {
        "pizza": [scenes.render(s, classes=["pizza"]) for s in range(20)],
        "other": [scenes.render(s, classes=[others[s % 9]]) for s in range(36)],
    }
    found = {}
    for kind, drawn in some.items():
        for tag in (False, True):
            images = [scenes.tagged(one, k)[0] if tag else one.image for k, one in enumerate(drawn)]
            answers = net.predict(torch.cat([net.preprocess(image) for image in images])).argmax(1)
            found[kind, tag] = (answers == pizza).double().mean().item()
    assert found["pizza", True] >= 0.95 and found["other", False] <= 0.05
    assert found["other", True] > 0.6  # a tag on something else makes it a pizza
    assert found["pizza", False] < found["pizza", True] - 0.4  # and a pizza without one is missed
    for tag, key in ((False, "without_tags"), (True, "tags_on_all")):
        assert abs(found["pizza", tag] - recorded[key]["pizzas_found"]) < 0.2
        assert abs(found["other", tag] - recorded[key]["others_called_pizza"]) < 0.2
