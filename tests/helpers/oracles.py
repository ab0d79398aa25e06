"""Networks to compare methods on, what close enough means, and what else several tests need."""

import copy
import functools
import hashlib

import torch
import torchvision.models as zoo
import xcnn
from hypothesis import HealthCheck, settings
from torch import nn
from torch.nn.modules import module as torch_module

from tests.helpers.places import SMALL

TARGETS = [1, 4, 7]
# these give (N, 3, H, W), the others one channel
COLOURED = {"gradient", "deconvnet", "guided_backprop", "guided_grad_cam", "lrp", "deep_taylor"}
MEAN, STD = (
    torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
    for v in (xcnn.networks.MEAN, xcnn.networks.STD)
)
LOW, HIGH = -MEAN / STD, (1 - MEAN) / STD  # the least and largest of a pixel


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
    return torch.randn(
        n, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def images(name):
    return batch(network(name).size)


def assert_near(R, oracle, tolerance=1e-6):
    assert oracle.abs().max() > 0, "a dead oracle proves nothing"
    assert R.shape == oracle.shape
    assert (R - oracle).abs().max() <= tolerance * oracle.abs().max()


def examples(n):
    """Settings of a property: n examples, the same in each run. With `--hypothesis-profile long` 150 n, always new."""
    times = settings().max_examples // 100
    return settings(
        deadline=None,
        max_examples=n * times,
        derandomize=times == 1,
        suppress_health_check=HealthCheck,
    )


def with_maps(module, layer, x, A):
    """The scores when a layer puts out A, the whole network run: by a hook, as the published algorithm does it."""
    handle = module.get_submodule(layer).register_forward_hook(lambda *_: A.clone())
    with torch.no_grad():
        S = module(x.expand(len(A), -1, -1, -1))
    handle.remove()
    return S


def state(module, x):
    """All that a caller could find changed."""

    def hooks(part):
        return [
            list(v)
            for k, v in sorted(vars(part).items())
            if k.endswith("_hooks") and isinstance(v, dict)
        ]

    return {
        "weights": {k: hashlib.sha256(v.numpy().tobytes()).digest() for k, v in module.state_dict().items()},
        "grad": {k: None if p.grad is None else p.grad.sum().item() for k, p in module.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in module.named_parameters()},
        "training": {k: part.training for k, part in module.named_modules()},
        "modules": {k: id(part) for k, part in module.named_modules()},
        "hooks": {k: hooks(part) for k, part in module.named_modules()},
        "global hooks": [len(v) for k, v in vars(torch_module).items() if k[:8] == "_global_" and k[-5:] == "hooks"],
        "random": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "x": (x.tolist(), x.requires_grad, x.grad),
    }  # fmt: skip
