"""An ONNX graph that grows by formulas: `y * (1 - y)` adds two operators and gives their result."""

import math
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..packages import imported

TYPES = {  # torch's type -> ONNX's name
    torch.bool: "BOOL",
    torch.float32: "FLOAT",
    torch.float64: "DOUBLE",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
}


class OnnxGraph:
    """ONNX operators and numbers, added one by one.

    nodes: the operators, in order. numbers: name -> tensor that does not depend on an input.
    weights: name -> tensor, those numbers that are a network's own.

    >>> graph = xcnn.engine.onnx_graph.OnnxGraph()
    >>> y = graph.input("y", (2, 3), torch.float32)
    >>> slope = y * (1 - y)
    >>> [node.op_type for node in graph.nodes], slope.shape
    (['Neg', 'Add', 'Mul'], (2, 3))
    """

    def __init__(self):
        self.onnx = imported("onnx", "an exported explanation")
        self.nodes = []
        self.numbers = {}
        self.weights = {}
        self._known = {}  # a number's type, shape and bytes -> its `Value`

    def input(self, name, shape, dtype):
        """A `Value` that comes from outside."""
        return Value(self, name, tuple(shape), dtype)

    def number(self, v, dtype=torch.int64):
        """A number or a tensor that does not depend on an input; equal ones stand there once."""
        v = torch.as_tensor(v, dtype=dtype).cpu().contiguous()
        self.type_of(v.dtype)
        key = v.dtype, v.shape, v.numpy().tobytes()
        if key not in self._known:
            self._known[key] = Value(self, f"n{len(self.numbers)}", tuple(v.shape), v.dtype)
            self.numbers[self._known[key].name] = v
        return self._known[key]

    def weight(self, name, v):
        """A number that has a name in the network. No other name begins with "weight:"."""
        self.weights[f"weight:{name}"] = v.cpu().contiguous()
        return Value(self, f"weight:{name}", tuple(v.shape), v.dtype)

    def type_of(self, dtype):
        """ONNX's number for a type of torch's."""
        if dtype not in TYPES:
            raise InputError(f"it computes in {dtype}; use a network in float32")
        return getattr(self.onnx.TensorProto, TYPES[dtype])

    def add(self, name, inputs, outputs=1, **attributes):
        """An operator.

        :param name: ONNX's
        :param inputs: `Value` each; None for one that is left out
        :param outputs: how many
        :return: their names
        """
        of_inputs = ["" if v is None else v.name for v in inputs]
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(name, of_inputs, names, **attributes))
        return names


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of an `OnnxGraph`, with Python's operators.

    :param graph: `OnnxGraph`
    :param name: in the graph
    :param shape: a tuple
    :param dtype: torch's type
    """

    graph: OnnxGraph
    name: str
    shape: tuple
    dtype: torch.dtype

    def op(self, name, *others, shape=None, dtype=None, **attributes):
        """An ONNX operator of this value.

        :param name: ONNX's
        :param others: its further inputs, `Value` or None for one that is left out
        :param shape, dtype: of the result; default: as this value's
        :param attributes: ONNX's
        :return: `Value`
        """
        (result,) = self.graph.add(name, [self, *others], **attributes)
        shape = self.shape if shape is None else tuple(shape)
        return Value(self.graph, result, shape, dtype or self.dtype)

    def to(self, dtype):
        """The same in another type."""
        if dtype == self.dtype:
            return self
        return self.op("Cast", dtype=dtype, to=self.graph.type_of(dtype))

    def reshape(self, shape):
        """The same values in another shape; -1 stands for what is left."""
        known = math.prod(size for size in shape if size >= 0)
        count = math.prod(self.shape) // max(known, 1)
        shape = [count if size < 0 else size for size in shape]
        return self.op("Reshape", self.graph.number(list(shape)), shape=shape, allowzero=1)

    def expand(self, shape):
        """Repeated along the dimensions of length 1."""
        return self.op("Expand", self.graph.number(list(shape)), shape=shape)

    def joined(self, name, other, dtype=None):
        """An operator of this value and another one, or a number, in the type that holds both."""
        is_value = isinstance(other, Value)
        like = torch.empty(other.shape, dtype=other.dtype, device="meta") if is_value else other
        common = torch.result_type(torch.empty(self.shape, dtype=self.dtype, device="meta"), like)
        other = other.to(common) if is_value else self.graph.number(other, common)
        shape = torch.broadcast_shapes(self.shape, other.shape)
        return self.to(common).op(name, other, shape=shape, dtype=dtype or common)

    def where(self, yes, no):
        """Where this condition holds the one, elsewhere the other; one may be a number."""
        like = yes if isinstance(yes, Value) else no
        yes, no = (
            v.to(like.dtype) if isinstance(v, Value) else self.graph.number(v, like.dtype)
            for v in (yes, no)
        )
        shape = torch.broadcast_shapes(self.shape, yes.shape, no.shape)
        return self.op("Where", yes, no, shape=shape, dtype=like.dtype)

    def matmul(self, other):
        """The matrix product."""
        shape = [*torch.broadcast_shapes(self.shape[:-2], other.shape[:-2])]
        return self.op("MatMul", other, shape=[*shape, self.shape[-2], other.shape[-1]])

    def __add__(self, other):
        return self.joined("Add", other)

    def __mul__(self, other):
        return self.joined("Mul", other)

    def __sub__(self, other):
        return self.joined("Sub", other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        whole = not self.dtype.is_floating_point
        return (self.to(torch.float32) if whole else self).joined("Div", other)

    def __neg__(self):
        return self.op("Neg")

    def __gt__(self, other):
        return self.joined("Greater", other, torch.bool)

    def __lt__(self, other):
        return self.joined("Less", other, torch.bool)

    def __and__(self, other):
        return self.joined("And", other, torch.bool)

    __radd__ = __add__
    __rmul__ = __mul__
