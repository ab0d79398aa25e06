"""Occlusion: cover a part of the picture, and see by how much the score falls.

Source: Zeiler and Fergus 2014. A square window moves over the picture.
"""

import math

import numpy as np
import torch

from ..engine.contract import isolated, run
from ..engine.fill import filled
from ..engine.many import at_once, scores_of_many
from ..engine.progress import progress, timed
from ..engine.target import SCORE_KINDS, one_by_one
from ..engine.wrappers import SCORES
from ..errors import InputError, one_of, whole_number
from ..networks import ready

WINDOWS = 7  # of the default side, along the shorter side of the picture


def occlusion(net, x, target=None, side=None, step=None, fill="grey", score="logit"):
    """R = mean of f(x) - f(x, window covered) over the windows that cover the pixel.

    f is the score S_c. Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2, who cover by
    grey, and show f at the middle of the covered window. The mean fall over all windows on a pixel
    is captum's form of it. It has the picture's size and a sign: positive where covering lowers the
    score.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns, which sees copies of one image at a time
    :param side: of the window in pixels, or (rows, columns); None: a seventh of the picture's
        shorter side
    :param step: by which it moves, likewise, at most its side; None: half the window's side. The
        last window of a row may reach over the edge
    :param fill: what covers: "grey", "black", "white", "mean", "blur", "zero", see `filled`; or a
        tensor (C, H, W)
    :param score: of a class: "logit", or its "probability"
    :return: (N, 1, H, W), same dtype as x, signed
    :raises InputError: see `ready` and `target_scores`; a side or step out of range, an unknown
        fill or score

    >>> R = xcnn.occlusion(net, x, "clock", side=32)
    >>> bool(R[0, 0][torch.from_numpy(scene.mask("clock"))].mean() > R.mean())
    True
    """
    one_of("score", score, SCORE_KINDS)
    net, x = ready(net, x, SCORES)
    maps = []
    with isolated(grad=False):
        out, seconds = timed(lambda: run(net.module, x))
        windows = _windows(x.shape[2:], side, step)
        covers = filled(net, x, fill)
        targets = one_by_one(out, target, net, len(x))
        runs = len(x) * len(windows)
        with progress(f"occlusion: {runs:,} runs", runs, seconds / len(x)) as done:
            for image, cover, its_target in zip(x, covers, targets, strict=True):
                pictures = _covered(image, cover, windows)
                f = scores_of_many(net, pictures, its_target, score, done)
                maps.append(_mean_fall(f, windows, x.shape[2:]))
    return torch.stack(maps)[:, None].to(x)


def _windows(size, side, step):
    """The windows as (rows, columns), two slices each; the first covers nothing."""
    sides = _pair("side", max(1, round(min(size) / WINDOWS)) if side is None else side, size)
    steps = _pair(
        "step", [max(1, length // 2) for length in sides] if step is None else step, sides
    )
    rows, columns = (
        [slice(k * by, k * by + length) for k in range(math.ceil((whole - length) / by) + 1)]
        for whole, length, by in zip(size, sides, steps, strict=True)
    )
    return [(slice(0, 0), slice(0, 0)), *((row, column) for row in rows for column in columns)]


def _pair(name, value, most):
    """A number for rows and one for columns, each from 1 to the most there can be."""
    values = [value, value] if np.ndim(value) == 0 else list(value)
    if len(values) != 2:
        raise InputError(f"{name} is a number of pixels, or (rows, columns), not {value!r}")
    return [whole_number(name, v, least=1, most=end) for v, end in zip(values, most, strict=True)]


def _covered(image, cover, windows):
    """Batches of an image (C, H, W), each copy with another window covered."""
    together = at_once(image)
    for start in range(0, len(windows), together):
        part = windows[start : start + together]
        pictures = image.repeat(len(part), 1, 1, 1)
        for picture, (rows, columns) in zip(pictures, part, strict=True):
            picture[:, rows, columns] = cover[:, rows, columns]
        yield pictures


def _mean_fall(f, windows, size):
    """The mean of f[0] - f over the windows on each pixel, (H, W) float64."""
    total = torch.zeros(size, dtype=f.dtype)
    count = torch.zeros(size, dtype=f.dtype)
    for fall, (rows, columns) in zip(f[0] - f, windows, strict=True):
        total[rows, columns] += fall
        count[rows, columns] += 1
    return total / count
