"""Wrappers around a network, and copies of one that cannot be looked into."""

import copy
import warnings

import pytest
import torch
import xcnn
from torch import nn
from torch.optim.swa_utils import AveragedModel
from xcnn import InputError

from tests.helpers.oracles import assert_near

QUICK = {
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
    "occlusion": {"side": 10},
    "lime": {"samples": 20, "segments": 5, "score": "logit"},
    "rise": {"masks": 20, "score": "logit"},
}
OF_SCORES = ["occlusion", "rise", "lime"]
OF_GRADIENTS = [
    "gradient",
    "gradient_times_input",
    "smooth_grad",
    "integrated_gradients",
    *OF_SCORES,
]
AS_IT_IS = {
    "scripted": OF_GRADIENTS,
    "traced": OF_GRADIENTS,
    "frozen": OF_GRADIENTS,
    "exported": OF_GRADIENTS,
    "quantised": OF_SCORES,
    "quantised, static": OF_SCORES,
}
ROUNDED = {"quantised": 0.1, "quantised, static": 0.3}  # how far 8 bits may move a map


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def picture(n=1):
    x = torch.randn(n, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    return x.clamp(-1.8, 2.2)  # what pixels can have: the zB-rule refuses others


def static(net):
    """A copy whose weights and values are whole numbers of 8 bits."""
    stubs = [torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()]
    net = nn.Sequential(stubs[0], *net, stubs[1]).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(net, inplace=True)
    net(picture(4))
    return torch.ao.quantization.convert(net).eval()  # its new parts are in train mode


def made(kind):
    """A copy of the small network of this kind."""
    net = small()
    with warnings.catch_warnings(action="ignore"):
        if kind == "scripted":
            return torch.jit.script(net)
        if kind == "traced":
            return torch.jit.trace(net, picture())
        if kind == "frozen":
            return torch.jit.freeze(torch.jit.script(net))
        if kind == "exported":
            return torch.export.export(net, (picture(),)).module()
        if kind == "quantised":
            return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}).eval()
        return static(net)


def explain(method, net, x, **options):
    return xcnn.METHODS[method](net, x, 1, **QUICK.get(method, {}) | options)


@pytest.mark.parametrize("kind", AS_IT_IS)
@pytest.mark.parametrize("method", xcnn.METHODS)
def test_copies_that_cannot_be_looked_into(kind, method):
    """w08: one clear error, and the methods that its advice names are right."""
    net = made(kind)
    if method in AS_IT_IS[kind]:
        tolerance = ROUNDED.get(kind, 1e-5)
        wanted = explain(method, small(), picture())
        assert_near(explain(method, net, picture()), wanted, tolerance)
        return
    with pytest.raises(InputError, match=r"the nn\.Module that it was made from") as refusal:
        explain(method, net, picture())
    assert all(name in str(refusal.value) for name in AS_IT_IS[kind])


@pytest.mark.parametrize("kind", AS_IT_IS)
def test_layers_and_units_of_such_a_copy_are_refused(kind):
    net = xcnn.Network(made(kind), size=20)
    with pytest.raises(InputError, match="its layers and calls cannot be seen"):
        _ = net.layers
    with pytest.raises(InputError, match="its layers and calls cannot be seen"):
        xcnn.gradient(net, picture(), layer="0", unit=1)


def test_an_exported_network_takes_the_images_it_was_exported_for():
    with pytest.raises(InputError, match="takes another number or size of images"):
        xcnn.gradient(made("exported"), picture(2), 1)


def test_a_part_that_is_scripted():
    net = small()
    net[2] = torch.jit.script(nn.Sequential(net[2], nn.ReLU()))
    with pytest.raises(InputError, match=r"scripted \(TorchScript\)"):
        xcnn.guided_backprop(net.eval(), picture(), 1)
    assert_near(xcnn.gradient(net, picture(), 1), xcnn.gradient(small(), picture(), 1), 1e-6)


def compiled(net):
    return torch.compile(net, backend="aot_eager")


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


def compiled_inside(net):
    net[2] = torch.compile(net[2], backend="eager")
    return net


