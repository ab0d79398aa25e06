"""Shapley values of one game beside the shap package, which asks for one coalition at a time."""

import numpy as np
import pytest
import shap
import torch
from xcnn.methods import shapley

from tests.bench.measure import record, side_by_side
from tests.helpers.relatives import dasp

PLAYERS = 12
ORDERS = 50
COALITIONS = ORDERS * (PLAYERS - 1)  # besides nobody and everybody
SEEDS = 20  # over which the errors of what draws at random are averaged
WEIGHTS = torch.randn(PLAYERS, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EVERYBODY = np.ones((1, PLAYERS))


def v(S):
    """The game: the probability of the first of ten classes."""
    return (S.double() @ WEIGHTS).softmax(1)[:, 0]


def for_shap(z):
    """The game as shap asks for it, with arrays."""
    return v(torch.from_numpy(z)).numpy()


def nobody():
    return shap.maskers.Independent(np.zeros((1, PLAYERS)))


def shap_exact(_seed):
    explain = shap.explainers.Exact(for_shap, nobody())
    return torch.from_numpy(explain(EVERYBODY).values[0])


def shap_orders(seed):
    """It walks each order forwards and backwards: half as many orders, as many coalitions."""
    explain = shap.explainers.Permutation(for_shap, nobody(), seed=seed)
    explanation = explain(EVERYBODY, max_evals=ORDERS * (PLAYERS + 1), silent=True)
    return torch.from_numpy(explanation.values[0])


def shap_kernel(seed):
    np.random.seed(seed)  # it draws from NumPy's own state
    explain = shap.KernelExplainer(for_shap, np.zeros((1, PLAYERS)))
    values = explain.shap_values(EVERYBODY, nsamples=COALITIONS, silent=True)
    return torch.from_numpy(values[0])


def our_orders(kind):
    return lambda seed: shapley.permutations(v, PLAYERS, ORDERS, seed, kind)[0]


def our_path(_seed):
    return shapley.path(WEIGHTS, torch.zeros(10, dtype=torch.float64), 0)[0]


def by_dasp(_seed):
    return dasp(WEIGHTS, torch.zeros(10, dtype=torch.float64), 0)


WAYS = {
    ("exact", "xcnn"): lambda _seed: shapley.exact(v, PLAYERS),
    ("exact", "shap"): shap_exact,
    ("orders", "xcnn"): our_orders("random"),
    ("orders in pairs", "xcnn"): our_orders("paired"),
    ("orders in pairs", "shap"): shap_orders,
    ("kernel", "shap"): shap_kernel,
    ("path integral", "xcnn"): our_path,
    ("DASP", "the formula"): by_dasp,
}


def mean_error(way, phi):
    """How far off a way is on average, as a share of |phi|."""
    off = [(way(seed) - phi).norm() / phi.norm() for seed in range(SEEDS)]
    return torch.stack(off).mean().item()


def test_exact_and_sampled():
    phi = WAYS["exact", "xcnn"](0)
    costs = side_by_side({name: lambda way=way: way(0) for name, way in WAYS.items()}, 5)
    rows = []
    for (what, library), cost in costs.items():
        off = mean_error(WAYS[what, library], phi)
        rows.append({"what": what, "library": library, "ms": cost["ms"], "error": off})
        print(f"\n{what}, {library}: {cost['ms']:.2f} ms, error {off:.1e}", end="")
    record("shapley", rows)
    errors = {(row["what"], row["library"]): row["error"] for row in rows}
    assert errors["exact", "shap"] == pytest.approx(0, abs=1e-6)
    assert errors["orders in pairs", "xcnn"] <= 1.2 * errors["orders in pairs", "shap"]
