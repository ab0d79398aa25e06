"""Layers: found by name, watched while they run, and those that are worth asking."""

import threading

import pytest
import torch
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.engine.layers import capture, find_layer, hooked, map_gradient, maps_of, spatial_layers
from xcnn.networks import ready

from tests.helpers.oracles import images, network, outputs_of
from tests.helpers.places import SMALL


def two_images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_layer_is_found_by_its_name():
    module = xcnn.load("resnet_s").module
    assert find_layer(module, "layer3.0.conv1") is module.layer3[0].conv1
    with pytest.raises(InputError, match=r"no layer 'layer_3'.*did you mean.*'layer3'"):
        find_layer(module, "layer_3")
    with pytest.raises(InputError, match="no layer ''"):
        find_layer(module, "")


def test_hooks_act_in_their_own_thread_only():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = two_images()
    threads = []
    outputs = []

    def note(_module, _inputs, output):
        threads.append(threading.get_ident())
        return output + 1

    with torch.no_grad():
        plain = module(x)
        with hooked([(module[1], note)]):
            other = threading.Thread(target=lambda: outputs.append(module(x)))
            other.start()
            other.join()
            here = module(x)
    assert threads == [threading.get_ident()]
    assert torch.equal(here, plain + 1)
    assert torch.equal(outputs[0], plain)


def test_hooks_are_gone_afterwards_whatever_happened():
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(ZeroDivisionError), hooked([(module, lambda *_: 1 / 0)]):
        module(two_images())
    assert not module._forward_hooks


# ---- what a layer puts out


class InPlace(nn.Module):
    """The maps of `conv` are changed in place above it, and `shared` runs twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        A = self.conv(x)
        A.relu_()
        A = self.shared(A)
        A = self.shared(A)
        return self.fc(A.mean((2, 3)))


@pytest.mark.parametrize("layer", ["conv", "shared"])
def test_captured_maps_are_those_of_the_last_run_as_they_were(layer):
    torch.manual_seed(0)
    module = InPlace().eval()
    x = two_images()
    with torch.no_grad(), capture(module, layer) as seen:
        S = module(x)
    (A,) = seen
    assert torch.equal(A, outputs_of(module, layer, x)[-1])
    assert torch.equal(S, module(x))
    assert A.is_leaf and A.requires_grad and S.requires_grad


def test_a_captured_layer_may_leave_the_graph_whole():
    torch.manual_seed(0)
    module = InPlace().eval()
    x = two_images().requires_grad_()
    with capture(module, "shared", cut=False) as seen:
        module(x)
    (g,) = torch.autograd.grad(seen[0].sum(), x)
    assert g.abs().max() > 0


def test_the_gradient_of_a_score_with_respect_to_maps():
    torch.manual_seed(0)
    net, x = ready(InPlace().eval(), two_images())
    S, A, layout = maps_of(net, "shared", x)
    dA = map_gradient(S[:, 2], A, "shared")
    assert torch.equal(layout.maps(A), A)
    wanted = net.module.fc.weight[2] / 36  # through the mean over 6 x 6 positions
    torch.testing.assert_close(dA, wanted[None, :, None, None].expand_as(A).detach())


class Loop(nn.Module):
    """A network that runs its layers once for each image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return torch.cat([self.fc(self.conv(image).relu().mean((2, 3))) for image in x.split(1)])


def test_a_layer_that_runs_once_for_each_image_is_refused():
    with pytest.raises(InputError, match="1 maps for 2 images; explain them one by one"):
        xcnn.grad_cam(Loop().eval(), two_images(), 1, layer="conv")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class PutsOutTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        y, _ = self.pair(x)
        return y.mean((2, 3))


def test_a_layer_that_does_not_put_out_a_tensor_is_refused():
    with pytest.raises(InputError, match="layer 'pair' puts out tuple, not a tensor"):
        xcnn.grad_cam(PutsOutTwo().eval(), two_images(), 1, layer="pair")


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam"])
@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("layer_3", "no layer 'layer_3'.*did you mean.*'layer3'"),
        ("", "no layer"),
        ("fc", r"'fc' puts out \(1, 10\), not maps.*choose another"),
    ],
)
def test_layers_that_will_not_do(method, layer, says):
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=says):
        xcnn.METHODS[method](xcnn.load("resnet_s"), x, 3, layer=layer)


