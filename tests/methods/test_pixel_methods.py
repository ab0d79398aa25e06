"""Gradient, deconvnet and guided backprop against captum, rewritten networks, formulas by hand, finite differences."""

import copy
import itertools
import warnings

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from torch import nn

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL
from tests.helpers.rewritten import by_autograd, rewritten

PEERS = {
    "gradient": lambda module: captum.attr.Saliency(module),
    "deconvnet": captum.attr.Deconvolution,
    "guided_backprop": captum.attr.GuidedBackprop,
}
RULES = ["deconvnet", "guided_backprop"]
every_method = pytest.mark.parametrize("method", PEERS)
every_rule = pytest.mark.parametrize("method", RULES)
pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks")


def peer(method, module, x, target=TARGETS):
    options = {"abs": False} if method == "gradient" else {}
    return (
        PEERS[method](copy.deepcopy(module))
        .attribute(x.clone(), torch.tensor(target), **options)
        .detach()
    )


def differs(R, plain):
    return (R / R.abs().max() - plain / plain.abs().max()).abs().max() > 1e-2


WITH_MODULES = ["vgg_s", "resnet_s", "allconv_s", "vgg11", "resnet18", "squeezenet1_1"]


@pytest.mark.parametrize(
    ("method", "name"), [*itertools.product(PEERS, WITH_MODULES), ("gradient", "googlenet_s")]
)
def test_equals_captum_where_every_relu_is_a_module(method, name):
    net = network(name)
    side = 128 if name in SMALL else 224
    x = torch.randn(
        2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        module = copy.deepcopy(net.module).to(dtype)
        R = xcnn.METHODS[method](module, x.to(dtype), TARGETS[:2])
        assert R.dtype == dtype
        assert_near(R, peer(method, module, x.to(dtype), TARGETS[:2]), tolerance)
        assert method == "gradient" or differs(R, xcnn.gradient(module, x.to(dtype), TARGETS[:2]))


# ---- networks that captum does not see through: compare with a copy whose ReLUs are modules that hold the rule


@every_method
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mobilenet_v2", "densenet121"])
def test_equals_a_network_rewritten_with_rule_modules(method, name):
    net, x = network(name), images(name)
    R = xcnn.METHODS[method](net, x, TARGETS)
    assert_near(R, by_autograd(rewritten(name, net.module, method), x), 1e-12)
    assert method == "gradient" or differs(R, xcnn.gradient(net, x, TARGETS))


@every_rule
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mobilenet_v2", "googlenet_s"])
def test_captum_silently_returns_the_plain_gradient(method, name):
    net, x = network(name), images(name)
    plain = xcnn.gradient(net, x, TARGETS)
    assert_near(peer(method, net.module, x), plain, 1e-12)
    assert differs(xcnn.METHODS[method](net, x, TARGETS), plain)


@every_rule
def test_captum_misses_one_relu_of_densenet(method):
    net, x = network("densenet121"), images("densenet121")
    assert differs(peer(method, net.module, x), xcnn.METHODS[method](net, x, TARGETS))


# ---- one ReLU in all its spellings, by hand

FORMS = {
    "module": nn.ReLU(), "module in place": nn.ReLU(inplace=True), "F.relu": F.relu, "torch.relu": torch.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True), "F.relu by keyword": lambda x: F.relu(input=x, inplace=False),
    "torch.relu_": torch.relu_, "method": torch.Tensor.relu, "method in place": torch.Tensor.relu_,
    "relu6": nn.ReLU6(), "relu6 in place": nn.ReLU6(inplace=True), "F.relu6": F.relu6, "hardtanh": nn.Hardtanh(0, 6),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0), "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0), "clamp_": lambda x: x.clamp_(min=0.0), "clip": lambda x: x.clip(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0), "threshold": nn.Threshold(0, 0),
    "torch.threshold": lambda x: torch.threshold(x, 0, 0), "clamp as relu6": lambda x: x.clamp(0, 6),
    "in place on a view": lambda x: (x[:, :].relu_(), x)[1],
}  # fmt: skip


