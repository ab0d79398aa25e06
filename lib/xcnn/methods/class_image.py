"""The class image: the picture that a class of a network likes best.

Source: Simonyan, Vedaldi, Zisserman 2014, section 2; for inner units Erhan et al. 2009. It explains
the class, or the unit, and not an answer to a picture: it begins with a picture that shows nothing,
and climbs.
"""

import math

import torch

from ..engine.contract import (
    backward,
    isolated,
    no_gradient_message,
    one_question,
    run,
    unit_values,
)
from ..engine.fill import blurred
from ..engine.layers import layer_name, unit_layout
from ..engine.many import COST_OF_GRADIENT, MAX_SEED
from ..engine.progress import progress, timed
from ..engine.target import settled, target_scores
from ..errors import InputError, whole_number
from ..networks import as_network, ready
from .gradient import output_of


def class_image(
    net,
    target=None,
    size=None,
    steps=96,
    decay=1e-4,
    rate=0.05,
    jitter=0,
    blur=0.0,
    seed=0,
    layer=None,
    unit=None,
):
    """I = argmax S_c(I) - decay |I|^2, by gradient ascent from the mean picture, I = 0.

    Source: Simonyan et al. 2014, arXiv 1312.6034, eq. 1; Erhan et al. 2009, "Visualizing
    higher-layer features of a deep network", section 3.1. jitter and blur are two of the mild
    regularisers that Olah et al. 2017, doi 10.23915/distill.00007, describe. Each step moves the
    pixels by `rate` on average (root mean square), less and less to the end; colours stay between
    black and white. Where nothing tells which way is up, as for a unit whose ReLU is shut, a step
    goes in a random direction. The score of the class rises, which does not mean that it becomes
    the largest: another class may rise more.

    :param net: `Network` or nn.Module, in eval mode
    :param target: class index or name; `versus`; or a function of what the network returns
    :param size: side of the picture in pixels; None: the network's own
    :param steps: of the ascent, 1 or more
    :param decay: strength of the penalty on |I|^2, the sum over all normalised pixels, >= 0
    :param rate: of the first step, in normalised pixels, >= 0
    :param jitter: before each step the picture is rolled at random by up to so many pixels
    :param blur: after each step it is blurred by a Gaussian of this standard deviation in pixels;
        less and less, as the steps become smaller
    :param seed: of the jitter and of steps at random; the caller's random state is left alone
    :param layer, unit: instead of a target, an inner unit, as in `gradient`
    :return: the picture (1, C, H, W), normalised, and the path: the score (of a unit its value)
        before each step and at the end, a list of steps + 1 numbers
    :raises InputError: see `ready` and `target_scores`; without a target or unit; a number out of
        range

    >>> picture, path = xcnn.class_image(net, "clock", steps=32)
    >>> path[-1] > path[0] + 10, net.predict(picture)[0, 3].item() > 0.99
    (True, True)
    """
    if target is None and layer is None and unit is None:
        raise InputError("a class image needs a class (target=) or an inner unit (layer=, unit=)")
    one_question(target, layer, unit)
    _check(size, steps, decay, rate, jitter, blur, seed)
    net, image = ready(net, _mean_picture(as_network(net), size))
    layer = layer_name(net, layer) if layer is not None else None
    generator = torch.Generator().manual_seed(seed)
    path = []
    with isolated(grad=True):
        ascent = _Ascent(net, image, target, layer, unit)
        _, seconds = timed(lambda: ascent.score(image))
        with progress(f"class image: {steps} steps", steps, COST_OF_GRADIENT * seconds) as done:
            for step in range(steps):
                slope = 1 - step / steps
                shift = _shift(jitter, generator)
                score, g = ascent.gradient(image, shift)
                path.append(score)
                if not g.any():
                    g = torch.randn(image.shape, generator=generator, dtype=torch.float32).to(image)
                image = ascent.moved(image, g - 2 * decay * image, rate * slope)
                image = blurred(image, blur * slope)
                done(1)
        path.append(ascent.score(image).item())
    return image, path


def _check(size, steps, decay, rate, jitter, blur, seed):
    """Raise InputError for a number out of range."""
    if size is not None:
        whole_number("size", size, least=1)
    whole_number("steps", steps, least=1)
    whole_number("jitter", jitter, least=0)
    whole_number("seed", seed, least=0, most=MAX_SEED)
    for name, value in {"decay": decay, "rate": rate, "blur": blur}.items():
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number, 0 or more, not {value!r}")


def _mean_picture(net, size):
    """0 in every normalised pixel, (1, C, H, W)."""
    side = net.size if size is None else size
    weight = next(net.module.parameters(), torch.empty(0))
    return torch.zeros(1, net.channels, side, side).to(weight)


def _shift(jitter, generator):
    """By how many rows and columns the picture is rolled."""
    if not jitter:
        return [0, 0]
    return torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()


class _Ascent:
    """A class or an inner unit of a network, and the way up to where it is largest."""

    def __init__(self, net, image, target, layer, unit):
        self.net = net
        self.layer = layer
        self.unit = unit
        self.target = target
        if layer is None:
            self.target = settled(run(net.module, image), target, net, 1)
        self.darkest, self.brightest = (net.normalise(shade).to(image) for shade in (0, 1))

    def score(self, image):
        """The score of the class, or the value of the unit: (1,)."""
        if self.layer is None:
            return target_scores(run(self.net.module, image), self.target, self.net, 1)
        A = output_of(self.net, image, self.layer)
        layout = unit_layout(self.net.module, A, self.layer, image)
        return unit_values(layout.maps(A), self.layer, self.unit, 1)

    def gradient(self, image, shift):
        """The score of the picture, rolled by this shift, and its gradient."""
        image = image.detach().requires_grad_()
        score = self.score(image.roll(shift, (2, 3)))
        return score.item(), backward(score, image, no_gradient_message(self.net))

    def moved(self, image, direction, length):
        """The picture, moved uphill by `length` (root mean square), its colours kept possible."""
        size = direction.square().mean().sqrt()
        if size > 0:
            image = image + length * direction / size
        return torch.minimum(torch.maximum(image, self.darkest), self.brightest)
