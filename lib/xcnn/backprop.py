"""The gradient of a class score with respect to the pixels: saliency (Simonyan, Vedaldi, Zisserman 2014).

Deconvnet and guided backprop are this gradient with another way back through each ReLU; all three share
`pixel_gradient`.
"""

import contextlib
import operator
import warnings

import torch

from .contract import InputError, check, class_scores, own_grad_mode, run
from .layers import capture
from .networks import as_network
from .tape import ReLURule, Tape


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
            capture(net.module, layer, cut=False) if layer is not None else contextlib.nullcontext() as seen,
            Tape(relus) if any(rules) else contextlib.nullcontext(),
        ):
            S = run(net.module, x.clone())  # a copy, so that a network may work in place
        a = class_scores(S, target, net.classes) if layer is None else unit_values(seen[0], layer, unit)
        R = []
        for rule in rules:  # noqa: B007
            keep = len(R) + 1 < len(rules)
            one = torch.autograd.grad(a.sum(), x, retain_graph=keep, allow_unused=True)[0] if a.requires_grad else None
            if one is None:
                raise InputError(f"the scores of {net.name} do not depend on the image, or it switches gradients off")
            R.append(one)
    if any(rules) and not relus.met:
        warnings.warn(f"{net.name} has no ReLU, so this is its plain gradient", stacklevel=4)
    return R


def watched(relu, x, hook):
    """The ReLU as it is; on the way back its hook sees what passes."""
    own = x.clone() if x._is_view() else x  # in place on a view, autograd would put other steps behind the ReLU's
    y = relu(own)
    if y.grad_fn is not None:
        y.grad_fn.register_hook(hook)
    return x.copy_(y) if y is own and own is not x else y


def one_question(target, layer, unit):
    """Refuse half an inner unit, and a class together with one."""
    if (layer is None) != (unit is None):
        raise InputError("an inner unit is named by both, layer= and unit=")
    if not (target is None or unit is None):
        raise InputError("give a class (target=) or an inner unit (layer= and unit=), not both")


def unit_values(A, layer, unit):
    """The value (N,) of one unit of a layer's output A, (N, C, h, w) or (N, C).

    :param unit: channel, or (channel, y, x); a channel alone means its largest value in each image
    """
    try:
        index = tuple(map(operator.index, unit if isinstance(unit, tuple | list) else [unit]))
    except TypeError:
        index = ()
    if len(index) not in (1, A.ndim - 1) or not all(0 <= i < n for i, n in zip(index, A.shape[1:], strict=False)):
        what = "channel" if A.ndim == 2 else "channel or (channel, y, x)"
        raise InputError(f"no unit {unit!r} in layer {layer!r}: give {what}, each less than {tuple(A.shape[1:])}")
    return A[(slice(None), *index)].flatten(1).max(1).values if len(index) < A.ndim - 1 else A[(slice(None), *index)]
