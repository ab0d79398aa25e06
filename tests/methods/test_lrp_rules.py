"""LRP's rules, summed connection by connection in plain Python; captum; batch norm folded in."""

import copy
import itertools
import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from xcnn.methods.lrp import lrp
from xcnn.methods.lrp_composites import COMPOSITES
from xcnn.methods.lrp_rules import RULES

from tests.helpers.oracles import (
    HIGH,
    LOW,
    TARGETS,
    assert_near,
    batch,
    differs,
    images,
    network,
    within,
)
from tests.helpers.relevance import any_norm, between, gradient_times_input, without_biases

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("Input Tensor 0", "`torch.jit", "The .grad")
]


# ---- connection by connection: every rule on inputs and outputs of both signs


class Tiny(nn.Module):
    """A convolution and a linear layer with nothing between: the second gets both signs."""

    def __init__(self, **conv):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, **conv)
        self.fc = nn.Linear(6 * 9, 4)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def conv_connections(conv, shape):
    """For each output unit (k, y, x), its bias and its inputs [((c, i, j), weight)].

    i, j may lie in the padding; there is no input then.
    """
    C, H, W = shape
    stride, _ = conv.stride
    padding, _ = conv.padding
    dilation, _ = conv.dilation
    inputs = C // conv.groups  # channels that an output unit sees
    h, w = ((n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (H, W))
    units = []
    for k, y, x in itertools.product(range(conv.out_channels), range(h), range(w)):
        group = k // (conv.out_channels // conv.groups)
        wires = []
        for c, u, v in itertools.product(range(inputs), range(3), range(3)):
            i = y * stride + u * dilation - padding
            j = x * stride + v * dilation - padding
            if 0 <= i < H and 0 <= j < W:
                wires.append(((group * inputs + c, i, j), conv.weight[k, c, u, v].item()))
        units.append((conv.bias[k].item(), wires))
    return units


def share(rule, a, w, b, low, high, epsilon=1e-6, gamma=0.25, alpha=2.0, beta=1.0):
    """What fraction of a unit's relevance each of its inputs gets.

    :param a, w, low, high: lists, one value per input
    """
    z = [a_j * w_j for a_j, w_j in zip(a, w, strict=True)]
    total = math.fsum(z) + b
    if rule == "0":
        return [v / total for v in z]
    if rule == "epsilon":
        return [v / (total + (epsilon if total >= 0 else -epsilon)) for v in z]
    if rule == "gamma":
        return share_gamma(z, b, gamma)
    if rule == "alpha_beta":
        return share_alpha_beta(z, b, alpha, beta)
    if rule == "z+":
        if not any(v > 0 for v in [*z, b]):
            return [v / total for v in z]
        return share_alpha_beta(z, b, 1, 0)
    if rule == "zB":
        box = zip(z, w, low, high, strict=True)
        q = [v - l_j * max(w_j, 0) - h_j * min(w_j, 0) for v, w_j, l_j, h_j in box]
    if rule == "w2":
        q = [w_j**2 for w_j in w]
    if rule == "flat":
        q = [1.0] * len(w)
    return [v / math.fsum(q) for v in q]


def share_gamma(z, b, gamma):
    total = math.fsum(z) + b
    favoured = max if total > 0 else min
    part = [favoured(v, 0) for v in z]
    denominator = total + gamma * (math.fsum(part) + favoured(b, 0))
    return [(v + gamma * q) / denominator for v, q in zip(z, part, strict=True)]


def share_alpha_beta(z, b, alpha, beta):
    positive = [max(v, 0) for v in z]
    negative = [min(v, 0) for v in z]
    P = math.fsum(positive) + max(b, 0)
    N = math.fsum(negative) + min(b, 0)
    # where no contribution is negative, N = 0, beta has nothing to hand down
    pairs = zip(positive, negative, strict=True)
    return [alpha * p / (P or 1) - beta * n / (N or 1) for p, n in pairs]


def by_hand(net, x, target, first, above):
    """Relevance of the pixels of one image, summed over every single connection."""
    A = net.conv(x)[0].flatten().tolist()
    S = net(x)[0, target].item()
    w = net.fc.weight[target].tolist()
    b = net.fc.bias[target].item()
    R_hidden = [r * S for r in share(above, A, w, b, None, None)]
    R = torch.zeros_like(x[0])
    for R_k, (b, wires) in zip(R_hidden, conv_connections(net.conv, x.shape[1:]), strict=True):
        a = [x[0][at].item() for at, _ in wires]
        w = [w_j for _, w_j in wires]
        low, high = ([bound[0, at[0], 0, 0].item() for at, _ in wires] for bound in (LOW, HIGH))
        for (at, _), r in zip(wires, share(first, a, w, b, low, high), strict=True):
            R[at] += r * R_k
    return R[None]


GEOMETRY = [
    {"stride": 2, "padding": 1, "groups": 1},
    {"padding": 1, "dilation": 2, "groups": 3, "stride": 2},
]


def signed(geometry):
    torch.manual_seed(3)
    size = 5 if geometry.get("dilation") is None else 7
    net = Tiny(**geometry).double().eval()
    x = within(torch.randn(1, 3, size, size, dtype=torch.float64))
    A = net.conv(x)
    for values in (x, A, net.conv.weight, net.fc.weight, net.conv.bias):
        assert (values > 0.01).any() and (values < -0.01).any()
    return net, x


@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_by_hand_on_values_of_both_signs(rule, geometry):
    net, x = signed(geometry)
    above = rule if rule not in ("zB", "w2", "flat") else "z+"
    with torch.no_grad():
        assert_near(lrp(net, x, 2, rule), by_hand(net, x, 2, rule, above), 1e-6)


def test_captums_alpha1_beta0_is_wrong_where_inputs_are_negative():
    """It takes (a w)+ for a w+. Where an input is negative, only ours is the formula."""
    for sign, agree in [("both", False), ("positive", True)]:
        net, x = signed(GEOMETRY[0])
        if sign == "positive":
            x = x.abs()
            with torch.no_grad():
                net.conv.weight.abs_()
                net.conv.bias.abs_()
        theirs = copy.deepcopy(net)
        for part in (theirs.conv, theirs.fc):
            part.rule = captum.attr._utils.lrp_rules.Alpha1_Beta0_Rule()
        oracle = captum.attr.LRP(theirs).attribute(x.clone(), 2).detach()
        with torch.no_grad():
            truth = by_hand(net, x, 2, "z+", "z+")
        assert_near(lrp(net, x, 2, "z+"), truth, 1e-6)
        assert differs(oracle, truth, 1e-6) != agree
        assert bool((truth * truth.sum() >= 0).all())
        assert bool((oracle * oracle.sum() < 0).any()) != agree


# ---- what a rule does to the sum


@pytest.mark.parametrize(
    "name", ["vgg_s", "googlenet_s", "allconv_s", "resnet18", "googlenet", "densenet121"]
)
def test_alpha_beta_conserves_where_units_have_contributions_of_both_signs(name):
    """Elsewhere (9 inputs, most of them 0) eq. 60, and zennit, hand down alpha R or -beta R."""
    module = without_biases(network(name).module)
    x = images(name)[:1]
    S_c = module(x)[:, 4].detach()
    R = lrp(module, x, 4, "alpha_beta")
    torch.testing.assert_close(R.sum((1, 2, 3)), S_c, rtol=1e-4, atol=0)


def test_a_bias_takes_its_share_from_epsilon():
    net = network("vgg_s")
    x = images("vgg_s")
    S_c = net.module(x)[range(3), TARGETS].detach()
    assert ((lrp(net, x, TARGETS, "epsilon").sum((1, 2, 3)) / S_c - 1).abs() > 0.01).all()


@pytest.mark.parametrize("name", ["googlenet_s", "resnet_s", "densenet121"])
def test_epsilon_is_gradient_times_input_with_batch_norm_and_biases_too(name):
    """A batch norm on its own, or behind a concatenation, takes its share like any layer."""
    net = network(name)
    x = images(name)[:1]
    R = lrp(net, x, 4, "epsilon", epsilon=1e-10)
    assert_near(R, gradient_times_input(net, x, 4), 1e-3)
    assert (R.sum() / net.module(x)[0, 4] - 1).abs() > 1e-3


def test_pixels_that_a_linear_layer_takes():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(3 * 36, 20), nn.ReLU(), nn.Linear(20, 4)]
    mlp = nn.Sequential(*layers).double().eval()
    x = batch(6, 2)
    assert_near(lrp(mlp, x, 1, "0"), gradient_times_input(mlp, x, 1), 1e-6)
    conv = nn.Conv2d(3, 20, 6).double()
    conv.load_state_dict({"weight": mlp[1].weight.view(20, 3, 6, 6), "bias": mlp[1].bias})
    same = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), mlp[3]).eval()
    for rule in ("zB", "w2", "flat", "z+", "gamma"):
        assert_near(lrp(mlp, x, 1, rule), lrp(same, x, 1, rule), 1e-9)


