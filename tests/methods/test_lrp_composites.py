"""Which rule each layer gets: composites against zennit's, rules by a function, parameters."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import xcnn
import zennit.composites as zc
import zennit.rules as zr
from torch import nn
from xcnn import InputError
from xcnn.methods import lrp_rules
from xcnn.methods.lrp import deep_taylor, lrp
from xcnn.methods.lrp_composites import COMPOSITES
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear as WeightedLayer

from tests.helpers.oracles import (
    HIGH,
    LOW,
    TARGETS,
    assert_near,
    batch,
    differs,
    images,
    network,
)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("Input Tensor 0", "`torch.jit", "The .grad")
]
TINY = 1e-30  # zennit adds it to what it divides by; we add nothing


# ---- zennit


def everywhere(rule, first=None):
    """zennit's composite of one rule for all layers, and perhaps another for the first."""
    layers = [*zc.layer_map_base(TINY), (WeightedLayer, rule)]
    canonizers = [ResNetCanonizer()]
    if first:
        first_layer = [(WeightedLayer, first)]
        return zc.SpecialFirstLayerMapComposite(layers, first_layer, canonizers=canonizers)
    return zc.LayerMapComposite(layers, canonizers=canonizers)


def gamma_box(low=LOW, high=HIGH, **parameters):
    canonizers = [ResNetCanonizer()]
    return zc.EpsilonGammaBox(low, high, stabilizer=TINY, canonizers=canonizers, **parameters)


def zennits_own(name):
    """A composite that has the same name in zennit."""
    return lambda: zc.COMPOSITES[name](stabilizer=TINY, canonizers=[ResNetCanonizer()])


# our rule or composite -> function that makes zennit's
ZENNIT = {
    "0": lambda: everywhere(zr.Epsilon(TINY)),
    "epsilon": lambda: everywhere(zr.Epsilon(1e-6)),
    "gamma": lambda: everywhere(zr.Gamma(0.25, TINY)),
    "alpha_beta": lambda: everywhere(zr.AlphaBeta(2, 1, TINY)),
    "z+": lambda: everywhere(zr.ZPlus(TINY)),
    "zB": lambda: everywhere(zr.ZPlus(TINY), zr.ZBox(LOW, HIGH, TINY)),
    "w2": lambda: everywhere(zr.ZPlus(TINY), zr.WSquare(TINY, zero_params="bias")),
    "flat": lambda: everywhere(zr.ZPlus(TINY), zr.Flat(TINY)),
    "epsilon_gamma_box": gamma_box,
    "epsilon_plus": zennits_own("epsilon_plus"),
    "epsilon_plus_flat": zennits_own("epsilon_plus_flat"),
    "epsilon_alpha2_beta1": zennits_own("epsilon_alpha2_beta1"),
    "epsilon_alpha2_beta1_flat": zennits_own("epsilon_alpha2_beta1_flat"),
}


