"""ReLUs in every spelling: which calls are one, and what its backward pass becomes."""

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn.engine.relu import ReLUBackward, ReLUInterceptor
from xcnn.engine.tape import Tape
from xcnn.methods.guided_backprop import guided_rule

from tests.helpers.oracles import assert_near, differs, images
from tests.helpers.pixels import RULES, SPELLINGS, one_relu, works_in_place

every_rule = pytest.mark.parametrize("method", RULES)


@every_rule
@pytest.mark.parametrize("form", SPELLINGS)
@pytest.mark.parametrize("keeps", [False, True])
def test_every_spelling_of_relu(method, form, keeps):
    if keeps and not works_in_place(form):
        return  # nothing to rely on
    net, x = one_relu(SPELLINGS[form], keeps)
    A = net.conv(x)
    w = net.fc.weight[2] / 36  # dS/dA = w / 36 through the mean over 6 x 6 positions
    g = w[None, :, None, None].expand_as(A)
    on = (A > 0) if method == "guided_backprop" else torch.ones_like(A)
    assert A.max() < 6 and (w < 0).any() and (w > 0).any()
    wanted = F.conv_transpose2d(g * on * (g > 0), net.conv.weight).detach()
    assert_near(xcnn.METHODS[method](net, x, 2), wanted, 1e-12)


def clamp_by_channel(x):
    return x.clamp(torch.zeros(4, 1, 1), torch.ones(4, 1, 1))


@every_rule
@pytest.mark.parametrize(
    "unit",
    [
        nn.SiLU(),
        nn.GELU(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.LeakyReLU(),
        nn.Hardtanh(),
        nn.Hardtanh(0, 1),
        lambda x: torch.ops.aten.hardtanh(x, 0, 2),
        nn.Threshold(0.1, 0),
        lambda x: x.clamp(0, 1),
        clamp_by_channel,
        lambda x: x.clamp(min=-1),
    ],
)
def test_what_is_no_relu_keeps_its_derivative_and_is_said(method, unit):
    net, x = one_relu(unit)
    with pytest.warns(UserWarning, match="OneReLU has no ReLU.*plain gradient"):
        R = xcnn.METHODS[method](net, x, 2)
    assert_near(R, xcnn.gradient(net, x, 2), 1e-12)


class Twice(nn.Module):
    """Two ReLUs, the second of a sum."""

    def __init__(self, first, second):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 10)
        self.first = first
        self.second = second

    def forward(self, x):
        x = self.first(self.a(x))
        x = self.second(self.b(x) + x[:, :, 1:-1, 1:-1])
        return self.fc(x.mean((2, 3)))


@every_rule
def test_one_relu_object_used_twice(method):
    shared = nn.ReLU(inplace=True)
    maps = []
    for first, second in [(shared, shared), (nn.ReLU(), nn.ReLU()), (F.relu, F.relu)]:
        torch.manual_seed(0)
        net = Twice(first, second).eval().double()
        maps.append(xcnn.METHODS[method](net, images("resnet_s")[:1], 3))
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[1], maps[2])
    assert maps[0].abs().max() > 0


@pytest.mark.parametrize("form", SPELLINGS)
def test_a_backward_without_a_rule_is_the_plain_gradient(form):
    net, x = one_relu(SPELLINGS[form])
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)
    relu_backward = ReLUBackward()
    with Tape(ReLUInterceptor(relu_backward.watch)):
        score = net(leaf)[:, 2].sum()
    maps = []
    for rule in (None, guided_rule, None):
        relu_backward.rule = rule
        maps += torch.autograd.grad(score, leaf, retain_graph=True)
    assert torch.equal(maps[0], plain)
    assert differs(maps[1], plain)
    assert torch.equal(maps[2], plain)


