"""LRP's tape: precision, memory, the pixels before the first layer and their bounds."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import nn
from xcnn import InputError
from xcnn.methods.lrp import deep_taylor, lrp
from xcnn.methods.lrp_composites import COMPOSITES

from tests.helpers.oracles import HIGH, LOW, assert_near, batch, differs, network
from tests.helpers.relevance import any_norm

# ---- half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", ["epsilon_plus", "0", "deep_taylor"])
def test_half_precision_is_computed_in_float32(dtype, rule):
    """All but the last rounding: in half precision nearly all relevances would be 0."""
    module = copy.deepcopy(network("mobilenet_v2").module).to(dtype)
    x = batch(64, 1).to(dtype)
    R = lrp(module, x, 3, rule)
    exact = lrp(copy.deepcopy(module).float(), x.float(), 3, rule)
    assert R.dtype == dtype and torch.equal(R, exact.to(dtype))
    assert (exact != 0).float().mean() > 0.9


class HalfInside(nn.Module):
    """A network that changes to half precision on its way, and back."""

    def __init__(self, change=None):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)
        self.change = change
        with torch.no_grad():
            self.b.weight *= 1e-4
            self.fc.weight *= 1e-3

    def forward(self, x):
        y = self.a(x).relu()
        if self.change == "half":
            y = F.conv2d(y.half(), self.b.weight.half(), self.b.bias.half()).relu().float()
        elif self.change == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                y = self.b(y).relu()
        else:
            y = self.b(y).relu()
        return self.fc(y.to(x.dtype).mean((2, 3)))


@pytest.mark.parametrize("change", ["half", "autocast"])
def test_half_precision_inside_a_network(change):
    x = batch(12, 2).float()
    wanted = lrp(HalfInside().eval(), x, 2)
    assert_near(lrp(HalfInside(change).eval(), x, 2), wanted, 1e-2 if change == "half" else 1e-6)


def test_the_callers_autocast_plays_no_part():
    net = HalfInside().eval()
    x = batch(12, 2).float()
    wanted = lrp(net, x, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lrp(net, x, 2), wanted)


# ---- memory: nothing is left to the garbage collector


class Fails(nn.Module):
    """A network whose backward pass fails half-way, at the absolute value."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.b(self.a(x).abs()).relu().mean((2, 3)))


class BoundsFail(Fails):
    """One that takes the pixels out of their bounds, after a change of them."""

    def forward(self, x):
        return self.fc(self.a(1 - x).relu().mean((2, 3)))


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_gamma_box", "w2"])
@pytest.mark.parametrize("make", [zoo.resnet18, zoo.mobilenet_v3_small, Fails, BoundsFail])
def test_nothing_is_left_to_the_garbage_collector(make, rule):
    torch.manual_seed(0)
    net = make().eval()
    x = batch(64, 1).float() * (5 if make is BoundsFail else 1)

    def explain():
        try:
            lrp(net, x, 3, rule)
        except InputError:
            return "refused"

    refused = explain()
    assert bool(refused) == (make is Fails or (make is BoundsFail and "box" in rule))
    gc.collect()
    gc.disable()
    try:
        explain()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_is_left_to_the_garbage_collector_is_counted():
    gc.collect()
    gc.disable()
    try:
        circle = [torch.zeros(3)]
        circle.append(circle)
        del circle
        assert gc.collect() > 0
    finally:
        gc.enable()


# ---- the pixels before the first layer


def inverted(x):
    return 1 - x


def limited(x):
    return x.clamp(-1, 1.5).mul(0.5).sub_(0.25)


def swapped(x):
    red, green, blue = x.unbind(1)
    return torch.stack([blue * 2, 3 - green, red / -4], 1)


def shrunk(x):
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=1.5, mode="bilinear")


def mirrored(x):
    return F.pad(torch.flip(x, [3]), (2, 1, 0, 3), mode="replicate")


def grey(x):
    return torch.cat([x.mean(1, keepdim=True)] * 3, 1)


def standardised(x):
    return NORM(x) * torch.tensor([1.0, -2.0, 0.5]).double().view(3, 1, 1)


torch.manual_seed(0)
NORM = any_norm(3)

# what a network may do to its pixels -> where the relevance of what comes out of it belongs: the
# same moves and averages, without factors and shifts
READY = {
    inverted: lambda x: x,
    limited: lambda x: x,
    swapped: lambda x: x.flip(1),
    shrunk: shrunk,
    mirrored: mirrored,
    grey: grey,
    standardised: lambda x: x,
}


class Prepared(nn.Module):
    """A network that prepares its pixels itself."""

    def __init__(self, prepare):
        super().__init__()
        torch.manual_seed(0)
        self.prepare = prepare
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv(self.prepare(x)).relu().mean((2, 3)))


def prepared(f):
    return Prepared(f).double().eval()


