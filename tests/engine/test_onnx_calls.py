"""Entries of the table that treat values one by one, beside torch: the same values."""

import math

import pytest
import torch
import torch.nn.functional as F
from xcnn.errors import InputError

from tests.helpers.onnx_runs import assert_same, back, both_ways, picture, run

aten = torch.ops.aten
NORM = (picture(6, (3,)), picture(5, (3,)).exp(), picture(4, (3,)), picture(3, (3,)))


def changed_through_a_view(y):
    y.view(2, -1).neg_()
    return y


UNITS = [
    *both_ways(F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.leaky_relu),
    *both_ways(torch.sigmoid, torch.tanh, F.hardtanh, lambda x: x.softmax(1)),
    back(lambda x: F.threshold(x, 0.1, 0.0)),
]
SUMS = both_ways(
    lambda x: x.sum(),
    lambda x: x.sum((1, -1), keepdim=True),
    lambda x: x.mean((2, 3)),
    lambda x: x.mean(),
    lambda x: x.logsumexp(1),
)
MOVES = both_ways(
    lambda x: x.reshape(2, -1).t(),
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.transpose(-1, -2) * 2,
    lambda x: x.unsqueeze(1).expand(2, 4, 3, 6, 8).squeeze(0),
    lambda x: x.mean(1, keepdim=True).squeeze(1),
    lambda x: x.repeat(2, 1, 1, 2),
    lambda x: x[:, 1],
    lambda x: x[:, -1],
    lambda x: x[..., 2:-1],
    lambda x: x.flip((2, 3)),
    lambda x: torch.cat([x, x * 2], 1),
    lambda x: torch.stack([x, x * 2], -1),
    lambda x: x.split(2, 1)[1] * 3,
    lambda x: x.split([1, 2], 1)[0] * 3,
    lambda x: x.unbind(1)[2],
    lambda x: F.pad(x, (1, 0, 2, 3), value=0.0),
    lambda x: x.flatten(1).gather(1, torch.tensor([[3], [7]])),
)
VALUES = [
    *(getattr(torch, name) for name in "abs ceil cos exp floor neg round sign sin".split()),
    lambda x: torch.erf(x),
    *(lambda x, f=f: f(x.abs() + 0.1) for f in (torch.log, torch.sqrt, torch.reciprocal)),
    lambda x: (x.abs() + 0.1).rsqrt(),
    *(lambda x, f=f: f(x, x.flip(1)) for f in (torch.maximum, torch.minimum, torch.copysign)),
    *(lambda x, f=f: f(x, 0.2) * 1.5 for f in (torch.eq, torch.ge, torch.gt, torch.le, torch.lt)),
    lambda x: (x != 0.5).float(),
    lambda x: ((x > 0).logical_and(x < 1).logical_or(x > 2)).logical_not().float(),
    lambda x: (((x > 0) & (x < 1)) | ~(x > -2)).float(),
    lambda x: torch.add(x, x.flip(1), alpha=2) - torch.sub(x, 1, alpha=3),
    lambda x: torch.rsub(x, 2, alpha=3) / 7,
    lambda x: x / x.flip(1),
    lambda x: x.abs() ** 1.5,
    lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + x.clamp_max(0.7),
    lambda x: x.clamp(min=x.mean(), max=x.amax()),
    lambda x: torch.where(x > 0, x, 2.0) + x.masked_fill(x > 1, -1),
    lambda x: (x / x.clamp(min=0)).nan_to_num(nan=3, posinf=5, neginf=-6),
    lambda x: (x.clamp(min=0) * math.inf).isnan().float() + (1 / x.clamp(min=0)).isinf().float(),
    lambda x: (x / 0).nan_to_num(),
    lambda x: x.double() * 3 + x,
    lambda x: (x > 0).sum().float() + x,
    lambda x: x.amax((1, 2)) + x.amin((1, 2)),
    lambda x: x.clone().detach().zero_() + x.contiguous(memory_format=torch.channels_last),
    lambda x: x.clone().fill_(3.0) + x,
    lambda x: torch.zeros(2, 9).scatter(1, torch.tensor([[3], [7]]), x[:, :1, 0, 0]),
    lambda x: x.flatten(1).scatter(1, torch.tensor([[3], [7]]), 5.0),
    lambda x: x.index_select(1, torch.tensor([2, 0])),
    lambda x: x.take(torch.tensor([[3, 5], [7, 1]])),
    lambda x: x.put(torch.tensor([3, 5]), x[0, 0, 0, :2]),
    lambda x: aten.alias(x) + aten.lift_fresh(x) + aten.copy(x, x[:, :1]) + aten.zero(x),
    lambda x: aten._reshape_alias(x, [2, 144], [144, 1]),
    lambda x: aten._native_batch_norm_legit_no_training(x, *NORM[2:], *NORM[:2], 0.1, 1e-5)[0],
    lambda x: aten.clamp_min(x, 0.3),
    lambda x: changed_through_a_view(x * 2),
]


FUNCTIONS = [*UNITS, *SUMS, *MOVES, *VALUES]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_call_gives_the_same_values(function):
    assert_same(function, picture(1))


def test_two_inputs():
    assert_same(lambda x, w: (x.flatten(1) * w).sum(1), picture(1), picture(2, (1, 144)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.linalg.svd(x)[1], "linalg_svd"),
        (lambda x: x.argsort(1).float(), "sort"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounds"),
        (lambda x: F.gelu(x, approximate="tanh"), "tanh"),
        (lambda x: x.half() * 2, "float16"),
    ],
)
def test_what_the_table_lacks_is_refused(function, message):
    with pytest.raises(InputError, match=message):
        run(function, picture(1))
