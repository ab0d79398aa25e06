"""LRP against zennit, sums written out connection by connection, conservation, gradient x input, and captum."""

import copy
import itertools
import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
import zennit.composites as zc
import zennit.rules as zr
from torch import nn
from xcnn import InputError
from xcnn.methods.lrp import deep_taylor, lrp
from xcnn.methods.lrp_rules import COMPOSITES, RULES
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear as WeightedLayer

from tests.helpers.oracles import HIGH, LOW, TARGETS, assert_near, batch, images, network, state
from tests.helpers.places import SMALL

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("Input Tensor 0", "`torch.jit", "The .grad")
]
FAMILIES = ["vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2"]
TINY = 1e-30  # zennit adds it to what it divides by; we add nothing


# ---- zennit


def everywhere(rule, first=None):
    layers = [*zc.layer_map_base(TINY), (WeightedLayer, rule)]
    if first:
        return zc.SpecialFirstLayerMapComposite(
            layers, [(WeightedLayer, first)], canonizers=[ResNetCanonizer()]
        )
    return zc.LayerMapComposite(layers, canonizers=[ResNetCanonizer()])


ZENNIT = {
    "0": lambda: everywhere(zr.Epsilon(TINY)),
    "epsilon": lambda: everywhere(zr.Epsilon(1e-6)),
    "gamma": lambda: everywhere(zr.Gamma(0.25, TINY)),
    "alpha_beta": lambda: everywhere(zr.AlphaBeta(2, 1, TINY)),
    "z+": lambda: everywhere(zr.ZPlus(TINY)),
    "zB": lambda: everywhere(zr.ZPlus(TINY), zr.ZBox(LOW, HIGH, TINY)),
    "w2": lambda: everywhere(zr.ZPlus(TINY), zr.WSquare(TINY, zero_params="bias")),
    "flat": lambda: everywhere(zr.ZPlus(TINY), zr.Flat(TINY)),
    "epsilon_gamma_box": lambda: zc.EpsilonGammaBox(LOW, HIGH, stabilizer=TINY, canonizers=[ResNetCanonizer()]),
} | {
    name: lambda name=name: zc.COMPOSITES[name](stabilizer=TINY, canonizers=[ResNetCanonizer()])
    for name in ["epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"]
}  # fmt: skip


def by_zennit(module, x, target, composite):
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(
            part, nn.BatchNorm2d
        ):  # zennit forgets eps in the batch norms that it empties: 5e-6 each
            part.running_var += part.eps
            part.eps = 0.0
    start = lambda S: S * F.one_hot(torch.tensor(target), S.shape[1])  # noqa: E731
    with Gradient(module, composite) as attributor:
        return attributor(x.clone(), start)[1].detach()


def narrow_vgg11():
    """VGG-11 with 64 units where it has 4096, for 64x64: all rules in float64 in seconds."""
    module = copy.deepcopy(network("vgg11").module.features)
    torch.manual_seed(0)
    head = [
        nn.Linear(512 * 4, 64),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(64, 64),
        nn.ReLU(True),
        nn.Linear(64, 10),
    ]
    return nn.Sequential(module, nn.Flatten(), *head).double().eval()


@pytest.mark.parametrize("name", ["narrow_vgg11", "squeezenet1_1", "resnet18"])
def test_equals_zennit(name):
    module = narrow_vgg11() if name == "narrow_vgg11" else network(name).module
    x, seen = batch(64, 1), {}
    for rule, composite in ZENNIT.items():
        seen[rule] = lrp(module, x, 4, rule)
        assert_near(seen[rule], by_zennit(module, x, [4], composite()), 1e-9)
    same = {("0", "epsilon")}
    if name == "squeezenet1_1":  # it has no linear layer
        same |= {
            ("z+", "epsilon_plus"),
            ("flat", "epsilon_plus_flat"),
            ("alpha_beta", "epsilon_alpha2_beta1"),
        }
    for a, b in itertools.combinations(seen, 2):
        assert ((a, b) in same) != differs(seen[a], seen[b]), (a, b)


def differs(R, other, by=1e-2):
    return bool((R / R.abs().max() - other / other.abs().max()).abs().max() > by)


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_equals_zennit_on_the_whole_vgg11(rule):
    module, x = network("vgg11").module, batch(96, 1)
    assert_near(lrp(module, x, 1, rule), by_zennit(module, x, [1], ZENNIT[rule]()), 1e-9)


