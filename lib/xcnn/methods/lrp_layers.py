"""How a torch call becomes a layer that LRP's rules can take, see `lrp_rules`."""

import torch
import torch.nn.functional as F

from ..engine.tape import bind
from .lrp_rules import Contributions, Layer, Norm


def layer_of_call(func, a, args, kwargs, from_pixels=None):
    """A convolution, a transposed one or a linear map of a, func(a, *args, **kwargs), as a `Layer`.

    :param from_pixels: see `Layer`
    """
    w, b, rest, options = _weights(*args, **kwargs)
    as_layer = _transposed if func is F.conv_transpose2d else _by_output
    w, operation, times = as_layer(func, w.detach(), rest, options)
    if func is F.linear and a.ndim > 2:
        times = None  # its outputs are the last dimension, a batch norm's channels the second
    b = None if b is None else b.detach()
    return Layer(operation, a, w, b, times, from_pixels)


def _weights(weight, bias=None, *rest, **options):
    return weight, bias, rest, options


def _by_output(func, w, rest, options):
    """For `Layer`: weights whose first dimension is the output channel, operation, `times`."""

    def operation(a, w, b):
        return func(a, w, b, *rest, **options)

    return w, operation, _times_outputs


def _transposed(func, w, rest, options):
    """The same for a transposed convolution, whose weights begin with the input channel.

    They get a dimension in front, so that nobody takes them for those of a convolution and joins
    them along the wrong one.
    """
    groups = bind(rest, options, "stride padding output_padding groups", groups=1).groups

    def operation(a, w, b):
        return func(a, w[0], b, *rest, **options)

    def times(w, factor):
        _, inputs, outputs, *window = w.shape
        of_group = factor.view(groups, 1, outputs).expand(groups, inputs // groups, outputs)
        return w * of_group.reshape(inputs, outputs, *[1] * len(window))

    return w[None], operation, times


def _times_outputs(w, factor):
    """Weights times a factor for each output channel, their first dimension."""
    return w * factor.view(-1, *[1] * (w.ndim - 1))


def average_of_call(func, args, kwargs):
    """An average, a sum over positions or an enlarging as a layer of constant weights."""
    a, *rest = args

    def mean(a, _weight, _bias):
        return func(a, *rest, **kwargs)

    return Contributions(mean, (a.clone(), None))


# ---- norms by the statistics of the training


def norm_of_call(args, kwargs):
    """The norm of a call to F.batch_norm; None where it uses the statistics of the batch."""
    names = "a running_mean running_var weight bias training momentum eps"
    call = bind(args, kwargs, names, weight=None, bias=None, training=False, eps=1e-5)
    if call.training or call.running_mean is None:
        return None
    return Norm(call.running_mean, call.running_var, call.weight, call.bias, call.eps)


def layer_of_channels(a, norm):
    """A layer of one weight per channel, all of them 1, into which a norm can be folded."""
    ones = torch.ones_like(norm.mean)[:, None]
    return Layer(_by_channel, a.clone(), ones, times=_times_outputs)


def _by_channel(a, w, b):
    """A factor and a shift for each channel, as a linear operation."""
    shape = (1, -1, *[1] * (a.ndim - 2))
    z = a * w.view(shape)
    return z if b is None else z + b.view(shape)


# ---- norms by an image's own statistics


def image_norm_of_call(func, args, kwargs):
    """A layer norm, group norm or instance norm, its deviation sigma held fixed, as a layer.

    z_k = w_k (a_k - mean a) / sigma + b_k. The mean is that of the group of a_k.
    """
    groups, weight, bias, eps = IMAGE_NORMS[func](*args, **kwargs)
    a = args[0].clone()

    def less_mean(a):
        in_groups = a.reshape(groups)
        return (in_groups - in_groups.mean(-1, keepdim=True)).reshape(a.shape)

    with torch.no_grad():
        variance = (less_mean(a) ** 2).reshape(groups).mean(-1, keepdim=True)
        scale = (variance + eps).rsqrt().expand_as(a.reshape(groups)).reshape(a.shape)
        scale = scale if weight is None else scale * weight

    def norm(a, _weight, bias):
        z = less_mean(a) * scale
        return z if bias is None else z + bias

    return Contributions(norm, (a, None), b=None if bias is None else bias.detach())


# Each of the three below returns the shape of a in which the values of one group are the last
# dimension; weight and bias in shapes that broadcast to that of a; and eps.
def _layer_norm(a, normalized_shape, weight=None, bias=None, eps=1e-5, *_):
    return (*a.shape[: -len(normalized_shape)], -1), weight, bias, eps


def _group_norm(a, num_groups, weight=None, bias=None, eps=1e-5, *_):
    by_channel = (1, -1, *[1] * (a.ndim - 2))
    weight, bias = (None if v is None else v.view(by_channel) for v in (weight, bias))
    return (len(a), num_groups, -1), weight, bias, eps


def _instance_norm(*args, **kwargs):
    call = bind(args, kwargs, INSTANCE_NORM, weight=None, bias=None, eps=1e-5)
    return _group_norm(call.a, call.a.shape[1], call.weight, call.bias, call.eps)


INSTANCE_NORM = "a running_mean running_var weight bias use_input_stats momentum eps"
IMAGE_NORMS = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}


def batch_norm_arguments(args, kwargs):
    """Of an instance norm by the statistics of the training, as for F.batch_norm; else None."""
    call = bind(args, kwargs, INSTANCE_NORM, use_input_stats=True)
    if call.use_input_stats:
        return None
    names = {"running_mean", "running_var", "weight", "bias", "momentum", "eps"}
    return args[:1], {key: v for key, v in vars(call).items() if key in names}
