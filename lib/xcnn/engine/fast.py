"""What exists for speed alone."""

import torch
import torch.nn.functional as F

from .contract import run


def as_it_is(func, args, kwargs):
    """The call, unchanged; max pooling by a quicker way to the same values."""
    return max_pool(*args, **kwargs) if func is F.max_pool2d else func(*args, **kwargs)


def max_pool(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """F.max_pool2d, its values and switches, on a CPU several times as quick: all channels are searched at once."""
    if return_indices or input.ndim != 4 or input.device.type != "cpu":
        return F.max_pool2d(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    sides = (kernel_size, stride or kernel_size, padding, dilation)
    return _MaxPool.apply(
        input, *([v, v] if isinstance(v, int) else list(v) for v in sides), ceil_mode
    )


class _MaxPool(torch.autograd.Function):
    """Channels last in memory on the way up only: on the way back this would be slower."""

    @staticmethod
    def forward(ctx, x, *how):
        y, switches = torch.ops.aten.max_pool2d_with_indices(
            x.contiguous(memory_format=torch.channels_last), *how
        )
        ctx.how = how
        ctx.save_for_backward(x, switches.contiguous())
        return y.contiguous()

    @staticmethod
    def backward(ctx, g):
        x, switches = ctx.saved_tensors
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *ctx.how, switches), *[
            None
        ] * len(ctx.how)


def run_many(module, x):
    """`run` for many pictures, without gradients: with channels last in memory, up to three times as quick on a CPU."""
    try:
        return run(
            module, x.clone(memory_format=torch.channels_last)
        )  # a copy: a network may work in place
    except RuntimeError:  # it looks at maps as they lie in memory, by `view`
        return run(module, x.clone(memory_format=torch.contiguous_format))
