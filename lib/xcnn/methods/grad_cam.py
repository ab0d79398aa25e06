"""Grad-CAM: the maps of a layer, weighted by how much each matters to a class.

Source: Selvaraju et al. 2017. The gradient of the class score tells how much a map matters.
"""

from ..engine.contract import class_scores, isolated, to_image_size
from ..engine.layers import map_gradient, maps_of
from ..networks import ready


def grad_cam(net, x, target=None, layer=None, relu=True):
    """L = ReLU(sum_k alpha_k A_k); alpha_k is the gradient of the class score, averaged over map k.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 (alpha) and eq. 2 (L). The score is the
    logit, not the probability. The backward pass stops at the layer.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer: name of a module that puts out maps (N, C, h, w); None: the last spatial layer
    :param relu: keep only what speaks for the class, as the paper does; False: the signed map
    :return: (N, 1, H, W), not normalised, enlarged bilinearly from h x w
    :raises InputError: see `ready`; unknown layer; a layer that does not put out maps, or on which
        the score does not depend

    >>> R = xcnn.grad_cam(net, x, "clock")
    >>> on_the_clock = xcnn.energy_concentration(R, scene.mask("clock"))
    >>> on_the_clock.item() > 0.6
    True
    """
    net, x = ready(net, x)
    layer = net.layer if layer is None else layer
    with isolated(grad=True):
        S, A = maps_of(net, layer, x)
        S_c = class_scores(S, target, net.classes)
        dA = map_gradient(S_c, A, layer)
        alpha = dA.mean((2, 3), keepdim=True)
        L = (alpha * A).sum(1, keepdim=True)
        return to_image_size(L.relu() if relu else L, x)
