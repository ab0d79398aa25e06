"""ReLUs, however they are spelled, and what they do in the backward pass.

Deconvnet and guided backprop change the backward pass of each ReLU, and LRP passes relevance
through it unchanged. `ReLUInterceptor` finds the ReLUs of a forward pass. `ReLUBackward` changes
their backward pass.
"""

from .fast import run_call
from .operations import RELUS
from .tape import by_position


class ReLUInterceptor:
    """For `Tape`: each ReLU goes through `run_relu(relu, x)`. Everything else runs as it is.

    A ReLU is any call in `RELUS` that turns negative values into 0: of a module, as a function, as
    a method, in place or not, and also one that stops at 6. Smooth units (SiLU, GELU, Hardswish)
    and units with a slope below 0 (leaky ReLU) are not ReLUs and keep their derivative. Not seen:
    a ReLU written as `where`, `maximum`, or a product with a mask, and one that runs below torch's
    functions.

    count: how many ReLUs have run.
    """

    def __init__(self, run_relu):
        self.run_relu = run_relu
        self.count = 0

    def __call__(self, func, args, kwargs):
        if func not in RELUS:
            return run_call(func, args, kwargs)
        (x, *rest), kwargs = by_position(args, kwargs)
        lower_bound = RELUS[func](*rest, **kwargs)
        if not isinstance(lower_bound, int | float) or lower_bound != 0:
            return func(x, *rest, **kwargs)
        self.count += 1
        return self.run_relu(lambda x: func(x, *rest, **kwargs), x)


class ReLUBackward:
    """A hook on the autograd node of every ReLU, which may change its backward pass.

    rule: function (g, passed) -> the gradient to send below the ReLU. g is the gradient that
    arrives from above; `passed` is g times the ReLU's derivative, in memory that the rule may
    overwrite. None: the plain gradient.
    """

    rule = None

    def __call__(self, grad_inputs, grad_outputs):
        if self.rule is None:
            return None
        return (self.rule(grad_outputs[0], grad_inputs[0]),)

    def watch(self, relu, x):
        """Run the ReLU and register this hook on its autograd node."""
        # After an in-place call on a view, `y.grad_fn` is the node of the view, not the ReLU's. So
        # the ReLU runs on a copy, which is written back.
        own = x.clone() if x._is_view() else x
        y = relu(own)
        if y.grad_fn is not None:
            y.grad_fn.register_hook(self)
        in_place = y is own
        return x.copy_(y) if in_place and own is not x else y
