"""What becomes of relevance at each kind of operation that is not a layer with weights."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.methods.lrp import lrp

from tests.helpers.frozen import rule_0
from tests.helpers.oracles import assert_near, batch, differs
from tests.helpers.relevance import between, gradient_times_input

RULES = ["0", "epsilon", "z+", "gamma", "epsilon_plus"]


def same_relevance(f, other, rules=RULES, tolerance=1e-9, **parts):
    """Do networks with f and with the other function between their layers get the same maps?"""
    x = batch(8, 2)
    for rule in rules:
        net, twin = (between(way, **parts) for way in (f, other))
        assert torch.allclose(net(x), twin(x)), "not the same network"
        assert_near(lrp(net, x, 2, rule), lrp(twin, x, 2, rule), tolerance)


# ---- activations pass relevance on

UNITS = {
    "SiLU": nn.SiLU(),
    "GELU": nn.GELU(),
    "GELU, tanh": nn.GELU("tanh"),
    "Hardswish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "PReLU": nn.PReLU(4),
    "RReLU": nn.RReLU(),
    "ELU": nn.ELU(),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(0.5),
    "Tanh": nn.Tanh(),
    "Softplus": nn.Softplus(),
    "Softsign": nn.Softsign(),
    "Hardtanh": nn.Hardtanh(-0.5, 0.5),
    "ReLU6": nn.ReLU6(),
    "clamp": lambda y: y.clamp(-0.3, 0.4),
    "clamp of one side": lambda y: torch.clamp(y, max=0.2),
    "erf": torch.erf,
}
IN_PLACE = {
    "SiLU": nn.SiLU(inplace=True),
    "Hardswish": nn.Hardswish(inplace=True),
    "LeakyReLU": lambda y: F.leaky_relu_(y, 0.2),
    "ELU": lambda y: F.elu_(y),
    "Tanh": torch.Tensor.tanh_,
    "Hardtanh": nn.Hardtanh(-0.5, 0.5, inplace=True),
    "clamp": lambda y: y.clamp_(-0.3, 0.4),
}


@pytest.mark.parametrize("name", UNITS)
def test_an_activation_passes_relevance_on(name):
    """Rule 0 is x times the gradient, with each unit's ratio y / x taken for a constant."""
    x = batch(8, 2)
    net = between(UNITS[name])
    A = net.conv(x)
    assert (A > 0).any() and (A < 0).any()
    assert_near(lrp(net, x, 2, "0"), rule_0(net, x, 2), 1e-9)


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_activation_in_place_is_the_same(name):
    same_relevance(UNITS[name], IN_PLACE[name])


def test_a_sigmoid_between_layers_is_an_activation():
    x = batch(8, 1)
    for f in (nn.Sigmoid(), nn.Hardsigmoid(), torch.special.expit, lambda y: y.sigmoid_()):
        net = between(f)
        with torch.no_grad():
            r = net.between(net.conv(x)) / net.conv(x)
        as_factor = between(lambda y, r=r: y * r)
        assert_near(lrp(net, x, 2, "z+"), lrp(as_factor, x, 2, "z+"), 1e-9)


BY_HAND = {
    "x sigmoid(x)": (F.silu, lambda y: y * y.sigmoid()),
    "sigmoid(x) x": (F.silu, lambda y: torch.sigmoid(y) * y),
    "x *= sigmoid(x)": (F.silu, lambda y: y.mul_(torch.sigmoid(y))),
    "x relu6(x + 3) / 6": (F.hardswish, lambda y: y * F.relu6(y + 3) / 6),
    "x (relu6(3 + x) / 6)": (F.hardswish, lambda y: y * (F.relu6(3 + y) / 6)),
    "x clamp / 6": (F.hardswish, lambda y: (y + 3).clamp(0, 6) / 6 * y),
    "x tanh(softplus(x))": (F.mish, lambda y: y * torch.tanh(F.softplus(y))),
    "x (1 + erf) / 2": (F.gelu, lambda y: 0.5 * y * (1 + torch.erf(y / 2**0.5))),
    "(1 + erf) x / 2": (F.gelu, lambda y: (1 + torch.erf(y / 2**0.5)) * (y * 0.5)),
    "x / (1 + |x|)": (F.softsign, lambda y: y / (1 + y.abs())),
    "x (x > 0)": (F.relu, lambda y: y * (y > 0)),
    "where": (F.relu, lambda y: torch.where(y > 0, y, torch.zeros_like(y))),
    "maximum": (F.relu, lambda y: torch.maximum(y, y.new_zeros(()))),
    "masked_fill": (F.relu, lambda y: y.masked_fill(y < 0, 0)),
    "glu": (lambda y: y[:, :2] * y[:, 2:].sigmoid(), lambda y: F.glu(y, 1)),
}


