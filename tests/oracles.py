"""Networks to compare methods on, and what close enough means."""

import copy
import functools

import torch
import torchvision.models as zoo
import xcnn
from conftest import SMALL
from hypothesis import HealthCheck, settings
from torch import nn

TARGETS = [1, 4, 7]


@functools.cache
def network(name):
    """In float64. The big ones have random weights, and batch norm statistics that keep their maps alive."""
    if name in SMALL:
        net = xcnn.load(name)
        return xcnn.Network(copy.deepcopy(net.module).double(), name, net.classes, size=128)
    torch.manual_seed(0)
    inception = {"init_weights": name == "googlenet", "aux_logits": False, "transform_input": False}
    options = inception if name in ("googlenet", "inception_v3") else {}
    module = zoo.get_model(name, weights=None, **options)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(torch.randn(4, 3, 96, 96))
    return xcnn.Network(module.eval().double(), name, size=96)


@functools.cache
def batch(size, n=3):
    return torch.randn(n, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images(name):
    return batch(network(name).size)


def assert_near(R, oracle, tolerance=1e-6):
    assert oracle.abs().max() > 0, "a dead oracle proves nothing"
    assert R.shape == oracle.shape
    assert (R - oracle).abs().max() <= tolerance * oracle.abs().max()


def examples(n):
    """Settings of a property: n examples, the same in each run. With `--hypothesis-profile long` 150 n, always new."""
    times = settings().max_examples // 100
    return settings(deadline=None, max_examples=n * times, derandomize=times == 1, suppress_health_check=HealthCheck)
