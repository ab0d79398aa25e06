"""CAM and Grad-CAM against independent oracles: captum, an einsum that knows the network."""

import copy

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from torch import nn

from tests.helpers.oracles import TARGETS, assert_near, batch, images, network
from tests.helpers.places import SMALL

GAP = ["resnet_s", "googlenet_s", "allconv_s", "resnet18", "googlenet"]


def captum_grad_cam(module, layer, x, target):
    module = copy.deepcopy(module)
    layer = module.get_submodule(layer)
    L = captum.attr.LayerGradCam(module, layer).attribute(
        x, torch.tensor(target), relu_attributions=True
    )
    return F.interpolate(L, x.shape[-2:], mode="bilinear", align_corners=False).detach()


CASES = [(name, k) for name in SMALL for k in range(4)]
CASES += [
    (name, k)
    for name in ("resnet18", "squeezenet1_1", "densenet121", "googlenet")
    for k in (0, -2, -1)
]
CASES += [
    ("allconv_s", "features.2"),
    ("resnet_s", "bn1"),
    ("densenet121", "features.norm5"),
]  # an in-place ReLU follows


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_grad_cam_equals_captum(name, layer):
    net, x = network(name), images(name)
    layer = layer if isinstance(layer, str) else list(net.layers)[layer]
    assert_near(
        xcnn.grad_cam(net, x, TARGETS, layer), captum_grad_cam(net.module, layer, x, TARGETS)
    )


@pytest.mark.parametrize("name", ["vgg_s", "resnet_s", "squeezenet1_1"])
def test_grad_cam_default_layer_is_the_last(name):
    net, x = network(name), images(name)
    assert_near(
        xcnn.grad_cam(net, x, TARGETS),
        captum_grad_cam(net.module, list(net.layers)[-1], x, TARGETS),
    )


def test_the_default_layer_does_not_depend_on_the_picture():
    """Where an image is too dim to be clipped, ReLU6 changes nothing, and looks like a layer not worth asking."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
    ).eval()
    net[0].weight.data.abs_(), net[0].bias.data.abs_()
    dim = torch.rand(1, 3, 8, 8) + 0.1
    assert torch.equal(net[0](dim), net[:2](dim)) and not torch.equal(
        net[0](9 * dim), net[:2](9 * dim)
    )
    both = xcnn.grad_cam(net, torch.cat([dim, 9 * dim]), 2, relu=False)
    for k, x in enumerate((dim, 9 * dim)):
        torch.testing.assert_close(both[k : k + 1], xcnn.grad_cam(net, x, 2, "1", relu=False))
        torch.testing.assert_close(both[k : k + 1], xcnn.grad_cam(net, x, 2, relu=False))


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
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _m, _i, out: seen.append(out.detach().clone())
    )
    with torch.no_grad():
        module(x)
    handle.remove()
    return seen[-1]


def known_cam(name, module, x, target):
    """CAM written with knowledge of each network: (N, 1, h, w), signed."""
    last = {
        "resnet_s": "layer3",
        "googlenet_s": "inception4",
        "allconv_s": "features",
        "resnet18": "layer4",
    }
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
    oracle = F.interpolate(
        M.relu() if relu else M, x.shape[-2:], mode="bilinear", align_corners=False
    )
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


AVERAGES = {
    "mean": lambda A: A.mean((2, 3)), "by name": lambda A: torch.mean(input=A, dim=(2, 3)),
    "flattened": lambda A: A.flatten(2).mean(2), "view": lambda A: A.view(*A.shape[:2], -1).mean(-1),
    "one side after the other": lambda A: A.mean(3).mean(2), "sum": lambda A: A.sum((2, 3)) / A[0, 0].numel(),
    "module": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "window": lambda A: F.avg_pool2d(A, 6)[:, :, 0, 0],
}  # fmt: skip


class Averages(nn.Module):
    def __init__(self, average):
        super().__init__()
        self.conv, self.fc, self.average = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), average

    def forward(self, x):
        return self.fc(self.average(self.conv(x).relu()))


@pytest.mark.parametrize("form", AVERAGES)
@pytest.mark.parametrize("side", [8, 3])  # maps of 6 x 6, and of a single position
def test_every_spelling_of_the_average(form, side):
    if side == 3 and form not in ("mean", "by name", "module"):
        return  # in these forms one position is its own mean, and nothing tells a mean from a copy
    torch.manual_seed(0)
    net, x = (
        Averages(AVERAGES[form]).eval().double(),
        torch.randn(2, 3, side, side, dtype=torch.float64),
    )
    M = torch.einsum("k,nkyx->nyx", net.fc.weight[2], net.conv(x).relu())[:, None]
    wanted = F.interpolate(M, (side, side), mode="bilinear", align_corners=False)
    assert_near(xcnn.cam(net, x, 2, relu=False), wanted.detach(), 1e-12)


def test_a_layer_that_runs_once_for_each_image_is_refused():
    class Loop(Averages):
        def forward(self, x):
            return torch.cat([super(Loop, self).forward(one) for one in x.split(1)])

    net, x = Loop(AVERAGES["mean"]).eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(xcnn.InputError, match="1 maps for 2 images; explain them one by one"):
        xcnn.grad_cam(net, x, 1, layer="conv")


def test_cams_layer_is_named_with_the_nearest():
    with pytest.raises(xcnn.InputError, match="did you mean 'layer3'"):
        xcnn.cam(network("resnet_s"), images("resnet_s"), 1, layer="layr3")


@pytest.mark.parametrize("name", ["vgg_s", "vgg11"])
def test_cam_refuses_a_network_without_global_average(name):
    net = network("vgg_s") if name == "vgg_s" else zoo.vgg11(weights=None).eval().double()
    with pytest.raises(xcnn.InputError, match=r"global average pooling.*grad_cam"):
        xcnn.cam(net, batch(128, 1))


@pytest.mark.parametrize("name", SMALL)
def test_guided_grad_cam_is_the_product(name):
    net, x = network(name), images(name)
    layer = list(net.layers)[1]
    product = xcnn.guided_backprop(net, x, TARGETS) * xcnn.grad_cam(net, x, TARGETS, layer)
    assert product.abs().max() > 0
    assert torch.equal(xcnn.guided_grad_cam(net, x, TARGETS, layer), product)
