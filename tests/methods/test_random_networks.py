"""Every promise and axiom on networks drawn at random: what no hand-made network thinks of."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
import xcnn
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from xcnn import InputError
from xcnn.methods import PIXEL_METHODS

from tests.helpers.oracles import HIGH, LOW, assert_near, examples, state, with_maps
from tests.helpers.rewritten import RuleReLU

QUICK = {
    "lime": {"samples": 12, "segments": 6},
    "rise": {"masks": 10},
    "shap_cam": {"samples": 8},
}
RELUS = ["module", "in place", "function", "method in place", "shared", "relu6", "none"]
HEADS = ["average, linear", "class maps, average", "flat, linear"]


class ByFunction(nn.Module):
    """A ReLU that is not a ReLU module."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Skip(nn.Module):
    def __init__(self, inner, in_place):
        super().__init__()
        self.inner = inner
        self.in_place = in_place

    def forward(self, x):
        y = self.inner(x)
        if not self.in_place:
            return x + y
        y += x
        return y


class Cat(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Split(nn.Module):
    """Half of the channels goes past the layer, as in ShuffleNet."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        past, through = x.chunk(2, 1)
        return torch.cat([past, self.inner(through)], 1)


class Head(nn.Module):
    def __init__(self, kind, c, h, w, bias):
        super().__init__()
        self.kind = kind
        if kind == "class maps, average":
            self.classify = nn.Conv2d(c, 4, 1, bias=bias)
        else:
            self.classify = nn.Linear(c * h * w if kind == "flat, linear" else c, 4, bias=bias)

    def forward(self, A):
        if self.kind == "class maps, average":
            return F.adaptive_avg_pool2d(self.classify(A), 1).flatten(1)
        return self.classify(A.flatten(1) if self.kind == "flat, linear" else A.mean((2, 3)))


class Net(nn.Module):
    """What a plan says.

    features: a Sequential of stages. last: (C, h, w) of what it puts out. size: (H, W) of the
    images.

    :param plan: (size, stages, head, last, bias, seed), see `plans`; a stage is (kind, channels in,
        channels out, whether a batch norm follows, spelling of its ReLU, options of its layer)
    :param rule: every ReLU is replaced by one that holds this rule in its own backward pass
    """

    def __init__(self, plan, rule=None):
        super().__init__()
        self.size, stages, head, self.last, self.biased, seed = plan
        torch.manual_seed(seed)
        self.rule = rule
        self.shared = RuleReLU(rule) if rule else nn.ReLU(inplace=True)
        self.features = nn.Sequential(*[self.stage(*stage) for stage in stages])
        self.head = Head(head, *self.last, self.biased)
        for part in self.modules():
            self.draw(part)
        self.double().eval()

    def forward(self, x):
        return self.head(self.features(x))

    def stage(self, kind, c, d, norm, spelling, options):
        body = self.body(kind, c, d, norm, spelling, options)
        return nn.Sequential(body, self.relu(spelling))

    def body(self, kind, c, d, norm, spelling, options):
        if kind == "skip":
            first = self.conv(c, c, 3, norm, padding=1)
            inner = [first, self.relu(spelling), self.conv(c, c, 3, norm, padding=1)]
            return Skip(nn.Sequential(*inner), **options)
        if kind == "cat":
            return Cat(self.conv(c, d // 2, 1, norm), self.conv(c, d // 2, 3, norm, padding=1))
        if kind == "split":
            return Split(self.conv(c // 2, c // 2, 3, norm, padding=1))
        if kind == "conv":
            return self.conv(c, d, norm=norm, **options)
        return getattr(nn, kind)(**options)

    def conv(self, c, d, kernel_size, norm, **options):
        return nn.Sequential(
            nn.Conv2d(c, d, kernel_size, bias=self.biased, **options),
            nn.BatchNorm2d(d) if norm else nn.Identity(),
        )

    def relu(self, spelling):
        if spelling == "shared":
            return self.shared
        if self.rule and spelling != "none":
            return RuleReLU(self.rule, 6.0 if spelling == "relu6" else 1e30)
        spelled = {
            "module": nn.ReLU(),
            "in place": nn.ReLU(inplace=True),
            "function": ByFunction(F.relu),
            "method in place": ByFunction(torch.Tensor.relu_),
            "relu6": nn.ReLU6(),
            "none": nn.Identity(),
        }
        return spelled[spelling]

    def draw(self, part):
        """Weights and statistics that keep the maps alive."""
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)  # of both signs
            part.running_var.uniform_(0.5, 2)
        if self.biased and getattr(part, "bias", None) is not None:
            nn.init.normal_(part.bias, std=0.2)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(std=0.3)


KINDS = [
    "conv",
    "skip",
    "cat",
    "split",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
]


class Draws:
    """Stages drawn one after the other, with the sizes that they lead to."""

    def __init__(self, draw, h, w):
        self.draw = draw
        self.h = h
        self.w = w

    def one_of(self, *values):
        return self.draw(st.sampled_from(values))

    def stage(self, kind, c, relus):
        """A stage of this kind for c channels, as in `Net`."""
        d, options = self.channels_and_options(kind, c)
        if "stride" in options:
            self.h, self.w = (self.side_after(n, options) for n in (self.h, self.w))
        return kind, c, d, self.one_of(False, True), self.one_of(*relus), options

    def channels_and_options(self, kind, c):
        if kind == "conv":
            d = self.one_of(4, 6, 8)
            kernel = self.kernel(1, 3, 5)
            groups = self.one_of(*(g for g in (1, 2, 3) if c % g == d % g == 0))
            return d, self.window(kernel) | {"groups": groups}
        if kind == "skip":
            return c, {"in_place": self.one_of(False, True)}
        if kind == "cat":
            return self.one_of(4, 8), {}
        if kind.startswith("Adaptive"):
            self.h, self.w = (self.one_of(*range(1, n + 1)) for n in (self.h, self.w))
            return c, {"output_size": (self.h, self.w)}
        if kind == "split":
            return c, {}
        return c, self.window(self.kernel(1, 2, 3))

    def kernel(self, *sizes):
        return self.one_of(*(size for size in sizes if size <= min(self.h, self.w)))

    def window(self, kernel):
        return {
            "kernel_size": kernel,
            "stride": self.one_of(1, 2),
            "padding": self.one_of(*range(kernel // 2 + 1)),
        }

    @staticmethod
    def side_after(n, options):
        return (n + 2 * options["padding"] - options["kernel_size"]) // options["stride"] + 1


@st.composite
def plans(draw, relus=RELUS, heads=HEADS, bias=None, deepest=6):
    """A plan for `Net`: sizes fit together, so that every network drawn runs."""
    size = draw(st.integers(7, 19)), draw(st.integers(7, 19))
    draws = Draws(draw, *size)
    stages = []
    c = 3
    for number in range(draw(st.integers(1, deepest))):
        kind = draws.one_of(*KINDS) if number else "conv"
        stages.append(draws.stage(kind, c, relus))
        c = stages[-1][2]
    head = draws.one_of(*heads)
    bias = draws.one_of(True, False) if bias is None else bias
    return size, stages, head, (c, draws.h, draws.w), bias, draw(st.integers(0, 99))


def images(net, n=2, seed=0):
    """Normalised pixels, all within the bounds of pixels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, *net.size, dtype=torch.float64, generator=generator)
    return LOW + x * (HIGH - LOW)


