"""Formulas of an ONNX graph have the shapes and types that torch would give them."""

import pytest
import torch
from xcnn.engine.onnx import translated
from xcnn.engine.onnx_graph import OnnxGraph
from xcnn.engine.record import record
from xcnn.errors import InputError


def value(shape, dtype=torch.float32):
    return OnnxGraph().input("v", shape, dtype)


@pytest.mark.parametrize(
    "formula",
    [
        lambda v: 2 * v + 1,
        lambda v: 1 - v / 3,
        lambda v: -v * v,
        lambda v: v > 0.5,
        lambda v: (v < 1) & (v > 0),
        lambda v: v + 0.5,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_formulas_have_torchs_shapes_and_types(formula, dtype):
    of_torch = formula(torch.ones(2, 3, dtype=dtype))
    made = formula(value((2, 3), dtype))
    assert made.shape == tuple(of_torch.shape)
    assert made.dtype == of_torch.dtype


def test_two_values_are_broadcast_and_take_the_wider_type():
    graph = OnnxGraph()
    a = graph.input("a", (2, 1, 4), torch.float32)
    b = graph.input("b", (3, 1), torch.float64)
    assert (a * b).shape == (2, 3, 4) and (a * b).dtype == torch.float64
    assert (a > b).dtype == torch.bool
    assert a.matmul(graph.input("c", (4, 5), torch.float32)).shape == (2, 1, 5)


@pytest.mark.parametrize(
    ("shape", "new", "wanted"),
    [((2, 3, 4), [2, -1], (2, 12)), ((2, 3), [-1], (6,)), ((0, 3), [-1, 3], (0, 3))],
)
def test_what_is_left_in_a_shape(shape, new, wanted):
    assert value(shape).reshape(new).shape == wanted


def test_a_type_that_onnx_lacks_here_is_refused():
    with pytest.raises(InputError, match=r"computes in torch.float16; use a network in float32"):
        value((2,)).to(torch.float16)
    with pytest.raises(InputError, match=r"torch.complex64"):
        OnnxGraph().number(torch.zeros(2, dtype=torch.complex64), torch.complex64)


def test_equal_numbers_stand_in_the_file_once():
    x = torch.ones(2)
    graph, *_ = translated(record(lambda v: v * 3 + v * 3 - (v + 3), {"v": x}))
    assert len(graph.numbers) == 1