@pytest.mark.parametrize("form", BY_HAND)
def test_an_activation_by_hand_is_the_same(form):
    width = 2 if form == "glu" else 4
    x = batch(8, 2)
    nets = [between(f, width=width) for f in BY_HAND[form]]
    for rule in RULES:
        wanted, R = (lrp(net, x, 2, rule) for net in nets)
        assert_near(R, wanted, 1e-9)


# ---- gates: the signal takes all


def squeezed(y):
    return y.mean((2, 3), keepdim=True)


class SqueezeExcitation(nn.Module):
    def __init__(self, squash, order=1):
        super().__init__()
        self.a = nn.Conv2d(4, 2, 1)
        self.b = nn.Conv2d(2, 4, 1)
        self.squash = squash
        self.order = order

    def gate(self, y):
        return self.squash(self.b(F.silu(self.a(squeezed(y)))))

    def forward(self, y):
        return y * self.gate(y) if self.order > 0 else self.gate(y) * y


class ChannelsByConvolution(nn.Module):
    """As in ECA-Net: what makes its gate has no rule of its own."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(1, 1, 3, padding=1)

    def gate(self, y):
        g = self.a(squeezed(y).squeeze(-1).transpose(-1, -2))
        return g.transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(y)

    def forward(self, y):
        return y * self.gate(y)


class Places(nn.Module):
    """As in CBAM: a gate for each place, from the mean and the maximum of the channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 1, 3, padding=1)

    def gate(self, y):
        maxima, _ = torch.max(y, dim=1, keepdim=True)
        return torch.sigmoid(self.a(torch.cat([y.mean(1, keepdim=True), maxima], 1)))

    def forward(self, y):
        return self.gate(y) * y


