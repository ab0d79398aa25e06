"""CNN Fixations' rules against plain loops, and in networks in which the answer can be seen."""

import copy

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


# ---- what has no rule is named, with its place


def in_a_view(m, x):
    x = m.a(x)
    x.view(-1).relu_()
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (
            lambda m, x: (m.a(x) * x.mean((2, 3), True)).mean((2, 3)),
            r"torch.Tensor.mul of maps.*the network itself",
        ),
        (
            lambda m, x: F.silu(m.a(x)).mean((2, 3)),
            r"torch.nn.functional.silu, which runs in .*Net.*guided_backprop",
        ),
        (lambda m, x: m.act(m.a(x)).mean((2, 3)), r"gelu, which runs in 'act' \(GELU\)"),
        (lambda m, x: F.dropout(m.a(x)).mean((2, 3)), "dropout that is always on"),
        (lambda m, x: m.a(x).mean(3).mean(2), "mean over other dimensions"),
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
    net = Net(forward, a=nn.Conv2d(3, 3, 3, padding=1), act=nn.GELU())
    with pytest.raises(InputError, match=says):
        cnn_fixations(net, dots((3, 4, 1.0)) + 1, 0)


def test_an_operation_without_a_rule_off_the_path_does_no_harm():
    net = Net(lambda m, x: torch.cat([x, F.silu(x)], 1).mean((2, 3)))
    assert fixated(net, dots((3, 4, 1.0)), 0) == {(3, 4)}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_scripted_part_is_not_passed_over(where):
    def forward(m, x):
        return (m.a(x) + (x if where == "part" else 0)).mean((2, 3))

    net = Net(forward, a=nn.Conv2d(3, 3, 3, padding=1))
    net.a = torch.jit.script(net.a)
    with pytest.raises(InputError, match=r"works unseen, such as a scripted one.*guided_backprop"):
        cnn_fixations(net, dots((3, 4, 1.0)), 0)
