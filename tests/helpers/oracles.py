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
FAMILIES = ["vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2"]
MEAN, STD = (
    torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
    for v in (xcnn.networks.MEAN, xcnn.networks.STD)
)
LOW = -MEAN / STD  # the least value of a pixel, normalised
HIGH = (1 - MEAN) / STD  # the largest


@functools.cache
def network(name):
    """A network in float64.

    The big ones have random weights, and batch norm statistics that keep their maps alive.
    """
    if name in SMALL:
        net = xcnn.load(name)
        return xcnn.Network(copy.deepcopy(net.module).double(), name, net.classes, size=128)
    torch.manual_seed(0)
    options = {}
    if name in ("googlenet", "inception_v3"):
        init_weights = name == "googlenet"
        options = {"init_weights": init_weights, "aux_logits": False, "transform_input": False}
    module = zoo.get_model(name, weights=None, **options)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(torch.randn(4, 3, 96, 96))
    return xcnn.Network(module.eval().double(), name, size=96)


def batch(size, n=3):
    """n images of noise, (n, 3, size, size) float64, within the bounds of pixels.

    They are drawn anew for each caller, who may mark them as leaves of a gradient.
    """
    generator = torch.Generator().manual_seed(1)
    return within(torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator))


def within(x):
    """Images whose pixels are no darker than black, and no brighter than white."""
    return x.clamp(LOW.to(x), HIGH.to(x))


def images(name):
    """Three images of noise, as large as the network of that name wants them."""
    return batch(network(name).size)


def noise(side, seed=0):
    """One image of noise, (1, 3, side, side) float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, side, side, dtype=torch.float64, generator=generator)


def assert_near(R, oracle, tolerance=1e-6):
    """Equal, up to a share of the oracle's largest value."""
    assert oracle.abs().max() > 0, "a dead oracle proves nothing"
    assert R.shape == oracle.shape
    assert (R - oracle).abs().max() <= tolerance * oracle.abs().max()


def differs(R, other, by=1e-2):
    """Do two maps differ by more than their scale?"""
    return bool((R / R.abs().max() - other / other.abs().max()).abs().max() > by)


def examples(n):
    """Settings of a property: n examples, the same in each run.

    With `--hypothesis-profile long` 150 n, always new.
    """
    times = settings().max_examples // 100
    return settings(
        deadline=None,
        max_examples=n * times,
        derandomize=times == 1,
        suppress_health_check=HealthCheck,
    )


def outputs_of(module, layer, x):
    """What a layer puts out, run after run, by a hook of our own: list of tensors."""
    seen = []

    def note(_module, _inputs, output):
        seen.append(output.detach().clone())

    handle = module.get_submodule(layer).register_forward_hook(note)
    with torch.no_grad():
        module(x)
    handle.remove()
    return seen


def with_maps(module, layer, x, A):
    """The scores when a layer puts out A, the whole network run.

    A hook puts A in the place of the layer's output, as the published algorithm does it.
    """
    handle = module.get_submodule(layer).register_forward_hook(lambda *_: A.clone())
    with torch.no_grad():
        S = module(x.expand(len(A), -1, -1, -1))
    handle.remove()
    return S


def state(module, x):
    """All that a caller could find changed."""
    return {
        "weights": {k: _digest(v) for k, v in module.state_dict().items()},
        "grad": {
            k: None if p.grad is None else p.grad.sum().item() for k, p in module.named_parameters()
        },
        "requires_grad": {k: p.requires_grad for k, p in module.named_parameters()},
        "training": {k: part.training for k, part in module.named_modules()},
        "modules": {k: id(part) for k, part in module.named_modules()},
        "hooks": {k: _hooks(part) for k, part in module.named_modules()},
        "global hooks": _global_hooks(),
        "random": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "x": (x.tolist(), x.requires_grad, x.grad),
    }


def _digest(v):
    return hashlib.sha256(v.numpy().tobytes()).digest()


def _hooks(part):
    return [
        list(v)
        for k, v in sorted(vars(part).items())
        if k.endswith("_hooks") and isinstance(v, dict)
    ]


def _global_hooks():
    return [
        len(v)
        for k, v in vars(torch_module).items()
        if k.startswith("_global_") and k.endswith("hooks")
    ]
