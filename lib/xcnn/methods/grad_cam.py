"""Grad-CAM: which maps of a layer matter to a class, judged by the gradient (Selvaraju et al. 2017)."""

import torch

from ..engine.contract import check, class_scores, own_grad_mode, run, to_image_size
from ..engine.layers import capture
from ..errors import InputError
from ..networks import as_network, last_layer


def grad_cam(net, x, target=None, layer=None, relu=True):
    """L = ReLU(sum_k alpha_k A_k), where alpha_k is the gradient of the class score averaged over map k.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 (alpha) and eq. 2 (L). The score is the logit, not the
    probability. The backward pass stops at the layer.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer: name of a module that puts out maps (N, C, h, w); None: the last spatial layer
    :param relu: keep only what speaks for the class, as the paper does; False: the signed map
    :return: (N, 1, H, W), not normalised, enlarged bilinearly from h x w
    :raises InputError: see `contract.check`; unknown layer; a layer that puts out no maps or does not reach the score
    """
    given, net = net, as_network(net)
    check(net.module, x)
    with own_grad_mode(False):
        layer = last_layer(given, x) if layer is None else layer
        with capture(net.module, layer) as seen:
            S = run(net.module, x.clone())
        (A,) = seen
        if A.ndim != 4:
            raise InputError(
                f"layer {layer!r} puts out {tuple(A.shape)}, not maps (N, C, h, w); choose another layer"
            )
        if len(A) != len(x):
            raise InputError(
                f"layer {layer!r} puts out {len(A)} maps for {len(x)} images; explain them one by one"
            )
        S_c = class_scores(S, target, net.classes)
        dA = torch.autograd.grad(S_c.sum(), A, allow_unused=True)[0] if S_c.requires_grad else None
        if dA is None:
            raise InputError(
                f"the class score does not depend on layer {layer!r}; choose another layer"
            )
        alpha = dA.mean((2, 3), keepdim=True)
        L = (alpha * A.detach()).sum(1, keepdim=True)
        return to_image_size(L.relu() if relu else L, x)
