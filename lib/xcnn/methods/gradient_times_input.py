"""Gradient times input: what each pixel would add to the score, were the network linear."""

from ..engine.wrappers import GRADIENT
from ..networks import ready
from .gradient import gradient


def gradient_times_input(net, x, target=None):
    """R = x dS_c / dx, pixel by pixel. In a ReLU network without biases R sums to the score S_c.

    Source: Ancona et al. 2018, arXiv 1711.06104, table 1. x is normalised: a pixel of the mean
    colour is 0 and gets nothing, whatever it means.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns
    :return: (N, C, H, W), same dtype as x, signed
    :raises InputError: see `ready` and `target_scores`

    >>> R = xcnn.gradient_times_input(net, x, "clock")
    >>> torch.equal(R, x * xcnn.gradient(net, x, "clock"))
    True
    """
    net, x = ready(net, x, GRADIENT)
    return x * gradient(net, x, target)
