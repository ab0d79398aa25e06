"""CNN Fixations of whole networks against plain loops; which points are kept, and their map."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import InputError, find_fixations, small_networks
from xcnn.methods.fixations import cnn_fixations, density, inliers

from tests.helpers.oracles import FAMILIES, network, noise, outputs_of
from tests.helpers.places import SMALL
from tests.helpers.walks import (
    GlobalMean,
    Net,
    below_average,
    below_conv,
    below_linear,
    below_pool,
    dots,
    fixated,
    places,
    walk_sequence,
)

# ---- the small networks, one unit after the other


def folded(conv, bn):
    """The weights of a convolution with the batch norm behind it."""
    return (conv.weight * scales(bn)).detach().numpy()


def scales(bn):
    return (bn.weight / (bn.running_var + bn.eps).sqrt())[:, None, None, None]


def loops_vgg_s(m, x, c):
    return walk_sequence([*m.features, *m.classifier], x, {(c,)})


def loops_allconv_s(m, x, c):
    return walk_sequence([*m.features, GlobalMean(), m.classifier], x, {(c,)})


def loops_resnet_s(m, x, c):
    h = F.relu(m.bn1(m.conv1(x)))
    blocks = [m.layer1, m.layer2, *m.layer3]
    values = []
    for block in blocks:
        inner = F.relu(block.bn1(block.conv1(h)))
        out = block.bn2(block.conv2(inner))
        skip = block.skip(h)
        values.append([v[0].numpy() for v in (h, inner, out, skip)])
        h = F.relu(out + skip)
    units = below_head(m.fc, h[0].numpy(), c)
    for block, block_values in zip(reversed(blocks), reversed(values), strict=True):
        units = below_residual(block, units, *block_values)
    return below_conv(units, x[0].numpy(), folded(m.conv1, m.bn1), 2, 1)


def below_head(fc, top, c):
    """Through the linear layer and the global average of the maps `top`."""
    return below_average(below_linear({(c,)}, top.mean((1, 2)), fc.weight.numpy()), top)


def below_residual(block, units, h, inner, out, skip):
    through = {unit for unit in units if out[unit] >= skip[unit]}
    around = units - through
    through = below_conv(through, inner, folded(block.conv2, block.bn2), padding=1, inside=True)
    stride = block.conv1.stride[0]
    W = folded(block.conv1, block.bn1)
    below = below_conv(through, h, W, stride, padding=1, inside=True)
    if len(block.skip):
        around = below_conv(around, h, folded(*block.skip), stride, inside=True)
    return below | around


def inception(block, h):
    """The value of an inception block, and the values inside it."""
    mids = [block.three[0](h), block.five[0](h)]
    mids.append(block.five[1](mids[1]))
    branches = [block.one(h), block.three[1](mids[0]), block.five[2](mids[2])]
    y = F.relu(block.bn(torch.cat(branches, 1)))
    return y, [v[0].numpy() for v in (h, *mids)]


def below_inception(block, units, values):
    h, three, five, five2 = values
    scale = scales(block.bn).numpy()
    first = block.one.out_channels
    second = first + block.three[1].out_channels
    W = [part.weight.numpy() for part in (block.one, *block.three, *block.five)]
    one = {unit for unit in units if unit[0] < first}
    mid = {(unit[0] - first, *unit[1:]) for unit in units if first <= unit[0] < second}
    big = {(unit[0] - second, *unit[1:]) for unit in units if unit[0] >= second}
    below = below_conv(one, h, W[0] * scale[:first])
    mid = below_conv(mid, three, W[2] * scale[first:second], padding=1)
    below |= below_conv(mid, h, W[1])
    big = below_conv(big, five2, W[5] * scale[second:], padding=1)
    big = below_conv(big, five, W[4], padding=1)
    return below | below_conv(big, h, W[3])


def loops_googlenet_s(m, x, c):
    first = F.relu(m.bn1(m.conv1(x)))
    h2, values2 = inception(m.inception2, F.max_pool2d(first, 3, 2, 1))
    h3a, values3a = inception(m.inception3a, F.max_pool2d(h2, 3, 2, 1))
    h3b, values3b = inception(m.inception3b, h3a)
    h4, values4 = inception(m.inception4, F.max_pool2d(h3b, 3, 2, 1))
    units = below_head(m.fc, h4[0].numpy(), c)
    units = below_inception(m.inception4, units, values4)
    units = below_pool(units, h3b[0].numpy(), 3, 2, 1)
    units = below_inception(m.inception3b, units, values3b)
    units = below_inception(m.inception3a, units, values3a)
    units = below_pool(units, h2[0].numpy(), 3, 2, 1)
    units = below_inception(m.inception2, units, values2)
    units = below_pool(units, first[0].numpy(), 3, 2, 1)
    return below_conv(units, x[0].numpy(), folded(m.conv1, m.bn1), 2, 2)


LOOPS = {
    "vgg_s": loops_vgg_s,
    "resnet_s": loops_resnet_s,
    "googlenet_s": loops_googlenet_s,
    "allconv_s": loops_allconv_s,
}


def untrained(name, seed):
    """Random weights; batch norm with shifts, and scales of both signs."""
    torch.manual_seed(seed)
    module = small_networks.build(name, 10).double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


def scene(seed):
    return xcnn.load("vgg_s").preprocess(xcnn.scenes.render(seed).image).double()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops_on_trained_networks(name, seed):
    net = network(name)
    x = scene(seed)
    c = net.predict(x).argmax().item()
    with torch.no_grad():
        expected = places(LOOPS[name](net.module, x, c))
    assert expected and fixated(net, x) == expected == fixated(net, x, c)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops_on_untrained_networks(name, seed):
    module = untrained(name, seed)
    with torch.no_grad():
        for c in (0, 5):
            assert fixated(module, scene(seed), c) == places(LOOPS[name](module, scene(seed), c))


# ---- any network


@pytest.mark.parametrize("name", FAMILIES)
def test_works_on_the_families(name):
    net = network(name)
    x = noise(96, seed=2)
    before = {k: v.clone() for k, v in net.module.state_dict().items()}
    R = cnn_fixations(net, x)
    (v,) = find_fixations(net, x)
    assert R.shape == (1, 1, 96, 96) and (R >= 0).all()
    assert R.sum().item() == pytest.approx(len(v.points))
    assert len(v.points) >= 1 and len(v.points.unique(dim=0)) == len(v.points)
    assert v.all_points.max() < 96
    # squeezenet ends in an average of class maps
    assert (len(v.all_points) == 1) == (name == "squeezenet1_1")
    assert all(torch.equal(w, before[k]) for k, w in net.module.state_dict().items())
    assert not any(part._forward_hooks for part in net.module.modules())
    last = {
        "vgg11": "features",
        "resnet18": "layer4",
        "googlenet": "inception5b",
        "densenet121": "features",
    }
    assert last.get(name, "features") in v.units


def test_units_are_those_of_the_layers_output():
    net = network("resnet18")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    (v,) = find_fixations(net, x, 7)
    for name in ("layer4", "layer2", "layer1.0", "conv1"):
        A = outputs_of(net.module, name, x)[0]
        assert v.shapes[name] == A.shape[1:]
        assert (v.units[name] < torch.tensor(v.shapes[name])).all()
        assert len(v.units[name].unique(dim=0)) > 1
    assert v.units["fc"].tolist() == [[7]]


def test_units_are_followed_once():
    def forward(m, x):
        return m.b(m.fc(x.mean((2, 3)).repeat(1, 1)))

    net = Net(forward, fc=nn.Linear(3, 8, bias=False), b=nn.Linear(8, 2))
    for part in (net.fc, net.b):
        nn.init.ones_(part.weight)
    x = dots((3, 4, 1.0))
    x[0, 1, 3, 4] = 1.0  # two channels, one place
    (v,) = find_fixations(net, x, 0)
    assert v.all_points.tolist() == [[3, 4]] and len(v.units["fc"]) == 8


def test_batch_equals_single_images():
    net = network("googlenet_s")
    x = torch.cat([scene(seed) for seed in range(3)])
    R = cnn_fixations(net, x, [1, 2, 3])
    fixations = find_fixations(net, x, [1, 2, 3])
    for k in range(3):
        single = x[k : k + 1]
        assert torch.equal(R[k : k + 1], cnn_fixations(net, single, k + 1))
        assert torch.equal(fixations[k].points, find_fixations(net, single, k + 1)[0].points)


def test_no_evidence_gives_no_points():
    net = copy.deepcopy(network("squeezenet1_1").module)
    x = torch.ones(1, 3, 64, 64, dtype=torch.float64)
    for parameter in net.parameters():
        parameter.data.zero_()
    assert (cnn_fixations(net, x, 3) == 0).all()
    (v,) = find_fixations(net, x, 3)
    assert v.points.shape == v.all_points.shape == (0, 2)


def test_inner_units():
    net = network("vgg_s")
    x = scene(1)
    below = [*net.module.features][:8]
    options = {"layer": "features.7"}
    with torch.no_grad():
        A = net.module.features[:8](x)
        top = tuple(divmod(A[0, 5].argmax().item(), A.shape[3]))
        for unit in ((5, *top), (3, 10, 11)):
            expected = places(walk_sequence(below, x, {unit}))
            assert fixated(net, x, unit=unit, **options) == expected
        assert fixated(net, x, unit=5, **options) == fixated(net, x, unit=(5, *top), **options)
    # reads a map: its one strongest unit
    assert len(fixated(net, x, layer="classifier.1", unit=4)) == 1
    both = cnn_fixations(net, torch.cat([x, scene(2)]), unit=5, **options)
    assert torch.equal(both[1:], cnn_fixations(net, scene(2), unit=5, **options))


@pytest.mark.parametrize("name", SMALL)
def test_points_lie_on_the_object_more_often_than_chance(name):
    net = xcnn.load(name)
    on = []
    chance = []
    for seed in range(40):
        picture = xcnn.scenes.render(1000 + seed, count=1)
        (v,) = find_fixations(net, net.preprocess(picture.image), picture.labels[0])
        mask = torch.from_numpy(picture.masks[0])
        on.append(mask[tuple(v.points.T)].float().mean().item())
        chance.append(mask.float().mean().item())
    assert np.mean(on) > 2 * np.mean(chance)  # measured: 0.93, 0.84, 0.75, 0.43, against 0.16


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": "features.2"}, "both, layer= and unit="),
        ({"unit": 3}, "both, layer= and unit="),
        ({"target": 3, "layer": "features.2", "unit": 3}, "not both"),
        ({"layer": "feature.2", "unit": 3}, "no layer 'feature.2'.*did you mean"),
        ({"layer": "features.2", "unit": 99}, "no unit 99 in layer 'features.2'"),
        (
            {"layer": "features.2", "unit": (1, 2)},
            r"no unit \(1, 2\).*channel or \(channel, y, x\)",
        ),
        ({"layer": "features.2", "unit": (1, 2, 900)}, "no unit"),
    ],
)
def test_bad_units(options, says):
    with pytest.raises(InputError, match=says):
        cnn_fixations(xcnn.load("vgg_s"), scene(0).float(), **options)


# ---- points to map


def test_outliers_by_brute_force():
    rng = np.random.default_rng(0)
    for n in (1, 3, 40, 200):
        points = rng.integers(0, (90, 120), (n, 2)) // rng.integers(1, 6, (n, 1))
        kept = []
        for p in points:
            near = sum(np.hypot(*(p - q)) < 0.1 * np.hypot(90, 120) for q in points)
            kept.append(near > 0.05 * n)
        assert inliers(torch.from_numpy(points), 90, 120).tolist() == kept
    assert not all(kept)
    assert inliers(torch.zeros(0, 2, dtype=torch.long), 9, 9).shape == (0,)


def test_outliers_are_left_out_of_the_map():
    net = network("resnet18")
    seen = False
    for seed in range(3):
        x = noise(96, seed)
        R = cnn_fixations(net, x)
        (v,) = find_fixations(net, x)
        assert torch.equal(v.points, v.all_points[inliers(v.all_points, 96, 96)])
        assert torch.equal(R[0, 0], density(v.points, 96, 96))
        seen |= len(v.points) < len(v.all_points)
    assert seen


def test_density_is_a_gaussian_per_point():
    at = torch.tensor([[112, 100], [120, 140]])
    y, x = np.mgrid[:224, :224]
    expected = sum(
        np.exp(-((y - a) ** 2 + (x - b) ** 2) / 800) / (800 * np.pi) for a, b in at.tolist()
    )
    assert np.abs(density(at, 224, 224).numpy() - expected).max() < 2e-3 * expected.max()
    assert density(torch.tensor([[0, 0], [5, 63]]), 64, 64).sum().item() == pytest.approx(2)
