"""CNN Fixations against the published algorithm in plain loops, and networks in which the answer can be seen."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import InputError, small_networks
from xcnn.methods.fixations import cnn_fixations, crowded, density

from tests.helpers.oracles import network
from tests.helpers.places import SMALL

# ---- the oracle: one unit after the other, in loops, batch norm folded into the weights


def folded(conv, bn):
    return (
        (conv.weight * (bn.weight / (bn.running_var + bn.eps).sqrt())[:, None, None, None])
        .detach()
        .numpy()
    )


def fc(units, a, W):
    """From a vector all that speak for the unit, from a map the one that does most."""
    below = set()
    for (o,) in units:
        C = W[o] * a.ravel()
        if a.ndim == 3:
            if C.any():
                below.add(tuple(int(v) for v in np.unravel_index(C.argmax(), a.shape)))
        else:
            below |= {(int(j),) for j in np.flatnonzero(C > 0)}
    return below


def conv(units, a, W, stride=1, padding=0, dilation=1, groups=1, inside=False):
    below, (_, H, Wd), (O, c, k, _) = set(), a.shape, W.shape
    for o, y, x in units:
        first = o // (O // groups) * c
        best, channel, alive = -np.inf, None, False
        window = [(i, j, y * stride - padding + i * dilation, x * stride - padding + j * dilation)
                  for i in range(k) for j in range(k)]  # fmt: skip
        window = [(i, j, v, u) for i, j, v, u in window if 0 <= v < H and 0 <= u < Wd]
        for n in range(c):
            terms = [a[first + n, v, u] * W[o, n, i, j] for i, j, v, u in window]
            alive |= any(terms)
            if sum(terms) > best:
                best, channel = sum(terms), first + n
        if not alive:
            continue
        if inside:
            v, u = max(((v, u) for _, _, v, u in window), key=lambda at: a[channel][at])
        else:
            middle = (k - 1) // 2 * dilation - padding
            v, u = min(max(y * stride + middle, 0), H - 1), min(max(x * stride + middle, 0), Wd - 1)
        below.add((channel, v, u))
    return below


def pool(units, a, k, stride=None, padding=0):
    below, stride = set(), stride or k
    for c, y, x in units:
        window = [(v, u) for v in range(y * stride - padding, y * stride - padding + k)
                  for u in range(x * stride - padding, x * stride - padding + k)]  # fmt: skip
        inside = [(v, u) for v, u in window if 0 <= v < a.shape[1] and 0 <= u < a.shape[2]]
        below.add((c, *max(inside, key=lambda at: a[c][at])))
    return below


def everywhere(units, a):
    """Through a global average: where each channel is largest."""
    return {(c, *(int(v) for v in np.unravel_index(a[c].argmax(), a[c].shape))) for (c,) in units}


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def walk_sequence(layers, x, units):
    """A stack of layers; a linear layer straight after `nn.Flatten` reads a map."""
    values, h = [], x
    for layer in layers:
        values.append(h[0].detach().numpy().copy())
        h = layer(h.clone())
    for k in reversed(range(len(layers))):
        layer, a = layers[k], values[k]
        if isinstance(layer, nn.Linear):
            flat = isinstance(layers[k - 1], nn.Flatten)
            units = fc(units, values[k - 1] if flat else a, layer.weight.detach().numpy())
        elif isinstance(layer, nn.Conv2d):
            units = conv(units, a, layer.weight.detach().numpy(), layer.stride[0], layer.padding[0],
                         layer.dilation[0], layer.groups)  # fmt: skip
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            units = pool(units, a, layer.kernel_size, layer.stride, layer.padding)
        elif isinstance(layer, GlobalMean):
            units = everywhere(units, a)
    return units


def oracle_vgg_s(m, x, c):
    return walk_sequence([*m.features, *m.classifier], x, {(c,)})


def oracle_allconv_s(m, x, c):
    return walk_sequence([*m.features, GlobalMean(), m.classifier], x, {(c,)})


def oracle_resnet_s(m, x, c):
    h = F.relu(m.bn1(m.conv1(x)))
    blocks, values = [m.layer1, m.layer2, *m.layer3], []
    for block in blocks:
        inner = F.relu(block.bn1(block.conv1(h)))
        out, skip = block.bn2(block.conv2(inner)), block.skip(h)
        values.append([v[0].numpy() for v in (h, inner, out, skip)])
        h = F.relu(out + skip)
    top = h[0].numpy()
    units = everywhere(fc({(c,)}, top.mean((1, 2)), m.fc.weight.numpy()), top)
    for block, (h, inner, out, skip) in zip(reversed(blocks), reversed(values), strict=True):
        through = {u for u in units if out[u] >= skip[u]}
        around = units - through
        through = conv(through, inner, folded(block.conv2, block.bn2), padding=1, inside=True)
        stride = block.conv1.stride[0]
        units = conv(through, h, folded(block.conv1, block.bn1), stride, padding=1, inside=True)
        units |= (
            conv(around, h, folded(*block.skip), stride, inside=True) if len(block.skip) else around
        )
    return conv(units, x[0].numpy(), folded(m.conv1, m.bn1), 2, 1)


def oracle_googlenet_s(m, x, c):
    def inception(block, h):
        bn = block.bn
        mids = [block.three[0](h), block.five[0](h)]
        mids.append(block.five[1](mids[1]))
        y = F.relu(
            bn(torch.cat([block.one(h), block.three[1](mids[0]), block.five[2](mids[2])], 1))
        )
        return y, [v[0].numpy() for v in (h, *mids)]

    def down(block, units, values):
        h, three, five, five2 = values
        scale = (block.bn.weight / (block.bn.running_var + block.bn.eps).sqrt()).numpy()[
            :, None, None, None
        ]
        c1, c3 = block.one.out_channels, block.three[1].out_channels
        W = [part.weight.numpy() for part in (block.one, *block.three, *block.five)]
        one = {u for u in units if u[0] < c1}
        mid = {(u[0] - c1, *u[1:]) for u in units if c1 <= u[0] < c1 + c3}
        big = {(u[0] - c1 - c3, *u[1:]) for u in units if u[0] >= c1 + c3}
        below = conv(one, h, W[0] * scale[:c1])
        below |= conv(conv(mid, three, W[2] * scale[c1 : c1 + c3], padding=1), h, W[1])
        big = conv(conv(big, five2, W[5] * scale[c1 + c3 :], padding=1), five, W[4], padding=1)
        return below | conv(big, h, W[3])

    first = F.relu(m.bn1(m.conv1(x)))
    p1 = F.max_pool2d(first, 3, 2, 1)
    h2, v2 = inception(m.inception2, p1)
    p2 = F.max_pool2d(h2, 3, 2, 1)
    h3a, v3a = inception(m.inception3a, p2)
    h3b, v3b = inception(m.inception3b, h3a)
    p3 = F.max_pool2d(h3b, 3, 2, 1)
    h4, v4 = inception(m.inception4, p3)
    top = h4[0].numpy()
    units = everywhere(fc({(c,)}, top.mean((1, 2)), m.fc.weight.numpy()), top)
    units = pool(down(m.inception4, units, v4), h3b[0].numpy(), 3, 2, 1)
    units = down(m.inception3a, down(m.inception3b, units, v3b), v3a)
    units = down(m.inception2, pool(units, h2[0].numpy(), 3, 2, 1), v2)
    return conv(pool(units, first[0].numpy(), 3, 2, 1), x[0].numpy(), folded(m.conv1, m.bn1), 2, 2)


ORACLES = {"vgg_s": oracle_vgg_s, "resnet_s": oracle_resnet_s, "googlenet_s": oracle_googlenet_s,
           "allconv_s": oracle_allconv_s}  # fmt: skip


def points(units):
    return {(y, x) for _, y, x in units}


def found(net, x, *args, **options):
    return {tuple(p) for p in cnn_fixations(net, x, *args, **options).values[0].found.tolist()}


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
    net, x = network(name), scene(seed)
    c = net.predict(x).argmax().item()
    with torch.no_grad():
        expected = points(ORACLES[name](net.module, x, c))
    assert expected and found(net, x) == expected == found(net, x, c)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops_on_untrained_networks(name, seed):
    module = untrained(name, seed)
    with torch.no_grad():
        for c in (0, 5):
            assert found(module, scene(seed), c) == points(ORACLES[name](module, scene(seed), c))


STACKS = [
    [
        nn.Conv2d(3, 6, 5, 2, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, 1, 2, dilation=2),
        GlobalMean(),
    ],
    [
        nn.Conv2d(3, 6, 3),
        nn.ReLU(True),
        nn.Conv2d(6, 8, 3, 1, 1, groups=2),
        nn.MaxPool2d(3, 2, 1),
        GlobalMean(),
    ],
    [
        nn.Conv2d(3, 4, 1, 1, 2),
        nn.Conv2d(4, 8, 3, 2, 1, groups=4),
        nn.ReLU6(),
        nn.AvgPool2d(3, 2, 1),
        GlobalMean(),
    ],
    [
        nn.Conv2d(3, 8, 2, 2),
        nn.Hardtanh(0.0, 2.0),
        nn.Conv2d(8, 8, 4, 1, 1),
        nn.ReLU(),
        GlobalMean(),
    ],
    [nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 1, 3, 1, 1), nn.Flatten()],
]


@pytest.mark.parametrize("k", range(len(STACKS)))
def test_equals_the_loops_on_stacks(k):
    torch.manual_seed(k)
    met = 0
    for _ in range(5):
        layers = [
            *copy.deepcopy(STACKS[k]),
            nn.Linear(30 if k == 4 else 8, 12),
            nn.ReLU(),
            nn.Linear(12, 4),
        ]
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        module, x = (
            nn.Sequential(*layers).double().eval(),
            torch.randn(1, 3, 24, 20, dtype=torch.float64),
        )
        for c in range(4):
            with torch.no_grad():
                expected = points(walk_sequence(layers, x, {(c,)}))
            assert found(module, x, c) == expected
            met += len(expected)
    assert met > 20


# ---- networks in which the answer can be seen


class Net(nn.Module):
    """From a function of x and some layers by name."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.double().eval()

    def forward(self, x):
        return self.run(self, x)


