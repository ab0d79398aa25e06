"""Guided backprop and Guided Grad-CAM.

Guided backprop is the gradient with respect to the pixels, except that each ReLU also stops
negative values in the backward pass (Springenberg et al. 2015). Guided Grad-CAM is its product with
Grad-CAM (Selvaraju et al. 2017).
"""

from .grad_cam import grad_cam
from .gradient import pixel_gradient


def guided_rule(g, passed):
    """The backward pass of a ReLU: its derivative, then a ReLU of that."""
    return passed.clamp_(min=0)


def guided_backprop(net, x, target=None, layer=None, unit=None):
    """dS_c / dx with the guided rule at every ReLU: g passes where the ReLU's input and g are > 0.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4. Units that are not ReLUs (SiLU,
    GELU, Hardswish, ...) keep their derivative. A network without any ReLU gives the plain
    gradient, with a warning.

    Arguments, shape and errors as in `gradient`.

    >>> R = xcnn.guided_backprop(net, x, "clock")
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return pixel_gradient(net, x, target, layer, unit, guided_rule)


def guided_grad_cam(net, x, target=None, layer=None, layout=None):
    """Guided backprop times Grad-CAM, pixel by pixel: fine and class-specific.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.2. Arguments and errors as in
    `grad_cam`.

    :return: (N, C, H, W), same dtype as x

    >>> R = xcnn.guided_grad_cam(net, x, "clock")
    >>> torch.equal(R, xcnn.guided_backprop(net, x, "clock") * xcnn.grad_cam(net, x, "clock"))
    True
    """
    return guided_backprop(net, x, target) * grad_cam(net, x, target, layer, layout=layout)
