"""What every method promises, and what it says when it is called wrongly."""

import contextlib
import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.overrides import TorchFunctionMode
from torchvision import tv_tensors
from xcnn import InputError
from xcnn.methods import PIXEL_METHODS
from xcnn.networks import ready

from tests.helpers.oracles import outputs_of, state
from tests.helpers.places import SMALL

METHODS = list(xcnn.METHODS)
OPTIONS = {name: inspect.signature(method).parameters for name, method in xcnn.METHODS.items()}
LAYERED = [name for name in METHODS if "layer" in OPTIONS[name] and "unit" not in OPTIONS[name]]
GAP = ["resnet_s", "googlenet_s", "allconv_s"]
HAS_NO_AVERAGE = ("cam", "vgg_s")  # the one pair of method and network that does not go together
PAIRS = [(method, name) for method in METHODS for name in SMALL if (method, name) != HAS_NO_AVERAGE]

every_method = pytest.mark.parametrize("method", METHODS)
every_pair = pytest.mark.parametrize(("method", "name"), PAIRS)


def images(n=1, h=128, w=128, seed=0):
    x = torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(seed))
    return x.clamp(-1.8, 2.2)  # what pixels can have: the zB-rule refuses others


QUICK = {
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
    "lime": {"samples": 50},
    "rise": {"masks": 20},
}


def explain(method, net, *args, **options):
    return xcnn.METHODS[method](net, *args, **QUICK.get(method, {}) | options)


@every_pair
def test_shape_and_type(method, name):
    R = explain(method, xcnn.load(name), images(2), 3)
    assert R.shape == (2, 3 if method in PIXEL_METHODS else 1, 128, 128)
    assert R.dtype == torch.float32 and torch.isfinite(R).all() and not R.requires_grad


@every_method
@pytest.mark.parametrize("name", GAP)
def test_images_need_not_be_square(method, name):
    assert explain(method, xcnn.load(name), images(1, 96, 160), 3).shape[-2:] == (96, 160)


@every_pair
def test_a_bare_module_gives_the_same(method, name):
    net = xcnn.load(name)
    assert torch.equal(explain(method, net, images(), 3), explain(method, net.module, images(), 3))


# Sizes of images that are not the networks' own. At 16 x 16 the last block has one position left.
OTHER_SIZES = [
    *((name, size) for name in GAP for size in ((64, 96), (16, 16))),
    ("vgg_s", (96, 64)),
]
# where another layer is the last spatial one than at the network's own size
OTHER_LAYERS = {
    ("resnet_s", (16, 16)): "layer2",
    ("googlenet_s", (16, 16)): "inception3b",
    ("allconv_s", (16, 16)): "features.11",
    ("vgg_s", (96, 64)): "avgpool",
}


@pytest.mark.parametrize("method", LAYERED)
@pytest.mark.parametrize(("name", "size"), OTHER_SIZES)
def test_a_bare_module_gives_the_same_for_images_of_another_size(method, name, size):
    """A `Network` knows the size it was trained on, a module does not: what counts is x."""
    if (method, name) == HAS_NO_AVERAGE:
        return
    net = xcnn.load(name)
    x = images(1, *size)
    R = explain(method, net, x, 3)
    assert torch.equal(R, explain(method, net.module, x, 3))
    last = OTHER_LAYERS.get((name, size), net.layer)
    assert torch.equal(R, explain(method, net, x, 3, layer=last))


@pytest.mark.parametrize(("name", "size"), OTHER_SIZES)
def test_the_default_layer_is_that_for_the_size_of_the_images(name, size):
    """`ready` gives the layers for x, and leaves those of the caller's own `Network` alone."""
    net = xcnn.load(name)
    x = images(2, *size)
    own_layers = dict(net.layers)
    for network_or_module in (net, net.module):
        net_for_x, _ = ready(network_or_module, x)
        assert net_for_x.layer == OTHER_LAYERS.get((name, size), net.layer)
        for layer, shape in net_for_x.layers.items():
            assert outputs_of(net.module, layer, x)[-1].shape[1:] == shape
    assert net.layers == own_layers != net_for_x.layers


