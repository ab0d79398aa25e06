"""What relevance costs, beside captum and zennit: `pytest tests/bench -s`."""

import copy

import captum.attr
import pytest
import torch
import torchvision.models as zoo
import xcnn
import zennit.composites as zc
from captum.attr._utils.lrp_rules import EpsilonRule
from measure import side_by_side, table
from test_cost import UNIT, unit
from torch import nn
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm

ROUNDS = {"vgg11": 7, "squeezenet1_1": 9, "resnet18": 9}
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (xcnn.networks.MEAN, xcnn.networks.STD))
COMPOSITES = {
    "epsilon_plus": lambda **how: zc.EpsilonPlus(**how),
    "epsilon_gamma_box": lambda **how: zc.EpsilonGammaBox(-MEAN / STD, (1 - MEAN) / STD, **how),
    "epsilon_alpha2_beta1_flat": lambda **how: zc.EpsilonAlpha2Beta1Flat(**how),
}


def by_captum(module, x):
    """LRP-epsilon: once with rules given to every part, as captum wants it."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            part.rule = EpsilonRule(1e-6)
    return lambda: captum.attr.LRP(module).attribute(x.clone(), 0)


def by_zennit(name, module, x, composite):
    module = copy.deepcopy(module)
    canonizer = ResNetCanonizer() if name.startswith("resnet") else SequentialMergeBatchNorm()
    start = torch.eye(1000)[:1]

    def once():
        with Gradient(module, COMPOSITES[composite](canonizers=[canonizer])) as attributor:
            attributor(x.clone(), start)

    return once


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROUNDS)
def test_cost_of_lrp(name):
    torch.manual_seed(0)
    module, x = zoo.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    net = xcnn.Network(module, size=224)
    calls = {UNIT: unit(module, x), "xcnn epsilon": lambda: xcnn.lrp(net, x, 0, "epsilon")}
    if name != "resnet18":  # captum refuses modules that are used twice, as ResNet's ReLUs are
        calls["captum epsilon"] = by_captum(module, x)
    for composite in COMPOSITES:
        calls[f"xcnn {composite}"] = lambda composite=composite: xcnn.lrp(net, x, 0, composite)
        calls[f"zennit {composite}"] = by_zennit(name, module, x, composite)
    table(name, side_by_side(calls, ROUNDS[name]), UNIT)