def delta(k=3, **options):
    """Copies the first channel: weight 1 in the middle of the window."""
    layer = nn.Conv2d(3, 3, k, padding=k // 2, bias=False, **options)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, k // 2, k // 2] = 1
    return layer


def dots(*at, side=16):
    """Black but for some dots (y, x, value) in the first channel."""
    x = torch.zeros(1, 3, side, side, dtype=torch.float64)
    for y, u, value in at:
        x[0, 0, y, u] = value
    return x


def test_one_bright_dot_is_found():
    net = Net(lambda m, x: F.relu(m.b(F.relu(m.a(x)))).mean((2, 3)), a=delta(), b=delta(5))
    for at in ((3, 5), (0, 0), (15, 7)):
        R = cnn_fixations(net, dots((*at, 1.0)), 0)
        v = R.values[0]
        assert v.found.tolist() == v.points.tolist() == [list(at)]
        assert divmod(R.argmax().item(), 16) == at and R.sum().item() == pytest.approx(1)
        assert v.units["a"].tolist() == [[0, *at]] == v.units["b"].tolist() and v.shapes["a"] == (
            3,
            16,
            16,
        )
        assert list(v.units) == ["b", "a"]


def test_strides_and_pooling_lead_back_to_the_dot():
    x = dots((9, 6, 1.0))
    for pools in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True),
                  nn.AdaptiveAvgPool2d(5), nn.AdaptiveMaxPool2d((3, 7)), nn.AvgPool2d(4)):  # fmt: skip
        net = Net(lambda m, x: m.pool(m.a(x)).mean(dim=[-1, -2]), a=delta(), pool=pools)
        assert found(net, x, 0) == {(9, 6)}, pools


