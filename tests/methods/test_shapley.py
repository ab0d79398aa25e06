"""Shapley values against their definition and their axioms."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xcnn import InputError
from xcnn.methods import shapley


def game(n, seed=0, K=None):
    """A game whose 2^n values are drawn at random."""
    shape = (2**n,) if K is None else (2**n, K)
    table = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lambda S: table[(S.long() * 2 ** torch.arange(n)).sum(1)]


def by_definition(v, n):
    """The mean gain over all n! orders of arrival, one order at a time."""
    phi = torch.zeros(n, dtype=torch.float64)
    for order in itertools.permutations(range(n)):
        S = torch.zeros(1, n, dtype=torch.bool)
        before = v(S)[0]
        for i in order:
            S[0, i] = True
            after = v(S)[0]
            phi[i] += (after - before) / math.factorial(n)
            before = after
    return phi


def gain(v, n):
    """v(all) - v(none)."""
    return v(torch.ones(1, n, dtype=torch.bool))[0] - v(torch.zeros(1, n, dtype=torch.bool))[0]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("batch", [3, 8192])
def test_exact_is_the_mean_over_all_orders(n, batch):
    v = game(n)
    torch.testing.assert_close(shapley.exact(v, n, batch), by_definition(v, n), rtol=0, atol=1e-12)


def test_gloves_by_hand():
    """One left glove (player 0), two right ones (1 and 2); a pair is worth 1: (2/3, 1/6, 1/6)."""
    phi = shapley.exact(lambda S: (S[:, 0] & (S[:, 1] | S[:, 2])).double(), 3)
    torch.testing.assert_close(phi, torch.tensor([4, 1, 1], dtype=torch.float64) / 6)


seeds = st.integers(0, 10_000)


def assert_equal_values(phi, wanted):
    torch.testing.assert_close(phi, wanted, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 7), st.floats(-3, 3))
def test_axioms(seed, n, factor):
    v = game(n, seed)
    w = game(n, seed + 1)
    phi = shapley.exact(v, n)
    assert phi.sum().item() == pytest.approx(gain(v, n).item(), abs=1e-10), "efficiency"
    mixture = shapley.exact(lambda S: v(S) + factor * w(S), n)
    assert_equal_values(mixture, phi + factor * shapley.exact(w, n))  # linearity
    # one more player, who brings 2 to anyone
    idle = shapley.exact(lambda S: v(S[:, :n]) + 2 * S[:, n], n + 1)
    assert_equal_values(idle, torch.cat([phi, torch.tensor([2.0]).double()]))
    if n > 1:
        swapped = [1, 0, *range(2, n)]
        symmetric = shapley.exact(lambda S: v(S) + v(S[:, swapped]), n)
        assert symmetric[0].item() == pytest.approx(symmetric[1].item(), abs=1e-10), "symmetry"


@pytest.mark.parametrize("orders", shapley.ORDERS)
def test_permutations_are_unbiased_and_know_their_error(orders):
    n = 6
    v = game(n)
    phi = shapley.exact(v, n)
    off = []
    claimed = []
    for seed in range(40):
        estimate, error = shapley.permutations(v, n, 256, seed, orders)
        assert estimate.sum().item() == pytest.approx(gain(v, n).item(), abs=1e-10)
        off.append(estimate - phi)
        claimed.append(error)
    off = torch.stack(off)
    claimed = torch.stack(claimed).mean(0)
    spread = off.square().mean(0).sqrt()
    assert (off.mean(0).abs() < 4 * claimed / 40**0.5).all(), "the mean of many runs is right"
    assert (spread < 1.4 * claimed).all(), "the error is no larger than claimed"
    if orders == "sobol":
        assert spread.norm() < 0.85 * claimed.norm(), "even orders are better than the error claims"
    else:
        assert (spread > 0.6 * claimed).all(), "the error is no smaller than claimed"


def test_an_order_and_its_reverse_are_better_than_two_orders():
    v = game(6)
    phi = shapley.exact(v, 6)
    off = {
        kind: torch.stack([shapley.permutations(v, 6, 64, k, kind)[0] - phi for k in range(60)])
        for kind in ("random", "paired")
    }
    assert off["paired"].norm() < 0.9 * off["random"].norm()


def test_a_game_that_knows_a_quicker_way_along_an_order_is_asked_for_it():
    weights = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def v(S):
        return (S.double() @ weights).exp()

    class Quick:
        calls = 0

        def along(self, order):
            self.calls += 1
            added = weights[order].cumsum(1)
            return torch.cat([torch.zeros(len(order), 1), added], 1).exp()

    quick = Quick()
    for kind in shapley.ORDERS:
        slow = shapley.permutations(v, 7, 100, orders=kind)
        for values, wanted in zip(
            shapley.permutations(quick, 7, 100, orders=kind), slow, strict=True
        ):
            assert_equal_values(values, wanted)
    assert quick.calls > 0


@pytest.mark.parametrize(
    ("samples", "orders", "says"),
    [(1, "random", "2 samples"), (3, "paired", "even number"), (2, "paired", "4 or more")]
    + [(8, "pairs", "unknown orders 'pairs'; did you mean 'paired'")],
)
def test_orders_that_cannot_be(samples, orders, says):
    with pytest.raises(InputError, match=says):
        shapley.permutations(game(4), 4, samples, orders=orders)


def test_permutations_of_many_games_at_once():
    v = game(5, K=3)
    phi, error = shapley.permutations(v, 5, 200)
    assert phi.shape == error.shape == (5, 3)
    for k in range(3):

        def single(S, k=k):
            return v(S)[:, k]

        torch.testing.assert_close(phi[:, k], shapley.permutations(single, 5, 200)[0])
        torch.testing.assert_close(shapley.exact(v, 5)[:, k], shapley.exact(single, 5))


def test_permutations_are_reproducible_and_leave_the_random_state_alone():
    v = game(5)
    state = torch.get_rng_state()
    first, again, other = (shapley.permutations(v, 5, 20, seed)[0] for seed in (1, 1, 2))
    in_small_batches = shapley.permutations(v, 5, 20, 1, batch=7)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(first, in_small_batches)
    _, error = shapley.permutations(lambda S: S.sum(1), 5, 20)
    assert error.abs().max() < 1e-12, "an additive game has no spread"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: shapley.exact(game(2), 21), r"21 players have 2\^21.*1 to 20.*permutations"),
        (lambda: shapley.exact(game(2), 0), "1 to 20"),
        (lambda: shapley.permutations(game(2), 2, 1), "2 samples"),
        (lambda: shapley.permutations(game(2), 0, 10), "1 player"),
        (lambda: shapley.exact(lambda S: S.sum(), 3), "one value"),
        (lambda: shapley.permutations(lambda S: S.double()[None], 3, 10), "one value"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


# ---- Owen's path integral


def test_second_order_is_better_than_first_and_more_nodes_change_nothing():
    generator = torch.Generator().manual_seed(0)
    L, b = (torch.randn(n, 6, dtype=torch.float64, generator=generator) for n in (12, 1))
    L = 0.4 * L

    def v(S):
        return (b + S.double() @ L).softmax(1)[:, 2]

    def error(estimate):
        return ((estimate - exact).norm() / exact.norm()).item()

    exact = shapley.exact(v, 12)
    phi, delta = shapley.path(L, b[0], 2)
    first_order, _ = shapley.path(L, b[0], 2, order=1)
    more_nodes, _ = shapley.path(L, b[0], 2, nodes=64)
    assert error(phi) < error(first_order) / 3, "the second order takes away most of the error"
    assert error(phi) < delta
    torch.testing.assert_close(phi, more_nodes, rtol=1e-6, atol=1e-9)
    assert phi.sum().item() == pytest.approx(gain(v, 12).item(), abs=1e-12)