def test_ready_gives_a_network_and_images_without_the_callers_graph():
    module = xcnn.load("allconv_s").module
    x = images().requires_grad_()
    net, images_ = ready(module, x)
    assert isinstance(net, xcnn.Network) and net.module is module
    assert torch.equal(images_, x) and not images_.requires_grad and x.requires_grad
    own = xcnn.Network(module, "mine", classes=list("abcdefghij"), size=128)
    ours, _ = ready(own, x)
    assert (ours.name, ours.classes, ours.module) == ("mine", own.classes, module)


@every_method
def test_targets_in_every_form(method):
    net = xcnn.load("resnet_s")
    x = images(2)
    R = explain(method, net, x, 3)
    name = net.classes[3]
    targets = [
        name,
        [3, 3],
        (3, name),
        torch.tensor(3),
        torch.tensor([3, 3]),
        np.array(3),
        np.array([3, 3]),
    ]
    for target in targets:
        assert torch.equal(R, explain(method, net, x, target)), target
    top = net.predict(x).argmax(1)
    assert torch.equal(explain(method, net, x), explain(method, net, x, top))
    mixed = explain(method, net, x, [3, 5])
    assert torch.equal(mixed[:1], R[:1]) and not torch.equal(mixed[1:], R[1:])


@every_pair
def test_a_batch_gives_what_single_images_give(method, name):
    net = xcnn.Network(copy.deepcopy(xcnn.load(name).module).double(), size=128)
    x = images(4, 64, 64).double()
    targets = [0, 3, 3, 9]
    R = explain(method, net, x, targets)
    assert R.abs().max() > 0
    for k, target in enumerate(targets):
        single = explain(method, net, x[k : k + 1], target)
        torch.testing.assert_close(R[k : k + 1], single, rtol=1e-6, atol=1e-9)


@every_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_whatever_the_callers_grad_mode(method, context):
    R = explain(method, xcnn.load("resnet_s"), images(), 3)
    xcnn.load.cache_clear()
    with context():
        # network and image are made in there, too
        inside = explain(method, xcnn.load("resnet_s"), images(), 3)
    xcnn.load.cache_clear()
    assert torch.equal(R, inside)


class Fails(nn.Module):
    """A network that breaks down after its work is done."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        self.net(x)
        raise ZeroDivisionError("in the middle of the network")


@every_pair
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_callers_is_changed(method, name, fails):
    net = xcnn.load(name)
    module = copy.deepcopy(net.module)
    x = images(1)
    first = next(module.parameters())
    first.grad = torch.ones_like(first)
    first.requires_grad = False
    module.register_forward_hook(lambda *_: None)
    if fails:
        options = {"layer": f"net.{net.layer}"} if method in LAYERED and method != "cam" else {}
        module = Fails(module).eval()
        before = state(module, x)
        for wanted in ({}, options):
            with pytest.raises(ZeroDivisionError):
                explain(method, module, x, 3, **wanted)
    else:
        before = state(module, x)
        explain(method, module, x, 3)
    assert state(module, x) == before


class Cuts(nn.Module):
    """A network that switches gradients off before its last layers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


@pytest.mark.parametrize(
    "method", ["gradient", "deconvnet", "guided_backprop", "guided_grad_cam", "lrp", "deep_taylor"]
)
def test_a_network_that_cuts_the_gradient(method):
    with pytest.raises(InputError, match=r"switches gradients off|does not depend on layer"):
        explain(method, Cuts(xcnn.load("resnet_s").module).eval(), images(1), 3)


