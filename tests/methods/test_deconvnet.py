"""Deconvnet against captum, and against networks rewritten with its rule."""

import pytest
import torch
import torchvision.models as zoo
import xcnn

from tests.helpers.pixels import (
    NOT_SEEN_THROUGH,
    WITH_MODULES,
    assert_captum_gives_the_plain_gradient,
    assert_differs_from_captum,
    assert_equals_captum,
    assert_equals_rewritten,
)

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks")


@pytest.mark.parametrize("name", WITH_MODULES)
def test_equals_captum_where_every_relu_is_a_module(name):
    assert_equals_captum("deconvnet", name)


@pytest.mark.parametrize("name", [*NOT_SEEN_THROUGH, "densenet121"])
def test_equals_a_network_rewritten_with_rule_modules(name):
    assert_equals_rewritten("deconvnet", name)


@pytest.mark.parametrize("name", [*NOT_SEEN_THROUGH, "googlenet_s"])
def test_captum_silently_returns_the_plain_gradient(name):
    assert_captum_gives_the_plain_gradient("deconvnet", name)


def test_captum_misses_one_relu_of_densenet():
    assert_differs_from_captum("deconvnet", "densenet121")


def test_deconvnet_of_a_deep_network_overflows_when_squared_and_its_energies_do_not():
    torch.manual_seed(0)
    module = zoo.resnet101(weights=None).eval()
    R = xcnn.deconvnet(module, torch.randn(1, 3, 64, 64), 0)
    R = R * (1e25 / R.abs().max())  # as large as trained networks make it
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    assert torch.isfinite(R).all() and R.square().sum().isinf()
    P = xcnn.energy_concentration(R, mask, dilate=0)
    wanted = (R.double()[:, :, :32].square().sum() / R.double().square().sum()).item()
    assert P.item() == pytest.approx(wanted, rel=1e-9) and 0 < wanted < 1
