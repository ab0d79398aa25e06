"""ReLUs, however they are spelled."""

from .fast import as_it_is
from .operations import RELUS


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


def watched(relu, x, hook):
    """The ReLU as it is; on the way back its hook sees what passes."""
    own = (
        x.clone() if x._is_view() else x
    )  # in place on a view, autograd would put other steps behind the ReLU's
    y = relu(own)
    if y.grad_fn is not None:
        y.grad_fn.register_hook(hook)
    return x.copy_(y) if y is own and own is not x else y
