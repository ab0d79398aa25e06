"""What the tests of similar images share: a network, a folder of scenes, and its index."""

import os
import shutil

import pytest
import xcnn
from xcnn import photos, scenes

from tests.helpers.albums import index_of


@pytest.fixture
def net():
    return xcnn.load("resnet_s")


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    for seed, name in enumerate(["a.png", "b.png", "c.png", "d.png", "sub/e.png", "sub/sub/f.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scenes.render(seed).image.save(path)
    return folder


@pytest.fixture
def pictures(drawn_once, tmp_path):
    """A folder of six scenes, two of them in folders of it."""
    return shutil.copytree(drawn_once, tmp_path / "photos")


@pytest.fixture
def index(net, pictures):
    return index_of(pictures, net)


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that are opened as pictures, a list that grows."""
    names = []
    read = photos.read

    def noted(path):
        names.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(photos, "read", noted)
    return names