def explain(method, net, x, target=None, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no ReLU")  # some have none
        return xcnn.METHODS[method](net, x, target, **QUICK.get(method, {}) | options)


def shapley_values(net, x, target, **options):
    """Of one image."""
    (values,) = xcnn.shap_cam_values(net, x, target, **QUICK["shap_cam"] | options)
    return values


def layers(net, at):
    """A layer of the network by a number: its name, the network below and above it."""
    k = at % len(net.features)
    return f"features.{k}", net.features[: k + 1], nn.Sequential(*net.features[k + 1 :], net.head)


@pytest.mark.parametrize("method", xcnn.METHODS)
@examples(15)
@given(
    plan=plans(),
    n=st.integers(1, 3),
    targets=st.none() | st.lists(st.integers(0, 3), min_size=3, max_size=3),
)
def test_promises(method, plan, n, targets):
    net = Net(plan)
    x = images(net, n)
    targets = targets and targets[:n]
    before = state(net, x)
    try:
        R = explain(method, net, x, targets)
    except InputError as error:
        assert state(net, x) == before
        assert_rightly_refused(method, net, x, str(error))
        return
    assert R.shape == (n, 3 if method in PIXEL_METHODS else 1, *net.size)
    assert R.dtype == torch.float64 and torch.isfinite(R).all() and not R.requires_grad
    assert state(net, x) == before
    atol = 1e-9 * float(R.abs().max())
    for k in range(n):
        single = explain(method, net, x[k : k + 1], targets and targets[k])
        torch.testing.assert_close(single, R[k : k + 1], rtol=1e-6, atol=atol)
    assert explain(method, net.float(), x.float(), targets).dtype == torch.float32
    for parameter in net.parameters():
        parameter.data.zero_()
    assert (explain(method, net, x.float(), targets) == 0).all()


def assert_rightly_refused(method, net, x, message):
    if method == "cam":
        assert "CAM needs a head of global average pooling" in message
        many = math.prod(net.last[1:]) > 1  # one position has no average to speak of
        assert net.head.kind == "flat, linear" or not many
    else:  # nothing but single positions
        assert method in ("grad_cam", "guided_grad_cam", "shap_cam")
        assert "no layer that puts out maps" in message
        outputs = (net.features[: k + 1](x) for k in range(len(net.features)))
        assert all(A[0, 0].numel() == 1 for A in outputs)


@examples(60)
@given(plans(), st.integers(0, 3))
def test_the_gradient_predicts_a_small_step(plan, c):
    net = Net(plan)
    x = images(net, 1)
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, here, after = (net(x + step * v)[0, c] for step in (-1e-6, 0, 1e-6))
    slope = (here - before) / 1e-6
    slope_after = (after - here) / 1e-6
    no_kink_within = (slope - slope_after).abs() <= 1e-6 * slope.abs()
    assume(no_kink_within and slope != 0)
    torch.testing.assert_close((explain("gradient", net, x, c) * v).sum(), slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["gradient", "deconvnet", "guided_backprop"])
@examples(40)
@given(plans(), st.integers(0, 3))
def test_rules_equal_a_network_rewritten_with_them(method, plan, c):
    net = Net(plan)
    rewritten = Net(plan, method)
    x = images(net).requires_grad_()
    (oracle,) = torch.autograd.grad(rewritten(x)[:, c].sum(), x)
    assume(oracle.abs().max() > 0)
    assert_near(explain(method, net, x, c), oracle, 1e-12)


@examples(40)
@given(plans(), st.integers(0, 3), st.integers(0, 5))
def test_grad_cam_by_hand_at_any_layer(plan, c, at):
    net = Net(plan)
    layer, below, above = layers(net, at)
    x = images(net)
    A = below(x).detach().requires_grad_()
    (dA,) = torch.autograd.grad(above(A.clone())[:, c].sum(), A)
    L = torch.einsum("nkij,nkyx->nyx", dA, A.detach())[:, None] / A[0, 0].numel()
    for relu in (True, False):
        wanted = L.relu() if relu else L
        wanted = F.interpolate(wanted, net.size, mode="bilinear", align_corners=False)
        R = explain("grad_cam", net, x, c, layer=layer, relu=relu)
        torch.testing.assert_close(R, wanted, rtol=1e-9, atol=1e-12 * float(L.abs().max()))


@examples(40)
@given(plans(), st.integers(0, 3))
def test_cam_is_grad_cam_times_the_positions_and_for_no_other_head(plan, c):
    net = Net(plan)
    x = images(net)
    P = math.prod(net.last[1:])
    assume(P > 1 and net.features(x).abs().max() > 0)
    if net.head.kind == "flat, linear":
        with pytest.raises(InputError, match="CAM needs a head of global average pooling"):
            explain("cam", net, x, c)
        return
    layer = f"features.{len(net.features) - 1}"
    if net.head.kind == "class maps, average":
        layer = "head.classify"
    wanted = P * explain("grad_cam", net, x, c, layer=layer, relu=False)
    torch.testing.assert_close(explain("cam", net, x, c, relu=False), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 1e-4, 1e-8])
