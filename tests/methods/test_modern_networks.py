"""LRP and CNN Fixations on the families of torchvision's CNNs, and on some of timm's."""

import pytest
import timm
import torch
import torchvision.models as zoo
import xcnn
from torch import nn
from xcnn.methods.lrp import lrp

from tests.helpers.frozen import rule_0
from tests.helpers.oracles import assert_near, network, within
from tests.helpers.relevance import without_biases

# vgg11 is met in test_lrp.py. Sides are small: it is the kinds of operations that count.
CLASSIFIERS = {
    "alexnet": 64,
    "resnet18": 64,
    "resnext50_32x4d": 48,
    "wide_resnet50_2": 32,
    "squeezenet1_1": 64,
    "densenet121": 64,
    "inception_v3": 80,
    "googlenet": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "mnasnet0_5": 64,
    "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 32,
    "regnet_y_400mf": 64,
    "regnet_x_400mf": 64,
    "convnext_tiny": 64,
}
SEGMENTERS = ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"]
TIMM = [
    "cspresnet50",
    "dla34",
    "eca_resnet33ts",
    "fbnetv3_b",
    "ghostnet_100",
    "mobilenetv4_conv_small",
    "regnetz_b16",
    "repvgg_a0",
    "resnest14d",
    "resnetv2_50x1_bit",
    "rexnet_100",
    "seresnet18",
    "skresnet18",
]


class MeanOfMaps(nn.Module):
    """A segmenter as a classifier: the mean of each class's map."""

    def __init__(self, segmenter):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, x):
        return self.segmenter(x)["out"].mean((2, 3))


def module_of(name):
    """A network in float64, its norms and layer scales drawn at random."""
    if name in SEGMENTERS:
        torch.manual_seed(0)
        make = getattr(zoo.segmentation, name)
        module = MeanOfMaps(make(weights=None, weights_backbone=None, num_classes=8))
        module = module.double().eval()
    elif name in TIMM:
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=8).double().eval()
    else:
        module = network.__wrapped__(name).module
    torch.manual_seed(5)  # with many draws the paths of lraspp end at channels that are 0
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            if parameter.ndim == 1 or "layer_scale" in parameter_name:
                parameter += 0.2 * torch.randn_like(parameter)
    return module


def image(side):
    generator = torch.Generator().manual_seed(2)
    return within(torch.randn(1, 3, side, side, dtype=torch.float64, generator=generator))


SIDES = CLASSIFIERS | dict.fromkeys(SEGMENTERS, 48) | dict.fromkeys(TIMM, 64)


@pytest.fixture(params=SIDES, scope="module")
def case(request):
    """A network, made once for all tests of it, and an image."""
    return module_of(request.param), image(SIDES[request.param])


def test_rule_0_is_x_times_the_gradient_with_all_factors_held_fixed(case):
    """Gates, deviations and each unit's y / x are constants in the reference, see `frozen`."""
    module, x = case
    assert_near(lrp(module, x, 3, "0"), rule_0(module, x, 3), 1e-6)


def test_z_plus_conserves_without_biases(case):
    module, x = case
    module = without_biases(module)
    with torch.no_grad():
        S_c = module(x)[:, 3]
    torch.testing.assert_close(lrp(module, x, 3, "z+").sum((1, 2, 3)), S_c, rtol=1e-4, atol=0)


def test_fixations_are_found(case):
    module, x = case
    # A unit all of whose w a are 0 ends there, so that a class may have no points.
    found = (xcnn.find_fixations(module, x, c)[0] for c in range(3, 6))
    v = next(v for v in found if len(v.all_points))
    assert v.all_points.max() < x.shape[3]
    convolutions = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)]
    assert convolutions[0] in v.units


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("mobilenet_v3_small", "epsilon_plus"),
        ("efficientnet_b0", "epsilon_gamma_box"),
        ("convnext_tiny", "epsilon_alpha2_beta1_flat"),
    ],
)
def test_composites_give_maps(name, rule):
    R = lrp(module_of(name), image(32), 3, rule)
    assert R.isfinite().all() and (R != 0).float().mean() > 0.9
