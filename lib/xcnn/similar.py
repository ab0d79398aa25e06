"""Similar images: the pictures of a folder that look, to a network, most like another picture.

    index = xcnn.similar.Index(net)
    index.add("photos")
    index.search("cat.jpg")    # [(path, similarity), ...]

A picture is described by what the network's classifier sees of it: F_k, the mean of each map A_k of
the last layer with maps (Zhou et al. 2016, arXiv 1512.04150, section 2). Two pictures are as
similar as the directions of these vectors: F . G / (|F| |G|).
"""

import contextlib
import functools
import hashlib
import itertools
import json
import operator
import os
from pathlib import Path

import numpy as np
import torch
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from . import photos, show
from .engine.contract import check, isolated
from .engine.layers import find_layer, layer_name, maps_of
from .errors import InputError, one_of
from .methods import LABELS, METHODS
from .networks import as_network, ready

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BATCH = 32  # pictures that go through the network together
QUERIES_AT_ONCE = 64
ROWS_AT_ONCE = 2**16  # with so many queries: a product of 16 MB
DIGITS = 6  # of a similarity; single precision has not more
LEFT_OUT = -2.0  # less than any similarity
TOLERANCE = 1e-3  # relative: how far rounding may take a feature, or the length of a unit vector
FORMAT = "xcnn.similar 1"  # another number where features or files of another kind are made
PATH = str | bytes | os.PathLike
ABOUT = {"format", "network", "fingerprint", "layer", "layout"}  # what a file says about itself
GONE = (-1, -1)  # the stamp of a file that is not there
COLUMNS = 7  # of a sheet: the picture, its map and five neighbours are one row
PANEL = (1.7, 2.2)  # inches
PAD = 0.08  # inches, so that titles of two lines are not cut off at the edge
MAX_CAPTION = 19  # characters


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
        k = _count(k)
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


def _count(k):
    """k as a whole number.

    :raises InputError: something else, or less than 1
    """
    if not hasattr(k, "__index__") or k < 1:
        raise InputError(f"k is how many similar pictures are wanted, 1 or more; got {k!r}")
    return operator.index(k)


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


