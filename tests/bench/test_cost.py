"""What a map costs, beside the peers: `pytest tests/bench -s`. Unit: one forward pass and one gradient of the input."""

import copy

import captum.attr
import pytest
import torch
import torchvision.models as zoo
import xcnn
from measure import side_by_side, table

ROUNDS = {"resnet18": 15, "squeezenet1_1": 25, "vgg11": 9}
UNIT = "one forward pass + input gradient"


def unit(module, x):
    def once():
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(module(leaf)[:, 0].sum(), leaf)

    return once


def contenders(module, x):
    """name -> what to call. Each peer has its own copy of the network: they leave hooks behind."""
    net = xcnn.Network(module, size=224)
    layer, peers = net.layer, copy.deepcopy(module)
    found = {
        "xcnn gradient": lambda: xcnn.gradient(net, x, 0),
        "xcnn deconvnet": lambda: xcnn.deconvnet(net, x, 0),
        "xcnn grad_cam": lambda: xcnn.grad_cam(net, x, 0),
        "xcnn guided_backprop": lambda: xcnn.guided_backprop(net, x, 0),
        "captum Saliency": lambda: captum.attr.Saliency(peers).attribute(x.clone(), 0),
        "captum Deconvolution": lambda: captum.attr.Deconvolution(peers).attribute(x.clone(), 0),
        "captum LayerGradCam": lambda: captum.attr.LayerGradCam(peers, peers.get_submodule(layer)).attribute(x, 0),
        "captum GuidedBackprop": lambda: captum.attr.GuidedBackprop(peers).attribute(x.clone(), 0),
    }
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return found
    own = copy.deepcopy(module)
    theirs = GradCAM(model=own, target_layers=[own.get_submodule(layer)])
    return found | {"pytorch_grad_cam GradCAM": lambda: theirs(x, [ClassifierOutputTarget(0)] * len(x))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROUNDS)
def test_cost(name):
    torch.manual_seed(0)
    module, x = zoo.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    seconds = side_by_side({UNIT: unit(module, x)} | contenders(module, x), ROUNDS[name])
    table(name, seconds, UNIT)
    assert seconds["xcnn grad_cam"] <= 0.75 * seconds[UNIT]
