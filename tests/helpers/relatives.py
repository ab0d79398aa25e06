"""Another way to Shapley values on a table of scores, to compare the path integral with."""

import math

import torch


def dasp(L, b, c):
    """DASP of the game v(S) = softmax(b + sum_{i in S} L_i)_c.

    Ancona, Oztireli, Gross 2019, arXiv 1903.10992: for each player and each size of coalition, the
    scores of a random coalition of the others are taken as Gaussian, with the mean and the variance
    that they have. The mean of a softmax of independent Gaussian scores is taken by the usual
    approximation, in which each difference of scores shrinks by sqrt(1 + pi / 8 variance).

    :param L: (P, K) float64
    :param b: (K,)
    :return: phi (P,)
    """
    P = len(L)
    sizes = torch.arange(P, dtype=L.dtype)[:, None]
    phi = []
    for i in range(P):
        others = torch.cat([L[:i], L[i + 1 :]])
        n = P - 1
        mean = b + sizes * others.mean(0)
        drawn = sizes * (n - sizes) / max(1, n - 1)  # without replacement
        variance = drawn * others.var(0, unbiased=False)
        gain = _mean_softmax(mean + L[i], variance, c) - _mean_softmax(mean, variance, c)
        phi.append(gain.mean())
    return torch.stack(phi)


def _mean_softmax(mean, variance, c):
    """The mean of softmax(z)_c, (B,), for independent Gaussian scores z, (B, K) each."""
    spread = variance + variance[:, [c]]
    differences = (mean - mean[:, [c]]) / (1 + math.pi / 8 * spread).sqrt()
    differences[:, c] = 0
    return (-differences.logsumexp(1)).exp()
