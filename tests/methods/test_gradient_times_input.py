"""Gradient times input against captum."""

import captum.attr
import pytest
import torch
import xcnn

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL


@pytest.mark.parametrize("name", [*SMALL, "resnet18", "squeezenet1_1", "densenet121", "googlenet"])
def test_gradient_times_input_equals_captum(name):
    net = network(name)
    x = images(name)
    oracle = captum.attr.InputXGradient(net.module).attribute(x.clone(), torch.tensor(TARGETS))
    assert_near(xcnn.gradient_times_input(net, x, TARGETS), oracle.detach(), 1e-12)
