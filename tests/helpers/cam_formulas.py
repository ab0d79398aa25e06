"""The CAM family's formulas as the papers have them, from maps and gradients by a hook."""

import functools

import torch
import torch.nn.functional as F

from tests.helpers.oracles import TARGETS, images, network


@functools.cache
def maps_and_slopes(name, layer):
    """A and dS_c/dA by a hook and autograd, both (3, C, h, w)."""
    module = network(name).module
    seen = []

    def keep(_module, _inputs, output):
        seen[:] = [output]
        return output.clone()  # in-place operations above must not change A

    handle = module.get_submodule(layer).register_forward_hook(keep)
    S = module(images(name).requires_grad_())
    handle.remove()
    (g,) = torch.autograd.grad(S[range(3), TARGETS].sum(), seen[0])
    return seen[0].detach(), g


def by_formula(A, g, weights):
    """The signed map (3, 1, h, w) of weights (3, C, ...)."""
    return (weights * A).sum(1, keepdim=True)


def enlarged(L, x):
    return F.interpolate(L, x.shape[2:], mode="bilinear", align_corners=False)


def alpha_of_the_paper(A, g):
    """Grad-CAM++, equation 19 as it stands: (3, C, h, w)."""
    total = A.sum((2, 3), keepdim=True)
    alpha = g**2 / (2 * g**2 + total * g**3)
    return alpha.nan_to_num(0, 0, 0)


PAPER = {
    "hires_cam": lambda A, g: g,
    "layer_cam": lambda A, g: g.clamp(min=0),
    "xgrad_cam": lambda A, g: (
        (A * g).sum((2, 3), keepdim=True) / A.sum((2, 3), keepdim=True)
    ).nan_to_num(0, 0, 0),
    "grad_cam_plus_plus": lambda A, g: (alpha_of_the_paper(A, g) * g.clamp(min=0)).sum(
        (2, 3), keepdim=True
    ),
}
