"""LIME: a linear model that answers as the network does for pictures near this one.

Source: Ribeiro, Singh, Guestrin 2016. The picture is cut into superpixels. Many copies of it, each
with some superpixels hidden, go through the network. A linear model learns the scores from which
superpixels were shown. Its weights are the explanation.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..engine import wrappers
from ..engine.contract import isolated, run
from ..engine.many import MAX_SEED, at_once, scores_of_many
from ..engine.progress import progress, timed
from ..engine.target import SCORE_KINDS, one_by_one
from ..errors import InputError, one_of, whole_number
from ..networks import ready
from ..packages import imported

HIDDEN = ("mean", "grey", "black")
GREY = {"grey": 0.5, "black": 0}  # what a hidden pixel shows, from 0 (black) to 1 (white)
MAX_CUT_PIXELS = 2**20  # of a picture that SLIC cuts: it takes 60 bytes and 5 microseconds for each
SLACK = 0.01  # of white: what rounding may add to a colour


@dataclass
class Surrogate:
    """The linear model of one image, f ~ b + z w, and what it was fitted to.

    :param segments: (H, W) int, each pixel's superpixel, 0 to n - 1
    :param w: (n,) weights
    :param b: intercept
    :param r2: the share of the score's weighted variance that the model explains, NaN where the
        score never changes
    :param z: (samples, n) bool, what was shown; the first row shows all
    :param f: (samples,) the network's scores
    :param pi: (samples,) the weight of each sample, 0 to 1

    >>> surrogate = xcnn.lime_surrogates(net, x, "clock", segments=9, samples=20)[0]
    >>> surrogate.z.shape == (20, len(surrogate.w))
    True
    """

    segments: np.ndarray
    w: np.ndarray
    b: float
    r2: float
    z: np.ndarray
    f: np.ndarray
    pi: np.ndarray


def lime(
    net,
    x,
    target=None,
    segments=50,
    samples=1000,
    hidden="mean",
    score="probability",
    kernel_width=0.25,
    alpha=1.0,
    seed=0,
    batch=64,
):
    """Each superpixel's weight w_i in the surrogate: how much the score gains where it is shown.

    w, b = argmin sum_z pi(z) (f(z) - b - z w)^2 + alpha |w|^2, where pi(z) =
    sqrt(exp(-D^2 / kernel_width^2)) and D = 1 - sqrt(mean z), the cosine distance between z and the
    whole picture.

    Source: Ribeiro et al. 2016, arXiv 1602.04938, eq. 1 and 2. Their pi has no root; root, width,
    ridge and the order of the draws are those of their `lime` package. It cuts by quickshift. Here
    SLIC is told how many superpixels to start from; smooth pictures end with fewer.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns
    :param segments: how many superpixels, roughly, found in a reduced copy of a picture that has
        more than a million pixels; or your own: (H, W) or (N, H, W) integers, one value per
        superpixel
    :param samples: how many copies of the picture are scored, the whole one among them
    :param hidden: what a hidden superpixel shows: its own "mean" colour, "grey" or "black"
    :param score: what the surrogate learns of a class: its "probability", or its "logit". What
        `versus` or a function gives is learned as it is
    :param kernel_width: how fast a sample loses weight with its distance; > 0
    :param alpha: strength of the ridge, >= 0; it pulls all weights towards 0, more strongly with
        fewer samples
    :param seed: of the random draws, the same for each image, below 2^32; the caller's random state
        is left alone
    :param batch: how many samples go through the network at once, at most; of a large picture
        fewer do, so that memory stays bounded
    :return: (N, 1, H, W), signed, constant on each superpixel
    :raises InputError: see `ready`; an option that is unknown or out of range; segments of another
        size

    >>> halves = np.arange(128)[None].repeat(128, 0) // 64  # left 0, right 1
    >>> R = xcnn.lime(net, x, "clock", segments=halves, samples=50)
    >>> R[0, 0].unique().numel()
    2
    """
    surrogates = lime_surrogates(
        net, x, target, segments, samples, hidden, score, kernel_width, alpha, seed, batch
    )
    maps = [torch.from_numpy(surrogate.w[surrogate.segments]) for surrogate in surrogates]
    return torch.stack(maps)[:, None].to(x)


def lime_surrogates(
    net,
    x,
    target=None,
    segments=50,
    samples=1000,
    hidden="mean",
    score="probability",
    kernel_width=0.25,
    alpha=1.0,
    seed=0,
    batch=64,
):
    """The linear model of each image, and what it was fitted to.

    Arguments and errors as in `lime`, which draws these models.

    :return: list of N `Surrogate`

    >>> surrogate = xcnn.lime_surrogates(net, x, "clock", segments=9, samples=50)[0]
    >>> best = surrogate.segments == surrogate.w.argmax()
    >>> bool(scene.mask("clock")[best].mean() > 0.2)
    True
    """
    one_of("hidden", hidden, HIDDEN)
    one_of("score", score, SCORE_KINDS)
    _check_numbers(segments, samples, batch, seed, kernel_width, alpha)
    net, x = ready(net, x, wrappers.SCORES)
    surrogates = []
    with isolated(grad=False):
        out, seconds = timed(lambda: run(net.module, x))
        targets = one_by_one(out, target, net, len(x))
        runs = len(x) * samples
        with progress(f"LIME: {runs:,} runs", runs, seconds / len(x)) as done:
            for image, cut, its_target in zip(x, _cuts(net, x, segments), targets, strict=True):
                z = _draws(samples, cut.max() + 1, seed)
                pictures = _altered(net, image, cut, z, hidden, batch)
                f = scores_of_many(net, pictures, its_target, score, done).numpy()
                pi = np.sqrt(np.exp(-((1 - np.sqrt(z.mean(1))) ** 2) / kernel_width**2))
                surrogates.append(Surrogate(cut, *fit(z, f, pi, alpha), z, f, pi))
    return surrogates


def _check_numbers(segments, samples, batch, seed, kernel_width, alpha):
    """Raise InputError for a number out of range."""
    whole_number("samples", samples, least=2)
    whole_number("batch", batch, least=1)
    whole_number("seed", seed, least=0, most=MAX_SEED)
    if not np.ndim(segments):
        whole_number("segments", segments, least=2, most=MAX_SEED)
    if not kernel_width > 0 or not alpha >= 0:
        raise InputError(
            f"kernel_width must be above 0 and alpha not below, not {kernel_width!r} and {alpha!r}"
        )


def _draws(samples, superpixels, seed):
    """Which superpixels each sample shows, (samples, superpixels) bool. The first shows all."""
    draws = np.random.RandomState(seed).randint(0, 2, samples * superpixels)
    z = draws.reshape(samples, superpixels) > 0
    z[0] = True
    return z


def _altered(net, image, cut, z, hidden, batch):
    """Batches of copies of an image (C, H, W), in which the superpixels not in z are hidden."""
    z = torch.from_numpy(z).to(image.device)
    superpixel = torch.from_numpy(cut).to(image.device)
    colours = _hidden_colours(net, image, cut, hidden)
    for rows in z.split(at_once(image, batch)):
        shown = rows[:, superpixel]
        # Channel by channel, and in the memory that `run_many` wants: of a large picture a second
        # copy would count.
        size = (len(rows), *image.shape)
        pictures = torch.empty(
            size, dtype=image.dtype, device=image.device, memory_format=torch.channels_last
        )
        for c, values in enumerate(image):
            pictures[:, c] = torch.where(shown, values, colours[c][superpixel])
        yield pictures


def superpixels(picture, n):
    """A picture, cut into about n patches of similar colour.

    :param picture: (H, W, 3) in [0, 1]
    :return: (H, W) int, from 0 on
    """
    segmentation = imported("skimage.segmentation", "cutting a picture (segments= takes your own)")
    return segmentation.slic(picture, n, sigma=1, start_label=0)


def fit(z, f, pi, alpha):
    """Weighted ridge regression of f on z, the intercept free.

    :return: weights w, intercept b and the weighted R^2
    """
    linear_model = imported("sklearn.linear_model", "LIME")
    # Scores are counted from the whole picture's. So a score that never changes gives exactly 0.
    model = linear_model.Ridge(alpha).fit(z.astype(float), f - f[0], pi)
    w = model.coef_
    b = float(model.intercept_ + f[0])
    variance = pi @ (f - np.average(f, weights=pi)) ** 2
    error = pi @ (f - b - z @ w) ** 2
    return w, b, float(1 - error / variance) if variance > 0 else np.nan


def _cuts(net, x, segments):
    """The superpixels of each image, numbered from 0 without gaps."""
    if np.ndim(segments):
        cuts = _own_cuts(np.asarray(segments), x)
    else:
        cuts = [_cut(net, image, segments) for image in x]
    return [np.searchsorted(np.unique(cut), cut) for cut in cuts]


def _cut(net, image, n):
    """The superpixels of an image (C, H, W), about n: (H, W). SLIC sees a reduced large picture."""
    H, W = image.shape[1:]
    step = math.ceil(math.sqrt(H * W / MAX_CUT_PIXELS))
    if step > 1:
        image = image.to(torch.promote_types(image.dtype, torch.float32))
        image = F.avg_pool2d(image, step, ceil_mode=True)
    cut = superpixels(_shown(net, image), n)
    return cut.repeat(step, 0).repeat(step, 1)[:H, :W]


def _own_cuts(segments, x):
    """The caller's superpixels, (N, H, W)."""
    for_all = tuple(x.shape[2:])
    for_each = (len(x), *for_all)
    if segments.shape not in (for_all, for_each) or segments.dtype.kind not in "iu":
        raise InputError(
            f"segments must be a number, or integers of shape {for_all} or {for_each}, "
            f"got {segments.dtype} {segments.shape}"
        )
    return np.broadcast_to(segments, for_each)


def _shown(net, image):
    """An image (C, H, W) as a picture (H, W, 3), for the eye of SLIC.

    Where x was not normalised as the net is, its colours leave [0, 1], and the picture would be
    white: there they are scaled.
    """
    black, white = (net.normalise(grey).to(image) for grey in (0, 1))
    colours = (image - black) / (white - black)
    low, high = colours.min(), colours.max()
    if low < -SLACK or high > 1 + SLACK:
        image = black + (white - black) * (colours - low) / (high - low)
    return net.picture(image[None])[0]


def _hidden_colours(net, image, cut, hidden):
    """What each hidden superpixel shows, (C, n)."""
    pixels = np.bincount(cut.ravel())
    if hidden != "mean":
        return net.normalise(GREY[hidden]).view(-1, 1).to(image).expand(-1, len(pixels))
    channels = image.to(torch.promote_types(image.dtype, torch.float32)).cpu().numpy()
    means = [np.bincount(cut.ravel(), values.ravel()) / pixels for values in channels]
    return torch.from_numpy(np.stack(means)).to(image)