def by_zennit(module, x, target, composite):
    """zennit's map, from a copy of the network."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            # zennit forgets eps in the batch norms that it empties: 5e-6 each
            part.running_var += part.eps
            part.eps = 0.0

    def start(S):
        return S * F.one_hot(torch.tensor(target), S.shape[1])

    with Gradient(module, composite) as attributor:
        return attributor(x.clone(), start)[1].detach()


def narrow_vgg11():
    """VGG-11 with 64 units where it has 4096, for 64x64: all rules in float64 in seconds."""
    module = copy.deepcopy(network("vgg11").module.features)
    torch.manual_seed(0)
    head = [
        nn.Linear(512 * 4, 64),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(64, 64),
        nn.ReLU(True),
        nn.Linear(64, 10),
    ]
    return nn.Sequential(module, nn.Flatten(), *head).double().eval()


# pairs that are one in a network without a linear layer
WITHOUT_LINEAR = {
    ("z+", "epsilon_plus"),
    ("flat", "epsilon_plus_flat"),
    ("alpha_beta", "epsilon_alpha2_beta1"),
}


@pytest.mark.parametrize("name", ["narrow_vgg11", "squeezenet1_1", "resnet18"])
def test_equals_zennit(name):
    module = narrow_vgg11() if name == "narrow_vgg11" else network(name).module
    x = batch(64, 1)
    maps = {}
    for rule, composite in ZENNIT.items():
        maps[rule] = lrp(module, x, 4, rule)
        assert_near(maps[rule], by_zennit(module, x, [4], composite()), 1e-9)
    same = {("0", "epsilon")}
    if name == "squeezenet1_1":
        same |= WITHOUT_LINEAR
    for a, b in itertools.combinations(maps, 2):
        assert ((a, b) in same) != differs(maps[a], maps[b]), (a, b)


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_equals_zennit_on_the_whole_vgg11(rule):
    module = network("vgg11").module
    x = batch(96, 1)
    assert_near(lrp(module, x, 1, rule), by_zennit(module, x, [1], ZENNIT[rule]()), 1e-9)


COLOURS = [4.0, 5.0, 6.0]  # an upper bound for each colour channel


@pytest.mark.parametrize(
    ("rule", "parameters", "composite"),
    [
        ("epsilon", {"epsilon": 0.3}, lambda: everywhere(zr.Epsilon(0.3))),
        ("gamma", {"gamma": 3}, lambda: everywhere(zr.Gamma(3, TINY))),
        ("alpha_beta", {"alpha": 3, "beta": 2.0}, lambda: everywhere(zr.AlphaBeta(3, 2, TINY))),
        (
            "zB",
            {"low": -5, "high": COLOURS},
            lambda: everywhere(
                zr.ZPlus(TINY), zr.ZBox(-5, torch.tensor(COLOURS).view(1, 3, 1, 1), TINY)
            ),
        ),
        (
            "epsilon_gamma_box",
            {"epsilon": 0.3, "gamma": 3, "low": -5, "high": 5},
            lambda: gamma_box(-5, 5, epsilon=0.3, gamma=3),
        ),
    ],
)
def test_parameters_mean_what_they_mean_in_zennit(rule, parameters, composite):
    net = network("resnet18")
    x = batch(96, 2)
    R = lrp(net, x, TARGETS[:2], rule, **parameters)
    assert_near(R, by_zennit(net.module, x, TARGETS[:2], composite()), 1e-9)
    assert differs(R, lrp(net, x, TARGETS[:2], rule), 1e-3)


# ---- rules chosen layer by layer


def test_a_function_chooses_by_kind_index_and_name():
    net = network("vgg_s")
    x = images("vgg_s")[:1]
    met = []

    def choose(kind, index, name):
        met.append((kind, index, name))
        if index == 0:
            return "zB"
        return ("gamma", {"gamma": 0.5}) if kind == "conv" else "epsilon"

    R = lrp(net, x, 1, choose)
    kinds = {nn.Conv2d: "conv", nn.Linear: "linear"}
    weighted = [(kinds[type(p)], n) for n, p in net.module.named_modules() if type(p) in kinds]
    assert met == [(kind, i, name) for i, (kind, name) in enumerate(weighted)]
    assert_near(R, lrp(net, x, 1, "epsilon_gamma_box", gamma=0.5), 1e-12)
    assert differs(R, lrp(net, x, 1, "epsilon_gamma_box"), 1e-3)


def test_parameters_may_be_shared_or_a_rules_own():
    net = network("vgg_s")
    x = images("vgg_s")[:1]

    def by_kind(kind, *_):
        return "gamma" if kind == "conv" else "epsilon"

    def with_parameters(kind, *_):
        return ("gamma", {"gamma": 2}) if kind == "conv" else ("epsilon", {"epsilon": 0.1})

    shared = lrp(net, x, 1, by_kind, gamma=2, epsilon=0.1)
    assert torch.equal(shared, lrp(net, x, 1, with_parameters))


def test_rules_that_are_one():
    net = network("resnet_s")
    x = images("resnet_s")[:2]
    assert torch.equal(deep_taylor(net, x, 3), lrp(net, x, 3, "deep_taylor"))
    assert torch.equal(deep_taylor(net, x, 3), lrp(net, x, 3, "zB"))
    bounds = {"low": -4, "high": [3.0, 4.0, 5.0]}
    assert torch.equal(deep_taylor(net, x, 3, **bounds), lrp(net, x, 3, "zB", **bounds))
    assert torch.equal(lrp(net, x, 3), lrp(net, x, 3, "epsilon_plus"))
    # resnet_s has units without a positive contribution; z+ loses nothing there
    other = network("googlenet_s")
    assert_near(lrp(other, x, 3, "alpha_beta", alpha=1, beta=0), lrp(other, x, 3, "z+"), 1e-9)
    maps = [lrp(net, x, 3, rule) for rule in COMPOSITES if rule not in ("deep_taylor", "epsilon")]
    assert all(differs(a, b, 1e-3) for a, b in itertools.combinations(maps, 2))


def test_the_box_comes_from_the_network():
    net = network("resnet_s")
    x = images("resnet_s")[:1].clamp(-1.8, 2)
    other = xcnn.Network(net.module, size=128, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.equal(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB", low=-2.0, high=2.0))
    assert differs(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB"), 1e-3)
    whole = torch.full((3, 128, 128), 2.0)
    assert torch.equal(lrp(other, x, 3, "zB"), lrp(net, x, 3, "zB", low=-whole, high=whole[None]))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_bounds_for_any_number_of_channels(channels):
    """One by one, in one number, or as an image: the same as zennit's."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)]
    module = nn.Sequential(*stages).double().eval()
    low = -1 - torch.arange(channels).double()
    high = 2 + torch.arange(channels).double()
    at_channels = (low.view(-1, 1, 1), high.view(-1, 1, 1))
    x = batch(6, 1)[:, :1].repeat(1, channels, 1, 1).clamp(-1, 2)
    R = _lrp_of_any_channels(module, x, at_channels)
    composite = everywhere(zr.ZPlus(TINY), zr.ZBox(*(v[None] for v in at_channels), TINY))
    assert_near(R, by_zennit(module, x, [1], composite), 1e-9)
    for bounds in ((low.tolist(), high.numpy()), [v.expand(-1, 6, 6) for v in at_channels]):
        assert torch.equal(_lrp_of_any_channels(module, x, bounds), R)
    assert torch.equal(
        _lrp_of_any_channels(module, x, (-9, 9.0)),
        _lrp_of_any_channels(
            module, x, (-9 * torch.ones(channels), 9 * torch.ones(channels, 1, 1))
        ),
    )


