"""Shapley values of one game beside the shap package, which asks for one coalition at a time."""

import numpy as np
import shap
import torch
from xcnn.methods import shapley

from tests.bench.measure import record, side_by_side

PLAYERS = 12
ORDERS = 50
WEIGHTS = torch.randn(PLAYERS, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def v(S):
    """The game: the probability of the first of ten classes."""
    return (S.double() @ WEIGHTS).softmax(1)[:, 0]


def for_shap(z):
    """The game as shap asks for it, with arrays."""
    return v(torch.from_numpy(z)).numpy()


def test_exact_and_sampled():
    nobody = shap.maskers.Independent(np.zeros((1, PLAYERS)))
    everybody = np.ones((1, PLAYERS))
    exact = shap.explainers.Exact(for_shap, nobody)
    permutation = shap.explainers.Permutation(for_shap, nobody, seed=0)

    def shap_exact():
        return torch.from_numpy(exact(everybody).values[0])

    def shap_sampled():
        # shap walks each order forwards and backwards: half as many orders, as many coalitions.
        max_evals = ORDERS * (PLAYERS + 1)
        explanation = permutation(everybody, max_evals=max_evals, silent=True)
        return torch.from_numpy(explanation.values[0])

    calls = {
        ("exact", "xcnn"): lambda: shapley.exact(v, PLAYERS),
        ("exact", "shap"): shap_exact,
        ("sampled", "xcnn"): lambda: shapley.permutations(v, PLAYERS, ORDERS)[0],
        ("sampled", "shap"): shap_sampled,
    }
    phi = calls["exact", "xcnn"]()
    rows = []
    for (what, library), cost in side_by_side(calls, 5).items():
        off = ((calls[what, library]() - phi).norm() / phi.norm()).item()
        rows.append({"what": what, "library": library, "ms": cost["ms"], "error": off})
        print(
            f"\n{PLAYERS} players, {what}, {library}: {cost['ms']:.2f} ms, error {off:.1e}",
            end="",
        )
    record("shapley", rows)
    assert rows[1]["error"] < 1e-6
