"""Grad-CAM against captum, at every layer that is worth asking."""

import copy

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import xcnn

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL


def by_captum(module, layer, x, target, relu=True):
    """captum's map, enlarged to the image."""
    module = copy.deepcopy(module)
    method = captum.attr.LayerGradCam(module, module.get_submodule(layer))
    L = method.attribute(x, torch.tensor(target), relu_attributions=relu)
    return F.interpolate(L, x.shape[-2:], mode="bilinear", align_corners=False).detach()


# (network, layer: by its name, or by its place among those offered)
CASES = [
    *((name, k) for name in SMALL for k in range(4)),
    *(
        (name, k)
        for name in ("resnet18", "squeezenet1_1", "densenet121", "googlenet")
        for k in (0, -2, -1)
    ),
    # an in-place ReLU follows
    ("allconv_s", "features.2"),
    ("resnet_s", "bn1"),
    ("densenet121", "features.norm5"),
]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_grad_cam_equals_captum(name, layer):
    net = network(name)
    x = images(name)
    layer = layer if isinstance(layer, str) else list(net.layers)[layer]
    assert_near(xcnn.grad_cam(net, x, TARGETS, layer), by_captum(net.module, layer, x, TARGETS))


@pytest.mark.parametrize("name", ["vgg_s", "resnet_s", "squeezenet1_1"])
def test_grad_cam_default_layer_is_the_last(name):
    net = network(name)
    x = images(name)
    last = list(net.layers)[-1]
    assert_near(xcnn.grad_cam(net, x, TARGETS), by_captum(net.module, last, x, TARGETS))


def test_signed_grad_cam_keeps_what_relu_removes():
    net = network("vgg_s")
    x = images("vgg_s")
    signed = xcnn.grad_cam(net, x, TARGETS, relu=False)
    assert (signed < 0).any()
    assert_near(signed, by_captum(net.module, net.layer, x, TARGETS, relu=False))