class Index:
    """The features of many pictures, to be searched for those that are most like another one.

    paths: the pictures, in order. skipped: path -> why that picture or folder cannot be read.

    :param net: `Network`, which knows how it wants its pictures
    :param layer: a submodule that puts out maps, or its name; None: the last spatial layer
    :param layout: (h, w) of a layer that puts out tokens, as in `grad_cam`
    :raises InputError: a bare nn.Module, which does not know that; an unknown layer

    >>> index = xcnn.similar.Index(net)
    >>> index.layer, len(index)
    ('layer3', 0)
    """

    def __init__(self, net, layer=None, layout=None):
        self._fingerprint = fingerprint(net)
        self.net = net
        self.layer = layer_name(net, layer)
        self.layout = layout
        find_layer(net.module, self.layer)
        self.skipped = {}
        self._set([], np.empty((0, 2), np.int64), np.empty((0, 0), np.float32))

    def __len__(self):
        return len(self.paths)

    def _set(self, paths, stamps, features):
        """Hold these pictures, in the order of their paths, whatever the order they came in."""
        order = sorted(range(len(paths)), key=paths.__getitem__)
        self.paths = [paths[row] for row in order]
        self._stamps = stamps[order]
        self._vectors = Vectors(np.ascontiguousarray(features[order]))

    def _keep(self, rows):
        self._set([self.paths[row] for row in rows], self._stamps[rows], self.vectors[rows])

    @property
    def vectors(self):
        """The features of all pictures, (n, C) float32, one row for each of `paths`.

        >>> xcnn.similar.Index(net).vectors.shape
        (0, 0)
        """
        return self._vectors.features

    def features(self, x):
        """f = F / |F|, where F_k is the mean of map A_k of the index's layer.

        :param x: (N, C, H, W) float
        :return: (N, C) float32 array, rows of length 1; a row of zeros where all maps are dead
        :raises InputError: see `ready`; a layer that does not put out maps; maps that hold NaN or
            infinite values

        >>> features = xcnn.similar.Index(net).features(x)
        >>> features.shape, float((features**2).sum().round(4))
        ((1, 80), 1.0)
        """
        F = self._means(x)
        if not torch.isfinite(F).all():
            raise InputError(
                f"the maps of layer {self.layer!r} hold NaN or infinite values; "
                "use float32, or choose another layer"
            )
        length = F.norm(dim=1, keepdim=True)
        return (F / length.where(length > 0, 1)).float().numpy()

    def _means(self, x):
        """F (N, C), double, on the CPU."""
        check(self.net.module, x)
        parts = x.split(BATCH if self._are_apart(x) else 1)
        return torch.cat([self._means_of_batch(part) for part in parts])

    def _are_apart(self, x):
        """Does the network say the same of an image whatever images are beside it?

        Not so where batch norm has no running statistics. The image beside it is made here, since
        the first two pictures of a folder may be the same.
        """
        try:
            self.net.check_images_are_apart(torch.cat([x[:1], 1 - 2 * x[:1]]))
        except InputError:
            return False
        return True

    def _means_of_batch(self, x):
        net, x = ready(self.net, x)
        with isolated(grad=False):
            _, y, layout = maps_of(net, self.layer, x, self.layout)
            A = layout.maps(y.detach())
        # In single precision: half would lose digits, and not every device knows double.
        return A.float().mean((2, 3)).cpu().double()

    def add(self, pictures, progress=True):
        """Take in pictures. Those that are in the index, and whose files did not change, are kept.

        In a folder, pictures are files with one of `SUFFIXES`, also those in its folders. Hidden
        files and folders are passed over. Pictures that cannot be read go to `skipped`. When this
        is interrupted, the index holds what was done by then.

        :param pictures: a folder, a file, or a list of these
        :param progress: show a bar
        :return: how many pictures are new or have changed, and could be read
        :raises InputError: no such file or folder, a folder without a picture, a network that has
            changed since the index was made

        >>> scene.image.save(folder / "scene.png")
        >>> index = xcnn.similar.Index(net)
        >>> index.add(folder, progress=False), index.add(folder, progress=False)
        (1, 0)
        """
        self._check_network()
        known = dict(zip(self.paths, map(tuple, self._stamps.tolist()), strict=True))
        stamps = {path: _stamp(path) for path in self._files(pictures)}
        new = [path for path, stamp in stamps.items() if known.get(path) != stamp or stamp == GONE]
        features = {}
        done = set()
        try:
            with tqdm(total=len(new), disable=not (progress and new), unit="picture") as bar:
                for paths in _batches(new):
                    features |= self._described(paths)
                    done |= set(paths)
                    bar.update(len(paths))
        finally:
            self._merge(done | set(features), stamps, features)
        return len(features)

    def _files(self, pictures):
        """The absolute paths of picture files, sorted, each once."""
        if isinstance(pictures, PATH):
            if not os.path.exists(pictures):
                raise InputError(f"no file or folder {os.fsdecode(pictures)}; check the path")
            pictures = [pictures]
        files = set()
        for path in map(_absolute, pictures):
            files |= set(self._files_in(path) if os.path.isdir(path) else [path])
        return sorted(files)

    def _files_in(self, folder):
        """The picture files in a folder and in its folders."""

        def skip(error):
            self.skipped[error.filename] = error.strerror

        files = []
        for parent, folders, names in os.walk(folder, onerror=skip):
            self.skipped.pop(parent, None)
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += [
                os.path.join(parent, name)
                for name in names
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ]
        if not files:
            reason = self.skipped.get(folder, f"no files {', '.join(SUFFIXES)}")
            raise InputError(f"no pictures in {folder} ({reason}); name another folder")
        return files

    def _described(self, paths):
        """Path -> feature of the pictures that can be read; the others are noted as skipped."""
        images = {}
        for path in paths:
            self.skipped.pop(path, None)
            try:
                images[path] = self._x(path)
            except InputError as error:
                self.skipped[path] = str(error)
        if not images:
            return {}
        features = self.features(torch.cat(list(images.values())))
        return dict(zip(images, features, strict=True))

    def _x(self, picture):
        """A picture, or the one in a file, as the network wants it and where its weights are."""
        if isinstance(picture, PATH):
            picture = _opened(picture)
        x = self.net.preprocess(picture)
        return x.to(next(self.net.module.parameters(), x))

    def _merge(self, done, stamps, features):
        """Put new features in the place of what the index held of these pictures."""
        self._keep([row for row, path in enumerate(self.paths) if path not in done])
        if features:
            stamps_of_new = np.array([stamps[path] for path in features], np.int64)
            vectors_of_new = np.stack(list(features.values()))
            self._set(
                self.paths + list(features),
                np.concatenate([self._stamps, stamps_of_new]),
                np.concatenate([self.vectors, vectors_of_new]) if len(self) else vectors_of_new,
            )

    def drop(self, paths=None):
        """Forget pictures.

        :param paths: their paths; None: the pictures whose files are gone
        :return: how many the index held of them
        :raises InputError: a path that is not in the index

        >>> scene.image.save(folder / "scene.png")
        >>> index = xcnn.similar.Index(net)
        >>> _ = index.add(folder, progress=False)
        >>> index.drop(), index.drop([folder / "scene.png"]), len(index)
        (0, 1, 0)
        """
        if paths is None:
            gone = {path for path in self.paths if not os.path.exists(path)}
            self.skipped = {path: v for path, v in self.skipped.items() if os.path.lexists(path)}
        else:
            gone = {_absolute(path) for path in paths}
            for path in sorted(gone - set(self.paths)):
                raise InputError(f"{path} is not in the index; index.paths lists what is")
        self._keep([row for row, path in enumerate(self.paths) if path not in gone])
        return len(gone)

    def search(self, picture, k=5, exact=True, itself=True):
        """The k pictures of the index that are most similar to this one.

        :param picture: the path of a file, a PIL image, an array as in `photos.to_rgb`, or x
            of one image
        :param k, exact, itself: see `search_many`
        :return: list of (path, similarity), as in `search_many`
        :raises InputError: see `search_many`

        >>> scene.image.save(folder / "scene.png")
        >>> index = xcnn.similar.Index(net)
        >>> _ = index.add(folder, progress=False)
        >>> [(Path(path).name, similarity) for path, similarity in index.search(scene.image)]
        [('scene.png', 1.0)]
        """
        if isinstance(picture, torch.Tensor):
            if picture.ndim == 4 and len(picture) != 1:
                raise InputError(f"x holds {len(picture)} images; search_many(x) asks for all")
            return self.search_many(picture, k, exact, itself)[0]
        return self.search_many([picture], k, exact, itself)[0]

    def search_many(self, pictures, k=5, exact=True, itself=True):
        """The k pictures of the index that are most similar to each of these.

        :param pictures: a list of what `search` takes, or x (N, C, H, W)
        :param k: how many, or all where the index holds fewer
        :param exact: False: an approximate search, quicker in large indexes. It may miss some, and
            not always the same ones
        :param itself: False: the file that is asked for is left out of the answer
        :return: N lists of (path, similarity); similarity is the cosine, rounded to 6 digits. The
            most similar come first, equally similar ones in the order of their paths
        :raises InputError: an empty index; a picture that cannot be read; k less than 1;
            exact=False where usearch is not installed; a network that has changed since the index
            was made

        >>> scene.image.save(folder / "scene.png")
        >>> index = xcnn.similar.Index(net)
        >>> _ = index.add(folder, progress=False)
        >>> index.search_many([folder / "scene.png"], itself=False)
        [[]]
        """
        k = _count(k)
        pictures = self._checked(pictures)
        self._check_filled()
        self._check_network()
        left_out = [() if itself else self._rows_of(picture) for picture in pictures]
        if isinstance(pictures, torch.Tensor):
            queries = self.features(pictures)
        else:
            parts = _batches(pictures)
            queries = [self.features(torch.cat(list(map(self._x, part)))) for part in parts]
            queries = np.concatenate(queries)
        answers = self._vectors.nearest(queries, k, exact, left_out)
        return [
            [
                (self.paths[row], round(float(value), DIGITS))
                for row, value in zip(*pair, strict=True)
            ]
            for pair in answers
        ]

    def _checked(self, pictures):
        """Many pictures: x, or a list with at least one picture."""
        if isinstance(pictures, torch.Tensor):
            check(self.net.module, pictures)
            return pictures
        single = isinstance(pictures, PATH | Image.Image | np.ndarray)
        pictures = [] if single else list(pictures)
        if not pictures:
            raise InputError("search_many takes a list of pictures; search(picture) asks for one")
        return pictures

    def _check_filled(self):
        if not len(self):
            reasons = [f"{path}: {reason}" for path, reason in self.skipped.items()]
            skipped = f" ({len(reasons)} skipped, such as {reasons[0]})" if reasons else ""
            raise InputError(
                f"the index holds no pictures{skipped}; index.add(folder) takes pictures in"
            )

    def _check_network(self):
        """Features of two networks must not meet."""
        if fingerprint(self.net) != self._fingerprint:
            raise InputError(
                f"{self.net.name} has other weights, or another size, mean or std, than when this "
                "index was made; make a new one: Index(net)"
            )

    def _rows_of(self, picture):
        """The rows of this very file, whatever the paths are that lead to it."""
        if not isinstance(picture, PATH):
            raise InputError(
                "itself=False leaves a file out, so it needs the picture's path; "
                f"got {type(picture).__name__}"
            )
        path = _absolute(picture)
        same = (self._stamps == _stamp(path)).all(1)
        return [
            row
            for row, other in enumerate(self.paths)
            if other == path or (same[row] and _same_file(other, path))
        ]

    def save(self, path):
        """Write the index to a file, which is whole at every moment.

        Paths of pictures that lie beside the file, or in folders beside it, are kept relative to
        it. So the index can move together with its pictures.

        :param path: of the file; an index that is there is replaced
        :return: None
        :raises InputError: a file that cannot be written, or that holds something else; a network
            that has changed since the index was made

        >>> xcnn.similar.Index(net).save(folder / "photos.index")
        >>> len(xcnn.similar.Index.load(folder / "photos.index", net))
        0
        """
        self._check_network()
        path = _absolute(path)
        if os.path.exists(path):
            _read_about(path)  # refuses to replace something else
        names = [_relative(name, os.path.dirname(path)) for name in self.paths]
        tensors = {
            "features": self.vectors,
            "stamps": self._stamps,
            "paths": np.frombuffer(json.dumps(names).encode(), np.uint8),
        }
        about = {
            "format": FORMAT,
            "network": str(self.net.name),
            "fingerprint": self._fingerprint,
            "layer": self.layer,
            "layout": json.dumps(self.layout),
        }
        _write(path, tensors, about)

    @classmethod
    def load(cls, path, net):
        """The index in a file.

        :param path: of the file, see `save`
        :param net: the `Network` that the index was made with
        :return: `Index`
        :raises InputError: a file that is missing or broken; another network, or other weights

        >>> xcnn.similar.Index(net).save(folder / "photos.index")
        >>> len(xcnn.similar.Index.load(folder / "photos.index", net))
        0
        """
        path = _absolute(path)
        about, tensors, names = _read(path)
        if about["fingerprint"] != fingerprint(net):
            other = about["network"]
            difference = (
                f"with {other}, not with {net.name}"
                if other != net.name
                else f"when {other} had other weights, or another size, mean or std"
            )
            raise InputError(
                f"{path} was made {difference}; use that network, "
                "or delete the file and make a new index"
            )
        index = cls(net, about["layer"], json.loads(about["layout"]))
        folder = os.path.dirname(path)
        paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
        index._set(paths, tensors["stamps"], tensors["features"])
        return index


