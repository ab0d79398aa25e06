"""CNN Fixations where an operation sees several places: enlarging, averages, whole maps."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn

from tests.helpers.oracles import network, noise
from tests.helpers.walks import (
    Net,
    below_average,
    below_conv,
    below_linear,
    dots,
    fixated,
    moves,
    places,
)

# ---- transposed convolutions and enlarging, in plain loops


def below_transposed(units, a, W, stride, padding, dilation, groups):
    """The channel with the largest sum of w a, and its place with the largest w a.

    A place p of the input reaches p stride - padding + u dilation, u = 0, 1, ...
    """
    below = set()
    inputs = len(W) // groups
    outputs = W.shape[1]
    for o, y, x in units:
        first = o // outputs * inputs
        terms = {}
        for c, i, j in itertools.product(range(inputs), *map(range, a.shape[1:])):
            u, rest = divmod(y + padding - i * stride, dilation)
            v, other_rest = divmod(x + padding - j * stride, dilation)
            inside = 0 <= u < W.shape[2] and 0 <= v < W.shape[3]
            if inside and not rest and not other_rest:
                term = a[first + c, i, j] * W[first + c, o % outputs, u, v]
                terms.setdefault(c, {})[i, j] = term
        if any(any(of_channel.values()) for of_channel in terms.values()):
            c = max(terms, key=lambda c: sum(terms[c].values()))
            below.add((first + c, *max(terms[c], key=terms[c].get)))
    return below


def weights_of_enlarging(n, m, corners):
    """Bilinear enlarging of n places to m: for each place of the output {place below: weight}."""
    rows = []
    for p in range(m):
        at = p * (n - 1) / (m - 1) if corners else max((p + 0.5) * n / m - 0.5, 0)
        low = min(int(at), n - 1)
        high = min(low + 1, n - 1)
        row = {low: 1 - (at - low)}
        row[high] = row.get(high, 0) + (at - low)
        rows.append(row)
    return rows


def below_enlarged(units, a, size, corners):
    """The place with the largest w a."""
    _, h, w = a.shape
    rows = weights_of_enlarging(h, size[0], corners)
    columns = weights_of_enlarging(w, size[1], corners)
    below = set()
    for c, y, x in units:
        terms = {
            (i, j): u * v * a[c, i, j] for i, u in rows[y].items() for j, v in columns[x].items()
        }
        if any(terms.values()):
            below.add((c, *max(terms, key=terms.get)))
    return below


GEOMETRY = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 2, "stride": 2, "groups": 2},
    {"kernel_size": 3, "stride": 1, "dilation": 2, "padding": 2},
    {"kernel_size": 4, "stride": 3, "bias": False},
]


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
def test_a_transposed_convolution_equals_the_loops(geometry):
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 4, 3), "up": nn.ConvTranspose2d(4, 6, **geometry)}
    layers |= {"fc": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
    net = Net(lambda m, x: m.head(F.relu(m.fc(m.up(m.a(x)).mean((2, 3))))), **layers)
    met = 0
    for _ in range(4):
        x = torch.randn(1, 3, 9, 8, dtype=torch.float64)
        with torch.no_grad():
            a = net.a(x)
            up = net.up(a)
            v = up.mean((2, 3))
            u = F.relu(net.fc(v))
        W = {name: part.weight.detach().numpy() for name, part in net.named_children()}
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | geometry
        options = {key: options[key] for key in ("stride", "padding", "dilation", "groups")}
        for c in range(3):
            units = below_linear({(c,)}, u[0].numpy(), W["head"])
            units = below_average(below_linear(units, v[0].numpy(), W["fc"]), up[0].numpy())
            units = below_transposed(units, a[0].numpy(), W["up"], **options)
            units = below_conv(units, x[0].numpy(), W["a"])
            assert fixated(net, x, c) == places(units)
            met += len(units)
    assert met > 8


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(14, 12), (7, 13), (5, 3)])
def test_bilinear_enlarging_equals_the_loops(size, corners):
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 6, 3), "fc": nn.Linear(6, 4), "head": nn.Linear(4, 3)}

    def enlarged(y):
        return F.interpolate(y, size, mode="bilinear", align_corners=corners)

    net = Net(lambda m, x: m.head(m.fc(enlarged(m.a(x)).mean((2, 3)))), **layers)
    met = 0
    for _ in range(4):
        x = torch.randn(1, 3, 9, 8, dtype=torch.float64)
        with torch.no_grad():
            a = net.a(x)
            up = enlarged(a)
            v = up.mean((2, 3))
            u = net.fc(v)
        W = {name: part.weight.detach().numpy() for name, part in net.named_children()}
        for c in range(3):
            units = below_linear({(c,)}, u[0].numpy(), W["head"])
            units = below_average(below_linear(units, v[0].numpy(), W["fc"]), up[0].numpy())
            units = below_enlarged(units, a[0].numpy(), size, corners)
            units = below_conv(units, x[0].numpy(), W["a"])
            assert fixated(net, x, c) == places(units)
            met += len(units)
    assert met > 8


@pytest.mark.parametrize(
    "f",
    [
        nn.Upsample(scale_factor=3),
        nn.Upsample(size=(40, 23), mode="bilinear"),
        nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        lambda y: F.interpolate(y, (5, 7), mode="area"),
        lambda y: F.interpolate(y, scale_factor=0.5),
        lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3),
        lambda y: F.interpolate(F.max_pool2d(y, 4), y.shape[2:]),
        lambda y: F.interpolate(y.mean((2, 3), keepdim=True), y.shape[2:], mode="bilinear"),
        nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
    ],
)
def test_enlarging_leads_back_to_the_dot(f):
    net = Net(lambda m, x: F.relu(f(m.a(x))).mean((2, 3)), a=moves())
    x = dots((8, 6, 1.0))  # an even place survives a reduction to a half
    assert fixated(net, x, 0) == {(8, 6)}


# ---- the same function in other words: the same points


def head(f):
    """resnet_s with another head, its weights the same."""
    module = copy.deepcopy(network("resnet_s").module)
    fc = module.fc
    module.fc = Head(f, fc)
    return module.double().eval()


class Head(nn.Module):
    def __init__(self, f, fc):
        super().__init__()
        self.f = f
        self.w = fc.weight
        self.b = fc.bias

    def forward(self, v):
        return self.f(v, self.w, self.b)


HEADS = {
    "linear": F.linear,
    "1 x 1 convolution": lambda v, w, b: F.conv2d(
        v[:, :, None, None], w[:, :, None, None], b
    ).flatten(1),
    "of an unflattened vector": lambda v, w, b: F.conv2d(
        v.unflatten(1, (-1, 1, 1)), w.view(*w.shape, 1, 1), b
    )[:, :, 0, 0],
    "matmul": lambda v, w, b: v @ w.T + b,
    "mm": lambda v, w, b: torch.mm(v, w.t()) + b,
    "addmm": lambda v, w, b: torch.addmm(b, v, w.t()),
    "weights first": lambda v, w, b: torch.matmul(w, v.mT).mT + b,
    "tokens": lambda v, w, b: F.linear(v[:, None], w, b)[:, 0],
    "dropout": lambda v, w, b: F.linear(F.dropout(v, 0.5, False), w, b),
    "batch norm of a vector": lambda v, w, b: F.linear(
        F.batch_norm(v, torch.zeros_like(v[0]), torch.ones_like(v[0]), eps=0), w, b
    ),
    "scaled": lambda v, w, b: F.linear(v * 4, w / 4, b),
    "channels last": lambda v, w, b: F.linear(
        v[:, :, None, None].permute(0, 2, 3, 1), w, b
    ).flatten(1),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_fully_connected_head_in_other_words(name):
    net = network("resnet_s")
    x = net.preprocess(xcnn.scenes.render(10, count=2).image).double()
    module = head(HEADS[name])
    assert torch.allclose(module(x), net.module(x))
    met = 0
    for c in (1, 3, 8):
        points = fixated(net, x, c)
        assert fixated(module, x, c) == points
        met += len(points)
    assert met > 10


AVERAGES = {
    "mean": lambda y: y.mean((2, 3)),
    "mean, from the end": lambda y: y.mean(dim=[-1, -2]),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1),
    "a window": lambda y: F.avg_pool2d(y, y.shape[2:]).squeeze(),
    "rows, then columns": lambda y: y.mean(3).mean(2),
    "columns, then rows": lambda y: y.mean(2, keepdim=True).mean(3, keepdim=True)[:, :, 0, 0],
    "flattened": lambda y: y.flatten(2).mean(-1),
    "view": lambda y: y.view(1, len(y[0]), -1).mean(2),
    "a sum": lambda y: y.sum((2, 3)) / y[0, 0].numel(),
    "channels last": lambda y: y.permute(0, 2, 3, 1).mean((1, 2)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_a_global_average_in_other_words(name):
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, 6), "head": nn.Linear(6, 4)}

    def forward(f):
        return lambda m, x: m.head(m.fc(f(m.a(x)).reshape(1, 8)))

    x = torch.randn(1, 3, 11, 9, dtype=torch.float64)
    net = Net(forward(AVERAGES["mean"]), **layers)
    other = Net(forward(AVERAGES[name]), **layers)
    assert torch.allclose(net(x), other(x))
    met = 0
    for c in range(4):
        assert fixated(other, x, c) == fixated(net, x, c)
        met += len(fixated(net, x, c))
    assert met > 4


MAXIMA = {
    "amax": lambda y: y.amax((2, 3)),
    "adaptive": lambda y: F.adaptive_max_pool2d(y, 1).flatten(1),
    "max, twice": lambda y: y.max(3)[0].max(2)[0],
    "values": lambda y: torch.max(y.flatten(2), dim=-1).values,
    "a window": lambda y: F.max_pool2d(y, y.shape[2:])[:, :, 0, 0],
}


@pytest.mark.parametrize("name", MAXIMA)
def test_a_global_maximum_in_other_words(name):
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, 6)}
    x = torch.randn(1, 3, 11, 9, dtype=torch.float64)
    net = Net(lambda m, x: m.fc(MAXIMA["amax"](m.a(x))), **layers)
    other = Net(lambda m, x: m.fc(MAXIMA[name](m.a(x))), **layers)
    for c in range(6):
        assert fixated(other, x, c) == fixated(net, x, c) != set()


def flattened(m, A):
    return F.linear(A.flatten(1), m.w, m.b)


WHOLE = {
    "a kernel of the map's size": lambda m, A: F.conv2d(A, m.w.view(6, 8, 5, 4), m.b).flatten(1),
    "1 x 1 of all values": lambda m, A: F.conv2d(
        A.reshape(1, 160, 1, 1), m.w.view(6, 160, 1, 1), m.b
    ).flatten(1),
    "matmul": lambda m, A: A.reshape(1, -1) @ m.w.T + m.b,
    "batch norm before": lambda m, A: F.linear(
        F.batch_norm(A, torch.zeros(8).double(), torch.ones(8).double(), eps=0).flatten(1), m.w, m.b
    ),
    "by units": lambda m, A: torch.cat(
        [F.linear(F.relu(A).flatten(1), w[None], b[None]) for w, b in zip(m.w, m.b, strict=True)], 1
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_fully_connected_layer_on_a_map_in_other_words(name):
    """Of a flattened map one unit is followed, however the layer is written."""
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3), "w": None, "b": None}
    nets = [Net(lambda m, x, f=f: f(m, F.relu(m.a(x))), **layers) for f in (flattened, WHOLE[name])]
    for net in nets[1:]:
        net.a = nets[0].a
    weights = torch.randn(6, 160, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for net in nets:
        net.w, net.b = weights
    x = torch.randn(1, 3, 7, 6, dtype=torch.float64)
    assert torch.allclose(*(net(x) for net in nets))
    for c in range(6):
        points = [fixated(net, x, c) for net in nets]
        assert points[0] == points[1] and len(points[0]) == 1


def test_a_convolution_of_a_window_is_not_a_fully_connected_layer():
    """3 x 3 with padding on a map of one position: as the network's other convolutions."""
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3, padding=1)}
    net = Net(lambda m, x: m.b(m.a(x).mean((2, 3), keepdim=True)).flatten(1), **layers)
    (v,) = xcnn.find_fixations(net, noise(9), 2)
    assert len(v.units["a"]) == 1


# ---- the larger of two maps


def test_a_maximum_of_two_maps_follows_the_larger():
    x = dots((2, 2, 3.0), (9, 9, 1.0))
    for factor, at in ((0.1, (2, 2)), (10.0, (2, 1))):
        for larger in (torch.maximum, torch.max, lambda a, b: torch.stack([a, b]).amax(0)):
            net = Net(
                lambda m, x, by=factor, f=larger: f(x, by * m.a(x)).mean((2, 3)), a=moves(dx=1)
            )
            (v,) = xcnn.find_fixations(net, x, 0)
            reached = v.units["a"].tolist() if "a" in v.units else []
            assert reached == ([[0, *at]] if factor > 1 else [])


def test_a_relu_in_other_words():
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, 6)}
    forms = [
        F.relu,
        lambda y: torch.maximum(y, torch.zeros(()).double()),
        lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
        lambda y: y * (y > 0),
        lambda y: y.masked_fill(y < 0, 0),
        lambda y: y.clamp(min=0),
    ]
    nets = [Net(lambda m, x, f=f: m.fc(f(m.a(x)).mean((2, 3))), **layers) for f in forms]
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    for c in range(6):
        points = fixated(nets[0], x, c)
        assert points and all(fixated(net, x, c) == points for net in nets)
