"""The gradient against captum, networks rewritten, and finite differences; inner units."""

import copy
import warnings

import captum.attr
import pytest
import torch
import torchvision.models as zoo
import xcnn
from torch import nn

from tests.helpers.oracles import TARGETS, assert_near, images, network, outputs_of
from tests.helpers.pixels import (
    PEERS,
    RULES,
    WITH_MODULES,
    assert_equals_captum,
    assert_equals_rewritten,
    one_relu,
)
from tests.helpers.places import SMALL

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks")
every_method = pytest.mark.parametrize("method", PEERS)
every_rule = pytest.mark.parametrize("method", RULES)


@pytest.mark.parametrize("name", [*WITH_MODULES, "googlenet_s"])
def test_equals_captum_where_every_relu_is_a_module(name):
    assert_equals_captum("gradient", name)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mobilenet_v2", "densenet121"])
def test_equals_a_network_rewritten_with_rule_modules(name):
    assert_equals_rewritten("gradient", name)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_predicts_a_small_step(name):
    net = network(name)
    x = images(name)
    R = xcnn.gradient(net, x, TARGETS)

    def S_c(x):
        return net.module(x)[range(3), TARGETS]

    for seed in range(3):
        v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            slope = (S_c(x + 1e-7 * v) - S_c(x - 1e-7 * v)) / 2e-7
        assert_near((R * v).sum((1, 2, 3)), slope, 1e-4)


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


# ---- inner units, which all three methods take

NEURON = {
    "gradient": captum.attr.NeuronGradient,
    "deconvnet": captum.attr.NeuronDeconvolution,
    "guided_backprop": captum.attr.NeuronGuidedBackprop,
}


@every_method
@pytest.mark.parametrize(
    ("name", "layer", "unit"),
    [
        ("vgg_s", "features.5", (3, 10, 20)),  # max pooling
        ("vgg_s", "features.8", (7, 0, 15)),
        ("vgg_s", "classifier.1", (5,)),  # a unit of a vector
        ("resnet_s", "layer2", (40, 7, 7)),
        ("resnet_s", "bn1", (2, 30, 30)),  # an in-place ReLU follows
        ("squeezenet1_1", "features.7", (100, 2, 3)),
    ],
)
def test_inner_units_equal_captum(method, name, layer, unit):
    net = network(name)
    x = images(name)
    module = copy.deepcopy(net.module)
    for part in module.modules():
        if isinstance(part, nn.ReLU) and layer == "bn1":
            part.inplace = False  # captum would read the layer after the ReLU has overwritten it
    oracle = NEURON[method](module, module.get_submodule(layer)).attribute(x.clone(), unit).detach()
    assert_near(xcnn.METHODS[method](net, x, layer=layer, unit=unit), oracle, 1e-12)


@every_method
def test_a_channel_alone_is_its_largest_position(method):
    net = network("resnet_s")
    x = images("resnet_s")
    R = xcnn.METHODS[method](net, x, layer="layer2", unit=7)
    (A,) = outputs_of(net.module, "layer2", x)
    for n, a in enumerate(A[:, 7]):
        row, column = divmod(int(a.argmax()), a.shape[1])
        single = xcnn.METHODS[method](net, x[n : n + 1], layer="layer2", unit=(7, row, column))
        torch.testing.assert_close(R[n : n + 1], single, rtol=1e-9, atol=1e-12)
    assert R.abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(R, xcnn.METHODS[method](net, x, layer="layer2", unit=[7]))


@every_method
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": "layer2"}, "both, layer= and unit="),
        ({"unit": 3}, "both, layer= and unit="),
        ({"layer": "layer2", "unit": 3, "target": 1}, "not both"),
        ({"layer": "layer2", "target": 1}, "not both"),  # to add unit= would be of no help
        ({"unit": 3, "target": 1}, "not both"),
        ({"layer": "layer2", "unit": True}, "no unit True"),
        ({"layer": "layer2", "unit": ()}, r"no unit \(\)"),
        ({"layer": "layer_2", "unit": 3}, "did you mean.*'layer2'"),
        ({"layer": "layer2", "unit": 48}, r"no unit 48 in layer 'layer2'.*\(48, 16, 16\)"),
        ({"layer": "layer2", "unit": -1}, "no unit -1"),
        ({"layer": "layer2", "unit": (1, 2)}, r"channel or \(channel, y, x\)"),
        ({"layer": "layer2", "unit": (1, 16, 0)}, "no unit"),
        ({"layer": "layer2", "unit": 1.5}, "no unit 1.5"),
        ({"layer": "layer2", "unit": "edge"}, "no unit 'edge'"),
        ({"layer": "fc", "unit": (1, 2, 3)}, r"give channel, each less than \(10,\)"),
    ],
)
def test_units_that_will_not_do(method, options, says):
    with pytest.raises(xcnn.InputError, match=says):
        xcnn.METHODS[method](xcnn.load("resnet_s"), torch.zeros(1, 3, 128, 128), **options)


