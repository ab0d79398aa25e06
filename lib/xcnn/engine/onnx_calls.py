"""The table: aten calls, and the ONNX operators that do the same.

Each entry is a function of `out`, which has the shape and the type of the result, and of the call's
arguments, under the names that they have in torch's own signature (`self` is the tensor). An entry
takes all of them, so that none is passed over by mistake; what it cannot do it refuses. A call with
several results gives a list, with None for those that no method has needed.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import InputError
from .onnx_graph import Value

aten = torch.ops.aten
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


# ---- layers of weights


@entry("convolution")
def convolution(
    out, input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
):
    window = _window(stride, padding, dilation) | {"group": groups}
    if not transposed:
        return input.op("Conv", weight, bias, **window)
    return input.op("ConvTranspose", weight, bias, output_padding=_pair(output_padding), **window)


@entry("convolution_backward")
def convolution_backward(
    out,
    grad_output,
    input,
    weight,
    bias_sizes,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    output_mask,
):
    """To the input; no method asks for the gradients of weights."""
    window = _window(stride, padding, dilation) | {"group": groups}
    if transposed:
        return [grad_output.op("Conv", weight, **window), None, None]
    rest = _rest(input.shape, grad_output.shape, weight.shape[2:], **window)
    return [grad_output.op("ConvTranspose", weight, output_padding=rest, **window), None, None]


def _pair(v):
    return list(v) * 2 if len(v) == 1 else list(v)


def _window(stride, padding, dilation):
    """A window that moves over a map, in ONNX's words."""
    return {
        "strides": _pair(stride),
        "pads": _pair(padding) * 2,
        "dilations": _pair(dilation),
    }


def _rest(shape, smaller, kernel, strides, pads, dilations, group=1):
    """How many rows and columns no window reached: a transposed convolution has to add them."""
    return [
        size - ((count - 1) * step - 2 * pad + dilation * (side - 1) + 1)
        for size, count, side, step, pad, dilation in zip(
            shape[2:], smaller[2:], kernel, strides, pads, dilations, strict=False
        )
    ]


@entry("mm", "bmm")
def matrix_product(out, self, mat2):
    return self.matmul(mat2)


@entry("addmm")
def addmm(out, self, mat1, mat2, beta, alpha):
    only(alpha == beta == 1, "a matrix product with factors")
    return mat1.matmul(mat2) + self


# ---- norms


