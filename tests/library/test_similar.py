"""Similar images: the index of a folder, kept in a file."""

import os

import pytest
import xcnn
from xcnn import InputError, scenes, similar
from xcnn.similar import Index, folder_index

from tests.helpers.albums import interrupted_at


def test_everything_is_found_in_one_place():
    homes = {
        "fingerprint": xcnn.similar_features,
        "SUFFIXES": xcnn.similar_files,
        "Index": xcnn.similar_index,
        "sheet": xcnn.similar_sheet,
        "Vectors": xcnn.similar_vectors,
    }
    assert {*homes, "folder_index"} == set(similar.__all__)
    for name, home in homes.items():
        assert getattr(similar, name) is getattr(home, name)


def test_the_index_of_a_folder_is_kept(net, pictures, tmp_path, opened):
    kept = tmp_path / "kept"
    assert len(folder_index(net, pictures, kept, progress=False)) == 6
    opened.clear()
    os.remove(pictures / "a.png")
    scenes.render(9).image.save(pictures / "new.png")
    index = folder_index(net, pictures, kept, progress=False)
    assert opened == ["new.png"]
    assert index.paths == sorted(str(path) for path in pictures.rglob("*.png"))
    assert Index.load(kept, net).paths == index.paths
    assert not [path for path in pictures.rglob("*") if path.suffix not in (".png", "")]


def test_the_index_of_a_folder_holds_that_folder_only(net, pictures, tmp_path):
    kept = tmp_path / "kept"
    folder_index(net, pictures, kept, progress=False)
    other = tmp_path / "photos of ours"  # its name begins in the same way
    other.mkdir()
    scenes.render(9).image.save(other / "z.png")
    assert folder_index(net, other, kept, progress=False).paths == [str(other / "z.png")]
    index = folder_index(net, pictures, kept, progress=False)
    assert index.paths == sorted(str(path) for path in pictures.rglob("*.png"))


def test_the_index_of_a_folder_goes_on_where_it_stopped(net, pictures, tmp_path, opened):
    with interrupted_at("d.png"):
        folder_index(net, pictures, tmp_path / "kept", progress=False)
    assert len(Index.load(tmp_path / "kept", net)) == 2
    opened.clear()
    assert len(folder_index(net, pictures, tmp_path / "kept", progress=False)) == 6
    assert opened == ["c.png", "d.png", "e.png", "f.png"]


def test_the_index_of_a_folder_says_what_was_skipped(net, pictures, tmp_path):
    (pictures / "text.png").write_bytes(b"text")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    index = folder_index(net, pictures, tmp_path / "kept", progress=False)
    assert sorted(index.skipped) == [str(pictures / name) for name in ("gone.png", "text.png")]


def test_a_folder_without_pictures_leaves_no_file(net, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in"):
        folder_index(net, tmp_path / "empty", tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()