@pytest.mark.parametrize(("rule", "parameters", "composite"), [
    ("epsilon", {"epsilon": 0.3}, lambda: everywhere(zr.Epsilon(0.3))),
    ("gamma", {"gamma": 3}, lambda: everywhere(zr.Gamma(3, TINY))),
    ("alpha_beta", {"alpha": 3, "beta": 2.0}, lambda: everywhere(zr.AlphaBeta(3, 2, TINY))),
    ("zB", {"low": -5, "high": [4.0, 5.0, 6.0]},
     lambda: everywhere(zr.ZPlus(TINY), zr.ZBox(-5, torch.tensor([4.0, 5.0, 6.0]).view(1, 3, 1, 1), TINY))),
    ("epsilon_gamma_box", {"epsilon": 0.3, "gamma": 3, "low": -5, "high": 5},
     lambda: zc.EpsilonGammaBox(-5, 5, epsilon=0.3, gamma=3, stabilizer=TINY, canonizers=[ResNetCanonizer()])),
])  # fmt: skip
def test_parameters_mean_what_they_mean_in_zennit(rule, parameters, composite):
    net, x = network("resnet18"), batch(96, 2)
    R = lrp(net, x, TARGETS[:2], rule, **parameters)
    assert_near(R, by_zennit(net.module, x, TARGETS[:2], composite()), 1e-9)
    assert differs(R, lrp(net, x, TARGETS[:2], rule), 1e-3)


# ---- connection by connection: every rule on inputs and outputs of both signs, in plain Python


class Tiny(nn.Module):
    """A convolution and a linear layer with nothing between them: what reaches the second has both signs."""

    def __init__(self, **conv):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, **conv)
        self.fc = nn.Linear(6 * 9, 4)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def conv_connections(conv, shape):
    """For each output unit (k, y, x), its bias and its inputs [((c, i, j), weight)]; i, j may lie in the padding."""
    (C, H, W), out = shape, []
    (s, _), (p, _), (d, _), g = conv.stride, conv.padding, conv.dilation, conv.groups
    size = lambda n: (n + 2 * p - 2 * d - 1) // s + 1  # noqa: E731
    per = C // g
    for k, y, x in itertools.product(range(conv.out_channels), range(size(H)), range(size(W))):
        group = k // (conv.out_channels // g)
        wires = []
        for c, u, v in itertools.product(range(per), range(3), range(3)):
            i, j = y * s + u * d - p, x * s + v * d - p
            if 0 <= i < H and 0 <= j < W:
                wires.append(((group * per + c, i, j), conv.weight[k, c, u, v].item()))
        out.append((conv.bias[k].item(), wires))
    return out


def share(rule, a, w, b, low, high, epsilon=1e-6, gamma=0.25, alpha=2.0, beta=1.0):
    """What fraction of a unit's relevance each of its inputs gets; a, w, low, high: lists, one value per input."""
    z = [a_j * w_j for a_j, w_j in zip(a, w, strict=True)]
    pos, neg = [max(v, 0) for v in z], [min(v, 0) for v in z]
    total, b_pos, b_neg = math.fsum(z) + b, max(b, 0), min(b, 0)
    if rule == "0":
        return [v / total for v in z]
    if rule == "epsilon":
        return [v / (total + (epsilon if total >= 0 else -epsilon)) for v in z]
    if rule == "gamma":
        part, b_part = (pos, b_pos) if total > 0 else (neg, b_neg)
        return [
            (v + gamma * q) / (total + gamma * (math.fsum(part) + b_part))
            for v, q in zip(z, part, strict=True)
        ]
    if rule in ("alpha_beta", "z+"):
        alpha, beta = (alpha, beta) if rule == "alpha_beta" else (1, 0)
        P, N = math.fsum(pos) + b_pos, math.fsum(neg) + b_neg
        if rule == "z+" and P == 0:
            return [v / total for v in z]
        # where no contribution is negative, N = 0, beta has nothing to hand down
        return [alpha * p / (P or 1) - beta * n / (N or 1) for p, n in zip(pos, neg, strict=True)]
    if rule == "zB":
        box = zip(z, w, low, high, strict=True)
        q = [v - l_j * max(w_j, 0) - h_j * min(w_j, 0) for v, w_j, l_j, h_j in box]
    if rule == "w2":
        q = [w_j**2 for w_j in w]
    if rule == "flat":
        q = [1.0] * len(w)
    return [v / math.fsum(q) for v in q]


def by_hand(net, x, target, first, above):
    """Relevance of the pixels of one image, summed over every single connection."""
    A = net.conv(x)[0].flatten().tolist()
    S = net(x)[0, target].item()
    w, b = net.fc.weight[target].tolist(), net.fc.bias[target].item()
    R_hidden = [r * S for r in share(above, A, w, b, None, None)]
    R = torch.zeros_like(x[0])
    for R_k, (b, wires) in zip(R_hidden, conv_connections(net.conv, x.shape[1:]), strict=True):
        a = [x[0][at].item() for at, _ in wires]
        low, high = ([bound[0, at[0], 0, 0].item() for at, _ in wires] for bound in (LOW, HIGH))
        for (at, _), r in zip(
            wires, share(first, a, [w for _, w in wires], b, low, high), strict=True
        ):
            R[at] += r * R_k
    return R[None]


GEOMETRY = [
    {"stride": 2, "padding": 1, "groups": 1},
    {"padding": 1, "dilation": 2, "groups": 3, "stride": 2},
]


