"""The gradient of a class score with respect to the pixels: saliency (Simonyan, Vedaldi, Zisserman 2014).

Deconvnet and guided backprop are this gradient with another way back through each ReLU; all three share
`pixel_gradient`.
"""

import contextlib
import warnings

import torch

from ..engine.contract import check, class_scores, one_question, own_grad_mode, run, unit_values
from ..engine.layers import capture
from ..engine.relu import ReLURule, watched
from ..engine.tape import Tape
from ..errors import InputError
from ..networks import as_network


def gradient(net, x, target=None, layer=None, unit=None):
    """dS_c / dx, signed and per colour channel: how the score of class c answers a small change of each pixel.

    Source: Simonyan et al. 2014, arXiv 1312.6034, eq. 4 (w = dS_c/dI); their map is the maximum of |w| over channels.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer, unit: instead of a target, an inner unit: (channel, y, x) of the layer's maps (N, C, h, w), or a
        channel alone, which means the position in each image where this channel is largest
    :return: (N, 3, H, W), same dtype as x
    :raises InputError: see `contract.check` and `contract.class_indices`; unknown layer, a unit that is not in it
    """
    return pixel_gradient(net, x, target, layer, unit)


def pixel_gradient(net, x, target=None, layer=None, unit=None, rule=None):
    """One map of `pixel_gradients`."""
    return pixel_gradients(net, x, target, layer, unit, [rule])[0]


def pixel_gradients(net, x, target=None, layer=None, unit=None, rules=(None,)):
    """Gradients of a class score or an inner unit with respect to x, from one forward pass; arguments as in `gradient`.

    :param rules: for each map None, the plain gradient, or the way back through each ReLU: (g, passed) -> what goes on;
        g is what came back to the ReLU, passed what its own derivative lets through, a new tensor that may be changed
    :return: list of (N, 3, H, W), a map for each rule
    """
    net = as_network(net)
    check(net.module, x)
    one_question(target, layer, unit)
    rule = None  # the one at work; each ReLU's hook looks it up
    hook = lambda passed, g: rule and (rule(g[0], passed[0]),)  # noqa: E731
    relus = ReLURule(lambda relu, x: watched(relu, x, hook))
    with own_grad_mode(True):
        x = x.detach().clone().requires_grad_()
        with (
            capture(net.module, layer, cut=False)
            if layer is not None
            else contextlib.nullcontext() as seen,
            Tape(relus) if any(rules) else contextlib.nullcontext(),
        ):
            S = run(net.module, x.clone())  # a copy, so that a network may work in place
        a = (
            class_scores(S, target, net.classes)
            if layer is None
            else unit_values(seen[0], layer, unit)
        )
        R = []
        for rule in rules:  # noqa: B007
            keep = len(R) + 1 < len(rules)
            one = (
                torch.autograd.grad(a.sum(), x, retain_graph=keep, allow_unused=True)[0]
                if a.requires_grad
                else None
            )
            if one is None:
                raise InputError(
                    f"the scores of {net.name} do not depend on the image, or it switches gradients off"
                )
            R.append(one)
    if any(rules) and not relus.met:
        warnings.warn(f"{net.name} has no ReLU, so this is its plain gradient", stacklevel=4)
    return R