def test_average_pooling_follows_the_largest_value():
    x = dots((2, 2, 1.0), (2, 3, 2.0), (3, 2, 0.5))
    assert found(
        Net(lambda m, x: F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1).flatten(1)), x, 0
    ) == {(2, 3)}


def test_a_sum_follows_the_larger_branch():
    x = dots((2, 2, 3.0), (9, 9, 1.0))
    shifted = nn.Conv2d(3, 3, 3, padding=1, bias=False)  # takes the value to the right
    nn.init.zeros_(shifted.weight)
    shifted.weight.data[0, 0, 1, 2] = 1
    for factor in (0.1, 10.0):
        net = Net(lambda m, x: (x + factor * m.a(x)).mean((2, 3)), a=copy.deepcopy(shifted))  # noqa: B023
        v = cnn_fixations(net, x, 0).values[0]
        assert {tuple(p) for p in v.found.tolist()} == {(2, 2)}
        assert ("a" in v.units) == (
            factor > 1
        )  # reached through the branch, from (2, 1), or around it
    around = Net(lambda m, x: (x - 10 * m.a(x)).mean((2, 3)), a=copy.deepcopy(shifted))
    assert (
        found(around, x, 0) == {(2, 2)} and "a" not in cnn_fixations(around, x, 0).values[0].units
    )


