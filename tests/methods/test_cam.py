"""CAM against an einsum that knows the network, and in every spelling of the global average."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from torch import nn

from tests.helpers.oracles import TARGETS, assert_near, batch, images, network, outputs_of

GAP = ["resnet_s", "googlenet_s", "allconv_s", "resnet18", "googlenet"]
# the layer whose maps are averaged
LAST = {
    "resnet_s": "layer3",
    "googlenet_s": "inception4",
    "allconv_s": "features",
    "resnet18": "layer4",
    "googlenet": "inception5b",
    "densenet121": "features",
    "squeezenet1_1": "features",
}


def known_cam(name, module, x, target):
    """CAM written with knowledge of each network: (N, 1, h, w), signed."""
    A = outputs_of(module, LAST[name], x)[-1]
    if name == "squeezenet1_1":  # a convolution gives the class maps, which are averaged
        conv = module.classifier[1]
        class_maps = F.conv2d(A, conv.weight, conv.bias).relu()
        return class_maps[range(len(x)), target][:, None].detach()
    if name == "densenet121":
        A = A.relu()
    fc = module.fc if hasattr(module, "fc") else module.classifier
    return torch.einsum("nk,nkyx->nyx", fc.weight[target], A)[:, None].detach()


@pytest.mark.parametrize("name", [*GAP, "densenet121", "squeezenet1_1"])
@pytest.mark.parametrize("relu", [True, False])
def test_cam_equals_an_einsum_that_knows_the_network(name, relu):
    net = network(name)
    x = images(name)
    M = known_cam(name, net.module, x, TARGETS)
    M = M.relu() if relu else M
    oracle = F.interpolate(M, x.shape[-2:], mode="bilinear", align_corners=False)
    assert_near(xcnn.cam(net, x, TARGETS, relu=relu), oracle)


@pytest.mark.parametrize("name", GAP)
def test_cam_is_grad_cam_times_the_number_of_positions(name):
    net = network(name)
    x = images(name)
    last = {"googlenet": "inception5b", "resnet18": "layer4"}.get(name, net.layer)
    _, h, w = outputs_of(net.module, last, x)[-1].shape[1:]
    assert_near(xcnn.grad_cam(net, x, TARGETS, last) * h * w, xcnn.cam(net, x, TARGETS))


def test_signed_cam_averages_to_the_score_less_the_bias():
    net = network("resnet_s")
    x = images("resnet_s")
    S = net.module(x)[range(3), TARGETS] - net.module.fc.bias[TARGETS]
    assert_near(known_cam("resnet_s", net.module, x, TARGETS).mean((1, 2, 3)), S.detach())
    # bilinear enlargement by a whole factor weighs border cells no differently from inner ones
    assert_near(xcnn.cam(net, x, TARGETS, relu=False).mean((1, 2, 3)), S.detach())


# spelling -> the global average of maps (N, C, 6, 6)
AVERAGES = {
    "mean": lambda A: A.mean((2, 3)),
    "by name": lambda A: torch.mean(input=A, dim=(2, 3)),
    "flattened": lambda A: A.flatten(2).mean(2),
    "view": lambda A: A.view(*A.shape[:2], -1).mean(-1),
    "one side after the other": lambda A: A.mean(3).mean(2),
    "sum": lambda A: A.sum((2, 3)) / A[0, 0].numel(),
    "module": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "window": lambda A: F.avg_pool2d(A, 6)[:, :, 0, 0],
}


class Averages(nn.Module):
    def __init__(self, average):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.average = average

    def forward(self, x):
        return self.fc(self.average(self.conv(x).relu()))


@pytest.mark.parametrize("form", AVERAGES)
@pytest.mark.parametrize("side", [8, 3])  # maps of 6 x 6, and of a single position
def test_every_spelling_of_the_average(form, side):
    if side == 3 and form not in ("mean", "by name", "module"):
        return  # in these forms one position is its own mean, and nothing tells a mean from a copy
    torch.manual_seed(0)
    net = Averages(AVERAGES[form]).eval().double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    M = torch.einsum("k,nkyx->nyx", net.fc.weight[2], net.conv(x).relu())[:, None]
    wanted = F.interpolate(M, (side, side), mode="bilinear", align_corners=False)
    assert_near(xcnn.cam(net, x, 2, relu=False), wanted.detach(), 1e-12)


def test_cams_layer_is_named_with_the_nearest():
    with pytest.raises(xcnn.InputError, match="did you mean 'layer3'"):
        xcnn.cam(network("resnet_s"), images("resnet_s"), 1, layer="layr3")


@pytest.mark.parametrize("name", ["vgg_s", "vgg11"])
def test_cam_refuses_a_network_without_global_average(name):
    net = network("vgg_s") if name == "vgg_s" else zoo.vgg11(weights=None).eval().double()
    with pytest.raises(xcnn.InputError, match=r"global average pooling.*grad_cam"):
        xcnn.cam(net, batch(128, 1))


def test_cam_has_no_other_layer():
    says = r"only at the last spatial layer, 'layer3'.*use grad_cam"
    with pytest.raises(xcnn.InputError, match=says):
        xcnn.cam(xcnn.load("resnet_s"), batch(128, 1).float(), 3, layer="layer1")


class Normalises(nn.Module):
    """A network that prepares its own pixels, with a vector as long as they have channels."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        half = torch.tensor([0.5, 0.5, 0.5], dtype=x.dtype)
        return self.module(x - half[None, :, None, None])


@pytest.mark.parametrize("n", [1, 3])
def test_a_vector_of_constants_is_not_taken_for_an_average(n):
    net, x = network("resnet_s"), batch(128, n)
    wanted = xcnn.cam(net, x - 0.5, 3)
    assert torch.equal(xcnn.cam(Normalises(net.module).eval(), x, 3), wanted)


class LastChannels(torch.nn.Module):
    """Maps that lie as (N, h, w, C), averaged in some way, then a linear layer."""

    def __init__(self, average):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 3)
        self.fc = torch.nn.Linear(6, 5)
        self.average = average

    def forward(self, x):
        return self.fc(self.average(self.conv(x).permute(0, 2, 3, 1).relu()))


@pytest.mark.parametrize(
    "average",
    [
        lambda A: A.mean((1, 2)),
        lambda A: A.mean(1).mean(1),
        lambda A: A.flatten(1, 2).mean(1),
        lambda A: A.sum((1, 2)) / (A.shape[1] * A.shape[2]),
        lambda A: F.adaptive_avg_pool2d(A.permute(0, 3, 1, 2), 1).flatten(1),
        lambda A: torch.einsum("nhwc->nc", A) / A[0, :, :, 0].numel(),
    ],
)
@pytest.mark.parametrize("size", [(11, 9), (8, 8)])  # of 8 x 8 the maps are 6 x 6 x 6
def test_cam_of_maps_with_their_channels_last(average, size):
    net = LastChannels(average).eval().double()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    M = torch.einsum("nkyx,k->nyx", net.conv(x).relu(), net.fc.weight[2])[:, None].detach()
    wanted = F.interpolate(M, size, mode="bilinear", align_corners=False)
    assert_near(xcnn.cam(net, x, 2, relu=False), wanted)
