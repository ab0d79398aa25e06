"""The index of similar images: what it holds, and what a search answers."""

import os
import shutil

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from xcnn import InputError, scenes, similar_features
from xcnn.similar import Index

from tests.helpers.albums import (
    Graph,
    Watching,
    by_hand,
    index_of,
    interrupted_at,
    names,
    oracle,
    stand_in_for_usearch,
)

# ---- what goes in


def test_pictures_that_cannot_be_read_are_counted(net, pictures):
    (pictures / "text.png").write_bytes(b"not a picture\n")
    (pictures / "empty.jpg").write_bytes(b"")
    whole = (pictures / "a.png").read_bytes()
    (pictures / "half.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    Image.new("RGB", (3000, 1)).save(pictures / "line.png")
    (pictures / "folder.png").mkdir()
    os.mkfifo(pictures / "pipe.png")
    index = Index(net)
    assert index.add(pictures, progress=False) == len(index) == 6
    skipped = {os.path.basename(path): reason for path, reason in index.skipped.items()}
    assert set(skipped) == {f"{name}.png" for name in ("text", "half", "gone", "line", "pipe")} | {
        "empty.jpg"
    }
    assert "too long" in skipped["line.png"] and "No such file" in skipped["gone.png"]
    scenes.render(30).image.save(pictures / "text.png")  # mended
    assert index.add(pictures, progress=False) == 1 and len(index.skipped) == 5


def test_what_is_missing_in_a_list_is_counted(net, pictures):
    index = Index(net)
    assert index.add([pictures / "a.png", pictures / "zzz.png"], progress=False) == 1
    assert list(index.skipped) == [str(pictures / "zzz.png")]


def test_the_index_grows(net, index, pictures, opened):
    opened.clear()
    assert index.add(pictures, progress=False) == 0 and opened == []
    scenes.render(20).image.save(pictures / "0.png")
    scenes.render(21).image.save(pictures / "b.png")
    os.utime(pictures / "b.png", ns=(1, 1))
    assert index.add(pictures, progress=False) == 2
    assert opened == ["0.png", "b.png"]
    whole = index_of(pictures, net)
    assert whole.paths == index.paths and len(index) == 7
    assert np.allclose(whole.vectors, index.vectors, atol=1e-6)


def test_a_picture_that_broke_is_forgotten(index, pictures):
    (pictures / "b.png").write_bytes(b"broken")
    assert index.add(pictures, progress=False) == 0 and len(index) == 5
    assert list(index.skipped) == [str(pictures / "b.png")]


def test_what_was_done_is_kept_when_it_is_interrupted(net, pictures):
    index = Index(net)
    with interrupted_at("d.png"):
        index.add(pictures, progress=False)
    assert [os.path.basename(path) for path in index.paths] == ["a.png", "b.png"]
    assert index.add(pictures, progress=False) == 4


def test_a_bar_is_shown_where_there_is_work(net, pictures, capsys):
    index = Index(net)
    index.add(pictures)
    assert "6/6" in capsys.readouterr().err
    index.add(pictures)
    Index(net).add(pictures, progress=False)
    assert capsys.readouterr().err == ""


def test_pictures_are_dropped(index, pictures):
    assert index.drop() == 0
    os.remove(pictures / "b.png")
    shutil.rmtree(pictures / "sub")
    assert index.drop() == 3 and names(index.search(scenes.render(1).image, 9))
    assert index.drop([pictures / "a.png"]) == 1
    assert [os.path.basename(path) for path in index.paths] == ["c.png", "d.png"]
    with pytest.raises(InputError, match=r"a\.png is not in the index"):
        index.drop([pictures / "a.png"])
    assert index.drop(index.paths) == 2 and len(index) == 0
    assert index.add(pictures, progress=False) == 3


def test_networks_that_cannot_be_used(net):
    with pytest.raises(InputError, match=r"xcnn\.Network\(module, size="):
        Index(net.module)
    assert len(Index(xcnn.Network(net.module, size=128))) == 0  # the advice works
    with pytest.raises(InputError, match=r"xcnn\.load"):
        Index("resnet_s")
    with pytest.raises(InputError, match="did you mean 'layer3'"):
        Index(net, "layer_3")


# ---- search


def test_the_answer_is_that_of_brute_force(index, net):
    for seed in (0, 3, 50):
        image = scenes.render(seed).image
        rows, values = oracle(index.vectors, by_hand(net, image), 4)
        answer = index.search(image, k=4)
        assert [path for path, _ in answer] == [index.paths[row] for row in rows]
        assert [value for _, value in answer] == pytest.approx(values, abs=2e-6)


def test_many_pictures_have_the_answers_of_each(index, pictures, net):
    paths = [pictures / "a.png", str(pictures / "b.png"), scenes.render(9).image]
    together = index.search_many(paths, k=3)
    assert together == [index.search(path, k=3) for path in paths]
    x = torch.cat([net.preprocess(Image.open(path)) for path in paths[:2]])
    assert index.search_many(x, k=3) == together[:2]
    assert index.search(x[:1], k=3) == together[0]
    array = np.asarray(scenes.render(9).image)
    assert index.search(array, k=3) == together[2]


def test_more_than_one_batch_of_pictures(index, monkeypatch):
    images = [scenes.render(seed).image for seed in range(5)]
    together = index.search_many(images, k=2)
    monkeypatch.setattr(similar_features, "BATCH", 2)
    assert [names(answer) for answer in index.search_many(images, k=2)] == [
        names(answer) for answer in together
    ]


@pytest.mark.parametrize("k", [1, 6, 7, 1000, np.int64(2)])
def test_how_many_are_answered(index, pictures, k):
    answer = index.search(pictures / "a.png", k)
    assert len(answer) == min(k, 6) and answer[0] == (str(pictures / "a.png"), 1.0)
    assert all(isinstance(value, float) and -1 <= value <= 1 for _, value in answer)
    assert len(set(names(answer))) == len(answer)


def test_a_single_picture(net, pictures):
    index = index_of(pictures / "a.png", net)
    assert index.search(pictures / "a.png") == [(str(pictures / "a.png"), 1.0)]
    assert index.search(pictures / "a.png", itself=False) == []


def test_copies_of_a_picture_come_in_the_order_of_their_names(index, net, pictures):
    for name in ("z.png", "0.png", "sub/a.png"):
        shutil.copy(pictures / "c.png", pictures / name)
    index.add(pictures, progress=False)
    answer = index.search(pictures / "c.png", k=4)
    assert [path for path, _ in answer] == [
        str(pictures / name) for name in ("0.png", "c.png", "sub/a.png", "z.png")
    ]
    assert [value for _, value in answer] == [1.0] * 4


def test_the_picture_itself_is_left_out(index, pictures, tmp_path, monkeypatch):
    shutil.copy(pictures / "a.png", pictures / "copy.png")  # another file
    index.add(pictures, progress=False)
    (tmp_path / "link.png").symlink_to(pictures / "a.png")
    os.link(pictures / "a.png", tmp_path / "hard.png")
    monkeypatch.chdir(pictures)
    ways = ["a.png", "./sub/../a.png", str(pictures / "a.png"), tmp_path / "link.png"]
    for path in [*ways, tmp_path / "hard.png"]:
        answer = index.search(path, k=10, itself=False)
        assert len(answer) == 6 and "a.png" not in names(answer) and names(answer)[0] == "copy.png"
    assert len(index.search("copy.png", k=10)) == 7


def test_the_picture_itself_is_left_out_when_it_changed(index, pictures):
    scenes.render(40).image.save(pictures / "a.png")
    assert "a.png" not in names(index.search(pictures / "a.png", k=10, itself=False))


def test_a_file_elsewhere_is_no_part_of_the_index(index, pictures, tmp_path):
    shutil.copy2(pictures / "a.png", tmp_path / "a.png")  # as large and as old
    assert len(index.search(tmp_path / "a.png", k=10, itself=False)) == 6


def test_questions_that_cannot_be_answered(index, net, pictures, tmp_path):
    image = scenes.render(0).image
    (tmp_path / "text.png").write_bytes(b"text")
    x = net.preprocess(image)
    for question, says in [
        (lambda: index.search(image, k=0), "k is how many"),
        (lambda: index.search(image, k=2.5), "k is how many"),
        (lambda: index.search(image, itself=False), "needs the picture's path; got Image"),
        (lambda: index.search(tmp_path / "nowhere.png"), "cannot open .*nowhere.png"),
        (lambda: index.search(tmp_path / "text.png"), "cannot open .*text.png"),
        (lambda: index.search(pictures), "not a file"),
        (lambda: index.search(x.expand(2, -1, -1, -1)), r"2 images; search_many\(x\)"),
        (lambda: index.search(x * float("nan")), "NaN"),
        (lambda: index.search(x[0]), r"shape \(N, C, H, W\), got \(3, 128, 128\)"),
        (lambda: index.search_many(x[:0]), r"shape \(N, C, H, W\), got \(0, 3, 128, 128\)"),
        (lambda: index.search_many(pictures / "a.png"), r"search\(picture\) asks for one"),
        (lambda: index.search_many([]), "a list of pictures"),
    ]:
        with pytest.raises(InputError, match=says):
            question()


def test_an_empty_index_says_what_to_do(net, tmp_path):
    with pytest.raises(InputError, match=r"no pictures; index\.add\(folder\)"):
        Index(net).search(scenes.render(0).image)
    (tmp_path / "text.png").write_bytes(b"text")
    index = Index(net)
    assert index.add(tmp_path, progress=False) == 0
    with pytest.raises(InputError, match=r"1 skipped, such as .*text\.png: cannot open"):
        index.search(scenes.render(0).image)


def test_without_usearch_the_message_names_the_extra(monkeypatch, index, pictures):
    stand_in_for_usearch(monkeypatch, None)
    with pytest.raises(InputError, match=r"pip install 'xcnn\[similar\]'"):
        index.search(pictures / "a.png", exact=False)
    assert index.search(pictures / "a.png", exact=True)


def test_what_a_graph_proposes_is_put_in_order(monkeypatch, net, pictures):
    stand_in_for_usearch(monkeypatch, Graph)
    monkeypatch.setattr(Graph, "made", 0)
    index = index_of(pictures, net)
    for k in (1, 3, 6, 10):
        for itself in (True, False):
            exact = index.search(pictures / "a.png", k, itself=itself)
            assert index.search(pictures / "a.png", k, exact=False, itself=itself) == exact
    assert index.add(pictures, progress=False) == index.drop() == 0
    index.search(pictures / "a.png", exact=False)
    assert Graph.made == 1  # once, and again only when the index has changed
    scenes.render(9).image.save(pictures / "g.png")
    index.add(pictures, progress=False)
    assert len(index.search(pictures / "g.png", 10, exact=False)) == 7 and Graph.made == 2


# ---- weights that change


def altered(change):
    """A network of our own that something happens to."""
    torch.manual_seed(0)
    net = xcnn.Network(Watching(apart=True).eval(), "own", size=32)
    return net, lambda: change(net)


def train_a_step(net):
    with torch.no_grad():
        net.module.conv.weight.mul_(1.0001)


def change_data(net):
    net.module.conv.bias.data[0] += 1


def change_statistics(net):
    net.module.norm.running_mean += 1


def change_size(net):
    net.size = 40


def change_mean(net):
    net.mean = (0.5, 0.5, 0.5)


CHANGES = [train_a_step, change_data, change_statistics, change_size, change_mean]


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_has_changed_is_refused(change, pictures, tmp_path):
    net, alter = altered(change)
    index = index_of(pictures, net, "conv")
    index.save(tmp_path / "index")
    alter()
    for question in (
        lambda: index.add(pictures, progress=False),
        lambda: index.search(pictures / "a.png"),
        lambda: index.save(tmp_path / "other"),
    ):
        with pytest.raises(
            InputError, match=r"own has other weights.*make a new one: Index\(net\)"
        ):
            question()
    with pytest.raises(InputError, match="was made when own had other weights"):
        Index.load(tmp_path / "index", net)


def test_another_network_is_refused(index, tmp_path):
    index.save(tmp_path / "index")
    with pytest.raises(InputError, match="made with resnet_s, not with allconv_s"):
        Index.load(tmp_path / "index", xcnn.load("allconv_s"))
    with pytest.raises(InputError, match=r"xcnn\.Network\(module, size="):
        Index.load(tmp_path / "index", index.net.module)


def test_the_same_weights_under_another_name_are_taken(index, net, tmp_path):
    index.save(tmp_path / "index")
    twin = xcnn.Network(net.module, "twin", size=net.size, mean=net.mean, std=net.std)
    assert len(Index.load(tmp_path / "index", twin)) == 6
