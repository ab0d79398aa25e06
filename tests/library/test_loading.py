"""Networks by name: the small ones, torchvision's, and those that are here without a download."""

import pytest
import torch
import torchvision.models as zoo
import xcnn
from torch import nn
from xcnn import coco, loading, networks, scenes

from tests.helpers.places import SMALL
from tools import ROOT

NAMES = [
    "vgg16",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v2",
    "googlenet",
    "densenet121",
]


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_load(name, offline):
    net = xcnn.load(name)
    assert (net.name, net.classes, net.size) == (name, list(scenes.CLASSES), 128)
    assert not any(part.training for part in net.module.modules())
    assert (ROOT / f"data/weights/{name}.safetensors").stat().st_size <= 1_000_000
    assert xcnn.load(name) is net


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_names(name, monkeypatch):
    def get_model(wanted, weights):
        return nn.Sequential(nn.Identity()) if wanted == name else None

    fetched = []
    monkeypatch.setattr(loading, "fetch_weights", fetched.append)
    monkeypatch.setattr(zoo, "get_model", get_model)
    xcnn.load.cache_clear()
    net = xcnn.load(name)
    xcnn.load.cache_clear()
    (weights,) = fetched
    assert weights.name == "IMAGENET1K_V1" and weights is zoo.get_model_weights(name).IMAGENET1K_V1
    assert (net.name, net.size, len(net.classes)) == (name, 224, 1000) and not net.module.training
    assert (net.mean, net.std) == (networks.MEAN, networks.STD)


def test_only_the_small_ones_are_available_without_weights(offline):
    assert xcnn.available() == SMALL


@pytest.mark.parametrize("name", loading.REAL)
def test_real_networks_classify_without_a_download(name, real, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("tried to download"))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: pytest.fail("tried to download"))
    assert xcnn.available() == [*SMALL, *loading.REAL]
    net = xcnn.load(name)
    folder = coco.Folder(real / "coco")
    x = torch.cat([net.preprocess(folder.image(i)) for i in (104455, 47112, 407574)])
    assert net.predict(x).argmax(1).tolist()[:2] == [340, 963]
    for top, wanted in zip(net.top(x, 3), ["zebra", "pizza", "banana"], strict=True):
        assert wanted in [name for _, name, _ in top]
    assert net.layers[net.layer][1:] in [(7, 7), (13, 13)]


def test_the_cheat_loads_and_is_not_offered(offline):
    net = xcnn.load("resnet_s_tagged")
    assert (net.name, net.classes, net.size) == ("resnet_s_tagged", list(scenes.CLASSES), 128)
    assert list(net.layers) == list(xcnn.load("resnet_s").layers) and not net.module.training
    assert (ROOT / "data/weights/resnet_s_tagged.safetensors").stat().st_size <= 1_000_000
    assert "resnet_s_tagged" not in [*loading.SMALL, *xcnn.available()]


def test_all_pairs_load(offline):
    for name in loading.PAIRED:
        assert xcnn.load(name).name == name
        assert (ROOT / f"data/weights/{name}.safetensors").stat().st_size <= 1_000_000