@pytest.mark.parametrize("head", ["maximum", "two linear layers"])
def test_a_network_of_small_numbers_does_not_fool_cam(head, scale):
    """All its values are nearly 0, and so nearly equal."""
    stages = [("conv", 3, 4, False, "module", {"kernel_size": 3})]
    net = Net(((9, 9), stages, HEADS[0], (4, 7, 7), False, 0))
    with torch.no_grad():
        net.features[0][0][0].weight *= scale
    if head == "maximum":
        net.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), net.head.classify)
    else:
        net.head = nn.Sequential(net.head, nn.ReLU(), nn.Linear(4, 4).double())
    with pytest.raises(InputError, match="CAM needs a head of global average pooling"):
        explain("cam", net.eval(), images(net))


@pytest.mark.parametrize(
    "rule", ["0", "epsilon", "gamma", "z+", "zB", "w2", "flat", "epsilon_plus", "epsilon_gamma_box"]
)
@examples(12)
@given(plans(bias=False), st.integers(0, 3))
def test_lrp_conserves(rule, plan, c):
    net = Net(plan)
    x = images(net)
    options = {"epsilon": 1e-12} if rule.startswith("epsilon") else {}
    S_c = net(x)[:, c].detach()
    R = explain("lrp", net, x, c, rule=rule, **options)
    off = (R.sum((1, 2, 3)) - S_c).abs()
    size = R.abs().sum((1, 2, 3))
    assert (off <= 1e-4 * S_c.abs() + 1e-9 * size).all(), (off, S_c, size)