class PutsOut(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, A):
        return self.form(A)


class WithLayer(nn.Module):
    """A convolution, a ReLU, and a layer `out` that puts out its maps in some form."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.out = PutsOut(form)

    def forward(self, x):
        A = self.conv(x).relu()
        return A.mean((2, 3)) + self.out(A).sum()


def noise_image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, 11, 13, generator=generator, dtype=torch.float64)


def with_layer(form):
    return WithLayer(form).eval().double()


METHODS_WITH_UNITS = [*RULES, "gradient", "cnn_fixations"]


@pytest.mark.parametrize("method", METHODS_WITH_UNITS)
@pytest.mark.parametrize("unit", [3, (3, 4, 5), (5, 8, 10), (0, 0, 0)])
def test_units_of_maps_with_their_channels_last(method, unit):
    """The unit is (channel, y, x) as in maps with their channels first."""
    first = with_layer(lambda A: A * 1)
    last = with_layer(lambda A: A.permute(0, 2, 3, 1))
    maps = [
        xcnn.METHODS[method](net, noise_image(), layer="out", unit=unit) for net in (first, last)
    ]
    torch.testing.assert_close(*maps)


def test_channels_last_units_of_a_network_that_may_attend():
    """There a trial tells rows from channels, and not the shape."""
    net = with_layer(lambda A: A.permute(0, 2, 3, 1))
    net.norm = nn.LayerNorm(8).eval()
    x = noise_image().requires_grad_()
    A = net.conv(x).relu()
    unit = tuple(map(int, torch.unravel_index(A.argmax(), A.shape)[1:]))
    (wanted,) = torch.autograd.grad(A[(0, *unit)], x)
    assert wanted.abs().max() > 0
    assert torch.equal(xcnn.gradient(net, x, layer="out", unit=unit), wanted)


@pytest.mark.parametrize("method", METHODS_WITH_UNITS)
def test_units_of_tokens(method):
    net = with_layer(lambda A: A.flatten(2).mT)
    x = noise_image().requires_grad_()
    y = net.conv(x).relu().flatten(2).mT
    token, channel = divmod(int(y.flatten().argmax()), 8)
    R = xcnn.METHODS[method](net, x, layer="out", unit=(token, channel))
    assert R.abs().max() > 0
    if method == "gradient":
        torch.testing.assert_close(R, torch.autograd.grad(y[0, token, channel], x)[0])
    for unit in (channel, (token, channel, 0), (99, 0), (0, 8)):
        with pytest.raises(xcnn.InputError, match=r"give 2 indices, each less than \(99, 8\)"):
            xcnn.METHODS[method](net, x, layer="out", unit=unit)


@pytest.mark.parametrize("method", METHODS_WITH_UNITS)
@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (lambda A: A.mean((1, 2, 3)), r"\(1,\)"),
        (lambda A: A.mean(), r"\(\)"),
        (lambda A: torch.cat([A, A]).mean((2, 3)), r"\(2, 8\)"),
        (lambda A: A.flatten(2).permute(2, 0, 1), r"\(99, 1, 8\)"),
    ],
)
@pytest.mark.parametrize("unit", [0, (0, 0), (), "a"])
def test_a_layer_without_a_row_for_each_image_has_no_units(method, form, shape, unit):
    """Units of all rows at once were summed up, or torch's own error came."""
    with pytest.raises(xcnn.InputError, match=f"puts out {shape} for 1 images.*choose another"):
        xcnn.METHODS[method](with_layer(form), noise_image(), layer="out", unit=unit)