class SelectiveKernels(nn.Module):
    """As in SKNet: a softmax over two branches. The branches are the signal."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 8, 1)

    def gate(self, y):
        g = self.b(squeezed(self.a(y) + y)).view(len(y), 2, 4, 1, 1)
        return g.softmax(1)

    def forward(self, y):
        both = torch.stack([self.a(y), y], 1)
        return (both * self.gate(y)).sum(1)


class Response(nn.Module):
    """As in ConvNeXt V2: global response normalisation, a gate that is a quotient of norms."""

    def gate(self, y):
        size = y.norm(p=2, dim=(2, 3), keepdim=True)
        return size / (size.mean(1, keepdim=True) + 1e-6)

    def forward(self, y):
        return y * self.gate(y)


class Mask(SqueezeExcitation):
    """A branch of residual attention: 1 + a gate as large as the map, made small and enlarged."""

    def gate(self, y):
        small = self.b(F.silu(self.a(F.max_pool2d(y, 2))))
        return 1 + F.interpolate(torch.sigmoid(small), y.shape[2:], mode="bilinear")


class Bare(SqueezeExcitation):
    """A gate of no sigmoid, in place: told by its one position."""

    def forward(self, y):
        return y.mul_(self.gate(y))


class ShapeOfTheMap(SqueezeExcitation):
    """A gate as large as the map, and the map multiplied into it in place."""

    def forward(self, y):
        return self.gate(y).expand_as(y).clone().mul_(y)


GATES = {
    "sigmoid": SqueezeExcitation(nn.Sigmoid()),
    "gate first": SqueezeExcitation(torch.sigmoid, order=-1),
    "hardsigmoid": SqueezeExcitation(nn.Hardsigmoid()),
    "hard sigmoid by hand": SqueezeExcitation(lambda g: F.relu6(g + 3) / 6),
    "clamped": SqueezeExcitation(lambda g: (0.2 * g + 0.5).clamp(0, 1)),
    "tanh": SqueezeExcitation(nn.Tanh()),
    "scaled and moved": SqueezeExcitation(lambda g: 2 * g.sigmoid().flatten(1)[:, :, None, None]),
    "changed in place": SqueezeExcitation(lambda g: g.sigmoid_().mul_(2).expand(-1, -1, 8, 8)),
    "shape of the map": ShapeOfTheMap(torch.sigmoid),
    "complement": SqueezeExcitation(lambda g: 1 - g.sigmoid().expand(-1, -1, 8, 8)),
    "channels by convolution": ChannelsByConvolution(),
    "places": Places(),
    "selective kernels": SelectiveKernels(),
    "response": Response(),
    "mask": Mask(None),
    "bare, in place": Bare(nn.Identity()),
}


def keeping(values):
    """A function that gives these values, whatever it gets."""
    return lambda _: values


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("rule", RULES)
def test_a_gate_is_a_factor(name, rule):
    """The map is that of a network in which the gate is a constant of the same values."""
    x = batch(8, 1)
    net = between(GATES[name])
    R = lrp(net, x, 2, rule)
    with torch.no_grad():
        values = net.between.gate(net.conv(x)).clone()
    fixed = between(copy.deepcopy(GATES[name]))
    fixed.between.gate = keeping(values)
    assert torch.allclose(fixed(x), net(x))
    assert_near(R, lrp(fixed, x, 2, rule), 1e-9)


def test_gates_of_a_batch_are_those_of_its_images():
    x = batch(8, 3)
    for gated in GATES.values():
        net = between(gated)
        R = lrp(net, x, 2, "z+")
        for k in range(3):
            assert_near(lrp(net, x[k : k + 1], 2, "z+"), R[k : k + 1], 1e-9)


def test_relevance_of_a_gate_connection_by_connection():
    """R_j of a gated unit's input: sum_k over units of g_k a_j w_jk v_k / S R, in plain loops."""
    gated = SqueezeExcitation(nn.Sigmoid())
    net = between(gated)
    x = batch(4, 1)
    with torch.no_grad():
        A = net.conv(x)[0]
        g = gated.gate(net.conv(x))[0, :, 0, 0].tolist()
        v = (net.fc.weight[2] / 16).tolist()
    R = torch.zeros_like(x[0])
    w = net.conv.weight
    for k, y, u in itertools.product(range(4), range(4), range(4)):
        R_k = (
            v[k] * g[k] * A[k, y, u].item()
        )  # of S = sum_k v_k g_k a_k + b: what rule 0 hands down
        for c, i, j in itertools.product(range(3), range(3), range(3)):
            at = (c, y + i - 1, u + j - 1)
            if 0 <= at[1] < 4 and 0 <= at[2] < 4:
                share = x[(0, *at)].item() * w[k, c, i, j].item() / A[k, y, u].item()
                R[at] += share * R_k
    assert_near(lrp(net, x, 2, "0"), R[None], 1e-9)


def test_the_signal_of_a_recurrent_cell():
    """tanh(c) sigmoid(o): both are bounded, and the sigmoid is the gate, wherever it stands."""

    def cell(y):
        return torch.tanh(y[:, :2]) * torch.sigmoid(y[:, 2:])

    def turned(y):
        return torch.sigmoid(y[:, 2:]) * torch.tanh(y[:, :2])

    x = batch(8, 2)
    nets = [between(f, width=2) for f in (cell, turned)]
    for rule in RULES:
        assert_near(*(lrp(net, x, 2, rule) for net in nets), 1e-12)
    assert_near(lrp(nets[0], x, 2, "0"), rule_0(nets[0], x, 2), 1e-9)


class Twins(nn.Module):
    """Two branches of one size, multiplied."""

    def __init__(self, a=None, b=None):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)
        self.of_a = a or nn.Identity()
        self.of_b = b or nn.Identity()

    def forward(self, y):
        return self.of_a(self.a(y)) * self.of_b(self.b(y))


def outer_product(y):
    return y.mean(2, keepdim=True) * y.mean(3, keepdim=True)


TOLD_BY_NOTHING = [
    Twins(),
    Twins(nn.Sigmoid(), nn.Sigmoid()),
    Twins(nn.ReLU(), nn.ReLU6()),
    outer_product,
]


