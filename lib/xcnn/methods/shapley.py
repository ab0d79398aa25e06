"""Shapley values of a finite game: what each player's presence is worth, averaged over all orders of arrival.

A game is a function v of coalitions. Here v takes many coalitions at once, a bool tensor (B, n) with a row for each
coalition and a column for each player, and returns their values: (B,), or (B, K) for K games at once.
"""

import math

import numpy as np
import torch

from ..engine.contract import own_grad_mode
from ..errors import InputError

MOST = 20  # players of which every coalition is tried: 2^20 are a million


def exact(v, n, batch=8192):
    """phi_i = sum over coalitions S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)), over all 2^n coalitions.

    Source: Shapley 1953, doi 10.1515/9781400881970-018.

    :param v: (B, n) bool -> (B,) or (B, K)
    :param n: number of players, 1 to 20
    :param batch: coalitions per call of v
    :return: phi (n,) or (n, K) float64
    :raises InputError: n out of range, a v that returns something else
    """
    if not 1 <= n <= MOST:
        raise InputError(
            f"{n} players have 2^{n} coalitions; exact values are for 1 to {MOST}: use permutations()"
        )
    codes = torch.arange(2**n)
    players = torch.arange(n)
    V = torch.cat([_values(v, (part[:, None] >> players) & 1 == 1) for part in codes.split(batch)])
    size = sum((codes >> i) & 1 for i in range(n))
    weight = torch.tensor([1 / (n * math.comb(n - 1, s)) for s in range(n)], dtype=torch.float64)
    phi = []
    for i in range(n):
        without = codes[(codes >> i) & 1 == 0]
        gain = V[without + 2**i] - V[without]
        phi.append(torch.tensordot(weight[size[without]], gain, 1))
    return torch.stack(phi)


def permutations(v, n, samples, seed=0, sobol=False, batch=8192):
    """Estimates of the Shapley values: the mean gain of each player over random orders of arrival.

    Unbiased; sum phi = v(all) - v(none) holds exactly. Source: Castro, Gomez, Tejada 2009,
    doi 10.1016/j.cor.2008.04.004, section 3.

    :param v: (B, n) bool -> (B,) or (B, K)
    :param n: number of players
    :param samples: number of orders, 2 or more; each needs n + 1 coalitions
    :param seed: of the orders; the caller's random state is left alone
    :param sobol: draw the orders from a Sobol sequence, which covers them more evenly; the error then is smaller than
        the standard error says
    :param batch: coalitions per call of v, about
    :return: phi and its standard error, each (n,) or (n, K) float64
    :raises InputError: fewer than one player or two samples, a v that returns something else
    """
    if n < 1 or samples < 2:
        raise InputError(
            f"at least 1 player and 2 samples are needed, got n={n} and samples={samples}"
        )
    if sobol:
        points = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed).draw(samples)
    else:
        points = torch.rand(samples, n, generator=torch.Generator().manual_seed(seed))
    orders = points.argsort(1)
    total = squares = 0
    for order in orders.split(max(1, batch // (n + 1))):
        gain = gains(v, order)
        total, squares = total + gain.sum(0), squares + gain.square().sum(0)
    phi = total / samples
    variance = (squares - samples * phi.square()).clamp(min=0) / (samples - 1)
    return phi, (variance / samples).sqrt()


def gains(v, order):
    """What each player adds to v when it arrives: order (B, n) of player numbers -> (B, n) or (B, n, K), by player."""
    B, n = order.shape
    arrival = order.argsort(1)  # arrival[b, i]: how many were there before player i
    present = (
        arrival[:, None, :] < torch.arange(n + 1)[:, None]
    )  # (B, n + 1, n): the first 0, 1, ..., n players
    V = _values(v, present.flatten(0, 1)).unflatten(0, (B, n + 1))
    step = V.diff(dim=1)  # by order of arrival
    index = arrival.view(B, n, *[1] * (step.ndim - 2)).expand_as(step)
    return step.gather(1, index)


def _values(v, coalitions):
    V = torch.as_tensor(v(coalitions))
    if V.ndim not in (1, 2) or len(V) != len(coalitions):
        raise InputError(
            f"v must return one value (or one row) for each of {len(coalitions)} coalitions, got {V.shape}"
        )
    return V.detach().cpu().double()


def path(L, b, c, order=2, nodes=16):
    """Shapley values of v(S) = softmax(b + sum_{i in S} L_i)_c by Owen's path integral, to first or second order.

    phi_i = integral over q from 0 to 1 of dF/dx_i at x = (q, ..., q), where F(x) is the mean of v(S) when i is in S
    with probability x_i (Owen 1972, doi 10.1287/mnsc.18.5.64). F by the delta method, with z = b + sum_j x_j L_j,
    p = softmax(z), M_jk = L_jk - L_jc:
    F(x) = p_c + 1/2 sum_j x_j (1 - x_j) p_c (2 (M p)_j^2 - (M^2 p)_j). What is missing to v(all) - v(none) is spread.

    :param L: (P, K) float64 table; b: (K,); c: the class; order: 1 or 2
    :return: phi (P,) of that order, and delta = |integral of |correction of dF/dx_i| dq| / |phi2|, how much the second
        order corrects the first along the path; corrections of opposite sign do not cancel
    """
    q, weight = (torch.as_tensor(v).to(L) for v in _legendre(nodes))
    M = L - L[:, [c]]
    with own_grad_mode(True):
        x = q[:, None].repeat(1, len(L)).requires_grad_()
        p = (b + x @ L).softmax(1)
        m1, m2 = p @ M.T, p @ M.square().T
        p_c = p[:, c]
        second = (x * (1 - x) * (2 * m1.square() - m2)).sum(1) * p_c / 2
        (d1,) = torch.autograd.grad(p_c.sum(), x, retain_graph=True)
        (d2,) = torch.autograd.grad(second.sum(), x)
    ends = torch.stack([b, b + L.sum(0)]).softmax(1)[:, c]
    phi1, phi2 = (_spread(weight @ d, ends[1] - ends[0]) for d in (d1, d1 + d2))
    delta = (weight @ d2.abs()).norm() / phi2.norm().clamp(min=1e-300)
    return (phi1, phi2)[order - 1], delta.item()


def _legendre(nodes):
    """Gauss-Legendre nodes and weights on [0, 1]."""
    q, weight = np.polynomial.legendre.leggauss(nodes)
    return (q + 1) / 2, weight / 2


def _spread(phi, total):
    """phi, changed in proportion to |phi| so that it sums to total."""
    return phi + (total - phi.sum()) * phi.abs() / phi.abs().sum().clamp(min=1e-300)
