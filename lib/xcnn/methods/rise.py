"""RISE: which pixels were shown when the score was high, over many random masks?

Source: Petsiuk, Das, Saenko 2018. The network is a black box: it is only asked for scores.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..engine.contract import isolated, run
from ..engine.fill import filled
from ..engine.many import MAX_SEED, at_once, scores_of_many
from ..engine.progress import progress, timed
from ..engine.target import SCORE_KINDS, one_by_one
from ..engine.wrappers import SCORES
from ..errors import InputError, one_of, whole_number
from ..networks import ready


@dataclass
class RiseValues:
    """What the scores f of one image under random masks M say of each pixel.

    :param R: (H, W) float64, mean of (f - mean f) M / share, an estimate of E[f | M = 1] - E[f]
    :param error: (H, W) float64, its standard error
    :param mean: mean f. The paper's map is R + mean

    >>> values = xcnn.rise_values(net, x, "clock", masks=50)[0]
    >>> tuple(values.R.shape), 0 < values.mean < 1
    ((128, 128), True)
    """

    R: torch.Tensor
    error: torch.Tensor
    mean: float


def rise(
    net,
    x,
    target=None,
    masks=1000,
    grid=7,
    share=0.5,
    seed=0,
    fill="zero",
    score="probability",
):
    """R = 1 / (n share) sum_i (f_i - mean f) M_i over n random masks M_i, f_i = f(x M_i).

    An estimate of E[f | the pixel is shown] - E[f]: positive where showing the pixel raises the
    score. The paper's map, 1 / (n share) sum_i f_i M_i, is an estimate of E[f | the pixel is shown]
    alone, which is positive wherever f is. Its sign says nothing, and it differs from R by nearly
    a constant, E[f]. Source: Petsiuk et al. 2018, arXiv 1806.07421, eq. 6 and section 3.2: each
    mask is a coarse grid of zeros and ones, enlarged bilinearly and shifted at random. How far off
    R is, `rise_values` says.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns, which sees copies of one image at a time
    :param masks: how many, n, 2 or more; the same for each image
    :param grid: cells of a mask along each side
    :param share: of the cells that are shown, between 0 and 1
    :param seed: of the masks; the caller's random state is left alone
    :param fill: what a hidden pixel shows; "zero", 0 in x, is what the authors' code does. Others:
        see `filled`
    :param score: of a class: its "probability", or the "logit"
    :return: (N, 1, H, W), same dtype as x, signed
    :raises InputError: see `ready` and `target_scores`; a number out of range, an unknown fill

    >>> R = xcnn.rise(net, x, "clock", masks=200)
    >>> bool(R[0, 0][torch.from_numpy(scene.mask("clock"))].mean() > R.mean())
    True
    """
    values = rise_values(net, x, target, masks, grid, share, seed, fill, score)
    return torch.stack([v.R for v in values])[:, None].to(x)


def rise_values(
    net,
    x,
    target=None,
    masks=1000,
    grid=7,
    share=0.5,
    seed=0,
    fill="zero",
    score="probability",
):
    """The maps of `rise`, their standard errors, and the mean scores under the masks.

    Arguments and errors as in `rise`.

    :return: list of N `RiseValues`

    >>> few, many = (xcnn.rise_values(net, x, "clock", masks=n)[0] for n in (50, 200))
    >>> bool(many.error.mean() < few.error.mean())
    True
    """
    _check(masks, grid, share, seed, score)
    net, x = ready(net, x, SCORES)
    draw = _Masks(masks, grid, share, seed, x.shape[2:])
    values = []
    with isolated(grad=False):
        out, seconds = timed(lambda: run(net.module, x))
        hidden = filled(net, x, fill)
        targets = one_by_one(out, target, net, len(x))
        runs = len(x) * masks
        with progress(f"RISE: {runs:,} runs", runs, seconds / len(x)) as done:
            for image, its_fill, its_target in zip(x, hidden, targets, strict=True):
                pictures = (
                    M.to(x) * image + (1 - M.to(x)) * its_fill for M in draw.batches(at_once(image))
                )
                f = scores_of_many(net, pictures, its_target, score, done)
                values.append(_summary(f, draw, share))
    return values


def _check(masks, grid, share, seed, score):
    """Raise InputError for an option out of range."""
    one_of("score", score, SCORE_KINDS)
    whole_number("masks", masks, least=2)
    whole_number("grid", grid, least=1)
    whole_number("seed", seed, least=0, most=MAX_SEED)
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"share must be between 0 and 1, not {share!r}")


class _Masks:
    """n random masks (1, H, W), the same ones each time they are asked for."""

    def __init__(self, n, grid, share, seed, size):
        self.n = n
        self.grid = grid
        self.share = share
        self.seed = seed
        self.size = size

    def batches(self, together):
        """Batches (B, 1, H, W) of float64.

        Each mask takes its numbers from a call of its own, so that they do not depend on how many
        come together.
        """
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.n, together):
            count = min(together, self.n - start)
            yield torch.stack([self._draw(generator) for _ in range(count)])

    def _draw(self, generator):
        """One mask: a grid of zeros and ones, enlarged by one cell more, and cut out of that."""
        H, W = self.size
        h, w = (-(-side // self.grid) for side in self.size)  # a cell's sides, rounded up
        form = {"generator": generator, "dtype": torch.float32}  # whatever the caller's default is
        shown = torch.rand(1, 1, self.grid, self.grid, **form) < self.share
        enlarged = F.interpolate(
            shown.double(),
            ((self.grid + 1) * h, (self.grid + 1) * w),
            mode="bilinear",
            align_corners=False,
        )
        top, left = (torch.randint(side, (), generator=generator).item() for side in (h, w))
        return enlarged[0, :, top : top + H, left : left + W]


def _summary(f, draw, share):
    """`RiseValues` of the scores f (n,) under the masks.

    Two sums over the masks: their mean, and then the deviations from it. So the masks are drawn
    again rather than kept.
    """
    together = at_once(torch.empty(draw.size))
    n = len(f)
    mean_mask = sum(M.sum(0) for M in draw.batches(together))[0] / n
    R = torch.zeros(draw.size, dtype=f.dtype)
    squares = torch.zeros(draw.size, dtype=f.dtype)
    for f_part, M in zip((f - f.mean()).split(together), draw.batches(together), strict=True):
        terms = f_part[:, None, None] * (M[:, 0] - mean_mask) / share
        R += terms.sum(0) / n
        squares += terms.square().sum(0) / n
    error = ((squares - R.square()).clamp(min=0) / (n - 1)).sqrt()
    return RiseValues(R, error, f.mean().item())