@pytest.mark.parametrize("product", TOLD_BY_NOTHING)
def test_where_no_gate_can_be_seen_the_product_is_refused(product):
    with pytest.raises(InputError, match=r"mul of two maps, neither of which is seen to be a gate"):
        lrp(between(product), batch(8, 1), 2)


def test_one_sigmoid_of_two_branches_is_the_gate():
    x = batch(8, 1)
    left = Twins(a=nn.Sigmoid())
    net = between(left)
    with torch.no_grad():
        values = left.a(net.conv(x)).sigmoid()
    signal_alone = between(lambda y: values * net.between.b(y))
    assert_near(lrp(net, x, 2, "z+"), lrp(signal_alone, x, 2, "z+"), 1e-12)


# ---- norms by an image's own statistics


class ByHand(nn.Module):
    """A layer norm over the channels as it is often written out."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, y):
        mean = y.mean(1, keepdim=True)
        variance = (y - mean).pow(2).mean(1, keepdim=True)
        y = (y - mean) / torch.sqrt(variance + self.norm.eps)
        return self.norm.weight[:, None, None] * y + self.norm.bias[:, None, None]


class ChannelsLast(nn.Module):
    """A norm of channels that lie last."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, y):
        return self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def drawn(norm):
    """A norm with weights and biases drawn at random."""
    torch.manual_seed(1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.double()


NORMS = {
    "layer norm of channels": ChannelsLast(drawn(nn.LayerNorm(4))),
    "layer norm of the map": drawn(nn.LayerNorm([4, 8, 8])),
    "layer norm without weights": ChannelsLast(nn.LayerNorm(4, elementwise_affine=False)),
    "group norm": drawn(nn.GroupNorm(2, 4)),
    "one group": drawn(nn.GroupNorm(1, 4)),
    "torch.group_norm": lambda y: torch.group_norm(y, 2),
    "instance norm": drawn(nn.InstanceNorm2d(4, affine=True)),
    "instance norm, plain": nn.InstanceNorm2d(4),
    "local response": nn.LocalResponseNorm(3, alpha=1.0),
    "unit length": F.normalize,
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_linear_with_its_deviation_held_fixed(name):
    x = batch(8, 2)
    norm = NORMS[name]
    net = between(lambda y: norm(y).relu())  # an average of an instance norm would be its bias
    wanted = rule_0(net, x, 2)
    assert differs(wanted, gradient_times_input(net, x, 2)), "here the deviation plays no part"
    assert_near(lrp(net, x, 2, "0"), wanted, 1e-6)
    assert_near(lrp(net, x, 2, "epsilon", epsilon=1e-12), wanted, 1e-6)


@pytest.mark.parametrize("name", ["layer norm of channels", "group norm", "instance norm"])
def test_a_norm_conserves(name):
    norm = copy.deepcopy(NORMS[name])
    net = between(lambda y: norm(y).relu(), norm=norm)
    with torch.no_grad():
        for parameter_name, parameter in net.named_parameters():
            if "bias" in parameter_name:
                parameter.zero_()
    x = batch(8, 2)
    S_c = net(x)[:, 2].detach()
    for rule in ("0", "z+", "gamma"):
        R = lrp(net, x, 2, rule)
        torch.testing.assert_close(R.sum((1, 2, 3)), S_c, rtol=1e-6, atol=0)


def test_a_layer_norm_connection_by_connection():
    """R_j = sum_k a_j W_jk / z_k R_k with W_kk = w (1 - 1/n) / sigma and -w / (n sigma) else."""
    norm = drawn(nn.LayerNorm(6))
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 6, 2), nn.Flatten(), norm, nn.Linear(6, 3)).double().eval()
    x = batch(2, 1)
    a = net[:2](x)[0].tolist()
    z = net[:3](x)[0].tolist()
    mean = sum(a) / 6
    sigma = (sum((v - mean) ** 2 for v in a) / 6 + norm.eps) ** 0.5
    R_norm = [z[k] * net[3].weight[1, k].item() for k in range(6)]
    w = norm.weight.tolist()
    R_conv = [
        sum(a[j] * w[k] * ((j == k) - 1 / 6) / sigma / z[k] * R_norm[k] for k in range(6))
        for j in range(6)
    ]
    R = sum(R_conv[k] / a[k] * x[0] * net[0].weight[k].detach() for k in range(6))
    assert_near(lrp(net, x, 1, "0"), R[None], 1e-9)