def test_a_convolution_keeps_to_the_middle_but_in_a_residual_looks_for_the_largest():
    right = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    nn.init.zeros_(right.weight)
    right.weight.data[0, 0, 1, 2] = 1
    x = dots((4, 8, 1.0))
    assert found(Net(lambda m, x: F.relu(m.a(x)).mean((2, 3)), a=right), x, 0) == {(4, 7)}
    assert found(Net(lambda m, x: F.relu(m.a(x) * 9 + x).mean((2, 3)), a=right), x, 0) == {(4, 8)}


def test_concatenation_slices_and_shuffles_find_the_branch():
    x = dots((3, 4, 1.0))
    x[0, 1, 7, 8], x[0, 2, 11, 12] = 2.0, 3.0
    net = Net(
        lambda m, x: torch.cat([x[:, 2:], x[:, :1].flip(3).flip(3), x.chunk(3, 1)[1]], 1).mean(
            (2, 3)
        )
    )
    for c, at in enumerate([(11, 12), (3, 4), (7, 8)]):
        assert found(net, x, c) == {at}
    padded = Net(lambda m, x: F.pixel_unshuffle(F.pad(x, (2, 2, 2, 2), value=0.5), 2).mean((2, 3)))
    assert (
        found(padded, x, 2) == {(3, 4)} and found(padded, x, 0) == set()
    )  # the padding is not in the picture


def test_units_are_followed_once():
    net = Net(
        lambda m, x: m.b(m.fc(x.mean((2, 3)).repeat(1, 1))),
        fc=nn.Linear(3, 8, bias=False),
        b=nn.Linear(8, 2),
    )
    for part in (net.fc, net.b):
        nn.init.ones_(part.weight)
    x = dots((3, 4, 1.0))
    x[0, 1, 3, 4] = 1.0  # two channels, one place
    v = cnn_fixations(net, x, 0).values[0]
    assert v.found.tolist() == [[3, 4]] and len(v.units["fc"]) == 8


def test_batch_norm_with_a_negative_scale_turns_signs():
    bn = nn.BatchNorm2d(3)
    bn.weight.data.fill_(-1.0)
    x = dots((3, 4, 5.0), (8, 9, -5.0))
    net = Net(lambda m, x: F.relu(m.bn(F.avg_pool2d(x, 16))).flatten(1), bn=bn)
    assert found(net, x, 0) == {(8, 9)}  # the smallest of the average makes its negative large


# ---- any network


