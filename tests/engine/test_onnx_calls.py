"""Every entry of the table, beside torch: the same values, run by onnxruntime."""

import math

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from xcnn.engine.onnx import model_of, translated
from xcnn.engine.onnx_calls import CALLS
from xcnn.engine.record import record
from xcnn.errors import InputError

aten = torch.ops.aten
SHAPE = (2, 3, 6, 8)
TOLERANCE = 2e-5  # of the largest value
met = set()  # names of the calls that some test has translated


def picture(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(function, *inputs):
    """What onnxruntime makes of the recorded function, on other inputs than those recorded."""
    names = [f"x{k}" for k in range(len(inputs))]
    recorded = [torch.randn_like(v) if v.is_floating_point() else v for v in inputs]
    module = record(function, dict(zip(names, recorded, strict=True)))
    met.update(
        node.target.overloadpacket.__name__
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )
    graph, places, (result,) = translated(module)
    model = model_of(graph, places, {"R": result}, {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (R,) = session.run(["R"], {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
    return torch.from_numpy(R)


def assert_same(function, *inputs):
    R = function(*inputs)
    own = run(function, *inputs)
    assert own.shape == R.shape
    assert own.dtype == R.dtype
    gap = (own.double() - R.double()).abs().max().item()
    assert gap <= TOLERANCE * max(1, R.double().abs().max().item())


def back(function):
    """The gradient of a function, from a start that differs from place to place.

    It depends on the input, or the gradient of a linear function would be a number in the graph.
    """

    def gradient(x):
        x = x.clone().requires_grad_()
        y = function(x)
        start = torch.linspace(-1, 2, y.numel()).view(y.shape).to(y) * (2 + x.detach().mean())
        return torch.autograd.grad(y, x, start)[0]

    return gradient


def both_ways(*functions):
    return [*functions, *map(back, functions)]


def changed_through_a_view(y):
    y.view(2, -1).neg_()
    return y


WINDOW = {"kernel_size": 3, "stride": 2, "padding": 1}
W = picture(9, (4, 3, 3, 3))
B = picture(8, (4,))
W_T = picture(7, (3, 4, 3, 3))
NORM = (picture(6, (3,)), picture(5, (3,)).exp(), picture(4, (3,)), picture(3, (3,)))

UNITS = [
    *both_ways(F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.leaky_relu),
    *both_ways(torch.sigmoid, torch.tanh, F.hardtanh, lambda x: x.softmax(1)),
    back(lambda x: F.threshold(x, 0.1, 0.0)),
]
LAYERS = both_ways(
    lambda x: F.conv2d(x, W, B, stride=2, padding=1),
    lambda x: F.conv2d(x, W, None, padding=(0, 2), dilation=(1, 2)),
    lambda x: F.conv2d(x, W[:3, :1], stride=(2, 3), groups=3),
    lambda x: F.conv_transpose2d(x, W_T, B, stride=2, output_padding=1),
    lambda x: F.linear(x.flatten(1), picture(2, (5, 144)), picture(1, (5,))),
    lambda x: x @ picture(2, (8, 5)),
    lambda x: torch.einsum("nchw,kc->nkhw", x, picture(2, (5, 3))),
    lambda x: F.batch_norm(x, *NORM),
    lambda x: F.batch_norm(x, *NORM[:2]),
    lambda x: F.layer_norm(x, (8,), picture(2, (8,)), picture(1, (8,))),
    lambda x: F.layer_norm(x, (6, 8)),
)
POOLS = both_ways(
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.max_pool2d(x, **WINDOW),
    lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, **WINDOW),
    lambda x: F.avg_pool2d(x, **WINDOW, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    lambda x: F.interpolate(x, (13, 9), mode="bilinear"),
    lambda x: F.interpolate(x, (3, 5), mode="bilinear", align_corners=True),
    lambda x: F.interpolate(x, (12, 11)),
)
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


@pytest.mark.parametrize("function", [*UNITS, *LAYERS, *POOLS, *SUMS, *MOVES, *VALUES])
def test_a_call_gives_the_same_values(function):
    assert_same(function, picture(1))


def test_two_inputs():
    assert_same(lambda x, w: (x.flatten(1) * w).sum(1), picture(1), picture(2, (1, 144)))


def test_each_entry_of_the_table_has_been_tried():
    for function in [*UNITS, *LAYERS, *POOLS, *SUMS, *MOVES, *VALUES]:
        run(function, picture(1))
    assert not CALLS.keys() - met


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.linalg.svd(x)[1], "linalg_svd"),
        (lambda x: x.argsort(1).float(), "sort"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounds"),
        (lambda x: F.gelu(x, approximate="tanh"), "tanh"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor"),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
        (back(lambda x: F.avg_pool2d(x, 4, 3, ceil_mode=True)), "hang over"),
        (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), "by a factor"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(), "_to_copy"),
        (lambda x: x.half() * 2, "float16"),
    ],
)
def test_what_the_table_lacks_is_refused(function, message):
    with pytest.raises(InputError, match=message):
        run(function, picture(1))