@entry("native_batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(out, input, weight, bias, running_mean, running_var, momentum, eps, training=False):
    only(not training, "a batch norm by the statistics of the batch")
    statistics = (running_mean, running_var)
    zeros, ones = (input.graph.number([k] * input.shape[1], input.dtype) for k in (0, 1))
    y = input.op("BatchNormalization", weight or ones, bias or zeros, *statistics, epsilon=eps)
    return [y, None, None]


@entry("native_batch_norm_backward")
def batch_norm_backward(
    out,
    grad_out,
    input,
    weight,
    running_mean,
    running_var,
    save_mean,
    save_invstd,
    train,
    eps,
    output_mask,
):
    only(not train, "a batch norm by the statistics of the batch")
    scale = _channels((running_var + eps).op("Sqrt").op("Reciprocal"), weight, input)
    return [grad_out * scale, None, None]


def _channels(v, factor, maps):
    """One number for each channel of maps, times a factor, in a shape that fits them."""
    v = v if factor is None else v * factor
    return v.reshape([1, -1, *[1] * (len(maps.shape) - 2)])


@entry("native_layer_norm")
def layer_norm(out, input, normalized_shape, weight, bias, eps):
    mean = _mean(input, normalized_shape)
    deviation = input - mean
    scale = (_mean(deviation * deviation, normalized_shape) + eps).op("Sqrt").op("Reciprocal")
    y = deviation * scale
    y = y if weight is None else y * weight
    return [y if bias is None else y + bias, mean, scale]


@entry("native_layer_norm_backward")
def layer_norm_backward(
    out, grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask
):
    g = grad_out if weight is None else grad_out * weight
    normal = (input - mean) * rstd
    along = normal * _mean(g * normal, normalized_shape)
    return [(g - _mean(g, normalized_shape) - along) * rstd, None, None]


def _mean(v, normalized_shape):
    return reduced("ReduceMean", v, range(-len(normalized_shape), 0), keepdim=True)


# ---- pooling and resizing


@dataclass(frozen=True)
class Switches:
    """Where the largest values were, as ONNX counts: in all of the maps. Only pooling reads them.

    :param name: of the tensor in the graph
    """

    name: str


@entry("max_pool2d_with_indices")
def max_pool(out, self, kernel_size, stride, padding, dilation, ceil_mode):
    window = _window(stride or kernel_size, padding, dilation)
    options = {"kernel_shape": _pair(kernel_size), "ceil_mode": int(ceil_mode)}
    largest, switches = self.graph.add("MaxPool", [self], outputs=2, **options, **window)
    return [Value(self.graph, largest, self.shape, self.dtype), Switches(switches)]


@entry("max_pool2d_with_indices_backward")
def max_pool_backward(
    out, grad_output, self, kernel_size, stride, padding, dilation, ceil_mode, indices
):
    places = Value(self.graph, indices.name, grad_output.shape, torch.int64)
    return scattered(self.shape, places, grad_output, reduction="add")


def scattered(shape, places, values, reduction="none", onto=None):
    """Values at their places in row-major order; elsewhere 0, or those of another tensor."""
    count = math.prod(shape)
    onto = values.graph.number(0, values.dtype).expand([count]) if onto is None else onto
    flat = onto.reshape([count]).op(
        "ScatterElements", places.reshape([-1]), values.reshape([-1]), axis=0, reduction=reduction
    )
    return flat.reshape(shape)


@entry("avg_pool2d")
def avg_pool(
    out, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    only(divisor_override is None, "an average pooling with a divisor of its own")
    window = _window(stride or kernel_size, padding, [1])
    del window["dilations"]
    return self.op(
        "AveragePool",
        kernel_shape=_pair(kernel_size),
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
        **window,
    )


@entry("avg_pool2d_backward")
def avg_pool_backward(
    out,
    grad_output,
    self,
    kernel_size,
    stride,
    padding,
    ceil_mode,
    count_include_pad,
    divisor_override,
):
    """A transposed convolution of each map, after each window's division by what it counts."""
    kernel = _pair(kernel_size)
    window = _window(stride or kernel_size, padding, [1])
    options = (kernel, _pair(stride or kernel_size), _pair(padding), ceil_mode, count_include_pad)
    ones = torch.ones(1, 1, *self.shape[2:], dtype=self.dtype)
    share = F.avg_pool2d(ones, *options) / F.avg_pool2d(ones, *options, divisor_override=1)
    rest = _rest(self.shape, grad_output.shape, kernel, **window)
    only(min(rest) >= 0, "an average pooling whose windows hang over")
    g = grad_output * self.graph.number(share, self.dtype)
    each_map = g.reshape([-1, 1, *g.shape[2:]])
    all_ones = self.graph.number(torch.ones(1, 1, *kernel), self.dtype)
    dx = each_map.op("ConvTranspose", all_ones, output_padding=rest, **window)
    return dx.reshape(self.shape)


def resampled(v, size, function):
    """What a function does to maps that treats rows and columns alike: a matrix product for each.

    The matrices are what the function makes of unit vectors.

    :param v: (N, C, h, w)
    :param size: (H, W) of the result
    :param function: (maps, (H, W)) -> maps of this size
    """
    rows, columns = (
        function(torch.eye(old)[None, :, :, None], (new, 1))[0, :, :, 0].T
        for old, new in zip(v.shape[2:], size, strict=True)
    )
    over_rows = v.graph.number(rows, v.dtype).matmul(v)
    return over_rows.matmul(v.graph.number(columns.T, v.dtype))


def brought_back(g, size, function):
    """The backward pass of `resampled`: the matrices, transposed.

    :param g: (N, C, H, W)
    :param size: (h, w) of the maps below
    :param function: as there
    """
    rows, columns = (
        function(torch.eye(old)[None, :, :, None], (new, 1))[0, :, :, 0]
        for old, new in zip(size, g.shape[2:], strict=True)
    )
    over_rows = g.graph.number(rows, g.dtype).matmul(g)
    return over_rows.matmul(g.graph.number(columns.T, g.dtype))


@entry("_adaptive_avg_pool2d")
def adaptive_avg_pool(out, self, output_size):
    return resampled(self, output_size, F.adaptive_avg_pool2d)


@entry("_adaptive_avg_pool2d_backward")
def adaptive_avg_pool_backward(out, grad_output, self):
    return brought_back(grad_output, self.shape[2:], F.adaptive_avg_pool2d)


def _enlarging(scales_h, scales_w, **options):
    """F.interpolate as `resampled` wants it."""
    only(scales_h is None and scales_w is None, "an enlarging by a factor; give its size")
    return lambda maps, size: F.interpolate(maps, size, **options)


@entry("upsample_bilinear2d")
def upsample_bilinear(out, self, output_size, align_corners, scales_h, scales_w):
    options = {"mode": "bilinear", "align_corners": align_corners}
    return resampled(self, out.shape[2:], _enlarging(scales_h, scales_w, **options))


@entry("upsample_bilinear2d_backward")
def upsample_bilinear_backward(
    out, grad_output, output_size, input_size, align_corners, scales_h, scales_w
):
    options = {"mode": "bilinear", "align_corners": align_corners}
    return brought_back(grad_output, input_size[2:], _enlarging(scales_h, scales_w, **options))


@entry("upsample_nearest2d")
def upsample_nearest(out, self, output_size, scales_h, scales_w):
    return resampled(self, out.shape[2:], _enlarging(scales_h, scales_w))


@entry("upsample_nearest2d_backward")
def upsample_nearest_backward(out, grad_output, output_size, input_size, scales_h, scales_w):
    return brought_back(grad_output, input_size[2:], _enlarging(scales_h, scales_w))


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
    return grad_output.op("Pad", self_pads(grad_output, before, after))


def self_pads(v, before, after):
    return v.graph.number([*before, *after])


@entry("constant_pad_nd")
def pad(out, self, pad, value):
    """torch counts from the last dimension on, before and after in turn."""
    missing = [0] * (len(self.shape) - len(pad) // 2)
    before = [*missing, *pad[::2][::-1]]
    after = [*missing, *pad[1::2][::-1]]
    value = self.graph.number(value, self.dtype)
    return self.op("Pad", self_pads(self, before, after), value)


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
    return grad_output.reshape(shape).op("Pad", self_pads(grad_output, before, after))


@entry("index_select")
def index_select(out, self, dim, index):
    return self.op("Gather", index, axis=dim)


@entry("gather")
def gather(out, self, dim, index, sparse_grad):
    return self.op("GatherElements", index, axis=dim)


@entry("scatter")
def scatter(out, self, dim, index, src=None, value=None):
    values = (
        src
        if src is not None
        else fill(Value(self.graph, "", index.shape, self.dtype), self, value)
    )
    return self.op("ScatterElements", index, values, axis=dim)


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