def test_a_layer_norm_by_hand_is_the_same():
    norm = drawn(nn.LayerNorm(4))
    same_relevance(ChannelsLast(norm), ByHand(norm), tolerance=1e-6)


def test_an_instance_norm_with_statistics_of_the_training_is_a_batch_norm():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()
    twin = nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        for v in (norm.running_mean, norm.weight, norm.bias):
            v.normal_()
        norm.running_var.uniform_(0.5, 2)
    twin.load_state_dict(norm.state_dict())
    same_relevance(norm, twin)
    same_relevance(lambda y: norm(y.relu()), lambda y: twin(y.relu()), norm=norm, twin=twin)


def test_relevance_stays_near_where_norms_are_many():
    """With z+ inside a group norm it would spread over the whole picture."""
    torch.manual_seed(0)
    stages = []
    for c in (3, 16, 16, 16):
        stages += [nn.Conv2d(c, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()]
    features = nn.Sequential(*stages)

    class OneUnit(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = features
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            return self.fc(self.features(x)[:, :, 12, 12])

    x = batch(24, 1)
    R = lrp(OneUnit().double().eval(), x, 1).abs().sum(1)[0]
    field = R[8:17, 8:17].sum()
    assert field > 0.4 * R.sum()


# ---- enlarging

ENLARGING = {
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, by size": lambda y: F.interpolate(y, size=(11, 13)),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": nn.UpsamplingBilinear2d(size=(13, 9)),
    "bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "area": lambda y: F.interpolate(y, (5, 3), mode="area"),
    "smaller": lambda y: F.interpolate(y, (5, 5), mode="bilinear", antialias=True),
}


@pytest.mark.parametrize("name", ENLARGING)
def test_enlarging_shares_in_proportion(name):
    x = batch(8, 2)
    net = between(lambda y: F.relu(ENLARGING[name](y).clone()).relu())
    assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-6)


def test_enlarging_one_position_copies_it():
    """As after the pooling of DeepLab's pyramid."""

    def pooled(y):
        small = squeezed(y)
        return F.interpolate(small, y.shape[2:], mode="bilinear", align_corners=False) + y

    def by_broadcasting(y):
        return squeezed(y).expand_as(y) + y

    same_relevance(pooled, by_broadcasting)


# ---- sums, products and shapes in every spelling

SPELLED = {
    "1 - y": (lambda y: -y + 1, lambda y: 1 - y),
    "rsub": (lambda y: 2 - 3 * y, lambda y: torch.rsub(y, 2, alpha=3)),
    "constant - y": (lambda y: -y + torch.full_like(y[0], 0.3), lambda y: 0.3 - y),
    "sub in place": (lambda y: y - 0.2, lambda y: y.sub_(0.2)),
    "sub_ of a map": (lambda y: y - 0.5 * y, lambda y: y.clone().sub_(y, alpha=0.5)),
    "addcmul": (lambda y: 0.5 * y + y, lambda y: torch.addcmul(y, y, torch.tensor(0.5).double())),
    "mean over rows, columns": (
        lambda y: y.mean((-1, -2), keepdim=True),
        lambda y: y.mean(3, keepdim=True).mean(2, keepdim=True),
    ),
    "adaptive": (
        lambda y: y.mean((2, 3), keepdim=True),
        lambda y: F.adaptive_avg_pool2d(y, 1),
    ),
    "flattened mean": (
        lambda y: y.mean((2, 3), keepdim=True),
        lambda y: y.flatten(2).mean(-1)[:, :, None, None],
    ),
    "global maximum": (lambda y: F.max_pool2d(y, 8), lambda y: y.amax((2, 3), keepdim=True)),
    "max over dimensions": (
        lambda y: F.max_pool2d(y, 8),
        lambda y: y.max(3, keepdim=True)[0].max(dim=2, keepdim=True).values,
    ),
    "constant padding": (
        lambda y: torch.cat([y, torch.ones_like(y[..., :1])], 3),
        lambda y: F.pad(y, (0, 1), value=1.0),
    ),
    "reflected": (
        lambda y: torch.cat([y[..., 1:2], y], 3),
        lambda y: F.pad(y, (1, 0, 0, 0), mode="reflect"),
    ),
    "maxout": (
        lambda y: torch.stack([y[:, :2], y[:, 2:]]).amax(0).repeat(1, 2, 1, 1),
        lambda y: torch.max(y[:, :2], y[:, 2:]).repeat(1, 2, 1, 1),
    ),
    "unfold": (
        lambda y: F.pad(y, (1, 1, 1, 1)),
        lambda y: F.unfold(y, 1, padding=1).view(len(y), 4, 10, 10),
    ),
}


@pytest.mark.parametrize("form", SPELLED)
def test_another_spelling_is_the_same(form):
    same_relevance(*SPELLED[form])


def test_count_include_pad():
    x = batch(8, 2)
    for counted in (True, False):
        net = between(nn.AvgPool2d(3, 2, 1, count_include_pad=counted))
        assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-5)