class OneReLU(nn.Module):
    """conv, ReLU, mean, linear. keeps: the network relies on the ReLU's work in place, not on what it returns."""

    def __init__(self, relu, keeps=False):
        super().__init__()
        self.conv, self.fc, self.relu, self.keeps = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), relu, keeps

    def forward(self, x):
        A = self.conv(x)
        y = self.relu(A)
        return self.fc((A if self.keeps else y).mean((2, 3)))


def one_relu(relu, keeps=False):
    torch.manual_seed(0)
    return OneReLU(relu, keeps).eval().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


@every_rule
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keeps", [False, True])
def test_every_spelling_of_relu(method, form, keeps):
    in_place = "in place" in form or form.endswith("_")
    if keeps and not in_place:
        return  # nothing to rely on
    net, x = one_relu(FORMS[form], keeps)
    A, w = (
        net.conv(x),
        net.fc.weight[2] / 36,
    )  # dS/dA = w / 36 through the mean over 6 x 6 positions
    g = w[None, :, None, None].expand_as(A)
    on = (A > 0) if method == "guided_backprop" else torch.ones_like(A)
    assert A.max() < 6 and (w < 0).any() and (w > 0).any()
    assert_near(
        xcnn.METHODS[method](net, x, 2),
        F.conv_transpose2d(g * on * (g > 0), net.conv.weight).detach(),
        1e-12,
    )


@every_rule
@pytest.mark.parametrize("unit", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Hardsigmoid(), nn.LeakyReLU(),
                                  nn.Hardtanh(), nn.Threshold(0.1, 0), lambda x: x.clamp(0, 1),
                                  lambda x: x.clamp(torch.zeros(4, 1, 1), torch.ones(4, 1, 1)),
                                  lambda x: x.clamp(min=-1)])  # fmt: skip
def test_what_is_no_relu_keeps_its_derivative_and_is_said(method, unit):
    net, x = one_relu(unit)
    with pytest.warns(UserWarning, match="OneReLU has no ReLU.*plain gradient"):
        R = xcnn.METHODS[method](net, x, 2)
    assert_near(R, xcnn.gradient(net, x, 2), 1e-12)


@every_rule
def test_the_warning_comes_once_and_never_for_nothing(method):
    net, x = one_relu(nn.SiLU())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            xcnn.METHODS[method](net, x, 2)
    assert len(said) == 1 and said[0].filename == __file__
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xcnn.METHODS[method](zoo.mobilenet_v3_small(weights=None).eval(), torch.randn(1, 3, 64, 64))
        xcnn.gradient(net, x, 2)


@every_rule
def test_one_relu_object_used_twice(method):
    class Twice(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)
            self.first, self.second = first, second

        def forward(self, x):
            x = self.first(self.a(x))
            x = self.second(self.b(x) + x[:, :, 1:-1, 1:-1])
            return self.fc(x.mean((2, 3)))

    maps = []
    for relu in [(one := nn.ReLU(inplace=True), one), (nn.ReLU(), nn.ReLU()), (F.relu, F.relu)]:
        torch.manual_seed(0)
        maps.append(xcnn.METHODS[method](Twice(*relu).eval().double(), images("resnet_s")[:1], 3))
    assert (
        torch.equal(maps[0], maps[1]) and torch.equal(maps[1], maps[2]) and maps[0].abs().max() > 0
    )


# ---- inner units

NEURON = {
    "gradient": captum.attr.NeuronGradient,
    "deconvnet": captum.attr.NeuronDeconvolution,
    "guided_backprop": captum.attr.NeuronGuidedBackprop,
}