def test_the_interceptor_counts_relus_and_runs_the_rest_as_it_is():
    met = []

    def run_relu(relu, x):
        met.append(x)
        return relu(x) + 1

    relus = ReLUInterceptor(run_relu)
    x = torch.linspace(-2, 8, 11)
    with Tape(relus):
        y = F.relu(x)
        sixes = F.hardtanh(x, 0.0, 6.0)
        leaky = F.leaky_relu(x)
        gate = x.clamp(0, 1)
    assert relus.count == len(met) == 2
    assert torch.equal(y, F.relu(x) + 1)
    assert torch.equal(sixes, F.relu6(x) + 1)
    assert torch.equal(leaky, F.leaky_relu(x))
    assert torch.equal(gate, x.clamp(0, 1))


# ---- ReLUs that no torch function shows, or that are written otherwise


@torch.jit.script
def scripted_relu(x):
    return torch.relu(x)


def assigned(x):
    y = x.clone()
    y[y < 0] = 0
    return y


OTHERWISE = {
    "product": lambda x: x * (x > 0),
    "product with floats": lambda x: (x > 0).to(x) * x,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where and a number": lambda x: torch.where(x > 0, x, 0.0),
    "where, the other way": lambda x: torch.where(x <= 0, 0.0, x),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "max of two": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, torch.zeros(())),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "leaky of slope 0": lambda x: F.leaky_relu(x, 0.0),
    "prelu of weight 0": lambda x: F.prelu(x, x.new_zeros(1)),
    "aten.relu": torch.ops.aten.relu,
    "aten.relu.default": torch.ops.aten.relu.default,
    "aten.clamp_min": lambda x: torch.ops.aten.clamp_min(x, 0),
    "aten.hardtanh": lambda x: torch.ops.aten.hardtanh(x, 0, 6),
    "aten.threshold": lambda x: torch.ops.aten.threshold(x, 0, 0),
    "scripted": scripted_relu,
}


class TwoReLUs(nn.Module):
    """One usual ReLU, and another one."""

    def __init__(self, unit):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16, 5)
        self.unit = unit

    def forward(self, x):
        x = self.second(self.unit(self.first(x))).relu()
        return self.fc(x.mean((2, 3)))


@every_rule
@pytest.mark.parametrize("form", OTHERWISE)
def test_a_relu_written_otherwise(method, form):
    """w07: guided backprop was 14 to 84 % off, without a word."""
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    wanted = xcnn.METHODS[method](TwoReLUs(torch.relu).eval().double(), x, 1)
    R = xcnn.METHODS[method](TwoReLUs(OTHERWISE[form]).eval().double(), x, 1)
    assert differs(wanted, xcnn.gradient(TwoReLUs(torch.relu).eval().double(), x, 1))
    assert_near(R, wanted, 1e-12)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x > 0)


@every_rule
@pytest.mark.parametrize(
    ("unit", "says"),
    [
        (lambda x: (x + x.abs()) / 2, "abs"),
        (assigned, "masked_fill"),
        (lambda x: -torch.minimum(-x, torch.zeros(())), "minimum"),
        (Own.apply, "OwnBackward, which runs unseen"),
    ],
)
def test_what_may_be_a_relu_is_reported(method, unit, says):
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    with pytest.warns(UserWarning, match=f"may rectify by other calls.*{says}.*torch.relu"):
        xcnn.METHODS[method](TwoReLUs(unit).eval().double(), x, 1)


@every_rule
@pytest.mark.parametrize("name", ["resnet_s", "googlenet_s", "vgg_s", "allconv_s"])
def test_nothing_is_reported_of_ordinary_networks(method, name, recwarn):
    xcnn.METHODS[method](xcnn.load(name), images(name)[:1].float(), 3)
    assert not [w for w in recwarn if "rectify" in str(w.message)]


def test_products_that_are_not_relus_stay_as_they_are(recwarn):
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    net = TwoReLUs(lambda x: x.relu() * x.sigmoid() * 2.0).eval().double()
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
    assert_near(xcnn.gradient(net, x, 1), plain, 1e-12)
    assert xcnn.guided_backprop(net, x, 1).abs().max() > 0
    assert not [w for w in recwarn if "rectify" in str(w.message)]
