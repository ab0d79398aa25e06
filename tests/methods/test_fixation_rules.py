"""CNN Fixations' rules against plain loops, and in networks in which the answer can be seen."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.methods.fixations import cnn_fixations

from tests.helpers.walks import (
    GlobalMean,
    Net,
    below_average,
    below_conv,
    below_linear,
    dots,
    fixated,
    moves,
    places,
    walk_sequence,
)

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
        head = [nn.Linear(30 if k == 4 else 8, 12), nn.ReLU(), nn.Linear(12, 4)]
        layers = [*copy.deepcopy(STACKS[k]), *head]
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        module = nn.Sequential(*layers).double().eval()
        x = torch.randn(1, 3, 24, 20, dtype=torch.float64)
        for c in range(4):
            with torch.no_grad():
                expected = places(walk_sequence(layers, x, {(c,)}))
            assert fixated(module, x, c) == expected
            met += len(expected)
    assert met > 20


# ---- networks in which the answer can be seen


def test_one_bright_dot_is_found():
    net = Net(lambda m, x: F.relu(m.b(F.relu(m.a(x)))).mean((2, 3)), a=moves(), b=moves(kernel=5))
    for at in ((3, 5), (0, 0), (15, 7)):
        x = dots((*at, 1.0))
        R = cnn_fixations(net, x, 0)
        (v,) = xcnn.find_fixations(net, x, 0)
        assert v.all_points.tolist() == v.points.tolist() == [list(at)]
        assert divmod(R.argmax().item(), 16) == at and R.sum().item() == pytest.approx(1)
        assert v.units["a"].tolist() == [[0, *at]] == v.units["b"].tolist()
        assert v.shapes["a"] == (3, 16, 16)
        assert list(v.units) == ["b", "a"]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(5),
        nn.AdaptiveMaxPool2d((3, 7)),
        nn.AvgPool2d(4),
    ],
    ids=str,
)
def test_strides_and_pooling_lead_back_to_the_dot(pool):
    net = Net(lambda m, x: m.pool(m.a(x)).mean(dim=[-1, -2]), a=moves(), pool=pool)
    assert fixated(net, dots((9, 6, 1.0)), 0) == {(9, 6)}


def test_average_pooling_follows_the_largest_value():
    x = dots((2, 2, 1.0), (2, 3, 2.0), (3, 2, 0.5))
    net = Net(lambda m, x: F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1).flatten(1))
    assert fixated(net, x, 0) == {(2, 3)}


def test_a_sum_follows_the_larger_branch():
    x = dots((2, 2, 3.0), (9, 9, 1.0))
    for factor in (0.1, 10.0):
        net = Net(lambda m, x, by=factor: (x + by * m.a(x)).mean((2, 3)), a=moves(dx=1))
        (v,) = xcnn.find_fixations(net, x, 0)
        assert {tuple(p) for p in v.all_points.tolist()} == {(2, 2)}
        # reached through the branch, from (2, 1), or around it
        assert ("a" in v.units) == (factor > 1)
    around = Net(lambda m, x: (x - 10 * m.a(x)).mean((2, 3)), a=moves(dx=1))
    assert fixated(around, x, 0) == {(2, 2)}
    assert "a" not in xcnn.find_fixations(around, x, 0)[0].units


def test_a_convolution_keeps_to_the_middle_but_in_a_residual_looks_for_the_largest():
    right = moves(dx=1)
    x = dots((4, 8, 1.0))
    assert fixated(Net(lambda m, x: F.relu(m.a(x)).mean((2, 3)), a=right), x, 0) == {(4, 7)}
    residual = Net(lambda m, x: F.relu(m.a(x) * 9 + x).mean((2, 3)), a=right)
    assert fixated(residual, x, 0) == {(4, 8)}


def branches(m, x):
    return torch.cat([x[:, 2:], x[:, :1].flip(3).flip(3), x.chunk(3, 1)[1]], 1).mean((2, 3))


def padded(m, x):
    return F.pixel_unshuffle(F.pad(x, (2, 2, 2, 2), value=0.5), 2).mean((2, 3))


def test_concatenation_slices_and_shuffles_find_the_branch():
    x = dots((3, 4, 1.0))
    x[0, 1, 7, 8] = 2.0
    x[0, 2, 11, 12] = 3.0
    for c, at in enumerate([(11, 12), (3, 4), (7, 8)]):
        assert fixated(Net(branches), x, c) == {at}
    assert fixated(Net(padded), x, 2) == {(3, 4)}
    assert fixated(Net(padded), x, 0) == set()  # the padding is not in the picture


def test_batch_norm_with_a_negative_scale_turns_signs():
    bn = nn.BatchNorm2d(3)
    bn.weight.data.fill_(-1.0)
    x = dots((3, 4, 5.0), (8, 9, -5.0))
    net = Net(lambda m, x: F.relu(m.bn(F.avg_pool2d(x, 16))).flatten(1), bn=bn)
    # the smallest value of the average makes its negative large
    assert fixated(net, x, 0) == {(8, 9)}


def test_weights_made_on_the_way_are_weights():
    def forward(m, x):
        return F.conv2d(x, m.a.weight * m.scale.chunk(2)[0]).mean((2, 3))

    net = Net(forward, a=moves(), scale=None)
    net.scale = nn.Parameter(torch.ones(2).double())
    assert fixated(net, dots((3, 4, 1.0)), 0) == {(3, 4)}


class ByName(nn.Module):
    """Weights by name, as a function may be called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        A = F.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias).relu()
        return F.linear(A.mean((2, 3)), weight=self.fc.weight, bias=self.fc.bias)