def _lrp_of_any_channels(module, x, bounds):
    low, high = bounds
    return lrp(module, x, 1, "zB", low=low, high=high)


# ---- a rule of the caller's own


def by_hand_0(layer, R):
    """Rule 0, written with what the docstring of `Layer` names."""
    return layer.back(lrp_rules.share(R, layer.z))


def half_and_half(layer, R):
    return (lrp_rules.rule_0(layer, R) + lrp_rules.rule_z_plus(layer, R)) / 2


def by_columns(layer, R, *, share=1.0):
    """One that does not use the layer's own way back: each input gets the same."""
    a = layer.a[0]
    per_image = R.flatten(1).sum(1) * share / a[0].numel()
    return per_image.view(-1, *[1] * (a.ndim - 1)).expand_as(a)


@pytest.mark.parametrize("name", ["resnet_s", "vgg_s"])
def test_a_rule_of_the_callers_own(name):
    net = network(name)
    x = images(name)[:1]
    assert_near(lrp(net, x, 3, lambda *_: by_hand_0), lrp(net, x, 3, "0"), 1e-9)

    def mixed(kind, index, name):
        return by_hand_0 if kind == "linear" else "z+"

    def named(kind, index, name):
        return "0" if kind == "linear" else "z+"

    assert_near(lrp(net, x, 3, mixed), lrp(net, x, 3, named), 1e-9)

    def first(rule):
        return lambda kind, index, name: rule if index == 0 else "z+"

    both = (lrp(net, x, 3, first("0")) + lrp(net, x, 3, first("z+"))) / 2
    assert_near(lrp(net, x, 3, first(half_and_half)), both, 1e-9)
    flat = lrp(net, x, 3, first(by_columns))
    assert (flat - flat.mean()).abs().max() < 1e-9 * flat.abs().max()
    assert_near(lrp(net, x, 3, first((by_columns, {"share": 0.5}))), flat / 2, 1e-12)


def test_a_rule_of_the_callers_own_may_spoil_what_it_gets():
    net = network("resnet_s")
    x = images("resnet_s")[:1]

    def spoils(layer, R):
        relevance = by_hand_0(layer, R)
        R.zero_()
        return relevance

    assert_near(lrp(net, x, 3, lambda *_: spoils), lrp(net, x, 3, "0"), 1e-9)


class Chooser:
    """A function that is not one."""

    def __call__(self, kind, index, name):
        return "z+"


