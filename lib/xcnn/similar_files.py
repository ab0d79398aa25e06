"""The files of similar images: the pictures that are indexed, and the file that keeps an index."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PATH = str | bytes | os.PathLike
GONE = (-1, -1)  # the stamp of a file that is not there
TOLERANCE = 1e-3  # relative: how far rounding may take the length of a unit vector
FORMAT = "xcnn.similar 1"  # another number where features or files of another kind are made
ABOUT = {"format", "network", "fingerprint", "layer", "layout"}  # what a file says about itself


# ---- pictures


def absolute(path):
    """The absolute path, as text."""
    return os.path.abspath(os.fsdecode(path))


def picture_files(pictures, skipped):
    """The absolute paths of picture files, sorted, each once, see `Index.add`.

    :param pictures: a folder, a file, or a list of these
    :param skipped: a dict that takes in why a folder cannot be read
    """
    if isinstance(pictures, PATH):
        if not os.path.exists(pictures):
            raise InputError(f"no file or folder {os.fsdecode(pictures)}; check the path")
        pictures = [pictures]
    files = set()
    for path in map(absolute, pictures):
        files |= set(_files_in(path, skipped) if os.path.isdir(path) else [path])
    return sorted(files)


def _files_in(folder, skipped):
    """The picture files in a folder and in its folders."""

    def skip(error):
        skipped[error.filename] = error.strerror

    files = []
    for parent, folders, names in os.walk(folder, onerror=skip):
        skipped.pop(parent, None)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            os.path.join(parent, name)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not files:
        reason = skipped.get(folder, f"no files {', '.join(SUFFIXES)}")
        raise InputError(f"no pictures in {folder} ({reason}); name another folder")
    return files


def checked_file(path):
    """The path as text, unless what is there would be waited for, such as a pipe."""
    path = os.fsdecode(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"cannot open {path}: it is not a file; name a picture")
    return path


def stamp(path):
    """What tells that a file did not change: its size, and the time of its last change in ns."""
    try:
        status = os.stat(path)
    except OSError:
        return GONE
    return status.st_size, status.st_mtime_ns


def rows_of(path, paths, stamps):
    """Where in a list of paths this very file is, whatever the paths are that lead to it.

    :param path: of the file
    :param paths, stamps: list of n absolute paths; (n, 2)
    """
    path = absolute(path)
    same = (stamps == stamp(path)).all(1)
    return [
        row
        for row, other in enumerate(paths)
        if other == path or (same[row] and _is_one_file(other, path))
    ]


def _is_one_file(path, other):
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


# ---- the file of an index


def write(path, paths, stamps, features, about):
    """Write an index beside its place, then put it there in one step, see `Index.save`.

    :param path: of the file, absolute
    :param paths, stamps, features: of n pictures: list; (n, 2) int64; (n, C) float32
    :param about: name -> text, what `ABOUT` lists besides the format
    """
    if os.path.exists(path):
        read_about(path)  # refuses to replace something else
    names = [_relative(name, os.path.dirname(path)) for name in paths]
    tensors = {
        "features": features,
        "stamps": stamps,
        "paths": np.frombuffer(json.dumps(names).encode(), np.uint8),
    }
    partial = f"{path}.{os.getpid()}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        save_file(tensors, partial, {"format": FORMAT} | about)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; name another file") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _relative(path, folder):
    """A path as seen from a folder that it lies in; else as it is."""
    inside = Path(path).is_relative_to(folder)
    return Path(path).relative_to(folder).as_posix() if inside else path


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
        raise InputError(
            f"{path} is broken, or not the file of an index ({error}); "
            "name another file; if this was an index, delete it and make a new one"
        ) from error


def read_about(path):
    """What the file of an index says about itself, a dict.

    :raises InputError: a file that is missing, broken, or of something else
    """
    with _reading(path), safe_open(path, framework="numpy") as file:
        about = file.metadata() or {}
        if about.get("format") != FORMAT or about.keys() < ABOUT:
            raise ValueError("it says nothing of an index")
        return about


def read(path):
    """The file of an index: what it says about itself; and paths, stamps and features, see `write`.

    :raises InputError: a file that is missing, broken, or of something else
    """
    about = read_about(path)
    with _reading(path):
        tensors = load_file(path)
        names = json.loads(tensors["paths"].tobytes())
        stamps = tensors["stamps"]
        features = tensors["features"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("a path is not a text")
        if stamps.shape != (len(names), 2) or len(features) != len(names):
            raise ValueError("its parts do not fit together")
        lengths = np.linalg.norm(features, axis=1)
        if not (np.isclose(lengths, 1, atol=TOLERANCE) | (lengths == 0)).all():
            raise ValueError("a feature is not a unit vector")
    folder = os.path.dirname(path)
    paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
    return about, (paths, stamps, features)
