"""What exists for speed alone: quicker ways to the same values, each with its measured gain.

Gains are medians of pairs, on two cores of a server CPU. Without this file everything would still
be right.
"""

import torch
import torch.nn.functional as F

from .contract import run
from .record import is_recording


def run_call(func, args, kwargs):
    """Run a call. Max pooling takes the quicker way, with the same values and gradients."""
    return max_pool(*args, **kwargs) if func is F.max_pool2d else func(*args, **kwargs)


def shortcut(condition):
    """Is a quicker way open, which is right for such values only?

    Not while a method is recorded: the recording is for other values.
    """
    return not is_recording() and bool(condition)


def max_pool(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """F.max_pool2d, its values and switches: 1.6 times as quick for 8 x 64 maps of 112 x 112.

    In channels-last memory a window's search runs over all channels at once.
    """
    if return_indices or input.ndim != 4 or input.device.type != "cpu":
        return F.max_pool2d(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    window = [
        [side, side] if isinstance(side, int) else list(side)
        for side in (kernel_size, stride or kernel_size, padding, dilation)
    ]
    return _MaxPool.apply(input, *window, ceil_mode)


class _MaxPool(torch.autograd.Function):
    """Forward in channels-last memory, backward in the usual one: each is quicker so."""

    @staticmethod
    def forward(ctx, x, *window):
        channels_last = x.contiguous(memory_format=torch.channels_last)
        y, switches = torch.ops.aten.max_pool2d_with_indices(channels_last, *window)
        ctx.window = window
        ctx.save_for_backward(x, switches.contiguous())
        return y.contiguous()

    @staticmethod
    def backward(ctx, g):
        x, switches = ctx.saved_tensors
        dx = torch.ops.aten.max_pool2d_with_indices_backward(g, x, *ctx.window, switches)
        return dx, *[None] * len(ctx.window)


def run_many(module, x):
    """`run` for a batch of many images, without gradients, in channels-last memory.

    On a CPU, 1.25 times as quick for 16 images through resnet18.
    """
    try:
        return run(module, x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # the network looks at maps as they lie in memory, by `view`
        return run(module, x.contiguous())


def sum_of_linear(f, inputs, weights, b):
    """f(a_1, w_1, b) + f(a_2, w_2, None) + ... for a linear operation f.

    The inputs are joined along their channels, and f runs once. For a grouped convolution, whose
    weights have fewer channels than its input, this would be wrong: there the terms are added up.
    1.05 times as quick for two pairs of 64 maps of 56 x 56.
    """
    a, w = inputs[0], weights[0]
    if len(inputs) > 1 and a.ndim == w.ndim and a.shape[1] == w.shape[1]:
        return f(torch.cat(inputs, 1), torch.cat(weights, 1), b)
    z = f(a, w, b)
    for a, w in zip(inputs[1:], weights[1:], strict=True):
        z = z + f(a, w, None)
    return z
