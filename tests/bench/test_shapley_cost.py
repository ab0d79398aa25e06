"""Shapley values of one game beside the shap package: the same coalitions, there one by one, here many at once."""

import numpy as np
import shap
import torch
from xcnn.methods import shapley

from tests.bench.measure import record, side_by_side

PLAYERS, ORDERS = 12, 50


def test_exact_and_sampled():
    w = torch.randn(PLAYERS, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = lambda S: (S.double() @ w).softmax(1)[:, 0]  # noqa: E731
    theirs = lambda z: v(torch.from_numpy(z)).numpy()  # noqa: E731
    nobody, all_of_them = shap.maskers.Independent(np.zeros((1, PLAYERS))), np.ones((1, PLAYERS))
    every, some = (
        shap.explainers.Exact(theirs, nobody),
        shap.explainers.Permutation(theirs, nobody, seed=0),
    )
    calls = {
        ("exact", "xcnn"): lambda: shapley.exact(v, PLAYERS),
        ("exact", "shap"): lambda: torch.from_numpy(every(all_of_them).values[0]),
        # shap walks each order forwards and backwards: half as many orders are as many coalitions
        ("sampled", "xcnn"): lambda: shapley.permutations(v, PLAYERS, ORDERS)[0],
        ("sampled", "shap"): lambda: torch.from_numpy(
            some(all_of_them, max_evals=ORDERS * (PLAYERS + 1), silent=True).values[0]
        ),
    }
    phi, rows = calls["exact", "xcnn"](), []
    for (what, library), taken in side_by_side(calls, 5).items():
        off = ((calls[what, library]() - phi).norm() / phi.norm()).item()
        rows.append({"what": what, "library": library, "ms": taken["ms"], "error": off})
        print(
            f"\n{PLAYERS} players, {what}, {library}: {taken['ms']:.2f} ms, error {off:.1e}", end=""
        )
    record("shapley", rows)
    assert rows[1]["error"] < 1e-6