# ---- batch norm, folded into the layer before it


def folded(conv, norm):
    """The layer with the norm in its weights, by hand."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    both = copy.deepcopy(conv)
    both.weight = nn.Parameter(conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    bias = 0 if conv.bias is None else conv.bias
    both.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    return both


class Branches(nn.Module):
    """Two convolutions side by side, a third above them, a linear layer, and norms after each."""

    def __init__(self, a, b, c, fc, joint=None, after=None, last=None):
        super().__init__()
        self.a = a
        self.b = b
        self.c = c
        self.fc = fc
        self.joint = joint or nn.Identity()
        self.after = after or nn.Identity()
        self.last = last or nn.Identity()

    def forward(self, x):
        x = self.joint(torch.cat([self.a(x), self.b(x)], 1)).relu()
        return self.last(self.fc(self.after(self.c(x)).relu().mean((2, 3))))


def side_by_side(*norms):
    """One norm for the channels of all."""
    joint = any_norm(sum(norm.num_features for norm in norms))
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = torch.cat([getattr(norm, name).detach() for norm in norms])
        getattr(joint, name).data.copy_(values)
    return joint


@pytest.mark.parametrize("rule", COMPOSITES)
def test_batch_norm_becomes_part_of_the_layer_before_it(rule):
    torch.manual_seed(1)
    x = batch(8, 2)
    a = nn.Conv2d(3, 4, 3).double()
    b = nn.Conv2d(3, 4, 3, bias=False).double()
    c = nn.Conv2d(8, 4, 3, groups=4).double()
    fc = nn.Linear(4, 5).double()
    norm_a, norm_b, norm_c = (any_norm(4) for _ in range(3))
    norm_fc = any_norm(5, nn.BatchNorm1d)
    net = Branches(a, b, c, fc, side_by_side(norm_a, norm_b), norm_c, norm_fc).eval()
    by_hand = Branches(
        folded(a, norm_a), folded(b, norm_b), folded(c, norm_c), folded(fc, norm_fc)
    ).eval()
    assert torch.allclose(net(x), by_hand(x))
    assert_near(lrp(net, x, 2, rule), lrp(by_hand, x, 2, rule), 1e-6)


def test_batch_norm_on_its_own_is_a_layer_of_one_weight_per_channel():
    """z = w v + b: with gamma and z+ as for any layer. Alpha-beta would double R, and takes z+."""
    torch.manual_seed(0)
    x = batch(8, 2)
    norm = any_norm(4)
    alone = between(lambda y: F.relu(norm(F.relu(y))), norm=norm)
    ones = nn.Conv2d(4, 4, 1, groups=4, bias=False).double()
    nn.init.ones_(ones.weight)
    as_layer = between(lambda y: F.relu(norm(ones(F.relu(y)))), norm=norm, ones=ones)
    for rule in ("0", "epsilon", "gamma", "z+"):
        assert_near(lrp(alone, x, 2, rule), lrp(as_layer, x, 2, rule), 1e-6)

    def rules(kind, *_):
        return "z+" if kind == "norm" else "alpha_beta"

    assert torch.equal(lrp(alone, x, 2, "alpha_beta"), lrp(alone, x, 2, rules))