class Aside(nn.Module):
    """Has one layer that never runs, and one whose output goes nowhere."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(3, 4, 3)
        self.aside = nn.Conv2d(3, 4, 3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        self.aside(x)
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "says"), [("idle", "does not run"), ("aside", "does not depend on layer 'aside'")]
)
def test_layers_the_score_does_not_see(layer, says):
    with pytest.raises(InputError, match=says):
        xcnn.grad_cam(Aside().eval(), two_images(), 3, layer=layer)


# ---- the layers worth offering


@pytest.mark.parametrize("name", SMALL)
def test_spatial_layers_are_the_last_of_each_size(name):
    module = network(name).module
    layers = spatial_layers(module, images(name))
    sizes = [shape[1:] for shape in layers.values()]
    assert len(sizes) == len(set(sizes)) >= 4, "one layer for each size"
    for layer, shape in layers.items():
        (A,) = outputs_of(module, layer, images(name))
        assert A.shape[1:] == shape


def stack(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def test_a_container_of_many_sizes_is_opened_and_idle_parts_are_passed_over():
    net = stack(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)),  # three sizes
        nn.AvgPool2d(1),  # puts out what it gets
        nn.Sequential(nn.Conv2d(4, 4, 2), nn.ReLU()),  # two
    )
    assert spatial_layers(net, torch.zeros(1, 3, 20, 20)) == {
        "0.0": (4, 18, 18),
        "0.1": (4, 9, 9),
        "0.2": (4, 7, 7),
        "2": (4, 6, 6),
    }


def test_a_part_that_runs_twice_is_not_offered():
    torch.manual_seed(0)
    assert spatial_layers(InPlace().eval(), torch.zeros(1, 3, 8, 8)) == {"conv": (4, 6, 6)}


def test_looking_for_layers_draws_none_of_the_callers_random_numbers():
    before = torch.get_rng_state()
    spatial_layers(xcnn.load("resnet_s").module, torch.zeros(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), before)


def test_maps_inside_a_block_that_ends_in_a_single_position():
    """The usual small network: all layers in one container, the global average last in it."""
    pooled = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    net = xcnn.Network(nn.Sequential(pooled, nn.Flatten(), nn.Linear(6, 5)).eval(), size=12)
    assert net.layers == {"0.2": (6, 10, 10)}
    assert xcnn.grad_cam(net.module, torch.randn(1, 3, 12, 12), 2, relu=False).abs().max() > 0


def test_the_default_layer_does_not_depend_on_the_picture():
    """Where an image is too dim to be clipped, ReLU6 changes nothing, and looks idle."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
    ).eval()
    net[0].weight.data.abs_()
    net[0].bias.data.abs_()
    dim = torch.rand(1, 3, 8, 8) + 0.1
    assert torch.equal(net[0](dim), net[:2](dim))
    assert not torch.equal(net[0](9 * dim), net[:2](9 * dim))
    both = xcnn.grad_cam(net, torch.cat([dim, 9 * dim]), 2, relu=False)
    for k, x in enumerate((dim, 9 * dim)):
        torch.testing.assert_close(both[k : k + 1], xcnn.grad_cam(net, x, 2, "1", relu=False))
        torch.testing.assert_close(both[k : k + 1], xcnn.grad_cam(net, x, 2, relu=False))


UNCHANGED = {
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "dropout in place": lambda: nn.Dropout2d(inplace=True),
    "nothing": nn.Sequential,
    "both": lambda: nn.Sequential(nn.Identity(), nn.Dropout()),
    "a copy": lambda: nn.AvgPool2d(1),
}


@pytest.mark.parametrize("form", UNCHANGED)
def test_a_layer_that_changes_nothing_has_the_maps_below_it(form):
    torch.manual_seed(0)
    net = stack(nn.Conv2d(3, 4, 3), nn.ReLU(), UNCHANGED[form]())
    x = two_images()
    wanted = xcnn.grad_cam(net, x, 1, "1", relu=False)
    assert wanted.abs().max() > 0
    assert torch.equal(xcnn.grad_cam(net, x, 1, relu=False), wanted)
    assert torch.equal(xcnn.grad_cam(net, x, 1, "2", relu=False), wanted)
    assert set(xcnn.Network(net, size=8).layers) <= {"1", "2"}


@pytest.mark.parametrize("form", UNCHANGED)
def test_the_pixels_are_not_a_layer(form):
    """A network without maps had the picture itself for its last layer."""
    net = nn.Sequential(UNCHANGED[form](), nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    assert spatial_layers(net, two_images()) == {}
    with pytest.raises(InputError, match="has no layer that puts out maps; name one with layer="):
        xcnn.grad_cam(net, two_images(), 1)
    below = stack(UNCHANGED[form](), nn.Conv2d(3, 4, 3, padding=1))
    assert spatial_layers(below, two_images()) == {"1": (4, 8, 8)}


class TwoSizes(nn.Module):
    """One layer that runs for two sizes of maps."""

    def __init__(self, second):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)
        self.second = second

    def forward(self, x):
        A = self.shared(self.first(x)).relu()
        return self.fc(self.shared(self.second(A)).mean((2, 3)))


def halves_transposed(A):
    return A[:, :, :4].mT


@pytest.mark.parametrize(
    ("second", "size"),
    [
        (lambda A: A[:, :, ::2], (4, 8)),
        (lambda A: A[:, :, :, :3], (8, 3)),
        (halves_transposed, (8, 4)),
    ],
)
def test_a_layer_that_runs_for_two_sizes_counts_as_it_runs_last(second, size):
    """The shape of 8 channels beside 8 rows does not tell, and a trial joined the two sizes."""
    torch.manual_seed(0)
    net = TwoSizes(second).eval()
    x = two_images()
    A = net.shared(second(net.shared(net.first(x)).relu())).detach()
    assert A.shape[2:] == size
    weights = net.fc.weight[1].detach() / A[0, 0].numel()
    L = torch.einsum("nkyx,k->nyx", A, weights)[:, None]
    wanted = torch.nn.functional.interpolate(L, x.shape[2:], mode="bilinear")
    R = xcnn.grad_cam(net, x, 1, layer="shared", relu=False)
    torch.testing.assert_close(R, wanted)
