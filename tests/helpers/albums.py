"""What the tests of similar images share: oracles, small networks, a stand-in for usearch."""

import contextlib
import os
import sys
import types

import numpy as np
import pytest
import torch
import xcnn
from torch import nn
from xcnn import photos, similar_features
from xcnn.similar import Index

ODD_NAMES = ["a b.png", "Ärger.JPG", "猫.webp", "$x_1$ & %s {0}.bmp", "-n.gif", "new\nline.tiff"]


def names(answer):
    return [os.path.basename(path) for path, _ in answer]


def index_of(pictures, *args):
    """The index of these pictures.

    :param args: of `Index`
    """
    index = Index(*args)
    index.add(pictures, progress=False)
    return index


@contextlib.contextmanager
def interrupted_at(name):
    """Ctrl+C, when the picture of this name is read; two pictures are a batch."""
    read = photos.read

    def interrupted(path):
        if os.path.basename(path) == name:
            raise KeyboardInterrupt
        return read(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(similar_features, "BATCH", 2)
        patch.setattr(photos, "read", interrupted)
        yield


def by_hand(net, picture, layer="layer3"):
    """The unit vector of a picture, by a hook and the definition."""
    seen = []
    handle = net.module.get_submodule(layer).register_forward_hook(lambda *a: seen.append(a[-1]))
    with torch.no_grad():
        net.module(net.preprocess(picture))
    handle.remove()
    F = seen[0][0].double().mean((1, 2))
    return (F / F.norm()).numpy()


def unit_vectors(n, C, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, C)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def oracle(features, query, k, left_out=()):
    """The nearest rows in float64, by sorting all; ties in order of rows."""
    similarities = [round(float(s), 6) for s in features.astype(float) @ query.astype(float)]
    rows = [row for row in range(len(features)) if row not in left_out]
    rows.sort(key=lambda row: (-similarities[row], row))
    return rows[:k], [similarities[row] for row in rows[:k]]


class Watching(nn.Module):
    """Maps minus their mean over the batch: images see each other."""

    def __init__(self, apart=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=apart)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Flat(nn.Module):
    """One map for each colour, times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.maps.weight.data = factor * torch.eye(3)[..., None, None]

    def forward(self, x):
        return self.maps(x).mean((2, 3))


def of_colours(factor=1.0):
    return xcnn.Network(Flat(factor).eval(), "colours", size=8, mean=(0, 0, 0), std=(1, 1, 1))


class Graph:
    """What stands in for usearch: it proposes some rows, most of them right, in any order."""

    made = 0

    def __init__(self, *, ndim, metric, dtype):
        assert (metric, dtype) == ("ip", "f32")
        self.ndim = ndim
        Graph.made += 1

    def add(self, keys, vectors):
        assert vectors.shape == (len(keys), self.ndim) and vectors.dtype == np.float32
        self.keys = np.asarray(keys, np.uint64)
        self.vectors = vectors

    def search(self, query, count):
        assert query.shape == (self.ndim,)
        order = np.argsort(-(self.vectors @ query))[:count]
        return types.SimpleNamespace(keys=self.keys[order[::-1]])


def stand_in_for_usearch(monkeypatch, graph):
    """Put a class in the place of usearch's `Index`; None: usearch is not installed."""
    package = graph and types.ModuleType("usearch")
    monkeypatch.setitem(sys.modules, "usearch", package)
    monkeypatch.setitem(sys.modules, "usearch.index", graph and types.SimpleNamespace(Index=graph))
