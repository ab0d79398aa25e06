"""Shapley values of a finite game: what the presence of each player is worth.

A game is a function v of coalitions. Here v takes many coalitions at once, a bool tensor (B, n)
with a row for each coalition and a column for each player, and returns their values: (B,), or
(B, K) for K games at once. A game that knows a quicker way along an order of arrival may have a
method `along`, see `values_along`.
"""

import math

import numpy as np
import torch

from ..engine.contract import isolated
from ..errors import InputError, one_of

ORDERS = ("random", "paired", "sobol")
MAX_PLAYERS = 20  # of whom every coalition is tried: 2^20 are a million
TINY = 1e-300  # in place of a sum of 0 in a denominator


def exact(v, n, batch=8192):
    """phi_i = sum over coalitions S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)).

    The sum runs over all 2^n coalitions. Source: Shapley 1953, doi 10.1515/9781400881970-018.

    :param v: (B, n) bool -> (B,) or (B, K)
    :param n: number of players, 1 to 20
    :param batch: coalitions per call of v
    :return: phi (n,) or (n, K) float64
    :raises InputError: n out of range, a v that returns something else

    >>> def needs_both(S):
    ...     return (S[:, 0] & S[:, 1]).float()
    >>> xcnn.methods.shapley.exact(needs_both, 3).tolist()
    [0.5, 0.5, 0.0]
    """
    if not 1 <= n <= MAX_PLAYERS:
        raise InputError(
            f"{n} players have 2^{n} coalitions; "
            f"exact values are for 1 to {MAX_PLAYERS}: use permutations()"
        )
    codes = torch.arange(2**n)  # of coalitions: bit i says whether player i is in
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