@every_method
@pytest.mark.parametrize(("name", "layer", "unit"), [
    ("vgg_s", "features.5", (3, 10, 20)),  # max pooling
    ("vgg_s", "features.8", (7, 0, 15)),
    ("vgg_s", "classifier.1", (5,)),  # a unit of a vector
    ("resnet_s", "layer2", (40, 7, 7)),
    ("resnet_s", "bn1", (2, 30, 30)),  # an in-place ReLU follows
    ("squeezenet1_1", "features.7", (100, 2, 3)),
])  # fmt: skip
def test_inner_units_equal_captum(method, name, layer, unit):
    net, x = network(name), images(name)
    module = copy.deepcopy(net.module)
    for part in module.modules():
        if isinstance(part, nn.ReLU) and layer == "bn1":
            part.inplace = False  # captum would read the layer after the ReLU has overwritten it
    oracle = NEURON[method](module, module.get_submodule(layer)).attribute(x.clone(), unit).detach()
    assert_near(xcnn.METHODS[method](net, x, layer=layer, unit=unit), oracle, 1e-12)


@every_method
def test_a_channel_alone_is_its_largest_position(method):
    net, x = network("resnet_s"), images("resnet_s")
    R = xcnn.METHODS[method](net, x, layer="layer2", unit=7)
    A = []
    handle = net.module.layer2.register_forward_hook(lambda _m, _i, out: A.append(out.detach()))
    net.module(x)
    handle.remove()
    for n, a in enumerate(A[0][:, 7]):
        y, x_ = divmod(int(a.argmax()), a.shape[1])
        single = xcnn.METHODS[method](net, x[n : n + 1], layer="layer2", unit=(7, y, x_))
        torch.testing.assert_close(R[n : n + 1], single, rtol=1e-9, atol=1e-12)
    assert R.abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(R, xcnn.METHODS[method](net, x, layer="layer2", unit=[7]))


@every_method
@pytest.mark.parametrize(("options", "says"), [
    ({"layer": "layer2"}, "both, layer= and unit="),
    ({"unit": 3}, "both, layer= and unit="),
    ({"layer": "layer2", "unit": 3, "target": 1}, "not both"),
    ({"layer": "layer_2", "unit": 3}, "did you mean.*'layer2'"),
    ({"layer": "layer2", "unit": 48}, r"no unit 48 in layer 'layer2'.*\(48, 16, 16\)"),
    ({"layer": "layer2", "unit": -1}, "no unit -1"),
    ({"layer": "layer2", "unit": (1, 2)}, r"channel or \(channel, y, x\)"),
    ({"layer": "layer2", "unit": (1, 16, 0)}, "no unit"),
    ({"layer": "layer2", "unit": 1.5}, "no unit 1.5"),
    ({"layer": "layer2", "unit": "edge"}, "no unit 'edge'"),
    ({"layer": "fc", "unit": (1, 2, 3)}, r"give channel, each less than \(10,\)"),
])  # fmt: skip
def test_units_that_will_not_do(method, options, says):
    with pytest.raises(xcnn.InputError, match=says):
        xcnn.METHODS[method](xcnn.load("resnet_s"), torch.zeros(1, 3, 128, 128), **options)


# ---- the gradient itself


@pytest.mark.parametrize("name", SMALL)
def test_gradient_predicts_a_small_step(name):
    net, x = network(name), images(name)
    R = xcnn.gradient(net, x, TARGETS)
    S = lambda x: net.module(x)[range(3), TARGETS]  # noqa: E731
    for seed in range(3):
        v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            slope = (S(x + 1e-7 * v) - S(x - 1e-7 * v)) / 2e-7
        assert_near((R * v).sum((1, 2, 3)), slope, 1e-4)


def test_deconvnet_of_a_deep_network_overflows_when_squared_and_its_energies_do_not():
    torch.manual_seed(0)
    module = zoo.resnet101(weights=None).eval()
    R = xcnn.deconvnet(module, torch.randn(1, 3, 64, 64), 0)
    R = R * (1e25 / R.abs().max())  # as large as trained networks make it
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    assert torch.isfinite(R).all() and R.square().sum().isinf()
    P = xcnn.energy_concentration(R, mask, dilate=0)
    wanted = (R.double()[:, :, :32].square().sum() / R.double().square().sum()).item()
    assert P.item() == pytest.approx(wanted, rel=1e-9) and 0 < wanted < 1
