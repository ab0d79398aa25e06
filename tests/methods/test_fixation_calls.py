"""What CNN Fixations record of a forward pass."""

import gc

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.methods.fixation_calls import comes_from_a_map, largest, made_again
from xcnn.methods.fixations import Record

from tests.helpers.oracles import noise
from tests.helpers.walks import Net


def recorded(forward, x=None, **layers):
    """The calls of a network's forward pass, the last one first."""
    x = noise(8) if x is None else x
    return Record(Net(forward, **layers), x).calls[::-1]


def scores(v):
    """Anything as class scores."""
    return v.reshape(1, -1)


def test_a_call_holds_what_made_it():
    calls = recorded(lambda m, x: scores(F.relu(m.a(x)) * 2), a=nn.Conv2d(3, 4, 3))
    names = [call.func.__name__ for call in calls[:-1]]
    assert names == ["reshape", "mul", "relu", "conv2d", "clone"]
    product = calls[1]
    assert product.maps == [calls[2]] and product.args[1] == 2
    assert calls[3].place == ("a", "Conv2d")
    assert calls[3].positions == 36
    assert torch.equal(product.y, 2 * calls[2].y)


def test_a_call_is_made_again_with_other_values():
    _, split, *_ = recorded(lambda m, x: scores(x.split([1, 2], 1)[1]))
    again = made_again(split, lambda call: torch.arange(192.0).view(1, 3, 8, 8))
    assert torch.equal(again, torch.arange(64.0, 192).view(1, 2, 8, 8))


def test_masks_and_indices_are_not_followed():
    def forward(m, x):
        k = x.flatten(2).argmax(2, keepdim=True)
        return scores(torch.where(x > 0, x, 0 * x).flatten(2)[:, :, k[0, 0]])

    calls = recorded(forward)
    assert all(call.y.is_floating_point() for call in calls)
    assert len(xcnn.find_fixations(Net(forward), noise(8), 0)[0].all_points) == 1


VECTORS = [
    lambda m, x: x.mean((2, 3)),
    lambda m, x: F.adaptive_avg_pool2d(x, 1),
    lambda m, x: F.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1),
    lambda m, x: F.relu(x.mean((2, 3))).unflatten(1, (-1, 1, 1)),
    lambda m, x: m.fc(x.flatten(1)),
    lambda m, x: F.layer_norm(x.mean((2, 3)), (3,)),
]
MAPS = [
    lambda m, x: x.flatten(1),
    lambda m, x: F.relu(x).flatten(1).reshape(1, -1, 1, 1),
    lambda m, x: x.permute(0, 2, 3, 1).reshape(1, -1),
    lambda m, x: F.batch_norm(F.max_pool2d(x, 2), torch.ones(3).double(), torch.ones(3).double()),
    lambda m, x: F.silu(F.max_pool2d(x, 2)),
    lambda m, x: torch.cat([x.flatten(1), x.mean((2, 3))], 1),
]


@pytest.mark.parametrize(
    ("forward", "is_map"), [(f, False) for f in VECTORS] + [(f, True) for f in MAPS]
)
def test_a_vector_may_be_a_flattened_map(forward, is_map):
    calls = recorded(lambda m, x: scores(forward(m, x)), fc=nn.Linear(192, 7))
    assert comes_from_a_map(calls[0]) == is_map


def test_the_largest_of_rows_that_are_not_all_0():
    rows, places = largest(torch.tensor([[0.0, 0, 0], [-2, -1, 0], [0, 3, 1], [-3, -2, -5]]))
    assert rows.tolist() == [1, 2, 3] and places.tolist() == [2, 1, 1]


@pytest.mark.parametrize("make", [zoo.resnet18, zoo.mobilenet_v3_small])
def test_nothing_is_left_to_the_garbage_collector(make):
    torch.manual_seed(0)
    net = make().eval()
    fails = nn.Sequential(net, Absolute()).eval()
    x = noise(64).float()

    def explain():
        xcnn.find_fixations(net, x, 3)
        try:
            xcnn.find_fixations(fails, x, 3)
        except InputError:
            return
        raise AssertionError("it has a rule")

    explain()
    gc.collect()
    gc.disable()
    left = []
    try:
        for _ in range(3):
            explain()
            left.append(gc.collect())
    finally:
        gc.enable()
    # What other threads leave now and then is not the method's.
    assert min(left) == 0, left


class Absolute(nn.Module):
    def forward(self, S):
        return S.abs()