# ---- the end of the network

ENDS = {
    "softmax": nn.Softmax(1),
    "log_softmax": nn.LogSoftmax(1),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "softmin": lambda S: F.softmin(S, 1),
    "probabilities of the rest": lambda S: 1 - S.sigmoid(),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_network_that_ends_in_probabilities_is_refused_and_the_advice_works(name):
    scores = between(F.relu)
    x = batch(8, 1)
    net = nn.Sequential(scores, nn.Identity())
    net.end = ENDS[name] if isinstance(ENDS[name], nn.Module) else Function(ENDS[name])
    net.eval()
    with pytest.raises(InputError, match=r"ends in .*(sigmoid|soft\w+).*Leave it out") as error:
        lrp(net, x, 2)
    assert "nn.Identity()" in str(error.value) and "gradient or grad_cam" in str(error.value)
    net.end = nn.Identity().eval()
    assert_near(lrp(net, x, 2), lrp(scores, x, 2), 1e-12)


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def test_a_softmax_between_layers_has_no_rule():
    with pytest.raises(InputError, match=r"no rule for .*softmax, which runs in 'between'"):
        lrp(between(nn.Softmax(1)), batch(8, 1), 2)


# ---- what has no rule is refused where relevance reaches it


class Aside(nn.Module):
    """Something without a rule that leads nowhere, and a sum of what it leads to times 0."""

    def forward(self, y):
        torch.einsum("nchw->nc", y).pow(2)
        return y


def test_what_leads_nowhere_is_not_refused():
    same_relevance(Aside(), nn.Identity())


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda y: torch.einsum("nchw,cd->ndhw", y, torch.eye(4).double()), "einsum"),
        (lambda y: y.abs(), r"torch\.Tensor\.abs"),
        (lambda y: y.cumsum(3), "cumsum"),
        (lambda y: y.pow(2), "pow"),
        (lambda y: 1 / (y + 9), "rdiv|rtruediv"),
        (lambda y: torch.div(y, 2, rounding_mode="floor"), "div"),
        (lambda y: y.clamp(min=y.mean((1, 2, 3), keepdim=True)), "clamp"),
        (lambda y: F.layer_norm(y, (8,), y[0, 0, 0]), "layer_norm whose weights depend"),
        (lambda y: F.conv_transpose2d(y, y[:1, :, :3, :3].reshape(4, 1, 3, 3)), "weights depend"),
        (lambda y: y.flatten(2) @ y.flatten(2).mT @ y.flatten(2), "matmul"),
    ],
)
def test_the_advice_of_a_refusal_works(f, says):
    """It offers the gradient and Grad-CAM: both must explain what LRP refuses."""

    class Shaped(nn.Module):
        def forward(self, y):
            return f(y).flatten(1)[:, :64].reshape(len(y), 4, -1, 1)

    net = between(Shaped())
    x = batch(8, 1)
    with pytest.raises(InputError, match=says) as error:
        lrp(net, x, 2)
    assert "gradient or grad_cam" in str(error.value) and "'between' (Shaped)" in str(error.value)
    for method in (xcnn.gradient, xcnn.grad_cam):
        options = {"layer": "conv"} if method is xcnn.grad_cam else {}
        assert method(net, x, 2, **options).isfinite().all()