@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_by_hand_on_values_of_both_signs(rule, geometry):
    net, x = signed(geometry)
    above = rule if rule not in ("zB", "w2", "flat") else "z+"
    with torch.no_grad():
        assert_near(lrp(net, x, 2, rule), by_hand(net, x, 2, rule, above), 1e-6)


def signed(geometry):
    torch.manual_seed(3)
    size = 5 if geometry.get("dilation") is None else 7
    net, x = Tiny(**geometry).double().eval(), torch.randn(1, 3, size, size, dtype=torch.float64)
    A = net.conv(x)
    for values in (x, A, net.conv.weight, net.fc.weight, net.conv.bias):
        assert (values > 0.01).any() and (values < -0.01).any()
    return net, x


def test_captums_alpha1_beta0_is_wrong_where_inputs_are_negative():
    """It takes (a w)+ for a w+. Where no input is negative the two agree, otherwise only ours is the formula."""
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
        assert (
            bool((truth * truth.sum() >= 0).all())
            and bool((oracle * oracle.sum() < 0).any()) != agree
        )


# ---- conservation


def without_biases(module):
    module = copy.deepcopy(module)
    with torch.no_grad():
        for part in module.modules():
            if getattr(part, "bias", None) is not None:
                part.bias.zero_()
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.zero_()
    return module


@pytest.mark.parametrize("name", [*SMALL, *FAMILIES])
def test_without_biases_what_goes_in_comes_out(name):
    module, x = (
        without_biases(network(name).module),
        images(name)[:2] if name in SMALL else batch(64, 1),
    )
    target = TARGETS[: len(x)]
    S_c = module(x)[range(len(x)), target].detach()
    rules = (
        ["z+", "deep_taylor", "w2", "flat", "gamma", "epsilon_plus", "0"]
        if name in SMALL
        else ["z+", "0"]
    )
    maps = {rule: lrp(module, x, target, rule) for rule in rules}
    maps["epsilon"] = lrp(module, x, target, "epsilon", epsilon=1e-9)
    for rule, R in maps.items():
        torch.testing.assert_close(
            R.sum((1, 2, 3)), S_c, rtol=1e-4, atol=0, msg=lambda s, rule=rule: f"{rule}: {s}"
        )
        assert R.abs().amax((1, 2, 3)).min() > 0
    if name == "mobilenet_v2":
        return  # ReLU6: where it has stopped the gradient is 0, and relevance passes
    gradient_times_x = xcnn.gradient(module, x, target) * x
    assert_near(maps["0"], gradient_times_x, 1e-3)
    assert_near(maps["epsilon"], gradient_times_x, 1e-3)
    assert differs(maps["z+"], gradient_times_x)


@pytest.mark.parametrize(
    "name", ["vgg_s", "googlenet_s", "allconv_s", "resnet18", "googlenet", "densenet121"]
)
def test_alpha_beta_conserves_where_units_have_contributions_of_both_signs(name):
    """Elsewhere (9 inputs, most of them 0) eq. 60 hands down alpha R or -beta R, and so does zennit."""
    module, x = without_biases(network(name).module), images(name)[:1]
    S_c = module(x)[:, 4].detach()
    R = lrp(module, x, 4, "alpha_beta")
    torch.testing.assert_close(R.sum((1, 2, 3)), S_c, rtol=1e-4, atol=0)


def test_a_bias_takes_its_share_from_epsilon():
    net, x = network("vgg_s"), images("vgg_s")
    S_c = net.module(x)[range(3), TARGETS].detach()
    assert ((lrp(net, x, TARGETS, "epsilon").sum((1, 2, 3)) / S_c - 1).abs() > 0.01).all()


@pytest.mark.parametrize("name", ["googlenet_s", "resnet_s", "densenet121"])
def test_epsilon_is_gradient_times_input_with_batch_norm_and_biases_too(name):
    """So a batch norm on its own, or behind a concatenation, breaks nothing: passing relevance on there would."""
    net, x = network(name), images(name)[:1]
    R = lrp(net, x, 4, "epsilon", epsilon=1e-10)
    assert_near(R, xcnn.gradient(net, x, 4) * x, 1e-3)
    assert (R.sum() / net.module(x)[0, 4] - 1).abs() > 1e-3


@pytest.mark.parametrize(
    "name",
    ["shufflenet_v2_x0_5", "mnasnet0_5", "regnet_x_400mf", "inception_v3", "resnext50_32x4d"],
)
def test_other_families_conserve(name):
    module = without_biases(network(name).module)
    x = batch(96, 1)
    S_c = module(x)[:, 3].detach()
    torch.testing.assert_close(lrp(module, x, 3, "z+").sum((1, 2, 3)), S_c, rtol=1e-4, atol=0)


# ---- networks in every spelling


