"""Guided backprop and Guided Grad-CAM.

Guided backprop is the gradient with respect to pixels, except that each ReLU also stops what is negative on its way
back (Springenberg et al. 2015). Guided Grad-CAM is its product with Grad-CAM (Selvaraju et al. 2017).
"""

import torch

from .backprop import pixel_gradient
from .grad_cam import grad_cam


class _Guided(torch.autograd.Function):
    """Forward: the ReLU as it is. Backward: its derivative, then a ReLU of g."""

    @staticmethod
    def forward(ctx, x, relu, top):
        y = relu(x)
        if y is x:  # it worked in place
            ctx.mark_dirty(x)
        ctx.top = top
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        # PyTorch's own derivative, g where 0 < y < top; its result is new, so it may be rectified in place
        return torch.ops.aten.hardtanh_backward(g, y, 0, ctx.top).clamp_(min=0), None, None


def guided_relu(relu, x, top):
    return _Guided.apply(x, relu, top)


def guided_backprop(net, x, target=None, layer=None, unit=None):
    """dS_c / dx with the guided rule at every ReLU: g passes where the ReLU's input x and g are both positive.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4. Units that are no ReLU (SiLU, GELU, Hardswish, ...)
    keep their derivative; a network with no ReLU at all gives the plain gradient, with a warning.

    Arguments, shape and errors as in `gradient`.
    """
    return pixel_gradient(net, x, target, layer, unit, guided_relu)


def guided_grad_cam(net, x, target=None, layer=None):
    """Guided backprop times Grad-CAM, pixel by pixel: fine and class-specific.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.2. Arguments and errors as in `grad_cam`.

    :return: (N, 3, H, W), same dtype as x
    """
    return guided_backprop(net, x, target) * grad_cam(net, x, target, layer)
