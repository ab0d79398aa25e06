"""The files of similar images: which pictures are indexed, and how an index is kept."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from xcnn import InputError, scenes, similar_files
from xcnn.similar import Index, sheet

from tests.helpers.albums import ODD_NAMES, index_of

# ---- pictures


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(name, net, tmp_path):
    image = scenes.render(3).image
    image.save(tmp_path / name)
    index = Index(net)
    assert index.add(tmp_path, progress=False) == 1 and index.skipped == {}
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index", net)
    assert again.paths == [str(tmp_path / name)]
    ((path, similarity),) = again.search(image)
    assert path == str(tmp_path / name) and similarity > 0.98  # some formats lose a little
    sheet(net, path, [(path, similarity)]).savefig(tmp_path / "sheet.svg")


def test_a_name_that_is_not_text(net, tmp_path):
    path = os.fsencode(tmp_path) + b"/clock\xff.png"
    scenes.render(3).image.save(tmp_path / "clock.png")
    try:
        os.rename(tmp_path / "clock.png", path)
    except OSError:
        pytest.skip("this file system wants names that are text")
    index = index_of(path, net)
    index.save(tmp_path / "index")
    answer = Index.load(tmp_path / "index", net).search(path)
    assert answer == [(os.fsdecode(path), 1.0)]
    sheet(net, path, answer).savefig(tmp_path / "sheet.png")


def test_a_folder_that_cannot_be_read_is_counted(net, pictures, monkeypatch):
    listing = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    index = Index(net)
    assert index.add(pictures, progress=False) == 4
    assert index.skipped == {str(pictures / "sub"): "Permission denied"}
    monkeypatch.setattr(os, "scandir", listing)
    assert index.add(pictures, progress=False) == 2 and index.skipped == {}


def test_hidden_files_and_other_files_are_passed_over(net, pictures):
    for name in ("._a.png", ".hidden/g.png", "notes.txt", "a.png.part"):
        path = pictures / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(pictures / "a.png", path)
    index = Index(net)
    assert index.add(pictures, progress=False) == 6 and index.skipped == {}
    assert index.add(pictures / "a.png.part", progress=False) == 1  # it was asked for


@pytest.mark.parametrize("wanted", ["str", "Path", "bytes", "list", "twice"])
def test_ways_to_name_pictures(wanted, net, pictures):
    ways = {
        "str": str(pictures),
        "Path": pictures,
        "bytes": os.fsencode(pictures),
        "list": (pictures / name for name in ("a.png", "b.png", "c.png", "d.png", "sub")),
        "twice": [pictures, pictures / "a.png", pictures / "sub" / ".." / "a.png"],
    }
    index = Index(net)
    assert index.add(ways[wanted], progress=False) == 6
    assert index.paths == sorted(str(path) for path in pictures.rglob("*.png"))


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere", "no file or folder"), ("empty", "no pictures in .*no files .jpg")],
)
def test_places_without_pictures(place, says, net, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=says):
        Index(net).add(tmp_path / place, progress=False)


# ---- the file of an index


def test_an_index_comes_back(index, net, pictures, tmp_path):
    index.save(tmp_path / "new folder" / "ü index")
    again = Index.load(str(tmp_path / "new folder" / "ü index"), net)
    assert again.paths == index.paths and again.layer == index.layer
    assert np.array_equal(again.vectors, index.vectors)
    image = scenes.render(30).image
    assert again.search(image) == index.search(image)
    assert again.add(pictures, progress=False) == 0  # sizes and times came back, too
    scenes.render(31).image.save(pictures / "g.png")
    assert again.add(pictures, progress=False) == 1
    again.save(tmp_path / "new folder" / "ü index")
    assert len(Index.load(tmp_path / "new folder" / "ü index", net)) == 7
    assert os.listdir(tmp_path / "new folder") == ["ü index"]


def test_another_layer_comes_back(net, pictures, tmp_path):
    index = index_of(pictures, net, "layer1")
    index.save(tmp_path / "index")
    assert Index.load(tmp_path / "index", net).layer == "layer1"


def test_an_index_moves_with_its_pictures(index, net, pictures, tmp_path):
    scenes.render(9).image.save(tmp_path / "elsewhere.png")
    index.add(tmp_path / "elsewhere.png", progress=False)
    index.save(pictures / "index")
    pictures.rename(tmp_path / "moved")
    again = Index.load(tmp_path / "moved" / "index", net)
    inside = sorted(str(path) for path in (tmp_path / "moved").rglob("*.png"))
    assert again.paths == sorted([*inside, str(tmp_path / "elsewhere.png")])
    assert again.drop() == 0 and again.add(tmp_path / "moved", progress=False) == 0
    rows = {os.path.basename(path): v for path, v in zip(again.paths, again.vectors, strict=True)}
    for path, v in zip(index.paths, index.vectors, strict=True):
        assert np.array_equal(rows[os.path.basename(path)], v)


def test_the_file_holds_plain_arrays(index, pictures):
    index.save(pictures / "index")
    tensors = load_file(pictures / "index")
    assert np.array_equal(tensors["features"], index.vectors)
    stored = json.loads(tensors["paths"].tobytes())
    assert stored == ["a.png", "b.png", "c.png", "d.png", "sub/e.png", "sub/sub/f.png"]


def test_a_file_is_whole_at_every_moment(index, net, tmp_path, monkeypatch):
    index.save(tmp_path / "index")
    before = (tmp_path / "index").read_bytes()

    def torn(tensors, path, about):
        with open(path, "wb") as file:
            file.write(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(similar_files, "save_file", torn)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        index.save(tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["index", "photos"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.9, 0.999])
def test_a_torn_file_is_refused(share, index, net, tmp_path):
    index.save(tmp_path / "index")
    content = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is broken, or not the file of an index"):
        Index.load(tmp_path / "index", net)
    with pytest.raises(InputError, match="if this was an index, delete it"):
        index.save(tmp_path / "index")
    os.remove(tmp_path / "index")  # the advice works
    index.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index", net)) == 6


def fewer_paths(tensors):
    tensors["paths"] = np.frombuffer(b'["a.png"]', np.uint8)


def paths_that_are_not_json(tensors):
    tensors["paths"] = np.frombuffer(b"a.png", np.uint8)


def paths_that_are_numbers(tensors):
    tensors["paths"] = np.frombuffer(b"[1, 2, 3, 4, 5, 6]", np.uint8)


def features_of_another_length(tensors):
    tensors["features"] = tensors["features"] * 2


def features_that_are_not_numbers(tensors):
    tensors["features"] = tensors["features"] * np.float32("nan")


def features_without_rows(tensors):
    tensors["features"] = tensors["features"].ravel()


def no_stamps(tensors):
    del tensors["stamps"]


DAMAGES = [
    fewer_paths,
    paths_that_are_not_json,
    paths_that_are_numbers,
    features_of_another_length,
    features_that_are_not_numbers,
    features_without_rows,
    no_stamps,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(damage, index, net, tmp_path):
    index.save(tmp_path / "index")
    with safe_open(tmp_path / "index", framework="numpy") as file:
        about = file.metadata()
    tensors = load_file(tmp_path / "index")
    damage(tensors)
    save_file(tensors, tmp_path / "index", about)
    with pytest.raises(InputError, match="is broken, or not the file of an index"):
        Index.load(tmp_path / "index", net)


def test_a_file_of_something_else_is_not_touched(index, net, tmp_path):
    (tmp_path / "notes.txt").write_text("my notes\n")
    save_file({"weight": np.zeros(3)}, tmp_path / "weights.safetensors")
    for name in ("notes.txt", "weights.safetensors"):
        before = (tmp_path / name).read_bytes()
        for question in (lambda p: index.save(p), lambda p: Index.load(p, net)):
            with pytest.raises(InputError, match="not the file of an index"):
                question(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_files_that_cannot_be(index, net, tmp_path):
    with pytest.raises(InputError, match=r"no index at .*make one"):
        Index.load(tmp_path / "nowhere", net)
    with pytest.raises(InputError, match="photos is broken, or not the file"):
        Index.load(tmp_path / "photos", net)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        index.save(tmp_path / "file" / "index")