def test_weights_by_name():
    torch.manual_seed(0)
    net = ByName().eval()
    x = torch.rand(1, 3, 9, 9)
    plain = nn.Sequential(net.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc).eval()
    (v,) = xcnn.find_fixations(net, x, 2)
    (wanted,) = xcnn.find_fixations(plain, x, 2)
    assert len(v.all_points) and torch.equal(v.all_points, wanted.all_points)


# ---- activations, gates and norms: the unit itself

ACTIVATIONS = [
    *(nn.SiLU(), nn.GELU(), nn.Hardswish(True), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.Tanh()),
    *(nn.Sigmoid(), nn.Softplus(), nn.Mish(), nn.SELU(True), nn.Hardtanh(-9, 9), nn.RReLU()),
    *(nn.LocalResponseNorm(2), lambda y: F.normalize(y, dim=1), lambda y: y.clamp(-1, 3)),
]


@pytest.mark.parametrize("f", ACTIVATIONS)
def test_an_activation_is_passed_through(f):
    net = Net(
        lambda m, x: F.relu(m.b(m.f(m.a(x)))).mean((2, 3)), f=Function(f), a=moves(), b=moves()
    )
    assert fixated(net, dots((3, 5, 2.0)), 0) == {(3, 5)}


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *args):
        return self.f(*args)


def test_a_network_that_ends_in_probabilities_has_the_points_of_its_scores():
    torch.manual_seed(0)
    scores = nn.Sequential(*copy.deepcopy(STACKS[0]), nn.Linear(8, 4)).double().eval()
    x = torch.randn(1, 3, 24, 20, dtype=torch.float64)
    for end in (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()):
        net = nn.Sequential(scores, end).eval()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*look like probabilities")
            for c in range(4):
                assert fixated(net, x, c) == fixated(scores, x, c)


GATED = {
    "a sigmoid of the average": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
    "first": lambda y: torch.sigmoid(y.mean((2, 3), keepdim=True)) * y,
    "in place": lambda y: y.mul_(F.hardsigmoid(y.mean((2, 3), keepdim=True))),
    "expanded": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid().expand_as(y),
    "of each place": lambda y: y * torch.sigmoid(y.mean(1, keepdim=True)),
    "by a square": lambda y: y * y.square().mean((2, 3), keepdim=True),
    "by convolutions": lambda y: (
        y * F.conv1d(y.flatten(2), torch.ones(3, 3, 1).double()).sigmoid().view(y.shape)
    ),
    "a quotient": lambda y: y / (1 + y.square().mean(1, keepdim=True)),
    "itself": lambda y: y * torch.sigmoid(y),
    "itself, by hand": lambda y: y * F.relu6(y + 3) / 6,
    "glu": lambda y: F.glu(torch.cat([y, y.flip(3)], 1), 1),
}


