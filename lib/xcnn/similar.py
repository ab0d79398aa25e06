"""Similar images: the pictures of a folder that look, to a network, most like another picture.

    index = xcnn.similar.Index(net)
    index.add("photos")
    index.search("cat.jpg")    # [(path, similarity), ...]

A picture is described by what the network's classifier sees of it: F_k, the mean of each map A_k of
the last layer with maps (Zhou et al. 2016, arXiv 1512.04150, section 2). Two pictures are as
similar as the directions of these vectors: F . G / (|F| |G|).

`similar_index` holds the pictures that can be searched. `similar_features` makes the vector of a
picture, `similar_vectors` searches many of them, and `similar_files` finds pictures and keeps an
index in a file. `similar_sheet` draws an answer.
"""

import os

from .similar_features import fingerprint
from .similar_files import SUFFIXES, absolute
from .similar_index import Index
from .similar_sheet import sheet
from .similar_vectors import Vectors

__all__ = ["SUFFIXES", "Index", "Vectors", "fingerprint", "folder_index", "sheet"]


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
    inside = os.path.join(absolute(folder), "")
    try:
        index.add(folder, progress)
        index.drop([other for other in index.paths if not other.startswith(inside)])
        index.drop()
    finally:
        if len(index):
            index.save(path)
    return index
