"""The index of similar images: the features of many pictures, added, searched, saved and loaded."""

import json
import os

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from . import similar_files as files
from .engine.contract import check
from .engine.layers import find_layer, layer_name
from .errors import InputError
from .similar_features import batches, fingerprint, prepared, unit_features
from .similar_vectors import DIGITS, Vectors


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
        return unit_features(self.net, x, self.layer, self.layout)

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
        stamps = {path: files.stamp(path) for path in files.picture_files(pictures, self.skipped)}
        new = [path for path, mark in stamps.items() if known.get(path) != mark]
        features = {}
        try:
            with tqdm(total=len(new), disable=not (progress and new), unit="picture") as bar:
                for paths in batches(new):
                    features |= self._described(paths)
                    bar.update(len(paths))
        finally:
            self._merge(stamps, features)
        return len(features)

    def _described(self, paths):
        """Path -> feature of the pictures that can be read; the others are noted as skipped."""
        images = {}
        for path in paths:
            self.skipped.pop(path, None)
            try:
                images[path] = prepared(self.net, path)
            except InputError as error:
                self.skipped[path] = str(error)
        if not images:
            return {}
        features = self.features(torch.cat(list(images.values())))
        return dict(zip(images, features, strict=True))

    def _merge(self, stamps, features):
        """Take in new features. What the index held of these pictures is forgotten.

        So is what it held of pictures that cannot be read now.
        """
        self._forget(features.keys() | self.skipped.keys())
        if features:
            new = np.stack(list(features.values()))
            self._set(
                self.paths + list(features),
                np.concatenate([self._stamps, [stamps[path] for path in features]]),
                np.concatenate([self.vectors.reshape(len(self), new.shape[1]), new]),
            )

    def _forget(self, paths):
        rows = [row for row, path in enumerate(self.paths) if path not in paths]
        if len(rows) < len(self):  # else the graph of the approximate search is kept, too
            self._set([self.paths[row] for row in rows], self._stamps[rows], self.vectors[rows])

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
            gone = {files.absolute(path) for path in paths}
            for path in sorted(gone - set(self.paths)):
                raise InputError(f"{path} is not in the index; index.paths lists what is")
        self._forget(gone)
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
        is_x = isinstance(picture, torch.Tensor)
        if is_x and picture.ndim == 4 and len(picture) != 1:
            raise InputError(f"x holds {len(picture)} images; search_many(x) asks for all")
        return self.search_many(picture if is_x else [picture], k, exact, itself)[0]

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
        pictures = self._checked(pictures)
        self._check_network()
        left_out = [() if itself else self._rows_of(picture) for picture in pictures]
        answers = self._vectors.nearest(self._queries(pictures), k, exact, left_out)
        return [
            [
                (self.paths[row], round(float(value), DIGITS))
                for row, value in zip(*pair, strict=True)
            ]
            for pair in answers
        ]

    def _queries(self, pictures):
        """The features of many pictures, or of x."""
        if isinstance(pictures, torch.Tensor):
            return self.features(pictures)
        parts = [
            self.features(torch.cat([prepared(self.net, picture) for picture in part]))
            for part in batches(pictures)
        ]
        return np.concatenate(parts)

    def _checked(self, pictures):
        """Many pictures: x, or a list with at least one picture; and an index to search in."""
        if isinstance(pictures, torch.Tensor):
            check(self.net.module, pictures)
        else:
            single = isinstance(pictures, files.PATH | Image.Image | np.ndarray)
            pictures = [] if single else list(pictures)
        if not len(pictures):
            raise InputError("search_many takes a list of pictures; search(picture) asks for one")
        if not len(self):
            reasons = [f"{path}: {reason}" for path, reason in self.skipped.items()]
            skipped = f" ({len(reasons)} skipped, such as {reasons[0]})" if reasons else ""
            raise InputError(
                f"the index holds no pictures{skipped}; index.add(folder) takes pictures in"
            )
        return pictures

    def _check_network(self):
        """Features of two networks must not meet."""
        if fingerprint(self.net) != self._fingerprint:
            raise InputError(
                f"{self.net.name} has other weights, or another size, mean or std, than when this "
                "index was made; make a new one: Index(net)"
            )

    def _rows_of(self, picture):
        """The rows of this very file, whatever the paths are that lead to it."""
        if not isinstance(picture, files.PATH):
            raise InputError(
                "itself=False leaves a file out, so it needs the picture's path; "
                f"got {type(picture).__name__}"
            )
        return files.rows_of(picture, self.paths, self._stamps)

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
        about = {
            "network": str(self.net.name),
            "fingerprint": self._fingerprint,
            "layer": self.layer,
            "layout": json.dumps(self.layout),
        }
        files.write(files.absolute(path), self.paths, self._stamps, self.vectors, about)

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
        path = files.absolute(path)
        about, pictures = files.read(path)
        if about["fingerprint"] != fingerprint(net):
            name = about["network"]
            difference = (
                f"with {name}, not with {net.name}"
                if name != net.name
                else f"when {name} had other weights, or another size, mean or std"
            )
            raise InputError(
                f"{path} was made {difference}; use that network, "
                "or delete the file and make a new index"
            )
        index = cls(net, about["layer"], json.loads(about["layout"]))
        index._set(*pictures)
        return index
