"""Guided backprop against captum and rewritten networks; Guided Grad-CAM is the product."""

import pytest
import torch
import xcnn

from tests.helpers.oracles import TARGETS, images, network
from tests.helpers.pixels import (
    NOT_SEEN_THROUGH,
    WITH_MODULES,
    assert_captum_gives_the_plain_gradient,
    assert_differs_from_captum,
    assert_equals_captum,
    assert_equals_rewritten,
)
from tests.helpers.places import SMALL

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks")


@pytest.mark.parametrize("name", WITH_MODULES)
def test_equals_captum_where_every_relu_is_a_module(name):
    assert_equals_captum("guided_backprop", name)


@pytest.mark.parametrize("name", [*NOT_SEEN_THROUGH, "densenet121"])
def test_equals_a_network_rewritten_with_rule_modules(name):
    assert_equals_rewritten("guided_backprop", name)


@pytest.mark.parametrize("name", [*NOT_SEEN_THROUGH, "googlenet_s"])
def test_captum_silently_returns_the_plain_gradient(name):
    assert_captum_gives_the_plain_gradient("guided_backprop", name)


def test_captum_misses_one_relu_of_densenet():
    assert_differs_from_captum("guided_backprop", "densenet121")


@pytest.mark.parametrize("name", SMALL)
def test_guided_grad_cam_is_the_product(name):
    net = network(name)
    x = images(name)
    layer = list(net.layers)[1]
    product = xcnn.guided_backprop(net, x, TARGETS) * xcnn.grad_cam(net, x, TARGETS, layer)
    assert product.abs().max() > 0
    assert torch.equal(xcnn.guided_grad_cam(net, x, TARGETS, layer), product)
