"""The gradient of a class score with respect to the pixels: saliency (Simonyan, Vedaldi, Zisserman 2014)."""

import torch

from .contract import check, class_scores, own_grad_mode, run
from .networks import as_network


def gradient(net, x, target=None):
    """dS_c / dx, signed and per colour channel: how the score of class c answers a small change of each pixel.

    Source: Simonyan et al. 2014, arXiv 1312.6034, eq. 4 (w = dS_c/dI); their map is the maximum of |w| over channels.

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
        S = run(net.module, x.clone())  # a copy, so that a network may work in place
        (dx,) = torch.autograd.grad(class_scores(S, target, net.classes).sum(), x)
    return dx
