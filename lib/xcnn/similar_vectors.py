"""Many unit vectors, and which of them point most nearly where another one points."""

import functools
import operator

import numpy as np

from .errors import InputError

QUERIES_AT_ONCE = 64
ROWS_AT_ONCE = 2**16  # with so many queries: a product of 16 MB
DIGITS = 6  # of a similarity; single precision has not more
LEFT_OUT = -2.0  # less than any similarity


class Vectors:
    """Unit vectors, and which of them point most nearly where a query points.

    The exact search multiplies blocks of vectors with the query, and its memory does not grow with
    their number. The approximate one walks through a graph of neighbours (HNSW; Malkov and
    Yashunin 2016, arXiv 1603.09320, algorithm 5). The graph is built when it is first needed.

    :param features: (n, C) float32, rows of length 1 or 0

    >>> vectors = xcnn.similar.Vectors(np.eye(3, dtype=np.float32))
    >>> rows, similarities = vectors.nearest(np.array([[0.0, 0.8, 0.6]]), k=2)[0]
    >>> rows.tolist(), similarities.tolist()
    ([1, 2], [0.8..., 0.6...])
    """

    def __init__(self, features):
        self.features = features

    @functools.cached_property
    def graph(self):
        """The graph of the approximate search.

        :raises InputError: where usearch is not installed
        """
        try:
            from usearch.index import Index as Graph
        except ImportError as error:
            raise InputError(
                "exact=False needs usearch: pip install 'xcnn[similar]'; exact=True does without it"
            ) from error
        # For unit vectors the inner product is the cosine, and a vector of zeros is no trouble.
        graph = Graph(ndim=self.features.shape[1], metric="ip", dtype="f32")
        graph.add(np.arange(len(self.features)), self.features)
        return graph

    def nearest(self, queries, k=5, exact=True, left_out=None):
        """The k nearest vectors of each query; of equally near ones the first come first.

        :param queries: (Q, C) unit vectors
        :param k: how many, or all where there are fewer
        :param exact: False: the approximate search, which may miss some
        :param left_out: for each query the rows that must not be in its answer; None: none
        :return: Q pairs: rows, and similarities in [-1, 1], rounded to 6 digits
        :raises InputError: queries of another length; k less than 1; exact=False where usearch is
            not installed

        >>> vectors = xcnn.similar.Vectors(np.eye(3, dtype=np.float32))
        >>> vectors.nearest(np.eye(3)[:1], k=1, left_out=[[0]])[0][0].tolist()
        [1]
        """
        if not hasattr(k, "__index__") or k < 1:
            raise InputError(f"k is how many similar pictures are wanted, 1 or more; got {k!r}")
        k = operator.index(k)
        queries = np.ascontiguousarray(queries, np.float32)
        C = self.features.shape[1]
        if queries.ndim != 2 or queries.shape[1] != C:
            raise InputError(f"queries must have shape (Q, {C}), got {queries.shape}")
        left_out = [()] * len(queries) if left_out is None else left_out
        if not exact:
            pairs = zip(queries, left_out, strict=True)
            return [self._by_graph(query, rows, k) for query, rows in pairs]
        starts = range(0, len(queries), QUERIES_AT_ONCE)
        parts = [slice(start, start + QUERIES_AT_ONCE) for start in starts]
        return [
            answer
            for part in parts
            for answer in self._by_product(queries[part], left_out[part], k)
        ]

    def _by_product(self, queries, left_out, k):
        """`nearest`, exact, for a few queries."""
        answers = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        for start in range(0, len(self.features), ROWS_AT_ONCE):
            block = self.features[start : start + ROWS_AT_ONCE]
            similarities = (queries @ block.T).round(DIGITS)
            for q, (rows, best) in enumerate(answers):
                inside = [row - start for row in left_out[q] if 0 <= row - start < len(block)]
                similarities[q, inside] = LEFT_OUT
                block_rows, block_best = _best(np.arange(len(block)), similarities[q], k)
                rows = np.concatenate([rows, start + block_rows])
                answers[q] = _best(rows, np.concatenate([best, block_best]), k)
        return answers

    def _by_graph(self, query, left_out, k):
        """`nearest`, approximate, for one query. The graph proposes; the product decides."""
        count = min(k + len(left_out), len(self.features))
        proposed = np.asarray(self.graph.search(query, count).keys).astype(np.int64)
        rows = np.setdiff1d(proposed, left_out)  # in ascending order
        return _best(rows, (self.features[rows] @ query).round(DIGITS), k)


def _best(rows, similarities, k):
    """The k rows with the largest similarities, largest first, without those that are left out.

    Of equal ones the first come first.
    """
    if len(rows) > k:
        least = np.partition(similarities, -k)[-k]
        chosen = np.flatnonzero(similarities >= least)
        rows = rows[chosen]
        similarities = similarities[chosen]
    order = np.argsort(-similarities, kind="stable")[:k]
    order = order[similarities[order] > LEFT_OUT]
    return rows[order], similarities[order]
