"""The record of how search behaves, and the table that the book shows of it."""

import json
import types

import numpy as np
import pytest

from tests.helpers.albums import Graph, stand_in_for_usearch, unit_vectors
from tools import ROOT
from tools.data import measure_similar


def test_vectors_are_drawn_around_real_ones():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    spread = np.array([[0.05, 0, 0, 0], [0.04, 0.03, 0, 0], [0, 0, 0.02, 0], [0, 0, 0, 0]])
    real = np.eye(4)[labels] + rng.normal(size=(600, 4)) @ spread.T
    means, factor = measure_similar.clusters(real, labels)
    assert np.allclose(means, [real[labels == kind].mean(0) for kind in range(3)])
    apart = np.concatenate([real[labels == kind] - means[kind] for kind in range(3)])
    assert np.allclose(factor @ factor.T, apart.T @ apart / 597)
    vectors = measure_similar.vectors_around(means, factor, 5000, rng)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    nearest = (vectors @ means.T).argmax(1)
    assert np.allclose(np.bincount(nearest) / 5000, 1 / 3, atol=0.03)
    for kind in range(3):
        mean = vectors[nearest == kind].mean(0)
        assert mean @ means[kind] / np.linalg.norm(mean) / np.linalg.norm(means[kind]) > 0.99
    again = measure_similar.vectors_around(means, factor, 10, np.random.default_rng(5))
    same = measure_similar.vectors_around(means, factor, 10, np.random.default_rng(5))
    assert np.array_equal(again, same)


class Forgetful(Graph):
    """It proposes every neighbour but the nearest."""

    memory_usage = 123

    def search(self, query, count):
        order = np.argsort(-(self.vectors @ query))[1 : count + 1]
        return types.SimpleNamespace(keys=self.keys[order])


def test_what_is_measured(monkeypatch):
    features = unit_vectors(300, 8)
    queries = unit_vectors(6, 8, seed=1)
    stand_in_for_usearch(monkeypatch, Forgetful)
    row = measure_similar.measured(features, queries)
    near = row["approximate"]
    assert (row["n"], row["bytes"], near["bytes"]) == (300, 300 * 8 * 4, 123)
    assert near["recall"] == pytest.approx(0.8)  # four of five
    assert row["exact_seconds"] > 0 and near["seconds"] > 0 and near["build_seconds"] > 0
    assert 300 * 4 <= row["peak_bytes"] < 100_000
    stand_in_for_usearch(monkeypatch, None)
    assert measure_similar.measured(features, queries)["approximate"] is None


def test_the_record_is_written(tmp_path, monkeypatch):
    out = tmp_path / "similar.json"
    options = ["--scenes", "12", "--queries", "3", "--out", str(out), "--sizes"]
    measure_similar.main([*options, "200", "100"])
    measure_similar.main([*options, "50"])
    record = json.loads(out.read_text())
    assert [row["n"] for row in record["rows"]] == [50, 100, 200]
    assert (record["network"], record["channels"], record["k"]) == ("resnet_s", 80, 5)
    assert out.with_suffix(".md").read_text() == measure_similar.table(record)
    monkeypatch.setattr(measure_similar.platform, "machine", lambda: "another machine")
    measure_similar.main([*options, "60"])  # numbers of two machines do not stand in one table
    assert [row["n"] for row in json.loads(out.read_text())["rows"]] == [60]


ROW = {"n": 1_000_000, "bytes": 320_000_000, "peak_bytes": 1_250_000, "exact_seconds": 0.0304}
NEAR = {"seconds": 0.00067, "recall": 0.9876, "build_seconds": 1234.5, "bytes": 987_654_321}
MACHINE = {"processors": 2, "kind": "x86_64", "python": "3.11.7", "numpy": "2.4.6"}


def test_what_was_measured_in_words():
    record = {"queries": 200, "channels": 80, "machine": MACHINE | {"usearch": None}}
    exact = measure_similar.table(record | {"rows": [ROW | {"approximate": None}]})
    assert "| 1,000,000 | 320 MB | 30 ms | 1.2 MB | – | – | – | – |" in exact
    assert "2 processors (x86_64)" in exact and "usearch" not in exact
    record["machine"]["usearch"] = "2.26.6"
    both = measure_similar.table(record | {"rows": [ROW | {"approximate": NEAR}]})
    assert "| 1.2 MB | 0.67 ms | 98.8% | 21 min | 990 MB |" in both and "usearch 2.26.6" in both


def test_the_table_of_the_book_is_that_of_the_record():
    results = ROOT / "data" / "results"
    record = json.loads((results / "similar.json").read_text())
    assert (results / "similar.md").read_text() == measure_similar.table(record)
    ratios = {row["n"]: row["approximate"]["ratio"] for row in record["rows"]}
    recall = {row["n"]: row["approximate"]["recall"] for row in record["rows"]}
    assert ratios.keys() == set(measure_similar.SIZES)
    # what the page says of it
    assert max(ratios[2_000], ratios[10_000]) < 1.5 < ratios[100_000]
    assert ratios[1_000_000] > 10 and 0.9 < recall[1_000_000] < 0.97
    assert "{include} ../data/results/similar.md" in (ROOT / "book" / "how_to.md").read_text()