def fingerprint(net):
    """What features depend on besides the layer: a hash of the weights and of size, mean and std.

    :param net: `Network`
    :return: 64 hexadecimal digits
    :raises InputError: a bare nn.Module, which does not know how it wants its pictures

    >>> len(xcnn.similar.fingerprint(net))
    64
    """
    if isinstance(net, nn.Module):
        raise InputError(
            "pictures must be prepared as the network wants them; say how: "
            "xcnn.Network(module, size=..., mean=..., std=...)"
        )
    net = as_network(net)
    wanted = [np.ravel(values).astype(float).tolist() for values in (net.size, net.mean, net.std)]
    digest = hashlib.sha256(json.dumps(wanted).encode())
    for name, value in net.module.state_dict().items():
        if isinstance(value, torch.Tensor):  # a module may keep other things, too
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def folder_index(net, folder, path, progress=True):
    """The index of a folder, kept in a file from one time to the next.

    It holds the pictures that are in the folder now. Only new and changed ones go through the
    network. When this is interrupted, the file holds what was done by then.

    :param net: `Network`
    :param folder: of the pictures
    :param path: of the file; made where there is none
    :param progress: show a bar
    :return: `Index`
    :raises InputError: see `Index.add`, `Index.load` and `Index.save`

    >>> scene.image.save(folder / "scene.png")
    >>> index = xcnn.similar.folder_index(net, folder, folder / "photos.index", progress=False)
    >>> len(index), (folder / "photos.index").exists()
    (1, True)
    """
    index = Index.load(path, net) if os.path.exists(path) else Index(net)
    inside = os.path.join(_absolute(folder), "")
    try:
        index.add(folder, progress)
        index.drop([other for other in index.paths if not other.startswith(inside)])
        index.drop()
    finally:
        if len(index):
            index.save(path)
    return index