@examples(40)
@given(plans([how for how in RELUS if how != "relu6"], bias=False), st.integers(0, 3))
def test_lrp_0_without_biases_is_gradient_times_input(plan, c):
    net = Net(plan)
    x = images(net)
    oracle = explain("gradient", net, x, c) * x
    assume(oracle.abs().max() > 0)
    assert_near(explain("lrp", net, x, c, rule="0"), oracle, 1e-6)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
@examples(12)
@given(plans(), st.integers(0, 3), st.integers(0, 5))
def test_shapley_values_add_up(score, baseline, plan, c, at):
    net = Net(plan)
    layer, below, _ = layers(net, at)
    x = images(net, 1)
    A = below(x).detach()
    base = A.mean((2, 3), keepdim=True) if baseline == "mean" else torch.zeros(1, dtype=A.dtype)
    S = with_maps(net, layer, x, torch.cat([A, base.expand_as(A)]))
    v_all, v_none = (S.softmax(1) if score == "probability" else S)[:, c].tolist()
    values = shapley_values(net, x, c, layer=layer, score=score, baseline=baseline)
    assert values.phi.sum().item() == pytest.approx(v_all - v_none, abs=1e-6)
    assert values.phi.shape == A.shape[2:]


def test_a_head_that_is_nearly_additive_is_not_taken_for_additive():
    """Half of its channels see their neighbours, which changes the scores by less than 1/1000."""
    stages = [
        ("conv", 3, 6, False, "module", {"kernel_size": 3, "stride": 2}),
        ("MaxPool2d", 6, 6, False, "module", {"kernel_size": 1, "stride": 2}),
        ("conv", 6, 4, False, "module", {"kernel_size": 1}),
        ("split", 4, 4, False, "module", {}),
    ]
    net = Net(((14, 10), stages, HEADS[0], (4, 3, 2), True, 1))
    x = images(net, 1)
    A = net.features[0](x).detach()
    S = with_maps(net, "features.0", x, torch.cat([A, A.mean((2, 3), keepdim=True).expand_as(A)]))
    values = shapley_values(net, x, 0, layer="features.0")
    assert values.phi.sum().item() == pytest.approx((S[0, 0] - S[1, 0]).item(), abs=1e-9)
    assert values.estimator == "permutations"


def test_few_positions_are_not_taken_for_additive():
    """Coalitions drawn of three players may make any head look additive; all of them do not."""
    stages = [
        ("conv", 3, 4, False, "module", {"kernel_size": 3}),
        ("AdaptiveMaxPool2d", 4, 4, False, "module", {"output_size": (1, 3)}),
        ("cat", 4, 4, False, "module", {}),
    ]
    net = Net(((7, 7), stages, HEADS[0], (4, 1, 3), True, 0))
    options = {"layer": "features.1", "score": "probability"}
    values = shapley_values(net, images(net, 1), 0, **options)
    assert values.estimator == "exact"


@examples(20)
@given(plans(heads=HEADS[:2]), st.integers(0, 3), st.sampled_from(["mean", "zero"]))
def test_the_closed_form_is_exact(plan, c, baseline):
    net = Net(plan)
    assume(1 < math.prod(net.last[1:]) <= 12)
    x = images(net, 1)
    options = {"layer": f"features.{len(net.features) - 1}", "baseline": baseline}
    closed, exact = (
        shapley_values(net, x, c, estimator=estimator, **options) for estimator in ("auto", "exact")
    )
    assert closed.estimator == "closed form"
    torch.testing.assert_close(closed.phi, exact.phi, rtol=1e-9, atol=1e-12)


@examples(40)
@given(plans(), st.integers(0, 3))
def test_fixations_lie_in_the_picture(plan, c):
    net = Net(plan)
    x = images(net)
    R, again = (explain("cnn_fixations", net, x, c) for _ in range(2))
    assert torch.equal(R, again) and (R >= 0).all()
    first, second = (xcnn.find_fixations(net, x, c) for _ in range(2))
    for v, w, mass in zip(first, second, R.sum((1, 2, 3)).tolist(), strict=True):
        assert torch.equal(v.all_points, w.all_points) and torch.equal(v.points, w.points)
        assert ((v.all_points >= 0) & (v.all_points < torch.tensor(net.size))).all()
        assert mass == pytest.approx(len(v.points))
        assert set(map(tuple, v.points.tolist())) <= set(map(tuple, v.all_points.tolist()))
