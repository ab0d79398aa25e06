"""What a map costs, beside the peers: `pytest tests/bench -s`. Unit: one forward pass and one gradient of the input."""

import copy
import random
import statistics
import time

import captum.attr
import pytest
import torch
import torchvision.models as zoo
import xcnn

REPEATS = {"resnet18": 15, "squeezenet1_1": 25, "vgg11": 9}


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
@pytest.mark.parametrize("name", REPEATS)
def test_cost(name):
    torch.manual_seed(0)
    module, x = zoo.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    calls = {"unit": unit(module, x)} | contenders(module, x)
    seconds = {key: [] for key in calls}
    for repeat in range(REPEATS[name] + 2):  # side by side, so that a busy moment hits all alike; two rounds to warm up
        for key, call in random.sample(list(calls.items()), len(calls)):
            start = time.perf_counter()
            call()
            if repeat >= 2:
                seconds[key].append(time.perf_counter() - start)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    print(f"\n{name}: one forward + input gradient = {1000 * median['unit']:.0f} ms")
    for key in list(calls)[1:]:
        print(f"  {key:26}{median[key] / median['unit']:6.2f}")
    assert median["xcnn grad_cam"] <= 0.75 * median["unit"]
