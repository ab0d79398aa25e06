"""The table's entries for layers: convolutions, matrix products, norms, pooling, resizing.

Each has its backward pass to the input; no method asks for the gradients of weights.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .onnx_calls import entry, only, reduced, scattered
from .onnx_graph import Value

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
