"""Many pictures made of one image: their scores and their gradients, a bounded number at a time."""

import torch

from .contract import backward, no_gradient_message, run
from .fast import run_many
from .target import is_function, repeated, target_scores, target_values
from .wrappers import is_exported

MAX_PIXELS = 64 * 224**2  # of pictures whose scores are asked for at once
# On a CPU more would not fit into its caches: of 64 pictures of 224 x 224, eight at once are 1.5
# times as quick as all for resnet18, 2 times for squeezenet1_1 and mobilenet_v2 (two cores).
MAX_PIXELS_ON_CPU = 8 * 224**2
MAX_PIXELS_OF_GRADIENTS = 8 * 224**2  # the backward pass keeps all maps
COST_OF_GRADIENT = 3  # in forward passes, roughly, for a forecast
MAX_SEED = 2**32 - 1  # NumPy takes no larger one


def at_once(x, most=64, pixels=MAX_PIXELS):
    """How many pictures of the size of x go through a network together.

    :param x: (.., H, W)
    :param most: no more than these
    :param pixels: in all of them, at most; fewer on a CPU

    >>> xcnn.engine.many.at_once(torch.zeros(3, 224, 448))
    4
    """
    if x.device.type == "cpu":
        pixels = min(pixels, MAX_PIXELS_ON_CPU)
    return min(most, max(1, pixels // x.shape[-2:].numel()))


def even_parts(total, together):
    """Sizes of as few parts as possible, nearly equal: a last part of one picture would be slow.

    >>> xcnn.engine.many.even_parts(25, together=24)
    [13, 12]
    """
    parts = -(-total // together)
    return [total // parts + (k < total % parts) for k in range(parts)]


def scores_of_many(net, batches, target, score="logit", done=lambda count: None):
    """The target's value for each of many pictures.

    :param net: `Network`
    :param batches: iterable of (B, C, H, W); each is made when it is needed
    :param target: the settled target of one image
    :param score: of a class, "logit" or "probability"
    :param done: is told how many have run
    :return: (M,) float64, on the CPU: some devices have no float64

    >>> f = xcnn.engine.many.scores_of_many(net, [x, 0 * x], 3, "probability")
    >>> bool((f[0] - net.predict(x)[0, 3]).abs() < 1e-5)
    True
    """
    one_by_one = is_exported(net.module)  # it takes as many images as it was exported for
    values = []
    for pictures in batches:
        for part in pictures.split(1) if one_by_one else [pictures]:
            count = len(part)
            out = run_many(net.module, part)
            values.append(target_values(out, target, net, count, score).cpu().double())
            done(count)
        del pictures, part  # before the next ones are made
    return torch.cat(values)


def gradients_of_many(net, versions, target):
    """dS_c / dx at several versions of the same images.

    :param net: `Network`
    :param versions: (M, N, C, H, W)
    :param target: the settled target of the N images. A function sees one version at a time, and
        so does an exported network
    :return: as versions
    :raises InputError: where the scores do not depend on the pixels

    >>> g = xcnn.engine.many.gradients_of_many(net, torch.stack([x, 0 * x]), [3])
    >>> torch.allclose(g[0], xcnn.gradient(net, x, 3), atol=1e-5)
    True
    """
    if is_function(target) or is_exported(net.module):
        return torch.stack([_gradients(net, version, target) for version in versions])
    targets = repeated(target, len(versions))
    return _gradients(net, versions.flatten(0, 1), targets).unflatten(0, versions.shape[:2])


def _gradients(net, x, target):
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        S_c = target_scores(run(net.module, x), target, net, len(x))
        return backward(S_c, x, no_gradient_message(net))
