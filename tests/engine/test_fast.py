"""What exists for speed gives what the plain way gives: values and gradients, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from xcnn import InputError
from xcnn.engine.contract import run
from xcnn.engine.fast import max_pool, run_call, run_many, sum_of_linear

from tests.helpers.oracles import batch, examples, network

SIDES = st.integers(1, 3)
PAIRS = st.one_of(SIDES, st.tuples(SIDES, SIDES))


@given(
    kernel_size=PAIRS,
    stride=st.none() | PAIRS,
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(5, 12), st.integers(5, 12)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
@examples(100)
def test_max_pool_is_pytorchs(
    kernel_size, stride, padding, dilation, ceil_mode, shape, dtype, last, seed
):
    smallest = kernel_size if isinstance(kernel_size, int) else min(kernel_size)
    assume(2 * padding <= smallest)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x = x.relu().to(dtype)  # zeros, so that many tie
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    values_and_gradients = []
    for pool in (F.max_pool2d, max_pool):
        leaf = x.clone().requires_grad_()
        y = pool(leaf, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
        g = torch.arange(y.numel()).view(y.shape).to(dtype) % 7
        values_and_gradients.append((y, *torch.autograd.grad(y, leaf, g)))
    for theirs, ours in zip(*values_and_gradients, strict=True):
        assert theirs.dtype == ours.dtype and torch.equal(theirs, ours)


def test_max_pool_of_what_is_no_batch_of_maps():
    x = torch.randn(3, 6, 6)
    assert torch.equal(max_pool(x, 2), F.max_pool2d(x, 2))
    _, switches = max_pool(x[None], 2, return_indices=True)
    assert torch.equal(switches, F.max_pool2d(x[None], 2, return_indices=True)[1])


def test_a_call_runs_with_its_arguments():
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(run_call(F.max_pool2d, (x, 2), {"stride": 1}), F.max_pool2d(x, 2, stride=1))
    assert torch.equal(run_call(torch.add, (x, x), {"alpha": 3}), x + 3 * x)


def convolve(a, w, b):
    return F.conv2d(a, w, b, padding=1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("same_channels", [False, True])  # other channels cannot lie side by side
def test_sum_of_linear_is_the_sum_of_its_terms(count, biased, same_channels):
    torch.manual_seed(0)
    channels = [4 if same_channels else 4 + k for k in range(count)]
    inputs = [torch.randn(2, c, 5, 5, dtype=torch.float64) for c in channels]
    weights = [torch.randn(6, c, 3, 3, dtype=torch.float64) for c in channels]
    b = torch.randn(6, dtype=torch.float64) if biased else None
    terms = [convolve(a, w, None) for a, w in zip(inputs, weights, strict=True)]
    wanted = sum(terms) + (0 if b is None else b[:, None, None])
    torch.testing.assert_close(sum_of_linear(convolve, inputs, weights, b), wanted)


def test_sum_of_linear_of_vectors_and_of_groups():
    torch.manual_seed(0)
    vectors = [torch.randn(2, 4, dtype=torch.float64) for _ in range(2)]
    weights = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    wanted = vectors[0] @ weights[0].T + vectors[1] @ weights[1].T
    torch.testing.assert_close(sum_of_linear(F.linear, vectors, weights, None), wanted)

    def by_groups(a, w, b):
        return F.conv2d(a, w, b, groups=2)

    maps = [torch.randn(1, 4, 5, 5, dtype=torch.float64) for _ in range(2)]
    weights = [torch.randn(6, 2, 3, 3, dtype=torch.float64) for _ in range(2)]
    wanted = by_groups(maps[0], weights[0], None) + by_groups(maps[1], weights[1], None)
    torch.testing.assert_close(sum_of_linear(by_groups, maps, weights, None), wanted)


@pytest.mark.parametrize("name", ["vgg_s", "googlenet_s"])
def test_run_many_is_run(name):
    module = network(name).module
    x = batch(128, 2)
    with torch.no_grad():
        torch.testing.assert_close(run_many(module, x), run(module, x), rtol=1e-9, atol=1e-12)


class Viewing(nn.Module):
    """`view` refuses channels that lie last in memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x):
        A = self.conv(x)
        return self.fc(A.view(len(A), -1))


def test_run_many_of_a_network_that_looks_at_its_memory():
    module = Viewing().eval()
    x = torch.randn(2, 3, 8, 8)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            module(channels_last)
        torch.testing.assert_close(run_many(module, channels_last), module(x))


def test_run_many_refuses_what_run_refuses():
    with pytest.raises(InputError, match="8x8 is too small"):
        run_many(nn.Conv2d(3, 4, 9).eval(), torch.randn(2, 3, 8, 8))
