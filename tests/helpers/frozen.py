"""An independent reference for LRP: x times the gradient, of a network with its factors held fixed.

Rule 0 hands down x times the gradient where every unit is linear. A unit that is not, y = f(x), is
one here all the same: y = x r, with its own ratio r = y / x taken for a constant. In the same way
gates, and the deviations of norms, are taken for constants. Nothing of the library is used.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

UNITS = {
    *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "silu", "gelu", "hardswish"),
    *("mish", "leaky_relu", "prelu", "rrelu", "elu", "elu_", "selu", "celu", "tanh", "softplus"),
    *("normalize", "local_response_norm", "rms_norm", "softsign", "erf"),
}
GATES = {"sigmoid", "hardsigmoid", "softmax", "sigmoid_"}


def ratio(f, x):
    """f(x), as x times a constant."""
    y = f(x.detach().clone())
    r = (y / x.detach()).nan_to_num(0, 0, 0)
    return x * r


def standardised(x, dims, eps):
    """(x - mean) / deviation, the deviation a constant."""
    deviation = (x.var(dims, unbiased=False, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(dims, keepdim=True)) / deviation


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    z = standardised(x, tuple(range(-len(shape), 0)), eps)
    z = z if weight is None else z * weight
    return z if bias is None else z + bias


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    z = standardised(x.reshape(len(x), groups, -1), (2,), eps).reshape(x.shape)
    by_channel = (-1, *[1] * (x.ndim - 2))
    z = z if weight is None else z * weight.view(by_channel)
    return z if bias is None else z + bias.view(by_channel)


def instance_norm(x, weight=None, bias=None, eps=1e-5, **_):
    return group_norm(x, x.shape[1], weight, bias, eps)


NORMS = {
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    torch.group_norm: group_norm,
    F.instance_norm: instance_norm,
}


class Frozen(TorchFunctionMode):
    """While this mode is active, units, gates and deviations are factors that do not change."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in NORMS:
            return NORMS[func](*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in UNITS:
            x, *rest = args
            return ratio(lambda x: func(x, *rest, **kwargs), x)
        y = func(*args, **kwargs)
        return y.detach() if name in GATES else y


def rule_0(module, x, target):
    """What LRP with rule 0 must give, (N, C, H, W).

    :param target: class index, or a function of what the network returns
    """
    x = x.clone().requires_grad_()
    with Frozen():
        out = module(x.clone())
    S_c = target(out) if callable(target) else out[:, target]
    (g,) = torch.autograd.grad(S_c.sum(), x)
    return (g * x).detach()
