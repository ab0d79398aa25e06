"""Each method against an independent oracle: captum, plain autograd, an einsum that knows the network."""

import copy
import functools

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from conftest import SMALL
from torch import nn

GAP = ["resnet_s", "googlenet_s", "allconv_s", "resnet18", "googlenet"]
TARGETS = [1, 4, 7]


@functools.cache
def network(name):
    """In float64. The big ones have random weights, and batch norm statistics that keep their maps alive."""
    if name in SMALL:
        net = xcnn.load(name)
        return xcnn.Network(copy.deepcopy(net.module).double(), name, net.classes, size=128)
    torch.manual_seed(0)
    options = {"init_weights": True, "aux_logits": False, "transform_input": False} if name == "googlenet" else {}
    module = zoo.get_model(name, weights=None, **options)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(torch.randn(4, 3, 64, 64))
    return xcnn.Network(module.eval().double(), name, size=96)


@functools.cache
def batch(size, n=3):
    return torch.randn(n, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images(name):
    return batch(network(name).size)


def assert_near(R, oracle, tolerance=1e-6):
    assert oracle.abs().max() > 0, "a dead oracle proves nothing"
    assert R.shape == oracle.shape
    assert (R - oracle).abs().max() <= tolerance * oracle.abs().max()


def captum_grad_cam(module, layer, x, target):
    module = copy.deepcopy(module)
    layer = module.get_submodule(layer)
    L = captum.attr.LayerGradCam(module, layer).attribute(x, torch.tensor(target), relu_attributions=True)
    return F.interpolate(L, x.shape[-2:], mode="bilinear", align_corners=False).detach()


CASES = [(name, k) for name in SMALL for k in range(4)]
CASES += [(name, k) for name in ("resnet18", "squeezenet1_1", "densenet121", "googlenet") for k in (0, -2, -1)]
CASES += [
    ("allconv_s", "features.2"),
    ("resnet_s", "bn1"),
    ("densenet121", "features.norm5"),
]  # an in-place ReLU follows


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_grad_cam_equals_captum(name, layer):
    net, x = network(name), images(name)
    layer = layer if isinstance(layer, str) else list(net.layers)[layer]
    assert_near(xcnn.grad_cam(net, x, TARGETS, layer), captum_grad_cam(net.module, layer, x, TARGETS))


@pytest.mark.parametrize("name", ["vgg_s", "resnet_s", "squeezenet1_1"])
def test_grad_cam_default_layer_is_the_last(name):
    net, x = network(name), images(name)
    assert_near(xcnn.grad_cam(net, x, TARGETS), captum_grad_cam(net.module, list(net.layers)[-1], x, TARGETS))


def test_signed_grad_cam_keeps_what_relu_removes():
    net, x = network("vgg_s"), images("vgg_s")
    layer = net.module.get_submodule(net.layer)
    L = captum.attr.LayerGradCam(net.module, layer).attribute(x, torch.tensor(TARGETS)).detach()
    signed = xcnn.grad_cam(net, x, TARGETS, relu=False)
    assert (signed < 0).any()
    assert_near(signed, F.interpolate(L, x.shape[-2:], mode="bilinear", align_corners=False))


def taken(module, layer, x):
    """What a layer puts out, by a hook of our own."""
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    with torch.no_grad():
        module(x)
    handle.remove()
    return seen[-1]


def known_cam(name, module, x, target):
    """CAM written with knowledge of each network: (N, 1, h, w), signed."""
    last = {"resnet_s": "layer3", "googlenet_s": "inception4", "allconv_s": "features", "resnet18": "layer4"}
    last |= {"googlenet": "inception5b", "densenet121": "features", "squeezenet1_1": "features"}
    A = taken(module, last[name], x)
    if name == "squeezenet1_1":  # a convolution gives the class maps, which are averaged
        conv = module.classifier[1]
        return F.conv2d(A, conv.weight, conv.bias).relu()[range(len(x)), target][:, None].detach()
    if name == "densenet121":
        A = A.relu()
    fc = module.fc if hasattr(module, "fc") else module.classifier
    return torch.einsum("nk,nkyx->nyx", fc.weight[target], A)[:, None].detach()


@pytest.mark.parametrize("name", [*GAP, "densenet121", "squeezenet1_1"])
@pytest.mark.parametrize("relu", [True, False])
def test_cam_equals_an_einsum_that_knows_the_network(name, relu):
    net, x = network(name), images(name)
    M = known_cam(name, net.module, x, TARGETS)
    oracle = F.interpolate(M.relu() if relu else M, x.shape[-2:], mode="bilinear", align_corners=False)
    assert_near(xcnn.cam(net, x, TARGETS, relu=relu), oracle)


@pytest.mark.parametrize("name", GAP)
def test_cam_is_grad_cam_times_the_number_of_positions(name):
    net, x = network(name), images(name)
    last = {"googlenet": "inception5b", "resnet18": "layer4"}.get(name, net.layer)
    _, h, w = taken(net.module, last, x).shape[1:]
    assert_near(xcnn.grad_cam(net, x, TARGETS, last) * h * w, xcnn.cam(net, x, TARGETS))


def test_signed_cam_averages_to_the_score_less_the_bias():
    net, x = network("resnet_s"), images("resnet_s")
    S = net.module(x)[range(3), TARGETS] - net.module.fc.bias[TARGETS]
    assert_near(known_cam("resnet_s", net.module, x, TARGETS).mean((1, 2, 3)), S.detach())
    # bilinear enlargement by a whole factor weighs border cells no differently from inner ones
    assert_near(xcnn.cam(net, x, TARGETS, relu=False).mean((1, 2, 3)), S.detach())


@pytest.mark.parametrize("name", ["vgg_s", "vgg11"])
def test_cam_refuses_a_network_without_global_average(name):
    net = network("vgg_s") if name == "vgg_s" else zoo.vgg11(weights=None).eval().double()
    with pytest.raises(xcnn.InputError, match=r"global average pooling.*grad_cam"):
        xcnn.cam(net, batch(128, 1))


@pytest.mark.parametrize("name", [*SMALL, "squeezenet1_1", "googlenet"])
def test_gradient_equals_captum_saliency(name):
    net, x = network(name), images(name)
    oracle = captum.attr.Saliency(copy.deepcopy(net.module)).attribute(x.clone(), torch.tensor(TARGETS), abs=False)
    assert_near(xcnn.gradient(net, x, TARGETS), oracle)


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


def with_relu_modules(name, module):
    """The same network, where each ReLU is a module that captum can see."""
    module = copy.deepcopy(module)
    if name == "googlenet":
        convs = [n for n, part in module.named_modules() if type(part).__name__ == "BasicConv2d"]
        swaps = {n: (c := module.get_submodule(n)) and nn.Sequential(c.conv, c.bn, nn.ReLU()) for n in convs}
    else:
        swaps = {n: nn.Sequential(nn.ReLU(), Below6()) for n, part in module.named_modules()
                 if isinstance(part, nn.ReLU6)}  # fmt: skip
    assert swaps
    for n, part in swaps.items():
        parent, _, last = n.rpartition(".")
        setattr(module.get_submodule(parent), last, part)
    return module


class Below6(nn.Module):
    def forward(self, x):
        return x.clamp(max=6)


def captum_guided(module, x):
    return captum.attr.GuidedBackprop(copy.deepcopy(module)).attribute(x.clone(), torch.tensor(TARGETS)).detach()


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "squeezenet1_1", "vgg_s", "resnet_s", "allconv_s"])
def test_guided_backprop_is_captums_bit_for_bit(name):
    net, x = network(name), images(name)
    R = xcnn.guided_backprop(net, x, TARGETS)
    assert R.abs().max() > 0
    assert torch.equal(R, captum_guided(net.module, x))
    assert (R - xcnn.gradient(net, x, TARGETS)).abs().max() > 1e-2 * R.abs().max()


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2"])
def test_guided_backprop_works_where_captum_silently_returns_the_plain_gradient(name):
    net, x = network(name), images(name)
    plain, R = xcnn.gradient(net, x, TARGETS), xcnn.guided_backprop(net, x, TARGETS)
    assert_near(captum_guided(net.module, x), plain)
    assert (R - plain).abs().max() > 1e-2 * R.abs().max()
    assert_near(R, captum_guided(with_relu_modules(name, net.module), x))


@pytest.mark.parametrize("relu", [F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, nn.ReLU(),
                                  nn.ReLU(inplace=True), lambda x: F.relu(x, inplace=True)])  # fmt: skip
def test_guided_backprop_knows_every_spelling_of_relu(relu):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.relu = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), relu

        def forward(self, x):
            return self.fc(self.relu(self.conv(x) * 1).mean((2, 3)))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    A = net.conv(x)
    # by hand: dS/dA = w / 36, through the ReLU only where A > 0 and w > 0
    g = (net.fc.weight[2] / 36)[None, :, None, None].expand_as(A)
    oracle = F.conv_transpose2d(g * (A > 0) * (g > 0), net.conv.weight).detach()
    assert_near(xcnn.guided_backprop(net, x, 2), oracle)


@pytest.mark.parametrize("name", SMALL)
def test_guided_grad_cam_is_the_product(name):
    net, x = network(name), images(name)
    layer = list(net.layers)[1]
    product = xcnn.guided_backprop(net, x, TARGETS) * xcnn.grad_cam(net, x, TARGETS, layer)
    assert product.abs().max() > 0
    assert torch.equal(xcnn.guided_grad_cam(net, x, TARGETS, layer), product)
