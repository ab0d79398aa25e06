"""LIME: a linear model that answers as the network does for pictures near this one (Ribeiro, Singh, Guestrin 2016).

The picture is cut into superpixels. Many copies of it, each with some superpixels hidden, go through the network. A
linear model learns the scores from which superpixels were shown; its weights are the explanation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from skimage.segmentation import slic
from sklearn.linear_model import Ridge

from ..engine.contract import check, class_indices, own_grad_mode, run
from ..engine.fast import run_many
from ..errors import InputError, nearest
from ..networks import as_network

HIDDEN, SCORES = ("mean", "grey", "black"), ("probability", "logit")


@dataclass
class Surrogate:
    """The linear model of one image, f ~ b + z w, and what it was fitted to.

    :param segments: (H, W) int, each pixel's superpixel, 0 to n - 1
    :param w: (n,) weights
    :param b: intercept
    :param r2: the share of the score's weighted variance that it explains, NaN where the score never changes
    :param z: (samples, n) bool, what was shown; the first row shows all
    :param f: (samples,) the network's scores
    :param pi: (samples,) the weight of each sample, 0 to 1
    """

    segments: np.ndarray
    w: np.ndarray
    b: float
    r2: float
    z: np.ndarray
    f: np.ndarray
    pi: np.ndarray


def lime(net, x, target=None, segments=50, samples=1000, hidden="mean", score="probability", kernel_width=0.25,
         alpha=1.0, seed=0, batch=64):  # fmt: skip
    """Each superpixel's weight w_i in the surrogate: how much the score gains where superpixel i is shown.

    w, b = argmin sum_z pi(z) (f(z) - b - z w)^2 + alpha |w|^2, where pi(z) = sqrt(exp(-D^2 / kernel_width^2)) and
    D = 1 - sqrt(mean z), the cosine distance between z and the whole picture.

    Source: Ribeiro et al. 2016, arXiv 1602.04938, eq. 1 and 2. Their pi has no root; root, width, ridge and the order
    of the draws are those of their `lime` package. It cuts by quickshift, here SLIC is told how many superpixels to
    start from; smooth pictures end with fewer.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param segments: how many superpixels, roughly; or your own: (H, W) or (N, H, W) integers, one value per superpixel
    :param samples: how many copies of the picture are scored, the whole one among them
    :param hidden: what a hidden superpixel shows: its own "mean" colour, "grey" or "black"
    :param score: what the surrogate learns: the class's "probability", or its "logit"
    :param kernel_width: how fast a sample loses weight with its distance; > 0
    :param alpha: strength of the ridge, >= 0; it draws all weights towards 0, the more the fewer samples there are
    :param seed: of the draws, the same for each image; the caller's random state is left alone
    :param batch: how many samples go through the network at once
    :return: (N, 1, H, W), signed, constant on each superpixel; its attribute `values` holds each image's `Surrogate`
    :raises InputError: see `contract.check`; an option that is unknown or out of range; segments of another size
    """
    for name, given, known in [("hidden", hidden, HIDDEN), ("score", score, SCORES)]:
        if given not in known:
            raise InputError(f"unknown {name} {given!r}; {nearest(given, known)}")
    whole = [("samples", samples, 2), ("batch", batch, 1), ("seed", seed, 0)]
    for name, given, least in whole if np.ndim(segments) else [*whole, ("segments", segments, 2)]:
        if isinstance(given, bool) or not hasattr(given, "__index__") or not least <= given < 2**32:
            raise InputError(f"{name} must be a whole number, {least} or more, not {given!r}")
    if not kernel_width > 0 or not alpha >= 0:
        raise InputError(
            f"kernel_width must be above 0 and alpha not below, not {kernel_width!r} and {alpha!r}"
        )
    net = as_network(net)
    check(net.module, x)
    with own_grad_mode(False):
        targets = class_indices(run(net.module, x.clone()), target, net.classes).tolist()
        values = []
        for one, cut, c in zip(x, _cuts(net, x, segments), targets, strict=True):
            z = (
                np.random.RandomState(seed)
                .randint(0, 2, samples * (cut.max() + 1))
                .reshape(samples, -1)
                > 0
            )
            z[0] = True
            shown = torch.from_numpy(z).to(x.device)
            at, blank = torch.from_numpy(cut).to(x.device), _blank(net, one, cut, hidden)
            S = [
                run_many(net.module, torch.where(some[:, at][:, None], one, blank))
                for some in shown.split(batch)
            ]
            S = torch.cat(S).double()
            f = (S.softmax(1) if score == "probability" else S)[:, c].cpu().numpy()
            pi = np.sqrt(np.exp(-((1 - np.sqrt(z.mean(1))) ** 2) / kernel_width**2))
            values.append(Surrogate(cut, *fit(z, f, pi, alpha), z, f, pi))
        R = torch.stack([torch.from_numpy(one.w[one.segments]) for one in values])[:, None].to(x)
    R.values = values
    return R


def superpixels(picture, n):
    """A picture (H, W, 3) in [0, 1], cut into about n patches of similar colour: (H, W) int, from 0 on."""
    return slic(picture, n, sigma=1, start_label=0)


def fit(z, f, pi, alpha):
    """Weighted ridge regression of f on z, the intercept free: weights w, intercept b and the weighted R^2."""
    # counted from the whole picture's score, so that a score that never changes gives exactly 0
    model = Ridge(alpha).fit(z.astype(float), f - f[0], pi)
    w, b = model.coef_, float(model.intercept_ + f[0])
    variance = pi @ (f - np.average(f, weights=pi)) ** 2
    return w, b, float(1 - pi @ (f - b - z @ w) ** 2 / variance) if variance > 0 else np.nan


def _cuts(net, x, segments):
    """The superpixels of each image, numbered from 0 without gaps."""
    if np.ndim(segments):
        given = np.asarray(segments)
        if (
            given.shape not in (tuple(x.shape[2:]), (len(x), *x.shape[2:]))
            or given.dtype.kind not in "iu"
        ):
            raise InputError(
                f"segments must be a number, or integers of shape {tuple(x.shape[2:])} or {(len(x), *x.shape[2:])}, "
                f"got {given.dtype} {given.shape}"
            )
        cuts = np.broadcast_to(given, (len(x), *x.shape[2:]))
    else:
        cuts = [superpixels(picture, segments) for picture in net.picture(x)]
    return [np.unique(cut, return_inverse=True)[1].reshape(cut.shape) for cut in cuts]


def _blank(net, one, cut, hidden):
    """The image (3, H, W) with every superpixel hidden."""
    if hidden == "mean":
        at, size = torch.from_numpy(cut).to(one.device).flatten(), np.bincount(cut.ravel())
        total = one.new_zeros(3, len(size)).index_add_(1, at, one.flatten(1))
        return (total / torch.from_numpy(size).to(one))[:, at].view_as(one)
    mean, std = (one.new_tensor(v).view(3, 1, 1) for v in (net.mean, net.std))
    return (((0.5 if hidden == "grey" else 0) - mean) / std).expand_as(one)
