"""The network above a layer gives what the whole network gives with other maps in that layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from xcnn.engine.head import Head

from tests.helpers.oracles import network, noise, with_maps
from tests.helpers.places import SMALL


class Awkward(nn.Module):
    """What makes it hard to cut a network in two.

    Values from below the layer are changed in place above it. A call returns two things. A ReLU and
    a convolution run twice.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 8, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 5)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x):
        A = self.relu(self.first(x))
        A += self.second(A)
        y, switches = self.pool(A)
        A = A + self.unpool(self.second(y), switches)
        return self.fc(self.relu(self.third(A)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "second", "third", "relu"])
def test_head_of_an_awkward_network(layer):
    torch.manual_seed(0)
    net = Awkward().eval().double()
    x = noise(10)
    head = Head(net, x, layer)
    A = torch.cat([head.A, 0.5 * head.A, head.A.roll(1, 2)])
    runs = []

    def last(_module, _inputs, out):
        runs.append(out)
        return A if len(runs) == 1 + (layer in ("second", "relu")) else None

    handle = net.get_submodule(layer).register_forward_hook(last)
    with torch.no_grad():
        wanted = net(x.expand(3, -1, -1, -1))
    handle.remove()
    for _ in range(2):  # nothing that is remembered has changed
        torch.testing.assert_close(head(A), wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(head(A[:1]), wanted[:1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", [*SMALL, "resnet18", "densenet121", "googlenet", "squeezenet1_1", "mobilenet_v2"]
)
def test_head_is_the_rest_of_the_network(name):
    net = network(name)
    x = noise(net.size)
    for layer in list(net.layers)[-3:]:
        head = Head(net.module, x, layer)
        assert torch.equal(head.S, net.module(x))
        A = torch.cat([head.A, 0.5 * head.A, head.A.roll(1, 2)])
        wanted = with_maps(net.module, layer, x, A)
        torch.testing.assert_close(head(A), wanted, rtol=1e-9, atol=1e-12)


class Kernels(TorchDispatchMode):
    """Notes what torch really computes, below its functions."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


class UsesItsInputAgain(nn.Module):
    """The input of layer `b` is used again above it, and worked on in place."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        n = x.shape[0]
        skip = F.relu(self.a(x), inplace=True)
        out = self.b(skip)
        out += skip
        return self.fc(F.relu_(out).mean((2, 3)).view(n, -1))


def test_head_does_not_run_what_lies_below():
    torch.manual_seed(0)
    module = UsesItsInputAgain().eval().double()
    x = noise(8)
    head = Head(module, x, "b")
    A = torch.cat([head.A, -head.A, head.A * 2])
    before = A.clone()
    torch.testing.assert_close(head(A), with_maps(module, "b", x, A))
    assert torch.equal(A, before) and torch.equal(head(A[:1]), head.S)
    with Kernels() as whole, torch.no_grad():
        module(x)
    with Kernels() as above:
        head(A)
    assert whole.names.count("convolution") == 2 and "convolution" not in above.names
    assert whole.names.count("addmm") == above.names.count("addmm") == 1


# ---- what is written in place, what shares memory, and what is read as a number


class Writes(nn.Module):
    """A convolution of two channels, whose result goes on with the four below it."""

    def __init__(self, rest):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.fc = nn.Linear(4, 5)
        self.rest = rest

    def forward(self, x):
        return self.fc(self.rest(self.layer, self.first(x)).mean((2, 3)))


def doubled(z):
    return torch.cat([z, z], 1)


def channel_from_another(layer, y):
    y[:, 0] = y[:, 1] * 2
    return doubled(layer(y[:, :2])) + y


def channels_swapped(layer, y):
    first = y[:, 0] * 1
    y[:, 0] = y[:, 1]
    y[:, 1] = first
    return doubled(layer(y[:, :2])) + y


def slices_added(layer, y):
    y[:, 1:] += y[:, :-1].clone()
    return doubled(layer(y[:, :2])) + y


def masked(layer, y):
    y[y < 0] *= -2
    return doubled(layer(y[:, :2])) + y


def new_memory(layer, y):
    both = torch.empty_like(y)
    both[:, :2] = y[:, 2:]
    both[:, 2:] = y[:, :2]
    return doubled(layer(both[:, :2])) + both


def data_replaced(layer, y):
    y.data = y.data * 2
    return doubled(layer(y[:, :2])) + y


def written_to(layer, y):
    torch.add(y, 1, out=y)
    y.select(1, 0).copy_(y[:, 1])
    return doubled(layer(y[:, :2])) + y


def slice_changed_above(layer, y):
    half = y[:, 2:]
    half += layer(y[:, :2])
    return y


def chunk_changed_above(layer, y):
    first, second = y.chunk(2, 1)
    second.add_(layer(first))
    return y


def two_names_of_one_tensor(layer, y):
    z = y.relu_()
    z[:, 2:] += layer(z[:, :2])
    return y


def written_through_a_view(layer, y):
    pairs = y.view(len(y), 2, 2, *y.shape[2:])
    pairs[:, 1] = layer(y[:, :2])
    return y


def out_above(layer, y):
    z = layer(y[:, :2])
    torch.mul(doubled(z), 2, out=y)
    return y


def whole_written_above_slice(layer, y):
    half = y[:, :2]
    z = layer(half)
    y.mul_(2)
    return doubled(z * half)


def scaled_by_a_number(layer, y):
    scale = y.abs().max().item()
    return doubled(layer(y[:, :2])) * scale


def asked_for_a_decision(layer, y):
    large = bool((y > 0).any())
    z = doubled(layer(y[:, :2]))
    return z * float(y.square().amax()) if large else z


def weighed_by_a_list(layer, y):
    weights = y[0, :2, 0, 0].tolist()
    return doubled(layer(y[:, :2])) * weights[0] + weights[1]


def asked_for_sizes(layer, y):
    n, per_image = y.shape[0], y.numel() // len(y)
    z = layer(y[:, :2])
    return torch.cat([z.view(n, 2, -1), z.reshape(y.size(0), 2, -1)], 1)[..., None] * per_image


RESTS = [
    *(channel_from_another, channels_swapped, slices_added, masked, new_memory, data_replaced),
    *(written_to, slice_changed_above, chunk_changed_above, two_names_of_one_tensor),
    *(written_through_a_view, out_above, whole_written_above_slice, scaled_by_a_number),
    *(asked_for_a_decision, weighed_by_a_list, asked_for_sizes),
]


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_head_of_a_network_that_writes_into_its_tensors(rest, batch):
    """A write on a slice below the layer raised torch's own error, and one above it got lost."""
    net = Writes(rest).eval().double()
    x = noise(8)
    head = Head(net, x, "layer")
    assert torch.equal(head.S, with_maps(net, "layer", x, head.A))
    A = torch.cat([head.A, 0.5 * head.A, head.A.roll(1, 2)])
    wanted = with_maps(net, "layer", x, A)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-5, "the layer must count"
    for _ in range(2):  # nothing that is remembered has changed
        for part, scores in zip(A.split(batch), wanted.split(batch), strict=True):
            torch.testing.assert_close(head(part), scores, rtol=1e-9, atol=1e-12)
