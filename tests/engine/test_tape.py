"""The tape's quick max pooling against PyTorch's own: values and gradients, bit for bit."""

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from xcnn.engine.fast import as_it_is, max_pool
from xcnn.engine.tape import Tape

from tests.helpers.oracles import examples

SIDES = st.integers(1, 3)
PAIRS = st.one_of(SIDES, st.tuples(SIDES, SIDES))


@given(
    kernel_size=PAIRS, stride=st.none() | PAIRS, padding=st.integers(0, 1), dilation=st.integers(1, 2),
    ceil_mode=st.booleans(), shape=st.tuples(st.integers(1, 3), st.integers(1, 5), *[st.integers(5, 12)] * 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@examples(100)
def test_max_pool_is_pytorchs(
    kernel_size, stride, padding, dilation, ceil_mode, shape, dtype, last, seed
):
    smallest = kernel_size if isinstance(kernel_size, int) else min(kernel_size)
    assume(2 * padding <= smallest)
    x = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu().to(dtype)
    )  # zeros, so that many tie
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    found = []
    for pool in (F.max_pool2d, max_pool):
        leaf = x.clone().requires_grad_()
        y = pool(leaf, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
        g = torch.arange(y.numel()).view(y.shape).to(dtype) % 7
        found.append((y, *torch.autograd.grad(y, leaf, g)))
    for theirs, ours in zip(*found, strict=True):
        assert theirs.dtype == ours.dtype and torch.equal(theirs, ours)


def test_max_pool_of_what_is_no_batch_of_maps():
    x = torch.randn(3, 6, 6)
    assert torch.equal(max_pool(x, 2), F.max_pool2d(x, 2))
    _, switches = max_pool(x[None], 2, return_indices=True)
    assert torch.equal(switches, F.max_pool2d(x[None], 2, return_indices=True)[1])


def test_the_tape_takes_every_call_of_max_pool():
    x, seen = torch.randn(1, 3, 6, 6), []

    def rule(func, args, kwargs):
        seen.append(func)
        return as_it_is(func, args, kwargs)

    with Tape(rule):
        maps = [
            torch.nn.MaxPool2d(2)(x),
            F.max_pool2d(x, 2),
            F.max_pool2d(input=x, kernel_size=2, stride=None),
        ]
    assert seen == [F.max_pool2d] * 3 and all(torch.equal(y, F.max_pool2d(x, 2)) for y in maps)