WRAPPERS = [
    nn.DataParallel,
    AveragedModel,
    compiled,
    compiled_in_place,
    compiled_inside,
    lambda net: compiled(AveragedModel(nn.DataParallel(net))),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("method", xcnn.METHODS)
def test_wrappers_change_nothing(wrap, ran_before, method):
    net = wrap(copy.deepcopy(small())).eval()
    if ran_before:
        leaf = picture().requires_grad_()
        net(leaf).sum().backward()
    torch.testing.assert_close(explain(method, net, picture()), explain(method, small(), picture()))


def test_layers_of_a_wrapped_network_go_by_their_own_names():
    wrapped = nn.DataParallel(small()).eval()
    R = xcnn.grad_cam(wrapped, picture(), 1, layer="1")
    assert torch.equal(R, xcnn.grad_cam(small(), picture(), 1, layer="1"))
    with pytest.raises(InputError, match=r"did you mean '1'|choose one of"):
        xcnn.grad_cam(wrapped, picture(), 1, layer="module.1")


# ---- layers as modules


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam", "score_cam", "shap_cam"])
def test_a_layer_may_be_the_module_itself(method):
    net = small()
    R = explain(method, net, picture(), layer=net[2])
    assert torch.equal(R, explain(method, net, picture(), layer="2"))


def test_units_of_a_layer_given_as_a_module():
    net = small()
    for method in (xcnn.gradient, xcnn.guided_backprop, xcnn.cnn_fixations):
        R = method(net, picture(), layer=net[2], unit=(1, 2, 3))
        assert torch.equal(R, method(net, picture(), layer="2", unit=(1, 2, 3)))


@pytest.mark.parametrize("layer", [["1", "2"], 2, ("1",), {"1"}])
def test_layers_that_are_no_name(layer):
    with pytest.raises(InputError, match=r"one name or submodule.*once for each layer"):
        xcnn.grad_cam(small(), picture(), 1, layer=layer)


def test_a_module_of_another_network():
    with pytest.raises(InputError, match="is not a part of Sequential"):
        xcnn.grad_cam(small(), picture(), 1, layer=small()[2])


# ---- images that see each other


def coupled_by_norm():
    net = small()
    net.insert(1, nn.BatchNorm2d(8, track_running_stats=False))
    return net.eval()


class Centred(nn.Module):
    """Takes the mean of its batch off."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return self.net(x - x.mean(0))


class Softmaxed(Centred):
    def forward(self, x):
        return {"out": self.net(x).softmax(0)}


@pytest.mark.parametrize("make", [coupled_by_norm, lambda: Centred().eval(), lambda: Softmaxed()])
@pytest.mark.parametrize("method", [name for name in xcnn.METHODS if name != "cam"])
def test_images_of_a_batch_that_see_each_other_are_refused(make, method):
    """w13: the map was that of S_0 + S_1, 79 % off."""
    net = make().eval()
    with pytest.raises(InputError, match=r"each other's scores.*one by one, x\[k : k \+ 1\]"):
        explain(method, net, picture(2))


def test_images_that_see_each_other_one_by_one():
    net = coupled_by_norm()
    x = picture(2)
    for image in x.split(1):
        leaf = image.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
        assert_near(xcnn.gradient(net, image, 1), wanted, 1e-5)


class WithTable(nn.Module):
    """Returns a table that does not grow with the batch, and one of its length."""

    def __init__(self, rows):
        super().__init__()
        self.net = small()
        self.rows = rows

    def forward(self, x):
        return {"table": torch.ones(self.rows, 3), "length": torch.ones(()), "out": self.net(x)}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_outputs_that_do_not_grow_with_the_batch_couple_no_images(rows):
    x = picture(2)
    R = xcnn.gradient(WithTable(rows).eval(), x, lambda out: out["out"][:, 1])
    torch.testing.assert_close(R, xcnn.gradient(small(), x, 1))


class WithMeta(nn.Module):
    def forward(self, x, meta):
        return x.mean((2, 3)) * meta


class WithTwo(nn.Module):
    def forward(self, x, meta, mask):
        return x.mean((2, 3)) * meta * mask


class ByName(nn.Module):
    def forward(self, x, *, meta):
        return x.mean((2, 3)) * meta


class ByDefault(nn.Module):
    def forward(self, x, meta=2):
        return x.mean((2, 3)) * meta


class CallsWithTheRest(nn.Module):
    def __init__(self, net, *rest, **named):
        super().__init__()
        self.net = net
        self.rest = rest
        self.named = named

    def forward(self, x):
        return self.net(x, *self.rest, **self.named)


@pytest.mark.parametrize(
    ("net", "rest", "named"),
    [(WithMeta(), (2,), {}), (WithTwo(), (2, 1), {}), (ByName(), (), {"meta": 2})],
)
@pytest.mark.parametrize("method", ["gradient", "lime", "lrp"])
def test_more_than_images(net, rest, named, method):
    """The message says to call it with the rest; that works."""
    with pytest.raises(InputError, match=r"takes more than images.*forward\(x\) calls it with"):
        explain(method, net.eval(), picture())
    R = explain(method, CallsWithTheRest(net, *rest, **named).eval(), picture())
    torch.testing.assert_close(R, explain(method, ByDefault().eval(), picture()))
