"""The CAM family against pytorch-grad-cam and torch-cam, or against its formulas by hand.

The libraries are asked for their maps before these are stretched to [0, 1] and enlarged.
"""

import copy

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
import xcnn
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from tests.helpers.cam_formulas import PAPER, by_formula, enlarged, maps_and_slopes
from tests.helpers.oracles import (
    TARGETS,
    assert_near,
    differs,
    images,
    network,
    outputs_of,
    with_maps,
)
from tests.helpers.places import SMALL

NETWORKS = [*SMALL, "resnet18", "squeezenet1_1", "densenet121", "googlenet", "vgg11"]
GAP = ["resnet_s", "googlenet_s", "allconv_s", "resnet18", "googlenet"]  # and one linear layer
CASES = [(name, place) for name in NETWORKS for place in (-1, -2)]  # the last layer, an inner one
cases = pytest.mark.parametrize(("name", "place"), CASES)
# The last layer of this network puts out maps of both signs, whose sums come near 0. There it
# counts in XGrad-CAM that pytorch-grad-cam adds a small number to each sum. And torch-cam sees
# these maps after the ReLU in place that follows has overwritten them.
BOTH_SIGNS = ("densenet121", -1)


def layer_of(name, place):
    return list(network(name).layers)[place]


def by_pytorch_grad_cam(kind, A, g):
    """Its signed map (3, 1, h, w) of our A and gradient."""
    cam = object.__new__(kind)  # its constructor hooks a network, which is not needed here
    L = cam.get_cam_image(None, None, None, A.numpy(), g.numpy(), eigen_smooth=False)
    return torch.from_numpy(L)[:, None]


def by_torch_cam(kind, name, layer):
    """Its map (3, 1, h, w), with the ReLU that the paper has."""
    module = copy.deepcopy(network(name).module)
    x = images(name)
    with kind(module, layer, input_shape=tuple(x.shape[1:])) as extractor:
        S = module(x.clone().requires_grad_())
        (L,) = extractor(list(TARGETS), S, normalized=False)
    return L.relu()[:, None]


# ---- those made of A and its gradient


@cases
@pytest.mark.parametrize("method", PAPER)
def test_the_formula_by_hand(method, name, place):
    layer = layer_of(name, place)
    A, g = maps_and_slopes(name, layer)
    x = images(name)
    L = by_formula(A, g, PAPER[method](A, g))
    options = (network(name), x, TARGETS, layer)
    assert_near(getattr(xcnn, method)(*options, relu=False), enlarged(L, x), 1e-9)
    assert_near(getattr(xcnn, method)(*options), enlarged(L.relu(), x), 1e-9)


@cases
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("hires_cam", pytorch_grad_cam.HiResCAM),
        ("layer_cam", pytorch_grad_cam.LayerCAM),
        ("xgrad_cam", pytorch_grad_cam.XGradCAM),
    ],
)
def test_pytorch_grad_cam(method, kind, name, place):
    layer = layer_of(name, place)
    x = images(name)
    L = by_pytorch_grad_cam(kind, *maps_and_slopes(name, layer))
    R = getattr(xcnn, method)(network(name), x, TARGETS, layer, relu=False)
    near_zero = method == "xgrad_cam" and (name, place) == BOTH_SIGNS
    assert_near(R, enlarged(L, x), 1e-2 if near_zero else 1e-5)


@cases
@pytest.mark.parametrize(
    ("method", "kind"),
    [("layer_cam", torchcam.methods.LayerCAM), ("xgrad_cam", torchcam.methods.XGradCAM)],
)
def test_torch_cam(method, kind, name, place):
    layer = layer_of(name, place)
    x = images(name)
    L = by_torch_cam(kind, name, layer)
    R = getattr(xcnn, method)(network(name), x, TARGETS, layer)
    if method == "xgrad_cam" and (name, place) == BOTH_SIGNS:
        assert differs(R, enlarged(L, x))
    else:
        assert_near(R, enlarged(L, x), 1e-5)


