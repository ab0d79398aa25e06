"""A recorded computation gives, on other inputs, what the computation gives on them."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from xcnn.engine import record as recorder
from xcnn.engine.record import record
from xcnn.errors import InputError

SHAPE = (2, 3, 4, 4)


def picture(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def assert_recorded(function, **options):
    """The graph of a function gives the function's values on other pictures.

    Sums may be rounded otherwise: in the graph a view may lie elsewhere in memory.
    """
    graph = record(function, {"x": picture(0)}, **options)
    for seed in (1, 2):
        torch.testing.assert_close(graph(picture(seed)), function(picture(seed)))
    return graph


def relu_through_a_view(x):
    y = x * 2
    F.relu_(y.view(2, -1))
    return y + 1


def part_written(x):
    y = x.clone()
    y[:, 1] = x[:, 0] * 3
    return y * y


def written_into_a_number(x):
    y = torch.zeros(2, 5, 4, 4)
    y[:, 1:4] = x
    y[:, 4].add_(x[:, 0])
    return y


def view_made_before_the_change(x):
    y = x + 0
    row = y[:, :, 1]
    y.mul_(2)
    row.sub_(1)
    return y + row.sum()


def by_steps_and_turned(x):
    y = x.clone()
    y[:, :, ::2, 1:].transpose(2, 3).mul_(5)
    return y.permute(0, 2, 3, 1).contiguous()


def channels_last(x):
    y = x.contiguous(memory_format=torch.channels_last)
    y.clamp_(min=0)
    return y.view(2, 3, 16).sum(1)


def with_out(x):
    y = torch.empty_like(x)
    torch.mul(x, x, out=y)
    torch.clamp(y, min=0.5, out=y)
    return y


def of_two_types(x):
    y = x.clone()
    y.add_(x.double() / 3)
    return y


def turned_in_place(x):
    y = x.clone()
    y.transpose_(2, 3)
    y[:, 0] += 1
    return y


def seen_as_strided(x):
    y = x.clone()
    diagonal = y.as_strided((2, 3, 4), (48, 16, 5))
    diagonal.fill_(7.0)
    return y - x


def number_with_a_seed(x):
    generator = torch.Generator().manual_seed(3)
    return x + torch.randn(SHAPE, generator=generator)


def gradient_of_an_in_place_relu(x):
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.5))
    for k, v in enumerate(layer.parameters()):
        nn.init.normal_(v, generator=torch.Generator().manual_seed(k))
    x = x.clone().requires_grad_()
    y = layer.eval()(x) * 1
    y += y.mean()
    return torch.autograd.grad((y**2).sum(), x)[0]


def two_results_of_one_call(x):
    low, high = x.split([1, 2], 1)
    high.neg_()
    return low * high + x[:, 1:2]


FUNCTIONS = [
    relu_through_a_view,
    part_written,
    written_into_a_number,
    view_made_before_the_change,
    by_steps_and_turned,
    channels_last,
    with_out,
    of_two_types,
    turned_in_place,
    seen_as_strided,
    number_with_a_seed,
    gradient_of_an_in_place_relu,
    two_results_of_one_call,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_changes_in_place_are_followed(function):
    assert_recorded(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_in_a_graph_changes_in_place(function):
    graph = assert_recorded(function)
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not any(map(recorder._is_written, node.target._schema.arguments))


# ---- programs nobody thought of

VIEWS = [
    lambda v: v[:, :1],
    lambda v: v[..., 1:],
    lambda v: v.transpose(1, -1),
    lambda v: v.flatten(1),
    lambda v: v.unsqueeze(1),
    lambda v: v[:, ..., ::2],
    lambda v: v.detach(),
    lambda v: v.select(-1, 0),
    lambda v: v.expand(2, *v.shape[1:]),
]
CHANGES = [
    lambda v, w: v.mul_(2),
    lambda v, w: v.relu_(),
    lambda v, w: v.add_(w.sum()),
    lambda v, w: v.copy_(w.mean()),
    lambda v, w: v.masked_fill_(v > 1, -1),
    lambda v, w: v.clamp_(-1, 1),
    lambda v, w: v.zero_(),
]
MAKES = [
    lambda v, w: v + w.mean(),
    lambda v, w: torch.cat([v, v], -1)[..., : v.shape[-1]],
    lambda v, w: v.clone(),
    lambda v, w: v * (w.max() > 0),
]


def program(seed, steps):
    """A function of views, changes in place and new tensors, drawn at random."""

    def run(x):
        draw = random.Random(seed)
        pool = [x * 1, torch.zeros(SHAPE)]
        for _ in range(steps):
            kind = draw.choice([VIEWS, CHANGES, CHANGES, MAKES])
            function = draw.choice(kind)
            v, w = draw.choice(pool), draw.choice(pool)
            usable = v.numel() and v.ndim > 1 and v.shape[-1] > 1
            if not usable:
                continue
            if kind is VIEWS:
                pool.append(function(v))
            elif kind is MAKES:
                pool.append(function(v, w))
            else:
                function(v, w)
        return torch.stack([v.sum() for v in pool])

    return run


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(3, 14))
def test_random_programs_are_recorded(seed, steps):
    assert_recorded(program(seed, steps))


# ---- weights, numbers, refusals


def test_a_weight_stands_in_the_graph_as_it_is():
    weight = torch.randn(3)
    graph = assert_recorded(
        lambda x: x * weight.clamp(min=0).view(3, 1, 1), weights={"layer.weight": weight}
    )
    (held,) = [node for node in graph.graph.nodes if node.op == "get_attr"]
    assert held.meta["name"] == "layer.weight"
    assert torch.equal(getattr(graph, held.target), weight)
    assert "clamp" in graph.code


def test_memory_that_is_only_partly_written_is_the_same_each_time():
    def function(x):
        y = torch.empty(64, 4)
        y[:2, :] = x[0, 0, :2]
        return y[:2] + 1

    graphs = [record(function, {"x": picture(seed)}) for seed in (0, 1)]
    assert recorder.same_steps(*graphs)


def test_another_way_for_other_values_is_seen():
    ways = [
        lambda x: x * x.sum().item(),
        lambda x: x * 2 if x[0, 0, 0, 0] > 0 else x * 3,
        lambda x: x[x > 0].sum(),
        lambda x: x + torch.tensor(x.tolist()),
    ]
    positive, negative = picture(0).abs(), -picture(1).abs()
    for way in ways:
        graphs = [record(way, {"x": x}) for x in (positive, negative)]
        assert not recorder.same_steps(*graphs)
    graphs = [record(lambda x: x.relu() * x, {"x": x}) for x in (positive, negative)]
    assert recorder.same_steps(*graphs)


def test_what_does_not_depend_on_an_input_is_a_number():
    graph = assert_recorded(lambda x: x + torch.arange(4.0).cos().sum())
    assert "cos" not in graph.code


def test_what_the_result_does_not_need_is_left_out():
    def function(x):
        torch.linalg.svd(x)
        return x + 1

    assert "svd" not in assert_recorded(function).code


def test_a_part_of_a_larger_weight_is_no_weight():
    both = torch.randn(2, 3)
    graph = assert_recorded(lambda x: x * both[1].view(3, 1, 1), weights={"half": both[1]})
    assert not any("name" in node.meta for node in graph.graph.nodes)


def test_the_inputs_stay_as_they_were():
    x = picture(0)
    record(lambda v: v.clone().mul_(2), {"x": x})
    assert torch.equal(x, picture(0))


def test_what_cannot_be_written_down_is_refused(monkeypatch):
    with pytest.raises(InputError, match="another type"):
        record(lambda x: (x * 1).view(torch.int32).add_(1).float(), {"x": picture(0)})
    monkeypatch.setattr(recorder, "MAX_CALLS", 20)
    with pytest.raises(InputError, match="more than 20 calls"):
        record(lambda x: sum((x + k for k in range(30)), x), {"x": picture(0)})
    with pytest.raises(InputError, match="several tensors at once"):
        record(lambda x: torch.frexp(x, out=(x * 1, x.int() * 1))[0], {"x": picture(0)})
