"""The nearest vectors: by sorting all, in blocks, and by the graph of usearch."""

import numpy as np
import pytest
from xcnn import InputError, similar_vectors
from xcnn.similar import Vectors

from tests.helpers.albums import Graph, oracle, stand_in_for_usearch, unit_vectors


@pytest.mark.parametrize(
    ("n", "k", "rows_at_once", "queries_at_once"),
    [
        (1, 5, 4, 64),
        (7, 3, 3, 2),
        (64, 5, 8, 3),
        (500, 5, 7, 64),
        (500, 499, 64, 1),
        (500, 900, 100, 9),
    ],
)
def test_blocks_give_the_same_as_one_product(n, k, rows_at_once, queries_at_once, monkeypatch):
    features = unit_vectors(n, 12)
    queries = unit_vectors(9, 12, seed=1)
    whole = Vectors(features).nearest(queries, k)
    monkeypatch.setattr(similar_vectors, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(similar_vectors, "QUERIES_AT_ONCE", queries_at_once)
    left_out = [[q % n] for q in range(9)]
    parts = Vectors(features).nearest(queries, k)
    others = Vectors(features).nearest(queries, k, left_out=left_out)
    for q, query in enumerate(queries):
        rows, values = oracle(features, query, k)
        for answer in (whole[q], parts[q]):
            assert len(answer[0]) == min(k, n)
            assert np.allclose(answer[1], values, atol=2e-6)
            assert set(answer[0].tolist()) == set(rows) and np.all(np.diff(answer[1]) <= 0)
        rows, values = oracle(features, query, k, left_out[q])
        assert set(others[q][0].tolist()) == set(rows)
        assert np.allclose(others[q][1], values, atol=2e-6)


@pytest.mark.parametrize("rows_at_once", [2, 5, 100])
def test_equal_ones_come_in_order(rows_at_once, monkeypatch):
    monkeypatch.setattr(similar_vectors, "ROWS_AT_ONCE", rows_at_once)
    v, w = np.eye(2, dtype=np.float32)
    features = np.stack([w, v, w, v, v, w, v, v])
    ((rows, values),) = Vectors(features).nearest(v[None], k=4)
    assert rows.tolist() == [1, 3, 4, 6] and values.tolist() == [1] * 4
    ((rows, _),) = Vectors(features).nearest(v[None], k=7)
    assert rows.tolist() == [1, 3, 4, 6, 7, 0, 2]


def test_queries_that_do_not_fit():
    vectors = Vectors(unit_vectors(4, 3))
    for queries in (unit_vectors(4, 2), unit_vectors(1, 3)[0]):
        with pytest.raises(InputError, match=r"queries must have shape \(Q, 3\)"):
            vectors.nearest(queries)
    with pytest.raises(InputError, match="k is how many"):
        vectors.nearest(unit_vectors(4, 3), k=-1)


def test_the_memory_of_a_search_is_bounded(monkeypatch):
    """However many vectors there are: no product is larger than a block."""
    sizes = []
    whole = np.ndarray.round

    class Watched(np.ndarray):
        def round(self, *args):
            sizes.append(self.size)
            return whole(np.asarray(self), *args)

    monkeypatch.setattr(similar_vectors, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(similar_vectors, "QUERIES_AT_ONCE", 10)
    Vectors(unit_vectors(1000, 4).view(Watched)).nearest(unit_vectors(95, 4), 3)
    assert max(sizes) == 500 and sum(sizes) == 95_000


# ---- the approximate search


def test_equal_ones_come_in_order_from_a_graph_too(monkeypatch):
    stand_in_for_usearch(monkeypatch, Graph)
    v, w = np.eye(2, dtype=np.float32)
    vectors = Vectors(np.stack([w, v, w, v, v]))
    ((rows, values),) = vectors.nearest(v[None], k=5, exact=False)
    assert rows.tolist() == [1, 3, 4, 0, 2] and values.tolist() == [1, 1, 1, 0, 0]


def test_usearch_finds_what_the_exact_search_finds():
    pytest.importorskip("usearch", reason="the extra `similar` is not installed")
    features = unit_vectors(3000, 16)
    features[5] = features[7] = features[6]  # ties
    queries = unit_vectors(50, 16, seed=1)
    queries[0] = features[6]
    vectors = Vectors(features)
    exact = vectors.nearest(queries, 5)
    near = vectors.nearest(queries, 5, exact=False)
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for (a, _), (b, _) in zip(exact, near, strict=True)
    ]
    assert np.mean(shared) > 4.5
    assert near[0][0][:3].tolist() == [5, 6, 7]
    for rows, values in near:
        assert np.all(np.diff(values) <= 0) and len(rows) == 5


@pytest.mark.parametrize("n", [1, 3, 40])
def test_usearch_in_small_indexes(n):
    pytest.importorskip("usearch", reason="the extra `similar` is not installed")
    features = unit_vectors(n, 8)
    features[0] = 0  # a dead map
    ((rows, values),) = Vectors(features).nearest(features[-1:], k=50, exact=False)
    wanted = Vectors(features).nearest(features[-1:], k=50)[0]
    assert rows.tolist() == wanted[0].tolist() and np.allclose(values, wanted[1])