# ---- where the libraries leave the paper


def test_pytorch_grad_cams_grad_cam_plus_plus_depends_on_the_unit_of_the_scores():
    """It adds 1e-6 to the denominator. With scores a thousand times smaller, and so with the same
    answers, the paper's map is the same up to its scale; theirs is another."""
    A, g = maps_and_slopes("vgg11", layer_of("vgg11", -1))
    kind = pytorch_grad_cam.GradCAMPlusPlus

    def by_paper(g, total_of):
        alpha = g**2 / (2 * g**2 + total_of)
        return by_formula(A, g, (alpha.nan_to_num(0) * g.clamp(min=0)).sum((2, 3), keepdim=True))

    steep = 1e4 * g  # where 1e-6 is nothing
    total = A.sum((2, 3), keepdim=True)
    assert_near(by_pytorch_grad_cam(kind, A, steep), by_paper(steep, total * steep**3), 1e-3)
    flat = 1e-4 * g
    assert differs(by_pytorch_grad_cam(kind, A, flat), by_paper(flat, total * flat**3), by=0.02)


def test_torch_cams_grad_cam_plus_plus_has_another_weight():
    """Its division acts on a copy and is lost: its weight is sum g^2 ReLU(g)."""
    layer = layer_of("resnet_s", -2)
    A, g = maps_and_slopes("resnet_s", layer)
    L = by_torch_cam(torchcam.methods.GradCAMpp, "resnet_s", layer)
    lost = by_formula(A, g, (g**2 * g.clamp(min=0)).sum((2, 3), keepdim=True)).relu()
    assert_near(L, lost, 1e-9)
    paper = by_formula(A, g, PAPER["grad_cam_plus_plus"](A, g)).relu()
    assert differs(L, paper, by=0.02)


def test_pytorch_grad_cams_ablation_is_not_by_zero_where_maps_have_both_signs():
    """It puts the least value less ten million in the place of a map."""
    layer = pytorch_grad_cam.ablation_layer.AblationLayer()
    A = torch.tensor([[[[1.0, -1.0]], [[2.0, 3.0]]]])
    layer.indices = [1]
    layer.set_next_batch(0, A, 1)
    assert layer(None)[0, 1].max() < -1e6


# ---- those that ask the network


def masks(A, x):
    """The maps, enlarged and then stretched to [0, 1]: (C, H, W), one image's."""
    H = enlarged(A, x)[0]
    low = H.amin((1, 2), keepdim=True)
    return ((H - low) / (H.amax((1, 2), keepdim=True) - low)).nan_to_num(0)


EQUAL = {torch.float64: 1e-9, torch.float32: 1e-5}


def small_question(name, layer):
    """Network, three images of 64 pixels and their maps: hundreds of runs take a while.

    Where a layer has hundreds of maps, one image in float32.
    """
    net = network(name)
    x = images(name)[:, :, :64, :64]
    if net.layers[layer][0] >= 100:
        net = xcnn.Network(copy.deepcopy(net.module).float(), size=64)
        x = x[1:2].float()
    return net, x, outputs_of(net.module, layer, x)[0]


@cases
def test_score_cam_by_hand(name, place):
    layer = layer_of(name, place)
    net, x, A = small_question(name, layer)
    targets = TARGETS[: len(x)]
    maps = []
    for c, image, A_of_image in zip(targets, x, A.split(1), strict=True):
        with torch.no_grad():
            parts = masks(A_of_image, x)[:, None].split(32)
            S = torch.cat([net.module(image * part)[:, c] for part in parts])
        maps.append(by_formula(A_of_image, None, S.softmax(0)[None, :, None, None]))
    wanted = enlarged(torch.cat(maps).relu(), x)
    assert_near(xcnn.score_cam(net, x, targets, layer), wanted, EQUAL[x.dtype])