def permutations(v, n, samples, seed=0, orders="random", batch=8192):
    """Estimates of the Shapley values: the mean gain of each player over random orders of arrival.

    Unbiased; sum phi = v(all) - v(none) holds exactly. Source: Castro, Gomez, Tejada 2009,
    doi 10.1016/j.cor.2008.04.004, section 3; for pairs Mitchell et al. 2022, arXiv 2104.12199,
    section 4.1.

    :param v: (B, n) bool -> (B,) or (B, K)
    :param n: number of players
    :param samples: number of orders, 2 or more; each needs n + 1 coalitions
    :param seed: of the orders; the caller's random state is left alone
    :param orders: "random"; "paired", each followed by its reverse (an even number, 4 or more):
        what one gets wrong the other often gets wrong in the other direction; "sobol", from a Sobol
        sequence, which covers them more evenly: the error then is smaller than the standard error
        says
    :param batch: coalitions per call of v, about
    :return: phi and its standard error, each (n,) or (n, K) float64
    :raises InputError: fewer than one player or two samples, other orders, a v that returns
        something else

    >>> phi, error = xcnn.methods.shapley.permutations(lambda S: S.sum(1).double(), 3, samples=10)
    >>> phi.tolist(), error.tolist()  # each player adds 1, whatever the order
    ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    """
    one_of("orders", orders, ORDERS)
    if n < 1 or samples < 2:
        raise InputError(
            f"at least 1 player and 2 samples are needed, got n={n} and samples={samples}"
        )
    together = 2 if orders == "paired" else 1  # orders whose mean is one independent draw
    if together == 2 and (samples < 4 or samples % 2):
        raise InputError(f"paired orders are an even number, 4 or more, not {samples}")
    total = 0
    squares = 0
    draws = samples // together
    for order in _orders(n, draws, seed, orders).split(max(1, batch // (together * (n + 1)))):
        gain = gains(v, order)
        if together == 2:
            gain = (gain + gains(v, order.flip(1))) / 2
        total = total + gain.sum(0)
        squares = squares + gain.square().sum(0)
    phi = total / draws
    variance = (squares - draws * phi.square()).clamp(min=0) / (draws - 1)
    return phi, (variance / draws).sqrt()


def _orders(n, count, seed, kind):
    """Random orders of n players, (count, n)."""
    if kind == "sobol":
        points = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed).draw(count)
    else:
        points = torch.rand(count, n, generator=torch.Generator().manual_seed(seed))
    return points.argsort(1)


def gains(v, order):
    """What each player adds to v when it arrives.

    :param v: (B, n) bool -> (B,) or (B, K)
    :param order: (B, n), the numbers of the players as they arrive
    :return: (B, n) or (B, n, K), by player

    >>> def needs_both(S):
    ...     return (S[:, 0] & S[:, 1]).float()
    >>> xcnn.methods.shapley.gains(needs_both, torch.tensor([[2, 0, 1]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    step = values_along(v, order).diff(dim=1)  # by order of arrival
    arrival = order.argsort(1)  # arrival[b, i]: how many were there before player i
    index = arrival.view(*order.shape, *[1] * (step.ndim - 2)).expand_as(step)
    return step.gather(1, index)


def values_along(v, order):
    """The values of the first 0, 1, ..., n players of each order: (B, n + 1) or (B, n + 1, K).

    :param v: as in `gains`. Where it has a method `along`, that answers
    :param order: (B, n)

    >>> xcnn.methods.shapley.values_along(lambda S: S.sum(1), torch.tensor([[1, 0]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    if hasattr(v, "along"):
        return v.along(order).detach().cpu().double()
    B, n = order.shape
    return _values(v, arrived(order).flatten(0, 1)).unflatten(0, (B, n + 1))


def arrived(order):
    """The coalitions along orders of arrival: of the first 0, 1, ..., n players.

    :param order: (B, n), the numbers of the players as they arrive
    :return: (B, n + 1, n) bool

    >>> xcnn.methods.shapley.arrived(torch.tensor([[1, 0]])).int().tolist()
    [[[0, 0], [0, 1], [1, 1]]]
    """
    n = order.shape[1]
    arrival = order.argsort(1)
    return arrival[:, None, :] < torch.arange(n + 1)[:, None]


def _values(v, coalitions):
    V = torch.as_tensor(v(coalitions))
    if V.ndim not in (1, 2) or len(V) != len(coalitions):
        raise InputError(
            "v must return one value (or one row) for each of "
            f"{len(coalitions)} coalitions, got {V.shape}"
        )
    return V.detach().cpu().double()


def path(L, b, c, order=2, nodes=16):
    """Shapley values of v(S) = softmax(b + sum_{i in S} L_i)_c by Owen's path integral.

    phi_i = integral over q from 0 to 1 of dF/dx_i at x = (q, ..., q), where F(x) is the mean of
    v(S) when i is in S with probability x_i (Owen 1972, doi 10.1287/mnsc.18.5.64). F comes from the
    delta method. With z = b + sum_j x_j L_j, p = softmax(z) and M_jk = L_jk - L_jc,
    F(x) = p_c + 1/2 sum_j x_j (1 - x_j) p_c (2 (M p)_j^2 - (M^2 p)_j); to first order, F(x) = p_c.
    What is missing to v(all) - v(none) is spread over the players.

    :param L: (P, K) float64 table
    :param b: (K,)
    :param c: the class
    :param order: 1 or 2
    :param nodes: of the numerical integration
    :return: phi (P,) of that order, and delta = |integral of |correction of dF/dx_i| dq| / |phi2|,
        how much the second order corrects the first along the path; corrections of opposite sign
        do not cancel

    >>> L = torch.tensor([[0.2, 0.0], [0.1, 0.0]], dtype=torch.float64)
    >>> phi, delta = xcnn.methods.shapley.path(L, torch.zeros(2, dtype=torch.float64), c=0)
    >>> gain = L.sum(0).softmax(0)[0] - 0.5
    >>> round((phi.sum() - gain).item(), 9)
    0.0
    """
    q, weight = (torch.as_tensor(v).to(L) for v in legendre(nodes))
    M = L - L[:, [c]]
    with isolated(grad=True):
        x = q[:, None].repeat(1, len(L)).requires_grad_()
        p = (b + x @ L).softmax(1)
        m1 = p @ M.T
        m2 = p @ M.square().T
        p_c = p[:, c]
        second = (x * (1 - x) * (2 * m1.square() - m2)).sum(1) * p_c / 2
        (d1,) = torch.autograd.grad(p_c.sum(), x, retain_graph=True)
        (d2,) = torch.autograd.grad(second.sum(), x)
    v_none, v_all = torch.stack([b, b + L.sum(0)]).softmax(1)[:, c]
    phi1 = _spread(weight @ d1, v_all - v_none)
    phi2 = _spread(weight @ (d1 + d2), v_all - v_none)
    delta = (weight @ d2.abs()).norm() / phi2.norm().clamp(min=TINY)
    return (phi1 if order == 1 else phi2), delta.item()


def legendre(nodes):
    """Gauss-Legendre nodes and weights on [0, 1]: the mean of f there is about sum weight f(node).

    Exact for polynomials of a degree below 2 nodes.

    :param nodes: how many
    :return: two arrays (nodes,)

    >>> q, weight = xcnn.methods.shapley.legendre(2)
    >>> round(float(weight @ q**3), 12)
    0.25
    """
    q, weight = np.polynomial.legendre.leggauss(nodes)
    return (q + 1) / 2, weight / 2


def _spread(phi, total):
    """phi, changed in proportion to |phi| so that it sums to total."""
    return phi + (total - phi.sum()) * phi.abs() / phi.abs().sum().clamp(min=TINY)
