"""Grad-CAM: the maps of a layer, weighted by how much each matters to a class.

Source: Selvaraju et al. 2017. The gradient of the class score tells how much a map matters.
"""

from ..engine.contract import isolated, to_image_size
from ..engine.layers import layer_name, map_gradient, maps_of
from ..engine.target import target_scores
from ..networks import ready


def grad_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k alpha_k A_k); alpha_k is the gradient of the class score, averaged over map k.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 (alpha) and eq. 2 (L). The score is the
    logit, not the probability. The backward pass stops at the layer.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns
    :param layer: a submodule that puts out maps, or its name; None: the last spatial layer. Maps
        with their channels last, (N, h, w, C), are understood
    :param relu: keep only what speaks for the class, as the paper does; False: the signed map
    :param layout: (h, w) of a layer that puts out tokens (N, T, C): the last h w are the map's rows
    :return: (N, 1, H, W), not normalised, enlarged bilinearly from h x w
    :raises InputError: see `ready`; unknown layer; a layer that does not put out maps, or on which
        the score does not depend

    >>> R = xcnn.grad_cam(net, x, "clock")
    >>> on_the_clock = xcnn.energy_concentration(R, scene.mask("clock"))
    >>> on_the_clock.item() > 0.6
    True
    """
    net, x = ready(net, x)
    A, dA = maps_and_gradient(net, x, target, layer, layout)
    alpha = dA.mean((2, 3), keepdim=True)
    L = (alpha * A).sum(1, keepdim=True)
    return to_image_size(L.relu() if relu else L, x)


def maps_and_gradient(net, x, target=None, layer=None, layout=None):
    """The maps A of a layer, and dS_c/dA: what all relatives of Grad-CAM are made of.

    Other arguments and errors as in `grad_cam`.

    :param net, x: from `ready`
    :return: two tensors (N, C, h, w)

    >>> from xcnn.methods.cam_family import maps_and_gradient
    >>> A, dA = maps_and_gradient(*xcnn.networks.ready(net, x), "clock")
    >>> tuple(A.shape), tuple(dA.shape)
    ((1, 80, 8, 8), (1, 80, 8, 8))
    """
    layer = layer_name(net, layer)
    with isolated(grad=True):
        out, y, its_layout = maps_of(net, layer, x, layout)
        S_c = target_scores(out, target, net, len(x))
        dA = its_layout.maps(map_gradient(S_c, y, layer))
        return its_layout.maps(y.detach()), dA