class FullSize(nn.Module):
    """Its maps are as large as the picture, so that nothing is enlarged. No map is constant."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 5)
        self.fc.bias.data += 3  # so that all scores are above 0

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def test_score_cam_equals_both_libraries_where_nothing_is_enlarged():
    module = FullSize().eval()
    x = torch.randn(3, 3, 12, 12)
    targets = [0, 1, 2]
    R = xcnn.score_cam(module, x, targets, "act")
    with torchcam.methods.ScoreCAM(copy.deepcopy(module), "act", input_shape=(3, 12, 12)) as cam:
        cam.model(x)
        (L,) = cam(targets, normalized=False)
    assert_near(R, L[:, None], 1e-5)
    theirs = pytorch_grad_cam.ScoreCAM(copy.deepcopy(module), [module.act])
    A = module.act(module.conv(x)).detach()
    wanted = [ClassifierOutputTarget(c) for c in targets]
    w = theirs.get_cam_weights(x, None, wanted, A.numpy(), None)
    assert_near(R, by_formula(A, None, torch.from_numpy(w)[:, :, None, None]).relu(), 1e-5)


@cases
def test_ablation_cam_by_hand(name, place):
    layer = layer_of(name, place)
    net, x, A = small_question(name, layer)
    targets = TARGETS[: len(x)]
    maps = []
    for c, image, A_of_image in zip(targets, x.split(1), A.split(1), strict=True):
        without = A_of_image.repeat(A.shape[1], 1, 1, 1)
        without[range(len(without)), range(len(without))] = 0
        parts = [with_maps(net.module, layer, image, part) for part in without.split(32)]
        S_k = torch.cat(parts)[:, c]
        S = net.module(image)[0, c].detach()
        maps.append(by_formula(A_of_image, None, ((S - S_k) / S.abs())[None, :, None, None]))
    R = xcnn.ablation_cam(net, x, targets, layer, relu=False)
    assert_near(R, enlarged(torch.cat(maps), x), EQUAL[x.dtype])


def test_ablation_cam_equals_pytorch_grad_cam_where_maps_and_scores_are_not_negative():
    module = FullSize().eval()
    x = torch.randn(3, 3, 12, 12)
    targets = [0, 1, 2]
    S = module(x)
    assert (S > 0).all()
    theirs = pytorch_grad_cam.AblationCAM(copy.deepcopy(module), [module.act])
    theirs.model = copy.deepcopy(module)
    A = module.act(module.conv(x)).detach()
    wanted = [ClassifierOutputTarget(c) for c in targets]
    w = theirs.get_cam_weights(x, theirs.model.act, wanted, A.numpy(), None)
    L = by_formula(A, None, torch.from_numpy(w)[:, :, None, None])
    R = xcnn.ablation_cam(module, x, targets, "act", relu=False)
    assert_near(R, L, 1e-5)


def test_ablation_cam_keeps_its_sign_where_the_score_is_negative():
    module = FullSize().eval()
    x = torch.randn(1, 3, 12, 12)
    lower = copy.deepcopy(module)
    lower.fc.bias.data -= 100
    above, below = (xcnn.ablation_cam(m, x, 2, "act", relu=False) for m in (module, lower))
    assert module(x)[0, 2] > 0 > lower(x)[0, 2]
    assert_near(above / above.abs().max(), below / below.abs().max(), 1e-3)


# ---- axioms


@pytest.mark.parametrize("name", GAP)
def test_before_a_global_average_three_are_one(name):
    """There dS/dA is the same at all positions, so it does not matter how it is averaged."""
    net = network(name)
    x = images(name)
    R = xcnn.grad_cam(net, x, TARGETS, relu=False)
    assert_near(xcnn.hires_cam(net, x, TARGETS, relu=False), R, 1e-9)
    assert_near(xcnn.xgrad_cam(net, x, TARGETS, relu=False), R, 1e-9)


class OneLinear(nn.Module):
    """Convolution, ReLU, then a linear layer over all positions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU()
        self.fc = nn.Linear(4 * 100, 5)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).flatten(1))