class Rolls(nn.Module):
    """A network with the common mistake F.dropout(x): it is always on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(F.dropout(F.relu(self.conv(x))).mean((2, 3)))


@every_method
def test_random_numbers_of_the_caller_go_on_as_if_nothing_had_been_drawn(method):
    torch.manual_seed(0)
    net = Rolls().eval()
    x = images(1, 16, 16)
    before = torch.get_rng_state()
    with contextlib.suppress(InputError):  # where dropout that is always on is refused
        explain(method, net, x, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in LAYERED])
def test_a_network_that_torch_fx_has_fused(method):
    module = xcnn.load("resnet_s").module
    x = images(1)
    fused = fuse(module)
    # the shells that hold its parts are left in train mode
    assert any(part.training for part in fused.modules())
    R = explain(method, fused, x, 3)
    torch.testing.assert_close(R, explain(method, module, x, 3), rtol=1e-3, atol=1e-3)


def test_loading_draws_no_random_numbers():
    xcnn.load.cache_clear()
    before = torch.get_rng_state()
    xcnn.load("resnet_s")
    assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_images_of_another_type_than_the_weights(method):
    says = r"x is torch.float64 on cpu, the network's weights are torch.float32"
    with pytest.raises(InputError, match=says):
        explain(method, xcnn.load("allconv_s"), images(1).double(), 3)


@pytest.mark.parametrize("name", ["cam", "grad_cam"])
def test_a_map_has_the_type_of_the_images_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        assert explain(name, xcnn.load("allconv_s"), images(1), 3).dtype == torch.float32


@every_pair
def test_a_dead_map_is_zeros(method, name):
    module = copy.deepcopy(xcnn.load(name).module)
    for parameter in module.parameters():
        parameter.data.zero_()
    R = explain(method, module, images(2), 3)
    assert (R == 0).all()


@settings(deadline=None, max_examples=15)
@given(st.floats(0.01, 100), st.integers(0, 9))
def test_scaling_the_classifier_scales_the_maps(factor, target):
    net = xcnn.load("resnet_s")
    module = copy.deepcopy(net.module).double()
    x = images().double()
    methods = (xcnn.cam, xcnn.grad_cam, xcnn.gradient)
    before = [method(module, x, target) for method in methods]
    with torch.no_grad():
        module.fc.weight *= factor
    after = [method(module, x, target) for method in methods]
    for R, scaled in zip(before, after, strict=True):
        torch.testing.assert_close(scaled, factor * R, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.floats(-50, 50), st.integers(0, 9))
def test_a_bias_moves_no_map(bias, target):
    module = copy.deepcopy(xcnn.load("allconv_s").module).double()
    x = images().double()
    methods = (xcnn.cam, xcnn.grad_cam, xcnn.guided_backprop)
    before = [method(module, x, target) for method in methods]
    with torch.no_grad():
        module.classifier.bias += bias
    for method, R in zip(methods, before, strict=True):
        torch.testing.assert_close(method(module, x, target), R, rtol=1e-9, atol=1e-12)


# ---- bad input: one error each, which says what to do


def nan_image():
    x = images()
    x[0, 1, 5, 5] = float("nan")
    return x


@every_method
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (images()[:, :1], r"\(N, 1, H, W\).*takes \(N, 3, H, W\).*preprocess"),
        (torch.randn(1, 4, 64, 64), r"\(N, 4, H, W\).*takes \(N, 3, H, W\).*preprocess"),
        (images()[0], r"\(N, C, H, W\).*preprocess"),
        (images(1)[:0], r"\(N, C, H, W\).*preprocess"),
        (images()[None], r"\(N, C, H, W\).*preprocess"),
        (images().numpy(), r"got ndarray.*preprocess"),
        (nan_image(), "NaN.*check"),
        (images() / 0, "infinite"),
        ((images() * 50).int(), r"float.*int32.*preprocess"),
        ((images() * 50).byte(), r"float.*uint8.*preprocess"),
    ],
)
def test_bad_images(method, x, says):
    with pytest.raises(InputError, match=says):
        explain(method, xcnn.load("resnet_s"), x, 3)


@every_method
@pytest.mark.parametrize(
    ("target", "says"),
    [
        (10, "10 is out of range.*0 to 9"),
        (-1, "-1 is out of range.*0 to 9"),
        ([3, -2], "-2 is out of range"),
        ([3], "1 targets for 2 images.*one for all or one per image"),
        (torch.tensor([1, 2, 3]), "3 targets for 2 images"),
        (2.5, "class index, a class name"),
        (True, "class index, a class name"),
        ("umbrela", "unknown class 'umbrela'.*did you mean 'umbrella'"),
        ("qqqq", "choose one of"),
    ],
)
def test_bad_targets(method, target, says):
    with pytest.raises(InputError, match=says):
        explain(method, xcnn.load("resnet_s"), images(2), target)


@every_method
def test_a_name_means_nothing_to_a_bare_module(method):
    with pytest.raises(InputError, match="give the class index"):
        explain(method, xcnn.load("resnet_s").module, images(), "pizza")


def test_a_name_that_two_classes_share():
    classes = ["crane", *"abcdefgh", "crane"]
    net = xcnn.Network(xcnn.load("resnet_s").module, classes=classes, size=128)
    with pytest.raises(InputError, match=r"2 classes.*\[0, 9\]"):
        xcnn.gradient(net, images(), "crane")


@every_method
@pytest.mark.parametrize("part", ["", "bn1"])
def test_train_mode(method, part):
    module = copy.deepcopy(xcnn.load("resnet_s").module)
    module.get_submodule(part).train()  # "" is the network itself
    with pytest.raises(InputError, match=(part or "the network") + r".*train mode.*\.eval\(\)"):
        explain(method, module, images(), 3)


class Wrong(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net = net
        self.change = change

    def forward(self, x):
        return self.change(self.net(x))


@every_method
@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda S: S[:, :, None], r"\(1, 10, 1\)"),
        (lambda S: S[0], r"\(10,\)"),
        (lambda S: {"out": S}, "dict"),
        (lambda S: (S, S), "tuple"),
    ],
)
def test_networks_that_return_no_scores(method, change, got):
    module = Wrong(xcnn.load("resnet_s").module, change).eval()
    says = "CAM needs a head" if method == "cam" else got + r".*class scores of shape \(N, K\)"
    with pytest.raises(InputError, match=says):
        explain(method, module, images(), 3)


@every_method
def test_what_is_no_network(method):
    with pytest.raises(InputError, match=r"torch\.nn\.Module, got str.*xcnn\.load"):
        explain(method, "resnet_s", images(), 3)


@every_method
def test_an_image_too_small_for_the_network(method):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="16x16 is too small"):
        explain(method, zoo.squeezenet1_1(weights=None).eval(), images(1, 16, 16), 3)


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "guided_backprop"])
def test_an_image_of_a_size_the_head_cannot_take(method):
    head = [nn.Flatten(), nn.Linear(2 * 62 * 62, 5)]
    fixed = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), *head).eval()
    with pytest.raises(InputError, match=r"96x96 does not fit.*fully connected.*preprocess"):
        explain(method, fixed, images(1, 96, 96), 3)


@every_method
def test_pictures_of_other_sizes(method):
    net = xcnn.load("resnet_s" if method == "cam" else "vgg_s")
    assert explain(method, net, images(1, 96, 160), 3).shape[2:] == (96, 160)


@pytest.mark.parametrize("method", LAYERED)
def test_unknown_layers(method):
    with pytest.raises(InputError, match="layer_4"):
        explain(method, xcnn.load("resnet_s"), images(), 3, layer="layer_4")


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("resnets", "resnet_s"), ("vgg61", "vgg16")]
)
def test_unknown_networks(name, near):
    with pytest.raises(InputError, match=f"unknown network '{name}'.*did you mean.*'{near}'"):
        xcnn.load(name)


def test_weights_that_cannot_be_downloaded(offline):
    with pytest.raises(InputError) as error:
        xcnn.load("resnet18")
    folder = str(offline / "hub" / "checkpoints")
    for part in ("resnet18-f37072fd.pth", folder, "no network in this test", "TORCH_HOME"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."]
)
def test_weights_that_are_broken(offline, content):
    path = offline / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match="delete the file") as error:
        xcnn.load("resnet18")
    assert str(path) in str(error.value)


# ---- names, settings and types that must not matter


def with_head(side, channels=3):
    """A network whose linear layer wants pictures of this side."""
    torch.manual_seed(0)
    width = 6 * (side // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ).extend([nn.Linear(width, 5)])


def resnet():
    torch.manual_seed(0)
    return zoo.resnet18(weights=None, num_classes=5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: with_head(32), (3, 32, 32)),
        (lambda: with_head(28, channels=1), (1, 28, 28)),
        (lambda: with_head(17), (3, 17, 17)),
        (resnet, (3, 32, 32)),  # of 32 x 32 pixels layer4 puts out one position
        (resnet, (3, 48, 80)),
    ],
)
@pytest.mark.parametrize("method", ["gradient", "grad_cam", "guided_grad_cam", "shap_cam"])
def test_class_names_change_no_map(make, shape, method):
    """w04: with names, the default layer was that of 224 x 224 pixels, or an error came."""
    module = make().eval()
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    named = xcnn.Network(module, classes=list("abcde"))
    options = {} if method == "gradient" else {"layer": None}
    R = xcnn.METHODS[method](named, x, "b", **options)
    assert torch.equal(R, xcnn.METHODS[method](module, x, 1, **options))
    assert R.abs().max() > 0 and (method == "gradient" or R.std() > 0)


def little():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(*parts).eval()


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def frozen(net):
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net


def unchanged(v):
    return v


# what a caller may have set or made -> context, change of the network, change of x
CIRCUMSTANCES = {
    "anomalies are looked for": (torch.autograd.detect_anomaly, unchanged, unchanged),
    "deterministic algorithms": (deterministic, unchanged, unchanged),
    "float64 by default": (double_by_default, unchanged, unchanged),
    "no gradients": (torch.no_grad, unchanged, unchanged),
    "frozen weights": (contextlib.nullcontext, frozen, unchanged),
    "channels-last memory": (
        contextlib.nullcontext,
        lambda net: net.to(memory_format=torch.channels_last),
        lambda x: x.contiguous(memory_format=torch.channels_last),
    ),
    "x inside a graph": (
        contextlib.nullcontext,
        unchanged,
        lambda x: (x.requires_grad_() * 2) / 2,
    ),
    "x is a parameter": (contextlib.nullcontext, unchanged, nn.Parameter),
    "x is an image of torchvision": (contextlib.nullcontext, unchanged, tv_tensors.Image),
    "x is a view": (
        contextlib.nullcontext,
        unchanged,
        lambda x: torch.stack([x, x], -1)[..., 0],
    ),
}


@every_method
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_circumstances_that_change_no_map(method, circumstance):
    around, change, change_x = CIRCUMSTANCES[circumstance]
    x = images(2, 12, 14)
    wanted = explain(method, little(), x, 3)
    net = change(little())
    changed = change_x(x.clone())
    with around():
        R = explain(method, net, changed, 3)
    assert type(R) is torch.Tensor and R.dtype == torch.float32
    torch.testing.assert_close(R, wanted)


class WithoutFloat64(TorchFunctionMode):
    """A stand-in for a device that has no float64: what `.cpu()` has not fetched stays float32."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        y = func(*args, **kwargs or {})
        if func is torch.Tensor.cpu:
            self.fetched.append(y)
        elif isinstance(y, torch.Tensor) and y.dtype == torch.float64:
            lent = [a for a in args if isinstance(a, torch.Tensor) and a.dtype == torch.float32]
            if not all(any(a is known for known in self.fetched) for a in lent):
                raise TypeError(f"{func.__name__}: this device has no float64")
        return y


# CNN Fixations numbers its units by floats that must be exact
@pytest.mark.parametrize("method", [name for name in METHODS if name != "cnn_fixations"])
def test_a_device_without_float64(method):
    x = images(1, 12, 12)
    wanted = explain(method, little(), x, 3)
    with WithoutFloat64():
        R = explain(method, little(), x, 3)
        with pytest.raises(TypeError, match="has no float64"):
            x.double()
    torch.testing.assert_close(R, wanted)
