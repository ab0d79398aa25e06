"""The one way this library works inside a network: nothing in the network is replaced or rewritten.

`Tape` sees every functional call of a forward pass, whether it comes from a module or from a plain function.
`ReLURule` is what it does at a ReLU for deconvnet, guided backprop and LRP: however it is spelled, it gets another way
back.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Tape(TorchFunctionMode):
    """While active, each torch call goes through `rule(func, args, kwargs)`, which returns the call's result."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self.rule(func, args, kwargs or {})


def _relu(inplace=False):
    return 0


def _hardtanh(min_val=-1.0, max_val=1.0, inplace=False):
    return min_val


def _threshold(threshold, value, inplace=False):
    return value if threshold == 0 else None


def _clamp(min=None, max=None):
    stops_at_6 = isinstance(max, int | float) and max == 6  # with another top it is a gate, or keeps values in bounds
    return min if max is None or stops_at_6 else None


# every call that may be a ReLU -> the bound below which it lets nothing through, read from its other arguments
RELUS = dict.fromkeys([F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu6], _relu)
RELUS |= dict.fromkeys([F.hardtanh, F.hardtanh_], _hardtanh)  # nn.ReLU6 is a hardtanh from 0 to 6
RELUS |= dict.fromkeys([F.threshold, F.threshold_, torch.threshold, torch.threshold_], _threshold)
RELUS |= dict.fromkeys([f for at in (torch, torch.Tensor) for f in (at.clamp, at.clamp_, at.clip, at.clip_)], _clamp)
RELUS |= dict.fromkeys([f for at in (torch, torch.Tensor) for f in (at.clamp_min, at.clamp_min_)], _clamp)


def as_it_is(func, args, kwargs):
    """The call, unchanged; max pooling by a quicker way to the same values."""
    return max_pool(*args, **kwargs) if func is F.max_pool2d else func(*args, **kwargs)


def max_pool(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """F.max_pool2d, its values and switches, on a CPU several times as quick: all channels are searched at once."""
    if return_indices or input.ndim != 4 or input.device.type != "cpu":
        return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    sides = (kernel_size, stride or kernel_size, padding, dilation)
    return _MaxPool.apply(input, *([v, v] if isinstance(v, int) else list(v) for v in sides), ceil_mode)


class _MaxPool(torch.autograd.Function):
    """Channels last in memory on the way up only: on the way back this would be slower."""

    @staticmethod
    def forward(ctx, x, *how):
        y, switches = torch.ops.aten.max_pool2d_with_indices(x.contiguous(memory_format=torch.channels_last), *how)
        ctx.how = how
        ctx.save_for_backward(x, switches.contiguous())
        return y.contiguous()

    @staticmethod
    def backward(ctx, g):
        x, switches = ctx.saved_tensors
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *ctx.how, switches), *[None] * len(ctx.how)


class ReLURule:
    """For `Tape`: each ReLU goes through `relu_with(relu, x)`, everything else runs as it is.

    A ReLU is any call in `RELUS` that turns negative values into 0: a module, a function, a method, in place or not,
    also one that stops at 6. Smooth units (SiLU, GELU, Hardswish, ...) and those with a slope below 0 (leaky ReLU)
    are none, and keep their derivative. Not seen: a ReLU written as `where`, `maximum`, a product with a mask, or as an
    operator below torch's functions. met: how many there were.
    """

    def __init__(self, relu_with):
        self.relu_with, self.met = relu_with, 0

    def __call__(self, func, args, kwargs):
        if func not in RELUS:
            return as_it_is(func, args, kwargs)
        x, *rest = args or [kwargs.pop("input")]
        bottom = RELUS[func](*rest, **kwargs)
        if not isinstance(bottom, int | float) or bottom != 0:
            return func(x, *rest, **kwargs)
        self.met += 1
        return self.relu_with(lambda x: func(x, *rest, **kwargs), x)
