"""The table: aten calls, and the ONNX operators that do the same.

Each entry is a function of `out`, which has the shape and the type of the result, and of the call's
arguments, under the names that they have in torch's own signature (`self` is the tensor). An entry
takes all of them, so that none is passed over by mistake; what it cannot do it refuses. A call with
several results gives a list, with None for those that no method has needed.

Here are the calls that treat value by value, sum, or move values. `onnx_layers` has the layers.
"""

import math

import torch

from ..errors import InputError
from .onnx_graph import Value

CALLS = {}  # name of an aten call -> function(out, **arguments)
END = 2**31 - 1  # behind the end of every dimension


def entry(*names):
    """Put a function into the table, under the names of the calls that it translates."""

    def put(function):
        CALLS.update(dict.fromkeys(names, function))
        return function

    return put


def only(condition, what):
    """Refuse a call of which we translate one form alone."""
    if not condition:
        raise InputError(f"ONNX has no operator for {what}")


# ---- value by value

ALIKE = {
    **{"abs": "Abs", "ceil": "Ceil", "cos": "Cos", "erf": "Erf", "exp": "Exp", "floor": "Floor"},
    **{"log": "Log", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu", "round": "Round"},
    **{"sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tanh": "Tanh"},
    **{"bitwise_not": "Not", "hardswish": "HardSwish", "logical_not": "Not"},
}
ALIKE_IN_PAIRS = {"maximum": "Max", "minimum": "Min", "mul": "Mul"}
RELATIONS = {
    **{"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"},
    **{"bitwise_and": "And", "bitwise_or": "Or", "logical_and": "And", "logical_or": "Or"},
}
TESTS = {"isinf": "IsInf", "isnan": "IsNaN"}


def _alike(name):
    return lambda out, self: self.op(name)


def _alike_in_pairs(name, dtype=None):
    return lambda out, self, other: self.joined(name, other, dtype)


def _test(name):
    return lambda out, self: self.op(name, dtype=torch.bool)


CALLS.update({call: _alike(name) for call, name in ALIKE.items()})
CALLS.update({call: _alike_in_pairs(name) for call, name in ALIKE_IN_PAIRS.items()})
CALLS.update({call: _alike_in_pairs(name, torch.bool) for call, name in RELATIONS.items()})
CALLS.update({call: _test(name) for call, name in TESTS.items()})


@entry("alias", "clone", "detach", "lift_fresh", "_to_copy")
def same(out, self, **form):
    return self


@entry("copy")
def copy(out, self, src, non_blocking):
    return src.expand(out.shape)


@entry("fill", "zero")
def fill(out, self, value=0):
    value = value if isinstance(value, Value) else out.graph.number(value, out.dtype)
    return value.expand(out.shape)


@entry("add")
def add(out, self, other, alpha):
    return self + (other if alpha == 1 else other * alpha)


@entry("sub")
def sub(out, self, other, alpha):
    return self - (other if alpha == 1 else other * alpha)


@entry("rsub")
def rsub(out, self, other, alpha):
    return other - (self if alpha == 1 else self * alpha)


@entry("div")
def div(out, self, other, rounding_mode=None):
    only(rounding_mode is None, "a division that rounds")
    return self / other


@entry("pow")
def power(out, self, exponent):
    only(isinstance(self, Value), "a number to the power of a tensor")
    return self.joined("Pow", exponent)


@entry("rsqrt")
def rsqrt(out, self):
    return self.op("Sqrt").op("Reciprocal")


@entry("ne")
def not_equal(out, self, other):
    return self.joined("Equal", other, torch.bool).op("Not")


@entry("clamp", "clamp_min", "clamp_max")
def clamp(out, self, min=None, max=None):
    low = self if min is None else self.joined("Max", min)
    return low if max is None else low.joined("Min", max)


@entry("hardtanh")
def hardtanh(out, self, min_val, max_val):
    return clamp(out, self, min_val, max_val)


@entry("where")
def where(out, condition, self, other):
    return condition.where(self, other)


@entry("masked_fill")
def masked_fill(out, self, mask, value):
    return mask.where(value, self)


@entry("nan_to_num")
def nan_to_num(out, self, nan, posinf, neginf):
    largest = torch.finfo(out.dtype).max
    v = self.op("IsNaN", dtype=torch.bool).where(nan or 0, self)
    v = (v > largest).where(largest if posinf is None else posinf, v)
    return (v < -largest).where(-largest if neginf is None else neginf, v)


@entry("copysign")
def copysign(out, self, other):
    """The sign of a 0 is taken as +, also where the 0 is a negative one."""
    size = self.op("Abs")
    return (other < 0).where(-size, size)


# ---- units, and their backward passes


@entry("threshold_backward")
def threshold_backward(out, grad_output, self, threshold):
    return (self > threshold).where(grad_output, 0)


@entry("hardtanh_backward")
def hardtanh_backward(out, grad_output, self, min_val, max_val):
    return ((self > min_val) & (self < max_val)).where(grad_output, 0)


@entry("leaky_relu")
def leaky_relu(out, self, negative_slope):
    return (self > 0).where(self, self * negative_slope)


@entry("leaky_relu_backward")
def leaky_relu_backward(out, grad_output, self, negative_slope, self_is_result):
    return (self > 0).where(grad_output, grad_output * negative_slope)


@entry("sigmoid_backward")
def sigmoid_backward(out, grad_output, output):
    return grad_output * (output * (1 - output))


@entry("tanh_backward")
def tanh_backward(out, grad_output, output):
    return grad_output * (1 - output * output)


@entry("silu")
def silu(out, self):
    return self * self.op("Sigmoid")


@entry("silu_backward")
def silu_backward(out, grad_output, self):
    gate = self.op("Sigmoid")
    return grad_output * (gate * (1 + self * (1 - gate)))


@entry("gelu")
def gelu(out, self, approximate):
    only(approximate == "none", "GELU by tanh")
    return self * _normal_below(self)


@entry("gelu_backward")
def gelu_backward(out, grad_output, self, approximate):
    only(approximate == "none", "GELU by tanh")
    density = (self * self * -0.5).op("Exp") * (1 / math.sqrt(2 * math.pi))
    return grad_output * (_normal_below(self) + self * density)


def _normal_below(v):
    """The probability that a standard normal number is below v."""
    return ((v * math.sqrt(0.5)).op("Erf") + 1) * 0.5


@entry("hardsigmoid")
def hardsigmoid(out, self):
    return clamp(out, self * (1 / 6) + 0.5, 0, 1)


@entry("hardsigmoid_backward")
def hardsigmoid_backward(out, grad_output, self):
    return ((self > -3) & (self < 3)).where(grad_output * (1 / 6), 0)


@entry("hardswish_backward")
def hardswish_backward(out, grad_output, self):
    between = grad_output * (self * (1 / 3) + 0.5)
    return (self < -3).where(0, (self > 3).where(grad_output, between))


# ---- sums, means and largest values


def reduced(name, v, dim, keepdim):
    """A reduction over dimensions, over all of them where none is named."""
    dim = list(range(len(v.shape)) if dim is None else [dim] if isinstance(dim, int) else dim)
    dim = [d % len(v.shape) for d in dim or range(len(v.shape))]
    kept = [1 if d in dim else size for d, size in enumerate(v.shape)]
    shape = kept if keepdim else [size for d, size in enumerate(v.shape) if d not in dim]
    return v.op(name, v.graph.number(dim), shape=shape, keepdims=int(keepdim))


@entry("sum")
def sum_over(out, self, dim=None, keepdim=False, dtype=None):
    return reduced("ReduceSum", self.to(out.dtype), dim, keepdim)


@entry("mean")
def mean_over(out, self, dim=None, keepdim=False, dtype=None):
    return reduced("ReduceMean", self.to(out.dtype), dim, keepdim)


@entry("amax")
def amax(out, self, dim, keepdim):
    return reduced("ReduceMax", self, dim, keepdim)


@entry("amin")
def amin(out, self, dim, keepdim):
    return reduced("ReduceMin", self, dim, keepdim)


@entry("logsumexp")
def logsumexp(out, self, dim, keepdim):
    return reduced("ReduceLogSumExp", self, dim, keepdim)


@entry("_softmax")
def softmax(out, self, dim, half_to_float):
    return self.op("Softmax", axis=dim)


@entry("_softmax_backward_data")
def softmax_backward(out, grad_output, output, dim, input_dtype):
    along = reduced("ReduceSum", grad_output * output, dim, keepdim=True)
    return output * (grad_output - along)


# ---- the same values elsewhere


@entry("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_reshape_alias")
def view(out, self, size=None, shape=None, dim=None, stride=None, dtype=None):
    only(dtype in (None, self.dtype), "memory that is read as another type")
    return self.reshape(out.shape)


@entry("expand")
def expand(out, self, size, implicit):
    return self.expand(out.shape)


@entry("repeat")
def repeat(out, self, repeats):
    v = self.reshape([*[1] * (len(repeats) - len(self.shape)), *self.shape])
    return v.op("Tile", v.graph.number(repeats))


@entry("t")
def transpose_matrix(out, self):
    return self.op("Transpose")


@entry("transpose")
def transpose(out, self, dim0, dim1):
    order = list(range(len(self.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return self.op("Transpose", perm=order)


@entry("permute")
def permute(out, self, dims):
    return self.op("Transpose", perm=[d % len(dims) for d in dims])


@entry("flip")
def flip(out, self, dims):
    begin, end, step = ([v] * len(dims) for v in (-1, -END, -1))
    return self.op("Slice", *map(self.graph.number, (begin, end, dims, step)))


@entry("slice")
def slice_of(out, self, dim, start, end, step):
    end = END if end is None else min(end, END)
    bounds = ([start or 0], [end], [dim], [step])
    return self.op("Slice", *map(self.graph.number, bounds))


@entry("slice_backward")
def slice_backward(out, grad_output, input_sizes, dim, start, end, step):
    only(step == 1, "a slice with steps")
    size = input_sizes[dim]
    first = start % size if start < 0 else start
    before, after = [0] * len(input_sizes), [0] * len(input_sizes)
    before[dim] = first
    after[dim] = size - first - grad_output.shape[dim]
    return grad_output.op("Pad", pads_of(grad_output, before, after))


def pads_of(v, before, after):
    """What ONNX's padding wants: all that comes before, then all that comes after."""
    return v.graph.number([*before, *after])


@entry("constant_pad_nd")
def pad(out, self, pad, value):
    """torch counts from the last dimension on, before and after in turn."""
    missing = [0] * (len(self.shape) - len(pad) // 2)
    before = [*missing, *pad[::2][::-1]]
    after = [*missing, *pad[1::2][::-1]]
    value = self.graph.number(value, self.dtype)
    return self.op("Pad", pads_of(self, before, after), value)


@entry("select")
def select(out, self, dim, index):
    return self.op("Gather", self.graph.number(index), axis=dim)


@entry("select_backward")
def select_backward(out, grad_output, input_sizes, dim, index):
    shape = list(input_sizes)
    dim %= len(shape)
    shape[dim] = 1
    before, after = [0] * len(shape), [0] * len(shape)
    before[dim] = index % input_sizes[dim]
    after[dim] = input_sizes[dim] - 1 - before[dim]
    return grad_output.reshape(shape).op("Pad", pads_of(grad_output, before, after))


@entry("index_select")
def index_select(out, self, dim, index):
    return self.op("Gather", index, axis=dim)


@entry("gather")
def gather(out, self, dim, index, sparse_grad):
    return self.op("GatherElements", index, axis=dim)


@entry("scatter")
def scatter(out, self, dim, index, src=None, value=None):
    if src is None:
        src = self.graph.number(value, self.dtype).expand(index.shape)
    return self.op("ScatterElements", index, src, axis=dim)


@entry("scatter_add")
def scatter_add(out, self, dim, index, src):
    return self.op("ScatterElements", index, src, axis=dim, reduction="add")


@entry("take")
def take(out, self, index):
    return self.reshape([-1]).op("Gather", index, axis=0)


@entry("put")
def put(out, self, index, source, accumulate):
    only(not accumulate, "values that are added at their places")
    return scattered(self.shape, index, source, onto=self)


@entry("cat")
def cat(out, tensors, dim):
    first, *others = [v.to(out.dtype) for v in tensors]
    return first.op("Concat", *others, axis=dim)


@entry("stack")
def stack(out, tensors, dim):
    dim %= len(out.shape)
    shape = [*out.shape[:dim], 1, *out.shape[dim + 1 :]]
    return cat(out, [v.reshape(shape) for v in tensors], dim)


@entry("split")
def split(out, self, split_size, dim):
    size = self.shape[dim]
    sizes = [min(split_size, size - first) for first in range(0, size, split_size)]
    return split_with_sizes(out, self, sizes, dim)


@entry("split_with_sizes")
def split_with_sizes(out, self, split_sizes, dim):
    sizes = self.graph.number(split_sizes)
    if len(split_sizes) == 1:
        return [self]
    names = self.graph.add("Split", [self, sizes], outputs=len(split_sizes), axis=dim)
    return [Value(self.graph, name, self.shape, self.dtype) for name in names]


@entry("unbind")
def unbind(out, self, dim):
    return [select(out, self, dim, k) for k in range(self.shape[dim])]


def scattered(shape, places, values, reduction="none", onto=None):
    """Values at their places in row-major order; elsewhere 0, or those of another tensor."""
    count = math.prod(shape)
    onto = values.graph.number(0, values.dtype).expand([count]) if onto is None else onto
    flat = onto.reshape([count]).op(
        "ScatterElements", places.reshape([-1]), values.reshape([-1]), axis=0, reduction=reduction
    )
    return flat.reshape(shape)