def sheet(net, picture, neighbours, target=None, method="grad_cam", **options):
    """One figure: a picture with its label, its heat map, and the pictures that are similar to it.

    All pictures are shown as the network sees them, resized and cut.

    :param net: `Network`
    :param picture: the path of a file, a PIL image, or an array as in `photos.to_rgb`
    :param neighbours: list of (path, similarity), from `Index.search`
    :param target: what the map explains, as in every method; None: the top class
    :param method: name in `METHODS`
    :param options: of the method
    :return: matplotlib Figure
    :raises InputError: unknown method, class or option; a file that cannot be read

    >>> scene.image.save(folder / "scene.png")
    >>> figure = xcnn.similar.sheet(net, scene.image, [(folder / "scene.png", 1.0)])
    >>> [ax.get_title().split() for ax in figure.axes]
    [['broccoli', '4...%'], ['Grad-CAM', 'broccoli'], ['1.00', 'scene.png']]
    """
    one_of("method", method, METHODS)
    x, seen = _shown(net, picture)
    R = METHODS[method](net, x, target, **options)
    label, p = _label(net, x)
    asked = _caption(_asked(net, label if target is None else target))
    panels = [(f"{_caption(label)}\n{p}", seen), (f"{LABELS[method]}\n{asked}", seen, R[0])]
    for path, similarity in neighbours:
        name = os.path.basename(os.fsdecode(path))
        panels.append((f"{similarity:.2f}\n{_caption(name)}", _shown(net, path)[1]))
    return _pages(panels)