@pytest.mark.parametrize(
    "name", ["vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2"]
)
def test_works_on_the_families(name):
    net, x = (
        network(name),
        torch.randn(1, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    )
    before = {k: v.clone() for k, v in net.module.state_dict().items()}
    R = cnn_fixations(net, x)
    v = R.values[0]
    assert (
        R.shape == (1, 1, 96, 96)
        and (R >= 0).all()
        and R.sum().item() == pytest.approx(len(v.points))
    )
    assert (
        len(v.points) >= 1 and len(v.points.unique(dim=0)) == len(v.points) and v.found.max() < 96
    )
    assert (len(v.found) == 1) == (name == "squeezenet1_1")  # it ends in an average of class maps
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
    net, x = network("resnet18"), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    v = cnn_fixations(net, x, 7).values[0]
    for name in ("layer4", "layer2", "layer1.0", "conv1"):
        seen = []
        handle = net.module.get_submodule(name).register_forward_hook(
            lambda _m, _i, out: seen.append(out)
        )  # noqa: B023
        net.module(x)
        handle.remove()
        assert v.shapes[name] == seen[0].shape[1:]
        assert (v.units[name] < torch.tensor(v.shapes[name])).all() and len(
            v.units[name].unique(dim=0)
        ) > 1
    assert v.units["fc"].tolist() == [[7]]


def test_batch_equals_single_images():
    net = network("googlenet_s")
    x = torch.cat([scene(seed) for seed in range(3)])
    R = cnn_fixations(net, x, [1, 2, 3])
    for k in range(3):
        one = cnn_fixations(net, x[k : k + 1], k + 1)
        assert torch.equal(R[k : k + 1], one) and torch.equal(
            R.values[k].points, one.values[0].points
        )


def test_no_evidence_gives_no_points():
    net, x = (
        copy.deepcopy(network("squeezenet1_1").module),
        torch.ones(1, 3, 64, 64, dtype=torch.float64),
    )
    for parameter in net.parameters():
        parameter.data.zero_()
    R = cnn_fixations(net, x, 3)
    assert (R == 0).all() and R.values[0].points.shape == R.values[0].found.shape == (0, 2)


def test_inner_units():
    net, x = network("vgg_s"), scene(1)
    layers, layer = [*net.module.features], 7
    with torch.no_grad():
        A = net.module.features[: layer + 1](x)
        top = tuple(divmod(A[0, 5].argmax().item(), A.shape[3]))
        for unit in ((5, *top), (3, 10, 11)):
            expected = points(walk_sequence(layers[: layer + 1], x, {unit}))
            assert found(net, x, layer=f"features.{layer}", unit=unit) == expected
        assert found(net, x, layer="features.7", unit=5) == found(
            net, x, layer="features.7", unit=(5, *top)
        )
    assert (
        len(found(net, x, layer="classifier.1", unit=4)) == 1
    )  # reads a map: its one strongest unit
    both = cnn_fixations(net, torch.cat([x, scene(2)]), layer="features.7", unit=5)
    assert torch.equal(both[1:], cnn_fixations(net, scene(2), layer="features.7", unit=5))


# ---- points to map


def test_outliers_by_brute_force():
    rng = np.random.default_rng(0)
    for n in (1, 3, 40, 200):
        given = rng.integers(0, (90, 120), (n, 2)) // rng.integers(1, 6, (n, 1))
        kept = []
        for p in given:
            near = sum(np.hypot(*(p - q)) < 0.1 * np.hypot(90, 120) for q in given)
            kept.append(near > 0.05 * n)
        assert crowded(torch.from_numpy(given), 90, 120).tolist() == kept
    assert not all(kept)
    assert crowded(torch.zeros(0, 2, dtype=torch.long), 9, 9).shape == (0,)


def test_outliers_are_left_out_of_the_map():
    net, seen = network("resnet18"), False
    for seed in range(3):
        x = torch.randn(
            1, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        R = cnn_fixations(net, x)
        v = R.values[0]
        assert torch.equal(v.points, v.found[crowded(v.found, 96, 96)])
        assert torch.equal(R[0, 0], density(v.points, 96, 96))
        seen |= len(v.points) < len(v.found)
    assert seen


def test_density_is_a_gaussian_per_point():
    at = torch.tensor([[112, 100], [120, 140]])
    y, x = np.mgrid[:224, :224]
    expected = sum(
        np.exp(-((y - a) ** 2 + (x - b) ** 2) / 800) / (800 * np.pi) for a, b in at.tolist()
    )
    assert np.abs(density(at, 224, 224).numpy() - expected).max() < 2e-3 * expected.max()
    assert density(torch.tensor([[0, 0], [5, 63]]), 64, 64).sum().item() == pytest.approx(2)


# ---- what it finds, and what it refuses


@pytest.mark.parametrize("name", SMALL)
def test_points_lie_on_the_object_more_often_than_chance(name):
    net, on, chance = xcnn.load(name), [], []
    for seed in range(40):
        one = xcnn.scenes.render(1000 + seed, count=1)
        v = cnn_fixations(net, net.preprocess(one.image), one.labels[0]).values[0]
        mask = torch.from_numpy(one.masks[0])
        on.append(mask[tuple(v.points.T)].float().mean().item())
        chance.append(mask.float().mean().item())
    assert np.mean(on) > 2 * np.mean(chance)  # measured: 0.93, 0.84, 0.75, 0.43, against 0.16


def in_a_view(m, x):
    x = m.a(x)
    x.view(-1).relu_()
    return x.mean((2, 3))


@pytest.mark.parametrize(("forward", "says"), [
    (lambda m, x: (m.a(x) * x.mean((2, 3), True)).mean((2, 3)), r"torch.Tensor.mul of maps.*the network itself"),
    (lambda m, x: F.silu(m.a(x)).mean((2, 3)), r"torch.nn.functional.silu, which runs in .*Net.*guided_backprop"),
    (lambda m, x: m.act(m.a(x)).mean((2, 3)), r"gelu, which runs in 'act' \(GELU\)"),
    (lambda m, x: F.dropout(m.a(x)).mean((2, 3)), "dropout that is always on"),
    (lambda m, x: m.a(x).mean(3).mean(2), "mean over other dimensions"),
    (lambda m, x: F.conv2d(x, m.a(x)[:, :, :3, :3]).mean((2, 3)), "conv2d whose weights depend on the image"),
    (lambda m, x: (1 / (9 + m.a(x))).mean((2, 3)), "no rule for"),
    (lambda m, x: torch.ones(1, 3).double(), "does not depend on the image"),
    (in_a_view, "a change in place.*the network itself"),
])  # fmt: skip
def test_operations_that_have_no_rule(forward, says):
    net = Net(forward, a=nn.Conv2d(3, 3, 3, padding=1), act=nn.GELU())
    with pytest.raises(InputError, match=says):
        cnn_fixations(net, dots((3, 4, 1.0)) + 1, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_scripted_part_is_not_passed_over(where):
    net = Net(
        lambda m, x: (m.a(x) + (x if where == "part" else 0)).mean((2, 3)),
        a=nn.Conv2d(3, 3, 3, padding=1),
    )
    net.a = torch.jit.script(net.a)
    with pytest.raises(InputError, match=r"works unseen, such as a scripted one.*guided_backprop"):
        cnn_fixations(net, dots((3, 4, 1.0)), 0)


def test_weights_made_on_the_way_are_weights():
    net = Net(
        lambda m, x: F.conv2d(x, m.a.weight * m.scale.chunk(2)[0]).mean((2, 3)),
        a=delta(),
        scale=None,
    )
    net.scale = nn.Parameter(torch.ones(2).double())
    assert found(net, dots((3, 4, 1.0)), 0) == {(3, 4)}


def test_an_operation_without_a_rule_off_the_path_does_no_harm():
    net = Net(lambda m, x: torch.cat([x, F.silu(x)], 1).mean((2, 3)))
    assert found(net, dots((3, 4, 1.0)), 0) == {(3, 4)}


@pytest.mark.parametrize(("options", "says"), [
    ({"layer": "features.2"}, "both, layer= and unit="),
    ({"unit": 3}, "both, layer= and unit="),
    ({"target": 3, "layer": "features.2", "unit": 3}, "not both"),
    ({"layer": "feature.2", "unit": 3}, "no layer 'feature.2'.*did you mean"),
    ({"layer": "features.2", "unit": 99}, "no unit 99 in layer 'features.2'"),
    ({"layer": "features.2", "unit": (1, 2)}, r"no unit \(1, 2\).*channel or \(channel, y, x\)"),
    ({"layer": "features.2", "unit": (1, 2, 900)}, "no unit"),
])  # fmt: skip
def test_bad_units(options, says):
    with pytest.raises(InputError, match=says):
        cnn_fixations(xcnn.load("vgg_s"), scene(0).float(), **options)


class ByName(nn.Module):
    """Weights by name, as a function may be called."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        A = F.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias).relu()
        return F.linear(A.mean((2, 3)), weight=self.fc.weight, bias=self.fc.bias)


def test_weights_by_name():
    torch.manual_seed(0)
    net, x = ByName().eval(), torch.rand(1, 3, 9, 9)
    plain = nn.Sequential(net.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc).eval()
    found = cnn_fixations(net, x, 2).values[0].found
    assert len(found) and torch.equal(found, cnn_fixations(plain, x, 2).values[0].found)