def test_any_callable_may_choose():
    net = network("resnet_s")
    x = images("resnet_s")[:1]
    wanted = lrp(net, x, 3, "z+")
    for choose in (Chooser(), lambda *layer: "z+", lambda kind, index, name=None: "z+"):
        assert torch.equal(lrp(net, x, 3, choose), wanted)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "epsilonplus"}, "unknown rule 'epsilonplus'; did you mean 'epsilon_plus'"),
        ({"rule": "zb"}, "unknown rule 'zb'; .*'zB'"),
        ({"rule": 7}, "unknown rule 7"),
        ({"rule": None}, "unknown rule None"),
        ({"rule": "alpha_beta", "alpha": 2, "beta": 2}, "alpha - beta must be 1"),
        ({"rule": "alpha_beta", "alpha": 3}, "alpha - beta must be 1.*got 3 and 1"),
        ({"rule": "alpha_beta", "alpha": 0.5, "beta": -0.5}, "beta not below 0"),
        ({"rule": "epsilon", "epsilon": 0}, "epsilon must be above 0, got 0; rule '0'"),
        ({"rule": "epsilon", "epsilon": -1e-3}, "epsilon must be above 0"),
        ({"rule": "epsilon_plus", "epsilon": -1}, "epsilon must be above 0"),
        ({"rule": "epsilon", "epsilon": float("nan")}, "epsilon must be a number"),
        ({"rule": "epsilon", "epsilon": "small"}, "epsilon must be a number, got 'small'"),
        ({"rule": "gamma", "gamma": -0.1}, "gamma must not be below 0"),
        ({"rule": "gamma", "gamma": True}, "gamma must be a number"),
        ({"rule": "zB", "low": 1.0, "high": 1.0}, "low must be below high"),
        ({"rule": "zB", "low": float("nan")}, "low must be below high"),
        ({"rule": "deep_taylor", "low": [0.0, 0.0, 3.0]}, "low must be below high"),
        ({"rule": "zB", "low": -3 * torch.ones(4)}, r"low has 4 channels and high 3; give both"),
        (
            {"rule": "zB", "low": -3 * torch.ones(4), "high": 3},
            r"numbers, one per channel, or of the shape of .* \(3, 128, 128\), got \(4, 1, 1\)",
        ),
        ({"rule": "zB", "low": "dark"}, "low must be a number, one per channel"),
        (
            {"rule": "zB", "low": torch.zeros(2, 3, 5, 5)},
            r"low must be a number.*got \(2, 3, 5, 5\)",
        ),
        (
            {"rule": "zB", "low": -3 * torch.ones(3, 5, 5)},
            r"shape of an image, \(3, 128, 128\), got \(3, 5, 5\)",
        ),
        ({"rule": "gamma", "epsilon": 1}, "no parameter 'epsilon'; its parameters: gamma"),
        ({"rule": "z+", "alpha": 1}, "no parameter 'alpha'; it has no parameters"),
        (
            {"rule": "epsilon_alpha2_beta1", "alpha": 3, "beta": 2},
            "no parameter 'alpha'; its parameters: epsilon",
        ),
        ({"rule": lambda *_: "gama"}, r"chose 'gama' for 'conv1'.*did you mean 'gamma'"),
        ({"rule": lambda *_: "deep_taylor"}, "chose 'deep_taylor'"),
        ({"rule": lambda *_: None}, "chose None"),
        ({"rule": lambda *_: ["gamma"]}, "chose .'gamma'."),
        ({"rule": lambda *_: ("gamma", {"gamma": -1})}, "gamma must not be below 0"),
        ({"rule": lambda *_: ("gamma", {"epsilon": 1})}, "no parameter 'epsilon'"),
        ({"rule": lambda *_: "gamma", "slope": 1}, "no parameter 'slope'"),
        ({"rule": lambda *_: "gamma", "epsilon": -1}, "epsilon must be above 0"),
        ({"rule": lambda *_: "zB"}, "'zB' is for the layer that gets the pixels"),
        ({"rule": by_hand_0}, r"called with \(kind, index, name\).*rule=lambda kind, index, name"),
        ({"rule": lambda kind: "z+"}, r"called with \(kind, index, name\)"),
        (
            {"rule": lambda *_: lambda layer, R: R},
            r"rule for 'fc' must return .*\(1, 80\).*\(1, 10\)",
        ),
        ({"rule": lambda *_: lambda layer, R: None}, "rule for 'fc' must return .*NoneType"),
        ({"rule": lambda *_: lambda layer, R: layer.back(R / 0)}, "rule for 'fc' returned NaN"),
        ({"rule": lambda *_: lambda layer, R: layer.a[0] / 0}, r"infinite.*share\(R, z\)"),
        ({"rule": lambda *_: ("z+", {}, 3)}, r"chose \('z\+', \{\}, 3\)"),
        ({"rule": lambda *_: 7}, "chose 7 for 'conv1'; it must return a rule's name or a function"),
    ],
)
def test_bad_rules_and_parameters(options, says):
    with pytest.raises(InputError, match=says):
        lrp(xcnn.load("resnet_s"), batch(128, 1).float(), 3, **options)
