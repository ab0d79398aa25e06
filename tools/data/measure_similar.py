"""Record how search behaves from 2,000 to 1,000,000 pictures: `make similar`.

A million pictures would take days, so the vectors are drawn around those of a thousand scenes: the
mean of a class plus noise with the covariance within classes. The questions are real: the vectors
of other scenes. Writes data/results/similar.json, and the table of it in similar.md beside it,
after every number of vectors. What was measured before on the same machine stays. Where usearch is
not installed, only the exact search is measured.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
import xcnn
from tqdm.auto import tqdm
from xcnn import scenes
from xcnn.similar import Index, Vectors

from tools import ROOT

RESULTS = ROOT / "data" / "results" / "similar.json"
NETWORK = "resnet_s"
SIZES = (2_000, 10_000, 100_000, 1_000_000)
K = 5
SCENES = 1_000
FIRST_SEED = 1_000_000  # of the scenes; no network was trained on them
QUERIES = 200
FIRST_QUERY_SEED = 2_000_000
SEED = 2026  # of the noise
DRAWN_AT_ONCE = 100_000
BATCH = 32
COLUMNS = (
    "pictures",
    "their features",
    "exact search",
    "memory it takes",
    "approximate search",
    "finds of the five nearest",
    "its graph is made in",
    "memory of the graph",
)


def real_features(index, n, seed):
    """The features of scenes, (n, C), and the class of each scene's first object, (n,).

    :param index: `Index`, whose network describes them
    :param n: how many
    :param seed: of the first
    """
    parts = []
    labels = []
    for start in tqdm(range(seed, seed + n, BATCH), desc="scenes", unit=f"x{BATCH}"):
        drawn = [scenes.render(s) for s in range(start, min(start + BATCH, seed + n))]
        x = torch.cat([index.net.preprocess(scene.image) for scene in drawn])
        parts.append(index.features(x))
        labels += [scenes.CLASSES.index(scene.labels[0]) for scene in drawn]
    return np.concatenate(parts), np.array(labels)


def clusters(features, labels):
    """The mean of each class, and a factor of the covariance within classes.

    :param features, labels: (n, C) and (n,)
    :return: means (K, C); factor (C, C), whose product with its transpose is the covariance
    """
    kinds, own = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == kind].mean(0) for kind in kinds]).astype(float)
    rest = features - means[own]
    covariance = rest.T @ rest / (len(features) - len(kinds))
    variances, directions = np.linalg.eigh(covariance)
    return means, directions * np.sqrt(np.maximum(variances, 0))


def vectors_around(means, factor, n, rng):
    """Unit vectors around the means of classes, each class equally likely.

    :param means, factor: from `clusters`
    :param n: how many
    :param rng: NumPy Generator
    :return: (n, C) float32
    """
    vectors = np.empty((n, means.shape[1]), np.float32)
    for start in range(0, n, DRAWN_AT_ONCE):
        part = vectors[start : start + DRAWN_AT_ONCE]
        noise = rng.standard_normal(part.shape)
        part[:] = means[rng.integers(len(means), size=len(part))] + noise @ factor.T
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def measured(features, queries):
    """What one number of vectors costs, and what the approximate search finds.

    bytes: of the features. peak_bytes: what the exact search takes besides. seconds: the median of
    one query. ratio: exact to approximate, the median of pairs, each asked in turn. recall: the
    share of the exact answers that are among the approximate ones.

    :param features: (n, C) unit vectors
    :param queries: (Q, C)
    :return: dict; approximate is None where usearch is not installed
    """
    vectors = Vectors(features)
    row = {"n": len(features), "bytes": features.nbytes, "peak_bytes": _peak(vectors, queries[:1])}
    try:
        start = time.perf_counter()
        graph = vectors.graph
        build = time.perf_counter() - start
    except xcnn.InputError:
        graph = None
    ways = [True] if graph is None else [True, False]
    seconds, answers = _asked_in_turn(vectors, queries, ways)
    row |= {"exact_seconds": statistics.median(seconds[True]), "approximate": None}
    if graph is not None:
        pairs = list(zip(answers[True], answers[False], strict=True))
        ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
        row["approximate"] = {
            "seconds": statistics.median(seconds[False]),
            "ratio": statistics.median(ratios),
            "recall": statistics.mean(len(near & exact) / len(exact) for exact, near in pairs),
            "build_seconds": build,
            "bytes": graph.memory_usage,
        }
    return row


def _asked_in_turn(vectors, queries, ways):
    """Seconds and answers of each query: exact (True) or not -> a list.

    Each query is asked in all ways before the next, so that a busy moment hits all.
    """
    seconds = {exact: [] for exact in ways}
    answers = {exact: [] for exact in ways}
    for query in queries[:, None]:
        for exact in ways:
            start = time.perf_counter()
            ((rows, _),) = vectors.nearest(query, K, exact=exact)
            seconds[exact].append(time.perf_counter() - start)
            answers[exact].append(set(rows.tolist()))
    return seconds, answers


def _peak(vectors, query):
    """The most memory that one exact search holds at a time, in bytes."""
    tracemalloc.start()
    vectors.nearest(query, K)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def machine():
    """Processors, and the versions of what computes; that of usearch is None where it is not."""
    try:
        usearch = importlib.metadata.version("usearch")
    except importlib.metadata.PackageNotFoundError:
        usearch = None
    return {
        "processors": os.cpu_count(),
        "kind": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "usearch": usearch,
    }


def table(results):
    """What was measured, as Markdown for a page of the book.

    :param results: what `main` writes
    :return: a table with a row for each number of pictures, and a sentence on the machine
    """
    rows = [COLUMNS, ["---:"] * len(COLUMNS), *map(_cells, results["rows"])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    where = results["machine"]
    usearch = f", usearch {where['usearch']}" if where["usearch"] else ""
    return "\n".join(lines) + (
        f"\n\nMedians of {results['queries']} questions; {results['channels']} features a picture; "
        f"{where['processors']} processors ({where['kind']}), Python {where['python']}, "
        f"NumPy {where['numpy']}{usearch}.\n"
    )


def _cells(row):
    """The cells of one row of the table."""
    near = row["approximate"]
    approximate = ["–"] * 4
    if near is not None:
        finds = f"{near['recall']:.1%}"
        build = _time(near["build_seconds"])
        approximate = [_time(near["seconds"]), finds, build, _memory(near["bytes"])]
    exact = [_memory(row["bytes"]), _time(row["exact_seconds"]), _memory(row["peak_bytes"])]
    return [f"{row['n']:,}", *exact, *approximate]


def _time(seconds):
    """Seconds in words: two digits that count, and a unit."""
    if seconds < 1:
        return f"{float(f'{1000 * seconds:.2g}'):g} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _memory(count):
    """Bytes in words."""
    return f"{float(f'{count / 1e6:.2g}'):g} MB"


def main(argv=None):
    """Measure the numbers of vectors that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of vectors")
    parser.add_argument("--scenes", type=int, default=SCENES, help="to draw vectors around")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    index = Index(xcnn.load(NETWORK))
    means, factor = clusters(*real_features(index, args.scenes, FIRST_SEED))
    queries, _ = real_features(index, args.queries, FIRST_QUERY_SEED)
    about = {
        "network": NETWORK,
        "channels": means.shape[1],
        "scenes": args.scenes,
        "queries": args.queries,
        "k": K,
        "machine": machine(),
    }
    rows = {row["n"]: row for row in _rows_of_before(args.out, about)}
    for n in tqdm(args.sizes, desc="sizes"):
        features = vectors_around(means, factor, n, np.random.default_rng([SEED, n]))
        rows[n] = measured(features, queries)
        results = about | {"rows": [rows[size] for size in sorted(rows)]}
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(results))


def _rows_of_before(path, about):
    """The rows in a file, where they were measured in the same way on the same machine."""
    results = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = results.pop("rows")
    return rows if results == about else []


if __name__ == "__main__":
    main()