@pytest.mark.parametrize("c", [0, 3])
def test_hires_cam_sums_to_the_score_before_one_linear_layer(c):
    module = OneLinear().double().eval()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    A = module.act(module.conv(x))
    g = module.fc.weight[c].view(1, 4, 10, 10)
    assert torch.allclose((g * A).sum((1, 2, 3)) + module.fc.bias[c], module(x)[:, c])
    L = xcnn.hires_cam(module, x, c, "act", relu=False)
    assert_near(L, enlarged((g * A).sum(1, keepdim=True), x), 1e-12)


@pytest.mark.parametrize("name", GAP)
def test_hires_cam_is_cam_before_a_global_average(name):
    """It sums to the score less the bias; CAM's mean does, so CAM is P times as large."""
    net = network(name)
    x = images(name)
    _, h, w = net.layers[net.layer]
    A, g = maps_and_slopes(name, net.layer)
    L = by_formula(A, g, g).sum((1, 2, 3))
    M = xcnn.cam(net, x, TARGETS, relu=False)
    assert_near(h * w * xcnn.hires_cam(net, x, TARGETS, relu=False), M, 1e-6)
    with torch.no_grad():
        S = net.module(x)[range(3), TARGETS]
        rest = with_maps(net.module, net.layer, x[:1], torch.zeros_like(A[:1]))[0, TARGETS]
    assert torch.allclose(L, S - rest)


@pytest.mark.parametrize("name", SMALL)
def test_xgrad_cam_sums_to_what_hires_cam_sums_to(name):
    """Its sensitivity: sum_k w_k sum A_k = sum dS/dA A."""
    layer = layer_of(name, -2)
    A, g = maps_and_slopes(name, layer)
    L = by_formula(A, g, PAPER["xgrad_cam"](A, g))
    assert torch.allclose(L.sum((1, 2, 3)), (A * g).sum((1, 2, 3)))


class TwoPositions(nn.Module):
    """S_0 = 3 a_1 - a_2, where a_1 and a_2 are the two positions of one map."""

    def __init__(self):
        super().__init__()
        self.map = nn.Identity()
        self.fc = nn.Linear(2, 2, bias=False)
        self.fc.weight.data = torch.tensor([[3.0, -1.0], [0.0, 0.0]])

    def forward(self, x):
        return self.fc(self.map(x).flatten(1))


def test_grad_cam_lights_what_speaks_against_the_class_and_hires_cam_does_not():
    """The counterexample: the second position lowers the score by 2, the first adds 3."""
    module = TwoPositions().eval()
    x = torch.tensor([[[[1.0, 2.0]]]])
    net = xcnn.Network(module, size=2, mean=0, std=1)
    grad_cam = xcnn.grad_cam(net, x, 0, "map", relu=False)
    hires_cam = xcnn.hires_cam(net, x, 0, "map", relu=False)
    assert grad_cam.flatten().tolist() == [1, 2]  # alpha = (3 - 1) / 2
    assert hires_cam.flatten().tolist() == [3, -2]
    assert hires_cam.sum() == module(x)[0, 0] != grad_cam.sum()
    assert xcnn.hires_cam(net, x, 0, "map").flatten().tolist() == [3, 0]


def test_dead_and_balanced_maps_are_zero_and_not_nan():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.Conv2d(3, 2, 1, bias=False)
            self.maps.weight.data.zero_()
            self.fc = nn.Linear(2, 3)

        def forward(self, x):
            return self.fc(self.maps(x).mean((2, 3)))

    x = torch.randn(1, 3, 8, 8)
    for method in [*PAPER, "score_cam", "ablation_cam"]:
        R = getattr(xcnn, method)(Dead().eval(), x, 1, "maps", relu=False)
        assert not R.any(), method  # NaN counts as true