@pytest.mark.parametrize("f", READY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("rule", COMPOSITES)
def test_pixels_are_passed_over_and_their_bounds_with_them(f, rule):
    """The inner network gets the prepared pixels, and their bounds, worked out by hand."""
    x = batch(8, 2)
    with torch.no_grad():
        bounds = torch.stack([f(bound.expand_as(x).clone()) for bound in (LOW, HIGH)])
        inner_x = f(x.clone())
    box = {}
    if rule in ("zB", "deep_taylor", "epsilon_gamma_box"):
        box = {"low": bounds.amin(0)[0], "high": bounds.amax(0)[0]}
    R = lrp(prepared(nn.Identity()), inner_x, 1, rule, **box)
    pixels = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(READY[f](pixels), pixels, R)
    assert_near(lrp(prepared(f), x, 1, rule), wanted, 1e-9)


@pytest.mark.parametrize("f", [inverted, swapped, shrunk], ids=lambda f: f.__name__)
def test_deep_taylor_is_positive_for_a_positive_score_within_the_bounds(f):
    """Montavon et al. 2017, proposition 2. With the bounds of x itself it would not be."""
    x = batch(8, 2)
    net = prepared(f)
    with torch.no_grad():
        net.fc.bias.zero_()
        net.conv.bias.clamp_(max=0)
    S = net(x)
    c = int(S[0].argmax())
    assert S[0, c] > 0
    R = lrp(net, x[:1], c, "deep_taylor")
    assert R.min() >= -1e-12 * R.max()


def test_two_stems_are_both_passed_over():
    """Each branch prepares the pixels in its own way; the second after the first one's layer."""

    class Stems(nn.Module):
        def __init__(self, prepare):
            super().__init__()
            torch.manual_seed(0)
            self.prepare = prepare
            self.a = nn.Conv2d(3, 4, 3)
            self.b = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            y = self.a(x).relu()
            z = self.b(self.prepare(x)).relu()
            return self.fc(torch.cat([y, z], 1).mean((2, 3)))

    x = batch(8, 2)
    net = Stems(lambda x: x * 2 + 1).double().eval()

    def keeping(values):
        return lambda _: values

    class Fixed(Stems):
        def forward(self, x):
            x, prepared = x.chunk(2, 3)
            self.prepare = keeping(prepared)
            return super().forward(x)

    twin = Fixed(None).double().eval()
    for rule in ("z+", "epsilon", "epsilon_plus_flat"):
        both = lrp(twin, torch.cat([x, x * 2 + 1], 3), 1, rule)
        assert_near(lrp(net, x, 1, rule), both[..., :8] + both[..., 8:], 1e-9)


def by_image(x):
    mean = x.mean((2, 3), keepdim=True)
    deviation = (x - mean).pow(2).mean((2, 3), keepdim=True).sqrt()
    return (x - mean) / deviation * 2 + 1


@pytest.mark.parametrize("f", [by_image, lambda x: nn.InstanceNorm2d(3)(x) * 2 + 1])
@pytest.mark.parametrize("rule", ["epsilon_plus_flat", "w2", "0", "gamma"])
def test_a_picture_normalised_by_its_own_statistics_is_passed_over(f, rule):
    """A pixel near the mean is as important as any other."""
    x = batch(8, 2)
    wanted = lrp(prepared(nn.Identity()), by_image(x), 1, rule)
    assert_near(lrp(prepared(f), x, 1, rule), wanted, 1e-4)


def test_pixels_mixed_with_one_another_have_no_box():
    def less_mean(x):
        return x - x.mean((2, 3), keepdim=True)

    x = batch(8, 1)
    for f in (less_mean, lambda x: x * x, nn.InstanceNorm2d(3)):
        with pytest.raises(InputError, match="rule 'zB' is for the layer that gets the pixels"):
            lrp(prepared(f), x, 1, "zB")
        assert lrp(prepared(f), x, 1, "flat").isfinite().all()  # what the message offers
        assert lrp(prepared(f), x, 1, "w2").isfinite().all()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (255 * batch(8, 1).abs(), r"zB' needs pixels between low and high: the first layer gets"),
        (batch(8, 1) - 0.5, "between low and high"),
        (batch(8, 1).clamp(-2, 1.9) * 1.3, r"net\.preprocess, or give low= and high="),
    ],
)
@pytest.mark.parametrize("rule", ["zB", "deep_taylor", "epsilon_gamma_box"])
def test_pixels_outside_of_their_bounds_are_refused_and_the_advice_works(x, says, rule):
    net = prepared(nn.Identity())
    with pytest.raises(InputError, match=says):
        lrp(net, x, 1, rule)
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    R = lrp(net, x, 1, rule, low=low, high=high)
    assert R.isfinite().all() and R.abs().max() > 0
    if rule == "deep_taylor":
        assert torch.equal(deep_taylor(net, x, 1, low=low, high=high), R)
    tight = lrp(net, x, 1, rule, low=low - 1e-4 * (high - low), high=high)
    assert not differs(R, tight)


def test_rounding_may_take_a_pixel_out_of_its_bounds():
    net = prepared(nn.Identity())
    x = torch.where(batch(8, 1) > 0, HIGH, LOW)
    assert lrp(net, x * 1.002, 1, "zB").isfinite().all()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert lrp(copy.deepcopy(net).to(dtype), x.to(dtype), 1, "zB").isfinite().all()