class Spelled(nn.Module):
    """One network, written in two ways: with modules and out of place, or with functions and in place."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 4, 1),
        )
        self.na, self.nb, self.fc = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Linear(12, 5)
        self.fa, self.nf = nn.Linear(5, 5), nn.BatchNorm1d(5)
        self.relu6, self.in_place = nn.ReLU6(), in_place
        for norm in (self.na, self.nb, self.nf):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)

    def forward(self, x):
        if self.in_place:
            x *= 0.5
            x.add_(0.1)
            y = self.na(self.a(x)).relu_()
            z = torch.relu_(self.b(y).mul_(2))
            z += y
            F.hardtanh_(z, 0.0, 6.0)
            self.nb(y)
            y = y.clamp_(min=0)
            z = torch.cat((self.c(z), z), dim=1)
            z = F.dropout(z.mean((-2, -1)), training=self.training)
            z = self.fa(F.relu(self.fc(z), inplace=True))
            return self.nf(z).relu_() - 1.5
        y = F.relu(self.na(self.a(x * 0.5 + 0.1)))
        z = torch.relu(self.b(y) * 2) + y
        z = self.relu6(z)
        z = torch.concat([self.c(z), z], 1)
        z = F.adaptive_avg_pool2d(z, 1).flatten(1)
        return torch.relu(self.nf(self.fa(self.fc(z).clamp(min=0)))) - 1.5


@pytest.mark.parametrize("rule", COMPOSITES)
def test_in_place_and_functional_networks_give_the_same(rule):
    x = batch(16, 2)
    one, other = Spelled(True).double().eval(), Spelled(False).double().eval()
    with torch.no_grad():
        assert torch.equal(one(x.clone()), other(x)) and (other(x)[:, 0] != -1.5).all()
    R = lrp(one, x, 0, rule)
    assert_near(R, lrp(other, x, 0, rule), 1e-12)


@pytest.mark.parametrize("rule", COMPOSITES)
def test_modules_that_are_told_to_work_in_place(rule):
    maps = []
    for in_place in (False, True):
        module = copy.deepcopy(network("resnet_s").module)
        for part in module.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = in_place
        maps.append(lrp(module, images("resnet_s")[:1], 3, rule))
    assert torch.equal(*maps) and maps[0].abs().max() > 0


class Net(nn.Module):
    """Whatever comes between a convolution and a linear layer."""

    def __init__(self, between, width=4, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.between, self.fc = (
            nn.Conv2d(3, 4, 3, padding=1),
            between,
            nn.Linear(width, 5),
        )
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.fc(self.between(self.conv(x)).mean((2, 3)))


def between(f, width=4, **parts):
    return Net(f, width, **parts).double().eval()


SAME = {
    "view and back": lambda y: y.view(len(y), -1).reshape(y.size(0), 4, *y.shape[2:]),
    "permute": lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "transpose": lambda y: torch.transpose(y, 2, 3).transpose(2, 3).mT.mT,
    "chunk and cat": lambda y: torch.cat(y.chunk(2, 1), 1),
    "split and cat": lambda y: torch.cat(torch.split(y, [1, 3], dim=1), dim=1),
    "slices": lambda y: torch.cat([y[:, :1], y[:, 1:, :, :], y[:, 4:]], 1),
    "unbind and stack": lambda y: torch.stack(y.unbind(1), dim=1),
    "squeeze": lambda y: y.unsqueeze(1).squeeze(1),
    "flatten": lambda y: torch.flatten(y, 2).unflatten(2, y.shape[2:]),
    "clone": lambda y: y.clone().to(y.dtype).double(),
    "pad": lambda y: F.pad(y, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    "dropout": lambda y: F.dropout(y, 0.5, False),
    "dropout2d": nn.Dropout2d().eval(),
    "identity": nn.Identity(),
    "pooling of one": nn.AvgPool2d(1),
    "no gradient inside": lambda y: no_grad_inside(y),
    "shuffle": lambda y: F.channel_shuffle(F.channel_shuffle(y, 2), 2),
    "repeated": lambda y: y.repeat(1, 2, 1, 1)[:, :4],
}


def no_grad_inside(y):
    with torch.no_grad():
        scale = y.abs().amax() * 0 + 1
        aside = F.conv2d(y, torch.ones(1, 4, 1, 1, dtype=y.dtype))
    return torch.cat([y * scale, aside], 1)[:, :4]


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("rule", ["epsilon", "z+"])
def test_moving_values_about_changes_nothing(form, rule):
    x = batch(8, 2)
    assert_near(lrp(between(SAME[form]), x, 2, rule), lrp(between(lambda y: y), x, 2, rule), 1e-7)


def test_sums_share_in_proportion():
    """y + 3 y, y - (-3 y), and sums with one value for a whole map, all equal to 4 y."""
    x = batch(8, 2)
    wanted = lrp(between(lambda y: 4 * y), x, 2, "gamma")
    for f in [lambda y: y + 3 * y, lambda y: y - (-3) * y, lambda y: torch.add(y, y, alpha=3),
              lambda y: y.add(other=3 * y), lambda y: torch.sub(y, y, alpha=-3), lambda y: sum([y, y, 2 * y]),
              lambda y: (y + y) / 0.5]:  # fmt: skip
        assert_near(lrp(between(f), x, 2, "gamma"), wanted, 1e-7)
    broadcast = lrp(between(lambda y: y + y.mean((2, 3), keepdim=True)), x, 2, "0")
    net = between(lambda y: y + y.mean((2, 3), keepdim=True))
    assert_near(broadcast, xcnn.gradient(net, x, 2) * x, 1e-5)


def test_a_constant_summand_takes_its_share_like_a_bias():
    x, shift = batch(8, 2), torch.randn(4, 1, 1, dtype=torch.float64, requires_grad=True)
    net, without = between(lambda y: F.relu(y + shift)), between(F.relu)
    assert_near(lrp(net, x, 2, "0"), xcnn.gradient(net, x, 2) * x, 1e-5)
    assert shift.grad is None and differs(lrp(net, x, 2, "0"), lrp(without, x, 2, "0"))


def test_max_pooling_gives_all_to_the_winner():
    x = batch(8, 1)
    net = between(lambda y: F.max_pool2d(F.relu(y), 8))
    A = net.conv(x).relu().detach()
    # flat spreads evenly over the 3x3 pixels that a unit sees: the winners' places show
    R = lrp(net, x, 2, lambda kind, *_: "flat" if kind == "conv" else "0")
    seen = torch.zeros(8, 8, dtype=torch.bool)
    for k in A.amax((2, 3))[0].nonzero()[:, 0]:
        i, j = divmod(int(A[0, k].argmax()), 8)
        seen[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    assert torch.equal(R[0].abs().sum(0) > 0, seen) and not seen.all()


def test_average_pooling_shares_in_proportion():
    x = batch(8, 2)
    for pool in [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(3),
        lambda y: y.sum(3, keepdim=True),
    ]:
        net = between(lambda y, pool=pool: pool(y.relu()))
        assert_near(lrp(net, x, 2, "0"), lrp_0_with_biases(net, x, 2), 1e-5)


def lrp_0_with_biases(net, x, target):
    return xcnn.gradient(net, x, target) * x


# ---- batch norm


def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    both = copy.deepcopy(conv)
    both.weight = nn.Parameter(conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    bias = 0 if conv.bias is None else conv.bias
    both.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    return both


def any_norm(channels, kind=nn.BatchNorm2d):
    norm = kind(channels)
    for v in (norm.running_mean, norm.weight.data, norm.bias.data):
        v.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm.double().eval()


@pytest.mark.parametrize("rule", COMPOSITES)
def test_batch_norm_becomes_part_of_the_layer_before_it(rule):
    torch.manual_seed(1)
    x = batch(8, 2)
    a, b, c = (
        nn.Conv2d(3, 4, 3, groups=g, bias=bias).double()
        for g, bias in [(1, True), (1, False), (1, True)]
    )
    c = nn.Conv2d(8, 4, 3, groups=4).double()
    na, nb, nc, fc, nf = (
        any_norm(4),
        any_norm(4),
        any_norm(4),
        nn.Linear(4, 5).double(),
        any_norm(5, nn.BatchNorm1d),
    )

    class Plain(nn.Module):
        def __init__(self, a, b, c, fc, joint=None, after=None, last=None):
            super().__init__()
            self.a, self.b, self.c, self.fc = a, b, c, fc
            self.joint, self.after, self.last = (
                joint or nn.Identity(),
                after or nn.Identity(),
                last or nn.Identity(),
            )

        def forward(self, x):
            x = self.joint(torch.cat([self.a(x), self.b(x)], 1)).relu()
            return self.last(self.fc(self.after(self.c(x)).relu().mean((2, 3))))

    joint = any_norm(8)
    with torch.no_grad():
        for v, (one, other) in {n: (getattr(na, n), getattr(nb, n)) for n in ("weight", "bias", "running_mean",
                                                                              "running_var")}.items():  # fmt: skip
            getattr(joint, v).copy_(torch.cat([one, other]))
    net = Plain(a, b, c, fc, joint, nc, nf).eval()
    by_hand = Plain(folded(a, na), folded(b, nb), folded(c, nc), folded(fc, nf)).eval()
    assert torch.allclose(net(x), by_hand(x))
    assert_near(lrp(net, x, 2, rule), lrp(by_hand, x, 2, rule), 1e-6)


def test_batch_norm_on_its_own_is_a_layer_of_one_weight_per_channel():
    """z = w v + b: with gamma and z+ as for any layer; alpha-beta, which would double R each time, takes z+."""
    torch.manual_seed(0)
    x, norm = batch(8, 2), any_norm(4)
    alone = between(lambda y: F.relu(norm(F.relu(y))), norm=norm)
    one = nn.Conv2d(4, 4, 1, groups=4, bias=False).double()
    nn.init.ones_(one.weight)
    as_layer = between(lambda y: F.relu(norm(one(F.relu(y)))), norm=norm, one=one)
    for rule in ("0", "epsilon", "gamma", "z+"):
        assert_near(lrp(alone, x, 2, rule), lrp(as_layer, x, 2, rule), 1e-6)
    rules = lambda kind, index, name: {"norm": "z+"}.get(kind, "alpha_beta")  # noqa: E731
    assert torch.equal(lrp(alone, x, 2, "alpha_beta"), lrp(alone, x, 2, rules))


@pytest.mark.parametrize("rule", COMPOSITES)
def test_what_makes_pixels_ready_is_passed_over(rule):
    """(x - mean) / std inside a network, as batch norm or by hand, changes scale and origin, not what pixels matter."""
    x, inner = batch(8, 2), between(F.relu)

    class Ready(nn.Module):
        def __init__(self, ready):
            super().__init__()
            self.inner, self.ready = inner, ready

        def forward(self, x):
            return self.inner(self.ready(x))

    norm = any_norm(3)
    mean, std = norm.running_mean.view(3, 1, 1), (norm.running_var + norm.eps).sqrt().view(3, 1, 1)
    w, b = norm.weight.detach().view(3, 1, 1), norm.bias.detach().view(3, 1, 1)
    wanted = lrp(inner, norm(x).detach(), 2, rule)
    assert_near(lrp(Ready(norm).eval(), x, 2, rule), wanted, 1e-9)
    assert_near(lrp(Ready(lambda x: (x - mean) / std * w + b).eval(), x, 2, rule), wanted, 1e-6)


# ---- rules chosen layer by layer


def test_a_function_chooses_by_kind_index_and_name():
    net, x, met = network("vgg_s"), images("vgg_s")[:1], []

    def choose(kind, index, name):
        met.append((kind, index, name))
        return "zB" if index == 0 else ("gamma", {"gamma": 0.5}) if kind == "conv" else "epsilon"

    R = lrp(net, x, 1, choose)
    weighted = [
        (n, p) for n, p in net.module.named_modules() if isinstance(p, nn.Conv2d | nn.Linear)
    ]
    assert met == [
        ("conv" if isinstance(p, nn.Conv2d) else "linear", i, n)
        for i, (n, p) in enumerate(weighted)
    ]
    assert_near(R, lrp(net, x, 1, "epsilon_gamma_box", gamma=0.5), 1e-12)
    assert differs(R, lrp(net, x, 1, "epsilon_gamma_box"), 1e-3)
    shared = lrp(
        net, x, 1, lambda kind, *_: "gamma" if kind == "conv" else "epsilon", gamma=2, epsilon=0.1
    )
    own = lrp(
        net,
        x,
        1,
        lambda kind, *_: (
            ("gamma", {"gamma": 2}) if kind == "conv" else ("epsilon", {"epsilon": 0.1})
        ),
    )
    assert torch.equal(shared, own)


def test_rules_that_are_one():
    net, x = network("resnet_s"), images("resnet_s")[:2]
    assert torch.equal(deep_taylor(net, x, 3), lrp(net, x, 3, "deep_taylor"))
    assert torch.equal(deep_taylor(net, x, 3), lrp(net, x, 3, "zB"))
    assert torch.equal(lrp(net, x, 3), lrp(net, x, 3, "epsilon_plus"))
    other = network(
        "googlenet_s"
    )  # resnet_s has units without a positive contribution; z+ loses nothing there
    assert_near(lrp(other, x, 3, "alpha_beta", alpha=1, beta=0), lrp(other, x, 3, "z+"), 1e-9)
    maps = [lrp(net, x, 3, rule) for rule in COMPOSITES if rule not in ("deep_taylor", "epsilon")]
    assert all(differs(a, b, 1e-3) for a, b in itertools.combinations(maps, 2))


def test_the_box_comes_from_the_network():
    net, x = network("resnet_s"), images("resnet_s")[:1]
    other = xcnn.Network(net.module, size=128, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.equal(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB", low=-2.0, high=2.0))
    assert differs(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB"), 1e-3)
    whole = torch.full((3, 128, 128), 2.0)
    assert torch.equal(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB", low=-whole, high=whole[None]))


def test_pixels_that_a_linear_layer_takes():
    torch.manual_seed(0)
    mlp = (
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 20), nn.ReLU(), nn.Linear(20, 4))
        .double()
        .eval()
    )
    x = batch(6, 2)
    assert_near(lrp(mlp, x, 1, "0"), lrp_0_with_biases(mlp, x, 1), 1e-6)
    conv = nn.Conv2d(3, 20, 6).double()
    conv.load_state_dict({"weight": mlp[1].weight.view(20, 3, 6, 6), "bias": mlp[1].bias})
    same = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), mlp[3]).eval()
    for rule in ("zB", "w2", "flat", "z+", "gamma"):
        assert_near(lrp(mlp, x, 1, rule), lrp(same, x, 1, rule), 1e-9)


# ---- what every method promises


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_is_its_images_and_types_stay(name):
    net, x, targets = network(name), images(name), [0, 3, 9]
    for rule in ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat", "epsilon"):
        R = lrp(net, x, targets, rule)
        assert R.dtype == torch.float64 and R.shape == x.shape and not R.requires_grad
        for k, target in enumerate(targets):
            assert_near(lrp(net, x[k : k + 1], target, rule), R[k : k + 1], 1e-6)
    small = xcnn.load(name)
    R = lrp(small, x.float(), small.classes[3])
    assert R.dtype == torch.float32
    assert_near(R.double(), lrp(net, x, 3), 1e-3)
    assert torch.equal(
        lrp(small, x.float()), lrp(small, x.float(), small.predict(x.float()).argmax(1))
    )


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rule", COMPOSITES)
def test_a_dead_map_is_zeros(name, rule):
    module = copy.deepcopy(network(name).module)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert (lrp(module, images(name)[:1], 3, rule) == 0).all()
    assert torch.isfinite(lrp(network(name), images(name)[:1] * 0, 3, rule)).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_whatever_the_callers_grad_mode(context):
    net, x = xcnn.load("resnet_s"), batch(128, 1).float()
    R = lrp(net, x, 3)
    with context():
        assert torch.equal(R, lrp(net, x.clone(), 3)) and R.abs().max() > 0


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"])
def test_nothing_of_the_callers_is_changed(rule):
    module, x = copy.deepcopy(xcnn.load("resnet_s").module), batch(128, 1).float()
    first = next(module.parameters())
    first.grad, first.requires_grad = torch.ones_like(first), False
    module.register_forward_hook(lambda *_: None)
    fails = nn.Sequential(module, nn.Softmax(1)).eval()
    for net in (module, fails):
        before = state(net, x)
        if net is fails:
            with pytest.raises(InputError):
                lrp(net, x, 3, rule)
        else:
            lrp(net, x, 3, rule)
        assert state(net, x) == before


# ---- what has no rule is named, with its place


class Attention(nn.Module):
    def forward(self, y):
        return y * torch.sigmoid(y.mean((2, 3), keepdim=True))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y * y.sigmoid()

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Gate(nn.Module):
    def forward(self, y):
        return y * y.mean((2, 3), keepdim=True)


class Dynamic(nn.Module):
    def forward(self, y):
        return F.conv2d(y, y[:1, :, :3, :3])


class Masked(nn.Module):
    def forward(self, y):
        y[:, 0] = y[:, 1] * 2
        return y


@pytest.mark.parametrize(("between_", "says"), [
    (nn.SiLU(), r"silu, which runs in 'between' \(SiLU\)"),
    (nn.GELU(), r"gelu.*'between' \(GELU\)"),
    (nn.Hardswish(), "hardswish"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
    (nn.Softmax(1), "softmax"),
    (nn.LeakyReLU(), "leaky_relu"),
    (nn.PReLU().double(), "prelu"),
    (nn.Hardtanh(), "hardtanh"),
    (nn.SiLU(inplace=True), "silu"),
    (nn.GroupNorm(2, 4).double(), "group_norm"),
    (nn.BatchNorm2d(4, track_running_stats=False).double(), "batch norm with the statistics of the batch"),
    (nn.ConvTranspose2d(4, 4, 3).double(), "conv_transpose2d"),
    (nn.Upsample(scale_factor=2), "interpolate"),
    (Attention(), r"sigmoid.*'between' \(Attention\)"),
    (Gate(), r"mul of maps.*'between' \(Gate\)"),
    (Dynamic(), "conv2d whose weights depend on the image"),
    (Masked(), r"an operation that works unseen|__setitem__"),
    (lambda y: 1 / (y + 9), r"in the network itself \(Net\)"),
    (lambda y: 1 - y, "rsub"),
    (lambda y: y**2, "pow"),
    (lambda y: y.clamp(-1, 1), "clamp"),
    (lambda y: y @ y.mT, "matmul"),
    (lambda y: F.dropout(y, 0.5), "dropout that is always on"),
    (lambda y: Swish.apply(y), r"unseen.*autograd\.Function"),
    (lambda y: torch.maximum(y, -y), "maximum"),
    (lambda y: y.abs(), "abs"),
    (lambda y: torch.where(y > 0, y, -y), "where"),
])  # fmt: skip
def test_an_operation_without_a_rule_is_named_with_its_place(between_, says):
    net = Net(between_).double().eval()
    with pytest.raises(InputError, match="LRP has no rule for .*" + says):
        lrp(net, batch(8, 2), 2)


def test_a_scripted_part_is_not_passed_over():
    net = between(lambda y: y)
    net.between = torch.jit.trace(
        nn.Sequential(nn.Conv2d(4, 4, 3).double(), nn.Sigmoid()), net.conv(batch(8, 1))
    )
    with pytest.raises(InputError, match="works unseen"):
        lrp(net.eval(), batch(8, 1), 2)


@pytest.mark.parametrize(("name", "says"), [
    ("mobilenet_v3_small", r"hardswish, which runs in 'features\.0\.2' \(Hardswish\)"),
    ("efficientnet_b0", r"silu.*'features\.0\.2' \(SiLU\)"),
    ("regnet_y_400mf", r"sigmoid.*'trunk_output\.block1\.block1-0\.f\.se\.scale_activation' \(Sigmoid\)"),
    ("convnext_tiny", r"layer_norm.*'features\.0\.1' \(LayerNorm2d\)"),
])  # fmt: skip
def test_families_without_rules_are_refused(name, says):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=says):
        lrp(zoo.get_model(name, weights=None).eval(), torch.randn(1, 3, 64, 64), 3)


@pytest.mark.parametrize("part", ["", "layer2", "fc"])
def test_a_hook_of_the_callers_own_changes_nothing(part):
    net, x, met = network("resnet_s"), images("resnet_s"), []
    module = copy.deepcopy(net.module)
    module.get_submodule(part).register_full_backward_hook(lambda *_: met.append(part))
    for rule in ("epsilon_plus", "z+"):
        assert_near(lrp(module, x, TARGETS, rule), lrp(net.module, x, TARGETS, rule), 1e-12)
    assert met


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


def test_a_hook_on_a_part_with_two_inputs():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.fc, self.add = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(3, 4, 3),
                nn.Linear(4, 8),
                Add(),
            )

        def forward(self, x):
            return self.fc(self.add(self.first(x), self.second(x).relu()).mean((2, 3)))

    torch.manual_seed(0)
    net, x, met = Joined().eval().double(), batch(16), []
    before = lrp(net, x, TARGETS)
    net.add.register_full_backward_hook(lambda *_: met.append(1))
    assert_near(lrp(net, x, TARGETS), before, 1e-12)
    assert met


def test_a_network_that_switches_gradients_off():
    class Off(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        @torch.no_grad()
        def forward(self, x):
            return self.net(x)

    with pytest.raises(InputError, match="do not depend on the image"):
        lrp(Off(xcnn.load("resnet_s").module).eval(), batch(128, 1).float(), 3)


# ---- bad input


@pytest.mark.parametrize(("options", "says"), [
    ({"rule": "epsilonplus"}, "unknown rule 'epsilonplus'; did you mean 'epsilon_plus'"),
    ({"rule": "zb"}, "unknown rule 'zb'; .*'zB'"),
    ({"rule": 7}, "unknown rule 7"),
    ({"rule": None}, "unknown rule None"),
    ({"rule": "alpha_beta", "alpha": 2, "beta": 2}, "alpha - beta must be 1"),
    ({"rule": "alpha_beta", "alpha": 3}, "alpha - beta must be 1.*got 3 and 1"),
    ({"rule": "alpha_beta", "alpha": 0.5, "beta": -0.5}, "beta not below 0"),
    ({"rule": "epsilon", "epsilon": 0}, "epsilon must be above 0, got 0; rule '0'"),
    ({"rule": "epsilon", "epsilon": -1e-3}, "epsilon must be above 0"),
    ({"rule": "epsilon_plus", "epsilon": -1}, "epsilon must be above 0"),
    ({"rule": "epsilon", "epsilon": float("nan")}, "epsilon must be a number"),
    ({"rule": "epsilon", "epsilon": "small"}, "epsilon must be a number, got 'small'"),
    ({"rule": "gamma", "gamma": -0.1}, "gamma must not be below 0"),
    ({"rule": "gamma", "gamma": True}, "gamma must be a number"),
    ({"rule": "zB", "low": 1.0, "high": 1.0}, "low must be below high"),
    ({"rule": "deep_taylor", "low": [0.0, 0.0, 3.0]}, "low must be below high"),
    ({"rule": "zB", "low": torch.zeros(4)}, r"low must be a number, one per colour channel.*\(4,\)"),
    ({"rule": "zB", "low": "dark"}, "low must be a number"),
    ({"rule": "zB", "low": torch.zeros(3, 5, 5)}, r"layer that gets the pixels"),
    ({"rule": "gamma", "epsilon": 1}, "no parameter 'epsilon'; its parameters: gamma"),
    ({"rule": "z+", "alpha": 1}, "no parameter 'alpha'; it has no parameters"),
    ({"rule": "epsilon_alpha2_beta1", "alpha": 3, "beta": 2}, "no parameter 'alpha'; its parameters: epsilon"),
    ({"rule": lambda *_: "gama"}, r"chose 'gama' for 'conv1'; did you mean 'gamma'"),
    ({"rule": lambda *_: "deep_taylor"}, "chose 'deep_taylor'"),
    ({"rule": lambda *_: None}, "chose None"),
    ({"rule": lambda *_: ["gamma"]}, "chose .'gamma'."),
    ({"rule": lambda *_: ("gamma", {"gamma": -1})}, "gamma must not be below 0"),
    ({"rule": lambda *_: ("gamma", {"epsilon": 1})}, "no parameter 'epsilon'"),
    ({"rule": lambda *_: "gamma", "slope": 1}, "no parameter 'slope'"),
    ({"rule": lambda *_: "gamma", "epsilon": -1}, "epsilon must be above 0"),
    ({"rule": lambda *_: "zB"}, "'zB' is for the layer that gets the pixels"),
])  # fmt: skip
def test_bad_rules_and_parameters(options, says):
    with pytest.raises(InputError, match=says):
        lrp(xcnn.load("resnet_s"), batch(128, 1).float(), 3, **options)