def _label(net, x):
    """The top class and its probability in words; nothing where the network does not classify."""
    try:
        ((_, label, p),) = net.top(x, 1)[0]
    except InputError:
        return "", ""
    return label, f"{p:.1%}"


def _asked(net, target):
    """A target in words; a function has none."""
    if hasattr(target, "__index__"):
        return net.classes[target] if len(net.classes) else f"class {target}"
    return target if isinstance(target, str) else ""


def _shown(net, picture):
    """A picture as x, and as the network sees it, (H, W, 3)."""
    if isinstance(picture, PATH):
        picture = _opened(picture)
    x = net.preprocess(picture)
    return x.to(next(net.module.parameters(), x)), net.picture(x)[0]


def _pages(panels):
    """Panels in rows; the last row is filled up with white."""
    columns = min(len(panels), COLUMNS)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    white = ("", np.ones((1, 1, 3)))
    rows[-1] += [white] * (columns - len(rows[-1]))
    figure = show.grid(rows, size=(PANEL[0] * columns, PANEL[1] * len(rows)))
    figure.get_layout_engine().set(h_pad=PAD)
    return figure


def _caption(text):
    """A text that matplotlib can draw, cut in the middle where it is long."""
    font = get_font(findfont(FontProperties()))
    text = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in str(text))
    if len(text) > MAX_CAPTION:
        half = MAX_CAPTION // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text.replace("$", r"\$")  # else it would start a formula


# ---- files


def _absolute(path):
    return os.path.abspath(os.fsdecode(path))


def _opened(path):
    """The picture in a file, upright.

    :raises InputError: a file that is missing, broken, or not a picture
    """
    path = os.fsdecode(path)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"cannot open {path}: it is not a file; name a picture")
    return photos.read(path)


def _stamp(path):
    """What tells that a file did not change: its size, and the time of its last change in ns."""
    try:
        status = os.stat(path)
    except OSError:
        return GONE
    return status.st_size, status.st_mtime_ns


def _same_file(path, other):
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _batches(items):
    """Lists of so many items as go through the network together."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, BATCH)), [])


def _relative(path, folder):
    """A path as seen from a folder that it lies in; else as it is."""
    inside = Path(path).is_relative_to(folder)
    return Path(path).relative_to(folder).as_posix() if inside else path


def _write(path, tensors, about):
    """Write the file of an index beside its place, then put it there in one step."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        save_file(tensors, partial, about)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; name another file") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


@contextlib.contextmanager
def _reading(path):
    """What goes wrong while the file of an index is read, as an InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"no index at {path}; make one: index = Index(net), index.add(folder), index.save(path)"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is broken, or not the file of an index ({error}); "
            "name another file; if this was an index, delete it and make a new one"
        ) from error


def _read_about(path):
    """What the file of an index says about itself.

    :raises InputError: a file that is missing, broken, or of something else
    """
    with _reading(path), safe_open(path, framework="numpy") as file:
        about = file.metadata() or {}
        if about.get("format") != FORMAT or about.keys() < ABOUT:
            raise ValueError("it says nothing of an index")
        return about


def _read(path):
    """What the file of an index says about itself, its arrays, and the paths of its pictures.

    :raises InputError: a file that is missing, broken, or of something else
    """
    about = _read_about(path)
    with _reading(path):
        tensors = load_file(path)
        names = json.loads(tensors["paths"].tobytes())
        features = tensors["features"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("a path is not a text")
        if tensors["stamps"].shape != (len(names), 2) or len(features) != len(names):
            raise ValueError("its parts do not fit together")
        lengths = np.linalg.norm(features, axis=1)
        if not (np.isclose(lengths, 1, atol=TOLERANCE) | (lengths == 0)).all():
            raise ValueError("a feature is not a unit vector")
    return about, tensors, names
