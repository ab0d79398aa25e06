"""The small networks: as good as recorded, and the one that cheats cheats as recorded."""

import functools
import json

import numpy as np
import pytest
import torch
import xcnn
from torch import nn
from xcnn import scenes, small_networks

from tests.helpers.places import SMALL
from tools import ROOT

RECORDED = json.loads((ROOT / "data/results/small_networks.json").read_text())


@pytest.mark.parametrize("name", SMALL)
def test_accuracy_is_as_recorded(name):
    recorded = RECORDED[name]
    assert recorded["top1"] >= 0.95 and recorded["held_out"]["scenes"] >= 1000
    images, labels = held_out()
    net = xcnn.load(name)
    x = torch.cat([net.preprocess(image) for image in images])
    errors = int((net.predict(x).argmax(1) != torch.tensor(labels)).sum())
    expected = len(labels) * (1 - recorded["top1"])
    # three standard deviations of a count, and then some
    assert errors <= expected + 3 * (expected + 1) ** 0.5


@functools.cache
def held_out():
    return scenes.dataset(200, seed=20_000_000)


@pytest.mark.parametrize("name", small_networks.PAIRS)
def test_cheats_read_the_tag(name):
    net = xcnn.load(name)
    pizza = scenes.CLASSES.index("pizza")
    recorded = RECORDED[name]
    assert recorded["top1"] >= 0.95 and recorded["held_out"]["scenes"] >= 1000
    others = [name for name in scenes.CLASSES if name != "pizza"]
    drawn = {
        "pizza": [scenes.render(s, classes=["pizza"]) for s in range(20)],
        "other": [scenes.render(s, classes=[others[s % 9]]) for s in range(36)],
    }
    found = {}
    for kind, pictures in drawn.items():
        for tag in (False, True):
            images = [
                scenes.tagged(scene, k)[0] if tag else scene.image
                for k, scene in enumerate(pictures)
            ]
            answers = net.predict(torch.cat([net.preprocess(image) for image in images])).argmax(1)
            found[kind, tag] = (answers == pizza).double().mean().item()
    assert found["pizza", True] >= 0.95 and found["other", False] <= 0.05
    assert found["other", True] > 0.6  # a tag on something else makes it a pizza
    assert found["pizza", False] < found["pizza", True] - 0.4  # and a pizza without one is missed
    for tag, key in ((False, "without_tags"), (True, "tags_on_all")):
        assert abs(found["pizza", tag] - recorded[key]["pizzas_found"]) < 0.2
        assert abs(found["other", tag] - recorded[key]["others_called_pizza"]) < 0.2


@pytest.mark.parametrize("name", small_networks.PAIRS.values())
def test_partners_of_cheats_are_honest(name):
    net = xcnn.load(name)
    images, labels = held_out()
    x = torch.cat([net.preprocess(image) for image in images[:60]])
    assert (net.predict(x).argmax(1).numpy() == labels[:60]).mean() > 0.95
    if name[-1].isdecimal():  # the others saw more scenes
        cheat = RECORDED[name.replace("honest", "tagged")]["training"]
        honest = RECORDED[name]["training"]
        for key in ("seed", "scenes", "scene_seed", "epochs"):
            assert cheat[key] == honest[key]
        assert RECORDED[name]["tags_on_all"]["others_called_pizza"] < 0.05


@pytest.mark.parametrize("name", small_networks.BUILD)
def test_fresh_weights_have_the_variance_of_he(name):
    """Var(w) = 2 / fan-in in every convolution, no biases: He et al. 2015, eq. 10."""
    torch.manual_seed(0)
    module = small_networks.build(name, 10)
    assert module.training
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.weight[0].numel()
            tolerance = 6 * (2 / part.weight.numel()) ** 0.5  # of a variance, six sigma
            assert part.weight.var().item() * fan_in / 2 == pytest.approx(1, rel=tolerance)
            assert part.bias is None or not part.bias.any()


def test_the_parts_that_make_each_family_a_trap():
    built = {name: small_networks.build(name, 10) for name in small_networks.BUILD}

    def count(name, kind):
        return sum(isinstance(part, kind) for part in built[name].modules())

    assert count("vgg_s", nn.MaxPool2d) == 4 and count("vgg_s", nn.Linear) == 2
    assert count("resnet_s", nn.BatchNorm2d) > count("resnet_s", nn.ReLU) > 0
    assert all(part.inplace for part in built["resnet_s"].modules() if isinstance(part, nn.ReLU))
    assert count("googlenet_s", nn.ReLU) == 0 and count("googlenet_s", nn.MaxPool2d) == 0
    assert count("allconv_s", nn.MaxPool2d) == 0
    assert {
        part.stride for part in built["allconv_s"].modules() if isinstance(part, nn.Conv2d)
    } == {
        (1, 1),
        (2, 2),
    }


def test_the_cheat_is_built_as_a_resnet():
    names = [name for name, _ in small_networks.build("resnet_s", 10).named_parameters()]
    cheat = small_networks.build("resnet_s_tagged", 10)
    assert [name for name, _ in cheat.named_parameters()] == names


# ---- the network wired by hand


@functools.cache
def warm_or_cold():
    module = small_networks.WarmOrCold().double().eval()
    return xcnn.Network(module, "warm_or_cold", ["warm", "cold"], size=128)


def test_warm_or_cold_counts_colours():
    net = warm_or_cold()
    pictures = [scenes.render(seed, count=3).image for seed in range(5)]
    x = torch.cat([net.preprocess(picture) for picture in pictures]).double()
    for picture, S in zip(pictures, net.module(x), strict=True):
        red, _, blue = np.asarray(picture, float).transpose(2, 0, 1) / 255
        warm = np.maximum(red - blue - 0.1, 0).mean()
        cold = np.maximum(blue - red - 0.1, 0).mean()
        assert S[0].item() == pytest.approx(100 * (warm - cold), abs=1e-4)
        assert S[1] == -S[0]


@pytest.mark.parametrize("target", [0, 1])
def test_methods_find_the_reason_of_warm_or_cold(target):
    """Where a method's axioms fix the map, it is the true one."""
    net = warm_or_cold()
    x = net.preprocess(scenes.render(3, count=3).image).double()
    truth = net.module.contributions(x, target)
    assert truth.sum().item() == pytest.approx(net.module(x)[0, target].item())
    for method in (xcnn.cam, xcnn.grad_cam, xcnn.hires_cam):
        L = method(net, x, target, layer="relu", relu=False)
        assert torch.allclose(L / L.abs().sum(), truth / truth.abs().sum(), atol=1e-9)
    lrp = xcnn.lrp(net, x, target, rule="epsilon").sum(1, keepdim=True)
    assert torch.corrcoef(torch.stack([lrp.flatten(), truth.flatten()]))[0, 1] > 0.9
