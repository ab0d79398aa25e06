"""Deconvnet: a unit's activity projected back to the pixels (Zeiler and Fergus 2014).

Each layer is undone in turn: unpool by the switches, rectify, filter with the transposed filters.
The gradient uses the same switches and transposed filters. Only the rectification differs: in a
deconvnet, a ReLU looks at the value g that comes back to it, and not at its own input x. So a
deconvnet is the gradient in which g passes a ReLU where g > 0.
"""

import torch

from .gradient import pixel_gradient


def deconv_rule(g, passed):
    """The backward pass of a ReLU: a ReLU of g, in the memory of what the derivative passed."""
    return torch.clamp(g, min=0, out=passed)


def deconvnet(net, x, target=None, layer=None, unit=None):
    """The deconvnet projection of a class score, or of an inner unit, to the pixels.

    Source: Zeiler, Fergus 2014, arXiv 1311.2901, section 2.1; as a rule for the gradient:
    Springenberg et al. 2015, arXiv 1412.6806, section 3.4. Max pooling goes back through its
    switches as in the gradient. Where windows overlap and share a switch, their values add up
    (`max_unpool2d` would keep only one). Units that are not ReLUs (SiLU, GELU, Hardswish, ...) keep
    their derivative. A network without any ReLU gives the plain gradient, with a warning.

    The projection starts from 1, not from the unit's value: multiply by it for the projection of
    the activity. In deep networks the values grow so large that their squares overflow float32;
    `energy_concentration` takes care of that.

    Arguments, shape and errors as in `gradient`.

    >>> R = xcnn.deconvnet(net, x, layer="layer2", unit=5)
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return pixel_gradient(net, x, target, layer, unit, deconv_rule)