@pytest.mark.parametrize("name", GATED)
def test_a_gate_is_a_factor(name):
    """The points are those of a network in which the gate is a positive constant."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 12, 10, dtype=torch.float64)
    layers = {"a": nn.Conv2d(3, 3, 3, padding=1), "b": nn.Conv2d(3, 4, 3), "fc": nn.Linear(4, 5)}
    options = {"f": Function(GATED[name]), **layers}
    net = Net(lambda m, x: m.fc(F.relu(m.b(m.f(m.a(x)))).mean((2, 3))), **options)
    with torch.no_grad():
        y = net.a(x)
        gate = GATED[name](y.clone()) / y
    assert (gate > 0).all() or "by hand" in name
    fixed = Net(lambda m, x: m.fc(F.relu(m.b(m.a(x) * gate)).mean((2, 3))), **layers)
    for c in range(5):
        points = fixated(net, x, c)
        assert points == fixated(fixed, x, c)
    assert points


def test_a_negative_gate_turns_signs():
    x = dots((3, 4, 5.0), (8, 9, -5.0))

    def forward(m, x):
        gate = x.amax((1, 2, 3), keepdim=True) - m.shift
        return F.relu(F.avg_pool2d(x, 16) * gate).flatten(1)

    for shift, at in ((9, (8, 9)), (1, (3, 4))):  # the gate is -4, or 4
        net = Net(forward)
        net.shift = shift
        assert fixated(net, x, 0) == {at}


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(1, 3),
        nn.InstanceNorm2d(3, affine=True),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.BatchNorm2d(3),
    ],
)
def test_a_norm_with_a_negative_scale_turns_signs(norm):
    x = dots((3, 4, 5.0), (8, 9, -5.0))
    for scale, at in ((-1.0, (8, 9)), (1.0, (3, 4))):
        norm.weight.data.fill_(scale)
        net = Net(lambda m, x: F.avg_pool2d(m.norm(x), 16).flatten(1), norm=norm)
        assert fixated(net, x, 0) == {at}


def test_a_layer_norm_with_negative_scales_turns_signs():
    norm = nn.LayerNorm(3)
    x = dots((3, 4, 5.0), (8, 9, -5.0))
    for scale, at in (([-1, 1, 1], (8, 9)), ([1, -1, -1], (3, 4))):
        norm.weight.data.copy_(torch.tensor(scale))

        def forward(m, x):
            y = m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return F.avg_pool2d(y, 16).flatten(1)

        assert fixated(Net(forward, norm=norm), x, 0) == {at}


class Modern(nn.Module):
    """A convolution, a layer norm, GELU, a gate, another convolution, an average, two layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 1, 1)
        self.norm = nn.LayerNorm(6)
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.b = nn.Conv2d(6, 8, 3, 2, 1, groups=2)
        self.fc = nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)
        nn.init.uniform_(self.norm.weight, 0.1, 2)

    def values(self, x):
        """(input of b, output of b, input of fc, input of head)."""
        y = self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = F.gelu(y)
        y = y * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        z = F.silu(self.b(y))
        v = z.mean((2, 3))
        return y, z, v, F.leaky_relu(self.fc(v))

    def forward(self, x):
        return self.head(self.values(x)[-1])


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loops_with_a_gate_and_a_layer_norm(seed):
    torch.manual_seed(seed)
    net = Modern().double().eval()
    x = torch.randn(1, 3, 14, 11, dtype=torch.float64)
    with torch.no_grad():
        y, z, v, u = (value[0].numpy() for value in net.values(x))
        W = {name: part.weight.numpy() for name, part in net.named_children()}
        for c in range(4):
            units = below_linear({(c,)}, u, W["head"])
            units = below_average(below_linear(units, v, W["fc"]), z)
            units = below_conv(units, y, W["b"], 2, 1, groups=2)
            units = below_conv(units, x[0].numpy(), W["a"], 1, 1)
            assert units and fixated(net, x, c) == places(units)


# ---- what has no rule is named, with its place


class Square(nn.Module):
    def forward(self, x):
        return x.square()


def in_a_view(m, x):
    x = m.a(x)
    x.view(-1).relu_()
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (
            lambda m, x: (m.a(x) * (m.a(x) + x)).mean((2, 3)),
            r"torch.Tensor.mul of two maps, neither of which is seen to be a gate.*network itself",
        ),
        (
            lambda m, x: m.act(m.a(x).abs()).mean((2, 3)),
            r"torch.Tensor.abs, which runs in .*Net.*gradient or grad_cam",
        ),
        (lambda m, x: m.square(m.a(x)).mean((2, 3)), r"square, which runs in 'square' \(Square\)"),
        (lambda m, x: m.a(x).clamp(max=m.a(x)).mean((2, 3)), "clamp of 2 maps"),
        (lambda m, x: torch.div(m.a(x), 2, rounding_mode="floor").mean((2, 3)), "div"),
        (lambda m, x: (m.a(x).flatten(2) @ x.flatten(2).mT).mean(2), "matmul"),
        (lambda m, x: torch.einsum("nchw->nc", m.a(x)), "einsum"),
        (lambda m, x: F.layer_norm(x, (16,), x[0, 0, 0]).mean((2, 3)), "weights depend"),
        (lambda m, x: F.dropout(m.a(x)).mean((2, 3)), "dropout that is always on"),
        (
            lambda m, x: F.conv2d(x, m.a(x)[:, :, :3, :3]).mean((2, 3)),
            "conv2d whose weights depend on the image",
        ),
        (lambda m, x: (1 / (9 + m.a(x))).mean((2, 3)), "no rule for"),
        (lambda m, x: torch.ones(1, 3).double(), "does not depend on the image"),
        (in_a_view, "a change in place.*the network itself"),
    ],
)
def test_operations_that_have_no_rule(forward, says):
    net = Net(forward, a=nn.Conv2d(3, 3, 3, padding=1), act=nn.GELU(), square=Square())
    with pytest.raises(InputError, match=says):
        cnn_fixations(net, dots((3, 4, 1.0)) + 1, 0)


def test_an_operation_without_a_rule_off_the_path_does_no_harm():
    net = Net(lambda m, x: torch.cat([x, x.square()], 1).mean((2, 3)))
    assert fixated(net, dots((3, 4, 1.0)), 0) == {(3, 4)}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_scripted_part_is_not_passed_over(where):
    def forward(m, x):
        return (m.a(x) + (x if where == "part" else 0)).mean((2, 3))

    net = Net(forward, a=nn.Conv2d(3, 3, 3, padding=1))
    net.a = torch.jit.script(net.a)
    with pytest.raises(InputError, match=r"works unseen, such as a scripted one|is scripted"):
        cnn_fixations(net, dots((3, 4, 1.0)), 0)
