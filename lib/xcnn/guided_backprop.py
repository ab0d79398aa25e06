"""Guided backprop and Guided Grad-CAM.

Guided backprop is the gradient with respect to pixels, except that each ReLU also stops what is negative on its way
back (Springenberg et al. 2015). Guided Grad-CAM is its product with Grad-CAM (Selvaraju et al. 2017).
"""

import math

import torch
import torch.nn.functional as F

from .contract import check, class_scores, own_grad_mode, run
from .grad_cam import grad_cam
from .networks import as_network
from .tape import Tape


def _relu(input, inplace=False):
    return input, 0, math.inf, inplace


def _relu6(input, inplace=False):
    return input, 0, 6, inplace


def _hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    return input, min_val, max_val, inplace


# every call that is a ReLU -> its input, lower and upper bound, and whether it works in place
RELUS = dict.fromkeys([F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_], _relu)
RELUS |= {F.relu6: _relu6, F.hardtanh: _hardtanh, F.hardtanh_: _hardtanh}


class GuidedReLU(torch.autograd.Function):
    """Forward: min(max(x, 0), top). Backward: g where 0 < x < top and g > 0."""

    @staticmethod
    def forward(ctx, x, top):
        ctx.save_for_backward((x > 0) & (x < top))
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, g):
        (on,) = ctx.saved_tensors
        return g * (on & (g > 0)), None


def guided_rule(func, args, kwargs):
    """For the tape: a ReLU in any form (module, function, in place, ReLU6) gets the guided backward rule."""
    if func not in RELUS:
        return func(*args, **kwargs)
    x, low, top, in_place = RELUS[func](*args, **kwargs)
    if low != 0:  # a hardtanh that is no ReLU6
        return func(*args, **kwargs)
    y = GuidedReLU.apply(x, top)
    return x.copy_(y) if in_place or func.__name__.endswith("_") else y


def guided_backprop(net, x, target=None):
    """dS_c / dx with the guided rule at every ReLU: g passes where the ReLU's input and g are both positive.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :return: (N, 3, H, W), same dtype as x
    :raises InputError: see `contract.check` and `contract.class_indices`
    """
    net = as_network(net)
    check(net.module, x)
    with own_grad_mode(True):
        x = x.detach().clone().requires_grad_()
        with Tape(guided_rule):
            S = run(net.module, x.clone())
        (R,) = torch.autograd.grad(class_scores(S, target, net.classes).sum(), x)
    return R


def guided_grad_cam(net, x, target=None, layer=None):
    """Guided backprop times Grad-CAM, pixel by pixel: fine and class-specific.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.2. Arguments and errors as in `grad_cam`.

    :return: (N, 3, H, W), same dtype as x
    """
    return guided_backprop(net, x, target) * grad_cam(net, x, target, layer)
