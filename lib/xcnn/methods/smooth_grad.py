"""SmoothGrad: the mean gradient over noisy copies of the picture.

Source: Smilkov, Thorat, Kim, Viegas, Wattenberg 2017. The gradient changes wildly between pictures
that look the same. Its mean over such pictures does not.
"""

import math

import torch

from ..engine.contract import isolated, run
from ..engine.many import (
    COST_OF_GRADIENT,
    MAX_PIXELS_OF_GRADIENTS,
    MAX_SEED,
    at_once,
    even_parts,
    gradients_of_many,
)
from ..engine.progress import progress, timed
from ..engine.target import settled
from ..engine.wrappers import GRADIENT
from ..errors import InputError, whole_number
from ..networks import ready


def smooth_grad(net, x, target=None, noise=0.15, samples=25, seed=0, squared=False):
    """R = mean over n samples of dS_c/dx at x + sigma g, where g is standard Gaussian noise.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 2. squared=True: the mean of the squares
    of dS_c/dx, SmoothGrad-Squared of Hooker et al. 2019, arXiv 1806.10758, section 4.1, which has
    lost its sign.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class, that of x
        without noise; `versus`; or a function of what the network returns
    :param noise: sigma / (max x - min x) of each image, >= 0. The paper advises 0.1 to 0.2
    :param samples: noisy copies of each image
    :param seed: of the noise, the same for each image; the caller's random state is left alone
    :param squared: average squares
    :return: (N, C, H, W), same dtype as x
    :raises InputError: see `ready` and `target_scores`; a number out of range

    >>> R = xcnn.smooth_grad(net, x, "clock", noise=0, samples=2)
    >>> torch.allclose(R, xcnn.gradient(net, x, "clock"), atol=1e-5)
    True
    """
    _check(noise, samples, seed)
    net, x = ready(net, x, GRADIENT)
    sigma = noise * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(seed)
    with isolated(grad=False):
        out, seconds = timed(lambda: run(net.module, x))
        target = settled(out, target, net, len(x))
        runs = samples * len(x)
        total = torch.zeros_like(x)
        cost = COST_OF_GRADIENT * seconds / len(x)
        with progress(f"SmoothGrad: {runs:,} gradients", runs, cost) as done:
            together = at_once(x, pixels=MAX_PIXELS_OF_GRADIENTS // len(x))
            for count in even_parts(samples, together):
                g = _noise(x, count, generator)
                dx = gradients_of_many(net, x + sigma * g, target)
                total += (dx.square() if squared else dx).sum(0)
                done(count * len(x))
        return total / samples


def _check(noise, samples, seed):
    """Raise InputError for a number out of range."""
    whole_number("samples", samples, least=1)
    whole_number("seed", seed, least=0, most=MAX_SEED)
    if not isinstance(noise, int | float) or not 0 <= noise < math.inf:
        raise InputError(f"noise must be a number, 0 or more, not {noise!r}")


def _noise(x, count, generator):
    """Standard Gaussian noise (count, 1, C, H, W).

    Each sample is drawn by a call of its own, so that the numbers do not depend on how many run
    together.
    """
    form = {"generator": generator, "dtype": torch.float32}  # whatever the caller's default is
    draws = [torch.randn(x.shape[1:], **form) for _ in range(count)]
    return torch.stack(draws)[:, None].to(x)
