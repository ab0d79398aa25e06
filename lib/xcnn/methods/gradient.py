"""The gradient of a class score with respect to the pixels: saliency.

Source: Simonyan, Vedaldi, Zisserman 2014. Deconvnet and guided backprop are this gradient with
another backward pass at each ReLU. All three share `pixel_gradient`.
"""

import contextlib
import warnings

from ..engine.contract import (
    backward,
    isolated,
    no_gradient_message,
    one_question,
    run,
    unit_values,
)
from ..engine.layers import capture, layer_name, unit_layout
from ..engine.relu import ReLUBackward, ReLUInterceptor
from ..engine.tape import Tape
from ..engine.target import target_scores
from ..engine.wrappers import GRADIENT, INSIDE
from ..networks import ready


def gradient(net, x, target=None, layer=None, unit=None):
    """dS_c / dx: how the score of class c answers a small change of each pixel.

    Source: Simonyan et al. 2014, arXiv 1312.6034, eq. 4 (w = dS_c/dI). Their map is the maximum of
    |w| over the colour channels; this one is signed, for each channel.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns
    :param layer, unit: instead of a target, an inner unit: (channel, y, x) of the layer's maps
        (N, C, h, w), also where its channels lie last; or a channel alone, which means the position
        in each image where this channel is largest; (token, channel) of tokens (N, T, C)
    :return: (N, C, H, W), same dtype as x
    :raises InputError: see `ready` and `target_scores`; unknown layer, a unit that is not in it

    >>> R = xcnn.gradient(net, x, "clock")
    >>> pixels_that_lower_the_score = (R < 0).any(1)
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return pixel_gradient(net, x, target, layer, unit)


def pixel_gradient(net, x, target=None, layer=None, unit=None, rule=None):
    """One map of `pixel_gradients`."""
    return pixel_gradients(net, x, target, layer, unit, [rule])[0]


def pixel_gradients(net, x, target=None, layer=None, unit=None, rules=(None,)):
    """Several gradients of one class score or inner unit with respect to x, from one forward pass.

    Arguments as in `gradient`.

    :param rules: one entry per map. None: the plain gradient. Otherwise a function (g, passed) that
        returns the gradient to send below each ReLU, see `ReLUBackward`
    :return: list of (N, C, H, W), a map for each rule
    """
    one_question(target, layer, unit)
    plain = layer is None and not any(rules)
    net, x = ready(net, x, GRADIENT if plain else INSIDE)
    layer = layer_name(net, layer) if layer is not None else None
    relu_backward = ReLUBackward()
    relus = ReLUInterceptor(relu_backward.watch)
    with isolated(grad=True):
        x = x.clone().requires_grad_()
        with Tape(relus) if any(rules) else contextlib.nullcontext():
            score = _score(net, x, target) if layer is None else output_of(net, x, layer)
        if layer is not None:
            layout = unit_layout(net.module, score, layer, x)
            score = unit_values(layout.maps(score), layer, unit, len(x))
        if any(rules):
            relus.count += relu_backward.watch_unseen(score, net.name)
        maps = []
        for count, rule in enumerate(rules, start=1):
            relu_backward.rule = rule
            maps.append(backward(score, x, no_gradient_message(net), keep_graph=count < len(rules)))
    if any(rules) and not relus.count:
        warnings.warn(f"{net.name} has no ReLU, so this is its plain gradient", stacklevel=4)
    return maps


def _score(net, x, target):
    """The class score (N,), from one forward pass."""
    return target_scores(run(net.module, x), target, net, len(x))


def output_of(net, x, layer):
    """What a layer puts out in one forward pass."""
    with capture(net.module, layer, cut=False) as seen:
        run(net.module, x)
    return seen[0]
