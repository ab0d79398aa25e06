"""The tape sees every call, and the calls can be read: tensors, arguments by name, the place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from xcnn.engine.fast import run_call
from xcnn.engine.tape import Tape, bind, by_position, running_part, tensors


def test_the_tape_takes_every_call_of_max_pool():
    x = torch.randn(1, 3, 6, 6)
    seen = []

    def rule(func, args, kwargs):
        seen.append(func)
        return run_call(func, args, kwargs)

    with Tape(rule):
        maps = [
            torch.nn.MaxPool2d(2)(x),
            F.max_pool2d(x, 2),
            F.max_pool2d(input=x, kernel_size=2, stride=None),
        ]
    assert seen == [F.max_pool2d] * 3 and all(torch.equal(y, F.max_pool2d(x, 2)) for y in maps)


def test_a_rule_decides_what_a_call_returns():
    x = torch.tensor([-1.0, 3.0])
    with Tape(lambda func, args, kwargs: func(*args, **kwargs) * 2):
        y = torch.relu(x)
    assert y.tolist() == [0.0, 6.0]


def test_tensors_in_nested_arguments():
    a, b, c = torch.zeros(3)
    met = list(tensors([a, 2, [b, (c, "text")], {"not": "looked into"}]))
    assert [id(v) for v in met] == [id(a), id(b), id(c)]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2), {}), ((1,), {"other": 2}), ((), {"input": 1, "other": 2})],
)
def test_the_input_comes_first(args, kwargs):
    before = dict(kwargs)
    args, rest = by_position(args, kwargs)
    assert args[0] == 1 and bind(args, rest, "a other").other == 2
    assert kwargs == before, "the caller's own are left alone"


def test_bind_names_arguments_and_fills_in_what_is_missing():
    names = "a weight bias stride"
    call = bind((1, 2), {"stride": 3}, names, bias=None, stride=1)
    assert (call.a, call.weight, call.bias, call.stride) == (1, 2, None, 3)
    assert bind((1, 2, 4, 5), {}, names, bias=None, stride=1).stride == 5
    assert bind((1, 2, 4), {}, names, bias=None, stride=1).bias == 4
    assert not hasattr(bind((1,), {}, names), "weight"), "what has no default is not made up"


class Inner(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), Inner())

    def forward(self, x):
        return self.block(x) + 1


def test_running_part_names_the_submodule():
    net = Outer()
    names = {id(part): name for name, part in net.named_modules()}
    places = {}

    def rule(func, args, kwargs):
        places[func] = running_part(names)
        return func(*args, **kwargs)

    x = torch.randn(1, 3, 8, 8)
    with Tape(rule):
        net(x)
        torch.exp(x)
    assert places[F.conv2d] == ("block.0", "Conv2d")
    assert places[torch.sigmoid] == ("block.1", "Inner")
    assert places[torch.Tensor.add] == ("", "Outer")
    assert places[torch.exp] == ("", "unknown place")
