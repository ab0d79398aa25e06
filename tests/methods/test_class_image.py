"""The class image: it climbs, its network is sure of it, and an inner unit can have one, too."""

import pytest
import torch
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.scenes import CLASSES

from tests.helpers.oracles import outputs_of, state
from tests.helpers.places import SMALL

STEPS = 48


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("c", range(len(CLASSES)))
def test_the_network_is_sure_of_its_own_image(name, c):
    net = xcnn.load(name)
    picture, path = xcnn.class_image(net, c)
    assert picture.shape == (1, 3, 128, 128) and picture.dtype == torch.float32
    assert not picture.requires_grad and torch.isfinite(picture).all()
    assert net.predict(picture)[0, c] >= 0.99
    assert len(path) == 97 and path[-1] > path[0] + 5
    with torch.no_grad():
        ends = net.module(torch.cat([torch.zeros_like(picture), picture]))[:, c]
    assert path[0] == pytest.approx(ends[0].item(), abs=1e-4)
    assert path[-1] == pytest.approx(ends[1].item(), rel=1e-4)
    steps_up = sum(after > before for before, after in zip(path, path[1:], strict=False))
    assert steps_up > 0.6 * 96


def test_a_linear_network_has_the_image_of_its_weights():
    """S = w x: the picture is a multiple of w, up to the colours there are."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4)).double().eval()
    net = xcnn.Network(linear, size=4, mean=0.5, std=1)
    picture, path = xcnn.class_image(net, 2, steps=5, rate=0.01)
    w = linear[1].weight[2].view(1, 3, 4, 4)
    assert torch.allclose(picture / picture.norm(), w / w.norm(), atol=1e-3)
    assert path == sorted(path)


def test_the_decay_keeps_the_image_near_the_mean_picture():
    net = xcnn.load("resnet_s")
    sizes = [xcnn.class_image(net, 3, steps=24, decay=d)[0].norm() for d in (0, 1e-3, 1e-1)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_decay_is_that_of_the_formula():
    """Where 2 decay x is the gradient w of a linear score, the ascent stands still."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2)).double().eval()
    net = xcnn.Network(linear, size=4, mean=0.5, std=0.1)
    picture, _ = xcnn.class_image(net, 1, steps=400, decay=0.2, rate=0.05)
    assert torch.allclose(picture, linear[1].weight[1].view_as(picture) / 0.4, atol=5e-3)


def test_colours_stay_between_black_and_white():
    net = xcnn.load("allconv_s")
    picture, _ = xcnn.class_image(net, 3, steps=6, rate=100)
    black, white = (net.normalise(shade).float() for shade in (0, 1))
    assert (picture >= black).all() and (picture <= white).all()
    assert ((picture == black) | (picture == white)).double().mean() > 0.5


def test_blur_makes_it_smoother_and_jitter_lets_it_climb():
    net = xcnn.load("resnet_s")

    def roughness(**options):
        picture, path = xcnn.class_image(net, 3, steps=STEPS, **options)
        assert path[-1] > path[0] + 5
        return (picture.diff(dim=2).norm() / picture.norm()).item()

    plain = roughness()
    assert roughness(blur=0.5) < 0.95 * plain
    roughness(jitter=8)  # it climbs all the same


def test_seeds():
    net = xcnn.load("resnet_s")
    first, again, other = (
        xcnn.class_image(net, 3, steps=4, jitter=5, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("position", [(), (3, 4)])
def test_an_inner_unit(position):
    net = xcnn.load("googlenet_s")
    layer = list(net.layers)[1]
    x = net.preprocess(xcnn.scenes.render(10).image)
    k = outputs_of(net.module, layer, x)[0][0].mean((1, 2)).argmax().item()  # one that is alive
    unit = (k, *position) if position else k
    picture, path = xcnn.class_image(net, layer=layer, unit=unit, steps=24, size=64)
    A = outputs_of(net.module, layer, picture)[0][0, k]
    value = A[position] if position else A.max()
    assert picture.shape == (1, 3, 64, 64)
    assert path[-1] == pytest.approx(value.item(), rel=1e-4) and path[-1] > path[0]


def test_a_unit_that_is_shut_at_the_mean_picture():
    """Its gradient is 0 there. Steps at random go on until it opens."""
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    module[0].bias.data.fill_(-0.01)
    net = xcnn.Network(module, size=8, mean=0.5, std=0.1)
    _, path = xcnn.class_image(net, layer="1", unit=(0, 2, 2), steps=60)
    assert path[0] == 0 < path[-1]


def test_targets_of_all_kinds():
    net = xcnn.load("resnet_s")
    by_name, by_index, by_function = (
        xcnn.class_image(net, target, steps=3)[0] for target in ("clock", 3, lambda S: S[:, 3])
    )
    assert torch.equal(by_name, by_index) and torch.equal(by_name, by_function)
    _, path = xcnn.class_image(net, xcnn.versus("clock", "pizza"), steps=12)
    assert path[-1] > path[0] + 5


def test_grey_networks_and_bare_modules():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    net = xcnn.Network(module, size=8)
    picture, path = xcnn.class_image(net, 1, steps=20)
    assert picture.shape == (1, 1, 8, 8) and path[-1] > path[0]
    assert torch.equal(picture, xcnn.class_image(module, 1, size=8, steps=20)[0])


def test_the_network_stays_as_it_was():
    module = xcnn.load("resnet_s").module
    x = torch.zeros(1, 3, 8, 8)
    before = state(module, x)
    xcnn.class_image(module, 3, size=128, steps=2, jitter=3, blur=1.0)
    assert state(module, x) == before


def test_long_work_says_so(monkeypatch, capsys):
    monkeypatch.setattr("xcnn.engine.progress.SHOWN_FROM", 0)
    xcnn.class_image(xcnn.load("resnet_s"), 3, steps=3)
    assert "class image: 3 steps, about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs a class"),
        ({"target": 3, "layer": "layer1", "unit": 2}, "not both"),
        ({"layer": "layer1"}, "an inner unit is named by both"),
        ({"target": "clocks"}, "unknown class 'clocks'; did you mean 'clock'"),
        ({"target": 99}, "out of range"),
        ({"target": 3, "size": 0}, "size must be a whole number, 1 or more"),
        ({"target": 3, "steps": 0}, "steps must be"),
        ({"target": 3, "jitter": -1}, "jitter must be"),
        ({"target": 3, "seed": -1}, "seed must be"),
        ({"target": 3, "decay": -1}, "decay must be a number, 0 or more"),
        ({"target": 3, "blur": float("inf")}, "blur must be"),
        ({"target": 3, "rate": "fast"}, "rate must be"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        xcnn.class_image(xcnn.load("resnet_s"), **options)
