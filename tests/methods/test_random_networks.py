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

from tests.helpers.oracles import COLOURED, HIGH, LOW, assert_near, examples, state, with_maps
from tests.helpers.rewritten import RuleReLU

QUICK = {"lime": {"samples": 12, "segments": 6}, "shap_cam": {"samples": 8}}
RELUS = ["module", "in place", "function", "method in place", "shared", "relu6", "none"]
HEADS = ["average, linear", "class maps, average", "flat, linear"]


class ByFunction(nn.Module):
    """A ReLU that is no ReLU module."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Skip(nn.Module):
    def __init__(self, inner, in_place):
        super().__init__()
        self.inner, self.in_place = inner, in_place

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
    """What a plan says. rule: every ReLU is replaced by one that holds this rule in its own backward pass.

    features: a Sequential of stages. last: (C, h, w) of what it puts out. size: (H, W) of the images.
    """

    def __init__(self, plan, rule=None):
        super().__init__()
        self.size, stages, head, self.last, bias, seed = plan
        torch.manual_seed(seed)
        self.shared = RuleReLU(rule) if rule else nn.ReLU(inplace=True)

        def relu(how):
            if how == "shared":
                return self.shared
            if rule and how != "none":
                return RuleReLU(rule, 6.0 if how == "relu6" else 1e30)
            spelled = {
                "module": nn.ReLU(),
                "in place": nn.ReLU(inplace=True),
                "function": ByFunction(F.relu),
                "method in place": ByFunction(torch.Tensor.relu_),
                "relu6": nn.ReLU6(),
                "none": nn.Identity(),
            }
            return spelled[how]

        def conv(c, d, kernel_size, norm, **options):
            return nn.Sequential(
                nn.Conv2d(c, d, kernel_size, bias=bias, **options),
                nn.BatchNorm2d(d) if norm else nn.Identity(),
            )

        def body(kind, c, d, norm, how, options):
            if kind == "skip":
                inner = [conv(c, c, 3, norm, padding=1), relu(how), conv(c, c, 3, norm, padding=1)]
                return Skip(nn.Sequential(*inner), **options)
            if kind == "cat":
                return Cat(conv(c, d // 2, 1, norm), conv(c, d // 2, 3, norm, padding=1))
            if kind == "split":
                return Split(conv(c // 2, c // 2, 3, norm, padding=1))
            if kind == "conv":
                return conv(c, d, norm=norm, **options)
            return getattr(nn, kind)(**options)

        self.features = nn.Sequential(
            *[nn.Sequential(body(*stage), relu(stage[4])) for stage in stages]
        )
        self.head = Head(head, *self.last, bias)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight)  # of both signs
                part.running_var.uniform_(0.5, 2)
            if bias and getattr(part, "bias", None) is not None:
                nn.init.normal_(part.bias, std=0.2)
                if isinstance(part, nn.BatchNorm2d):
                    part.running_mean.normal_(std=0.3)
        self.double().eval()

    def forward(self, x):
        return self.head(self.features(x))


@st.composite
def plans(draw, relus=RELUS, heads=HEADS, bias=None, deepest=6):
    """A plan for `Net`: sizes fit together, so that every network drawn runs."""
    kinds = [
        "conv",
        "skip",
        "cat",
        "split",
        "MaxPool2d",
        "AvgPool2d",
        "AdaptiveAvgPool2d",
        "AdaptiveMaxPool2d",
    ]
    one_of = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    size = h, w = draw(st.integers(7, 19)), draw(st.integers(7, 19))
    stages, c = [], 3
    for number in range(draw(st.integers(1, deepest))):
        kind, d, options = one_of(*kinds) if number else "conv", c, {}
        if kind == "conv":
            d, k = one_of(4, 6, 8), one_of(*(k for k in (1, 3, 5) if k <= min(h, w)))
            groups = one_of(*(g for g in (1, 2, 3) if c % g == d % g == 0))
            options = {
                "kernel_size": k,
                "stride": one_of(1, 2),
                "padding": one_of(*range(k // 2 + 1)),
                "groups": groups,
            }
        elif kind == "skip":
            options = {"in_place": one_of(False, True)}
        elif kind == "cat":
            d = one_of(4, 8)
        elif kind.startswith("Adaptive"):
            h, w = one_of(*range(1, h + 1)), one_of(*range(1, w + 1))
            options = {"output_size": (h, w)}
        elif kind != "split":
            k = one_of(*(k for k in (1, 2, 3) if k <= min(h, w)))
            options = {
                "kernel_size": k,
                "stride": one_of(1, 2),
                "padding": one_of(*range(k // 2 + 1)),
            }
        if "stride" in options:
            h, w = ((n + 2 * options["padding"] - k) // options["stride"] + 1 for n in (h, w))
        stages.append((kind, c, d, one_of(False, True), one_of(*relus), options))
        c = d
    return (
        size,
        stages,
        one_of(*heads),
        (c, h, w),
        one_of(True, False) if bias is None else bias,
        draw(st.integers(0, 99)),
    )


def images(net, n=2, seed=0):
    """Normalised pixels, all within the bounds of pixels."""
    x = torch.rand(
        n, 3, *net.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return LOW + x * (HIGH - LOW)


def explain(method, net, x, target=None, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no ReLU")  # some have none
        return xcnn.METHODS[method](net, x, target, **QUICK.get(method, {}) | options)


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
    x, targets = images(net, n), targets and targets[:n]
    before = state(net, x)
    try:
        R = explain(method, net, x, targets)
    except InputError as error:
        assert state(net, x) == before
        many = math.prod(net.last[1:]) > 1  # one position has no average to speak of
        if method == "cam":
            assert "CAM needs a head of global average pooling" in str(error) and (
                plan[2] == HEADS[2] or not many
            )
        else:  # nothing but single positions
            assert method in (
                "grad_cam",
                "guided_grad_cam",
                "shap_cam",
            ) and "no layer that puts out maps" in str(error)
            assert all(
                net.features[: k + 1](x)[0, 0].numel() == 1 for k in range(len(net.features))
            )
        return
    assert R.shape == (n, 3 if method in COLOURED else 1, *net.size)
    assert R.dtype == torch.float64 and torch.isfinite(R).all() and not R.requires_grad
    assert state(net, x) == before
    for k in range(n):
        single = explain(method, net, x[k : k + 1], targets and targets[k])
        torch.testing.assert_close(
            single, R[k : k + 1], rtol=1e-6, atol=1e-9 * float(R.abs().max())
        )
    assert explain(method, net.float(), x.float(), targets).dtype == torch.float32
    for parameter in net.parameters():
        parameter.data.zero_()
    assert (explain(method, net, x.float(), targets) == 0).all()


@examples(60)
@given(plans(), st.integers(0, 3))
def test_the_gradient_predicts_a_small_step(plan, c):
    net = Net(plan)
    x = images(net, 1)
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, here, after = (net(x + step * v)[0, c] for step in (-1e-6, 0, 1e-6))
    one, other = (here - before) / 1e-6, (after - here) / 1e-6
    assume((one - other).abs() <= 1e-6 * one.abs() and one != 0)  # no kink within the step
    torch.testing.assert_close((explain("gradient", net, x, c) * v).sum(), one, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["gradient", "deconvnet", "guided_backprop"])
@examples(40)
@given(plans(), st.integers(0, 3))
def test_rules_equal_a_network_rewritten_with_them(method, plan, c):
    net, rewritten = Net(plan), Net(plan, method)
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
        wanted = F.interpolate(
            L.relu() if relu else L, net.size, mode="bilinear", align_corners=False
        )
        R = explain("grad_cam", net, x, c, layer=layer, relu=relu)
        torch.testing.assert_close(R, wanted, rtol=1e-9, atol=1e-12 * float(L.abs().max()))


@examples(40)
@given(plans(), st.integers(0, 3))
def test_cam_is_grad_cam_times_the_positions_and_for_no_other_head(plan, c):
    net = Net(plan)
    x, P = images(net), math.prod(net.last[1:])
    assume(P > 1 and net.features(x).abs().max() > 0)
    if net.head.kind == "flat, linear":
        with pytest.raises(InputError, match="CAM needs a head of global average pooling"):
            explain("cam", net, x, c)
        return
    layer = (
        "head.classify"
        if net.head.kind == "class maps, average"
        else f"features.{len(net.features) - 1}"
    )
    wanted = P * explain("grad_cam", net, x, c, layer=layer, relu=False)
    torch.testing.assert_close(explain("cam", net, x, c, relu=False), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 1e-4, 1e-8])
@pytest.mark.parametrize("head", ["maximum", "two linear layers"])
def test_a_network_of_small_numbers_does_not_fool_cam(head, scale):
    """All its values are nearly 0, and so nearly equal."""
    net = Net(
        (
            (9, 9),
            [("conv", 3, 4, False, "module", {"kernel_size": 3})],
            HEADS[0],
            (4, 7, 7),
            False,
            0,
        )
    )
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
    x, options = images(net), {"epsilon": 1e-12} if rule.startswith("epsilon") else {}
    S_c = net(x)[:, c].detach()
    R = explain("lrp", net, x, c, rule=rule, **options)
    off, size = (R.sum((1, 2, 3)) - S_c).abs(), R.abs().sum((1, 2, 3))
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
    R = explain("shap_cam", net, x, c, layer=layer, score=score, baseline=baseline)
    assert R.values[0].phi.sum().item() == pytest.approx(v_all - v_none, abs=1e-6)
    assert R.values[0].phi.shape == A.shape[2:]


def test_a_head_that_is_nearly_additive_is_not_taken_for_additive():
    """Half of its channels see their neighbours, and what that changes is less than a thousandth of the scores."""
    conv = ("conv", 3, 6, False, "module", {"kernel_size": 3, "stride": 2})
    above = [("MaxPool2d", 6, 6, False, "module", {"kernel_size": 1, "stride": 2}),
             ("conv", 6, 4, False, "module", {"kernel_size": 1}), ("split", 4, 4, False, "module", {})]  # fmt: skip
    net = Net(((14, 10), [conv, *above], HEADS[0], (4, 3, 2), True, 1))
    x = images(net, 1)
    A = net.features[0](x).detach()
    S = with_maps(net, "features.0", x, torch.cat([A, A.mean((2, 3), keepdim=True).expand_as(A)]))
    (values,) = explain("shap_cam", net, x, 0, layer="features.0").values
    assert values.phi.sum().item() == pytest.approx((S[0, 0] - S[1, 0]).item(), abs=1e-9)
    assert values.estimator == "permutations"


def test_few_positions_are_not_taken_for_additive():
    """Of three players, coalitions drawn at random may all be ones for which any head looks additive."""
    stages = [("conv", 3, 4, False, "module", {"kernel_size": 3}),
              ("AdaptiveMaxPool2d", 4, 4, False, "module", {"output_size": (1, 3)}),
              ("cat", 4, 4, False, "module", {})]  # fmt: skip
    net = Net(((7, 7), stages, HEADS[0], (4, 1, 3), True, 0))
    auto, exact = (
        explain(
            "shap_cam",
            net,
            images(net, 1),
            0,
            layer="features.1",
            score="probability",
            estimator=estimator,
        )
        for estimator in ("auto", "exact")
    )
    assert auto.values[0].estimator == "permutations"
    assert auto.values[0].phi.sum() == pytest.approx(exact.values[0].phi.sum().item(), abs=1e-9)


def test_maps_inside_a_block_that_ends_in_a_single_position():
    """The usual small network: all layers in one container, the global average last in it."""
    pooled = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    net = xcnn.Network(nn.Sequential(pooled, nn.Flatten(), nn.Linear(6, 5)).eval(), size=12)
    assert net.layers == {"0.2": (6, 10, 10)}
    assert xcnn.grad_cam(net.module, torch.randn(1, 3, 12, 12), 2, relu=False).abs().max() > 0


@examples(20)
@given(plans(heads=HEADS[:2]), st.integers(0, 3), st.sampled_from(["mean", "zero"]))
def test_the_closed_form_is_exact(plan, c, baseline):
    net = Net(plan)
    assume(1 < math.prod(net.last[1:]) <= 12)
    layer, x = f"features.{len(net.features) - 1}", images(net, 1)
    closed, exact = (
        explain("shap_cam", net, x, c, layer=layer, baseline=baseline, estimator=estimator).values[
            0
        ]
        for estimator in ("auto", "exact")
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
    for one, other, mass in zip(R.values, again.values, R.sum((1, 2, 3)).tolist(), strict=True):
        assert torch.equal(one.found, other.found) and torch.equal(one.points, other.points)
        assert ((one.found >= 0) & (one.found < torch.tensor(net.size))).all()
        assert mass == pytest.approx(len(one.points))
        assert set(map(tuple, one.points.tolist())) <= set(map(tuple, one.found.tolist()))
