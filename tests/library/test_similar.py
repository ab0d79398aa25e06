"""Similar images: what the index holds, what a search answers, and what the sheet shows."""

import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
import torch
import xcnn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import nn
from xcnn import InputError, photos, scenes, similar
from xcnn.similar import Index, Vectors

from tools.data import measure_similar

ODD_NAMES = ["a b.png", "Ärger.JPG", "猫.webp", "$x_1$ & %s {0}.bmp", "-n.gif", "new\nline.tiff"]


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
    index = Index(net)
    index.add(pictures, progress=False)
    return index


def names(answer):
    return [os.path.basename(path) for path, _ in answer]


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


# ---- features


@pytest.mark.parametrize("layer", [None, "layer1", "relu"])
def test_features_are_the_means_of_the_maps(net, pictures, layer):
    index = Index(net, layer)
    assert index.add(pictures, progress=False) == 6 and index.vectors.dtype == np.float32
    for path, feature in zip(index.paths, index.vectors, strict=True):
        wanted = by_hand(net, Image.open(path), layer or "layer3")
        assert np.allclose(feature, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["vgg_s", "googlenet_s", "allconv_s"])
def test_every_network_has_features(name, pictures):
    net = xcnn.load(name)
    index = Index(net)
    index.add(pictures / "a.png", progress=False)
    assert np.allclose(index.vectors[0], by_hand(net, Image.open(pictures / "a.png"), net.layer))


def test_a_layer_may_be_given_as_a_module(net):
    assert Index(net, net.module.layer2).layer == "layer2"


def test_many_images_have_the_features_of_each(net, monkeypatch):
    monkeypatch.setattr(similar, "BATCH", 3)
    x = torch.cat([net.preprocess(scenes.render(seed).image) for seed in range(7)])
    together = Index(net).features(x)
    each = [Index(net).features(image) for image in x.split(1)]
    assert np.allclose(together, np.concatenate(each), atol=1e-6)


class Watching(nn.Module):
    """Maps minus their mean over the batch: images see each other."""

    def __init__(self, apart=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=apart)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))


def test_images_that_see_each_other_go_through_one_by_one(pictures):
    torch.manual_seed(0)
    net = xcnn.Network(Watching().eval(), "watching", size=32)
    shutil.copy(pictures / "a.png", pictures / "aa.png")  # the first two are the same
    index = Index(net, "norm")
    index.add(pictures, progress=False)
    for path, feature in zip(index.paths, index.vectors, strict=True):
        x = net.preprocess(Image.open(path))
        assert np.allclose(feature, Index(net, "norm").features(x)[0], atol=1e-6)


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


def test_a_dead_map_is_similar_to_nothing(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    index = Index(of_colours(), "maps")
    index.add(tmp_path, progress=False)
    assert index.vectors.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert [value for _, value in index.search(tmp_path / "black.png")] == [0, 0]


def test_values_that_are_not_finite(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    index = Index(of_colours(float("inf")), "maps")
    with pytest.raises(InputError, match="layer 'maps' hold NaN or infinite"):
        index.add(tmp_path, progress=False)
    assert len(index) == 0


def test_large_values_have_a_direction(tmp_path):
    Image.new("RGB", (9, 9), (255, 0, 255)).save(tmp_path / "pink.png")
    index = Index(of_colours(1e30), "maps")
    index.add(tmp_path, progress=False)
    assert np.allclose(index.vectors, [[0.5**0.5, 0, 0.5**0.5]])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision(kind, tmp_path):
    """Nothing is lost but what the maps themselves have lost."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    net = of_colours()
    net.module.to(kind)
    index = Index(net, "maps")
    index.add(tmp_path, progress=False)
    x = net.preprocess(Image.open(tmp_path / "noise.png")).to(kind)
    F = net.module.maps(x)[0].detach().double().mean((1, 2))
    assert np.allclose(index.vectors[0], F / F.norm(), atol=1e-6)


def test_nothing_is_left_behind(net, index, pictures):
    state = torch.get_rng_state()
    with torch.inference_mode():
        index.search(pictures / "a.png")
    assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()
    assert all(p.grad is None for p in net.module.parameters())
    assert not any(part._forward_hooks for part in net.module.modules())


# ---- what goes in


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
    similar.sheet(net, path, [(path, similarity)]).savefig(tmp_path / "sheet.svg")


def test_a_name_that_is_not_text(net, tmp_path):
    path = os.fsencode(tmp_path) + b"/clock\xff.png"
    scenes.render(3).image.save(tmp_path / "clock.png")
    try:
        os.rename(tmp_path / "clock.png", path)
    except OSError:
        pytest.skip("this file system wants names that are text")
    index = Index(net)
    index.add(path, progress=False)
    index.save(tmp_path / "index")
    answer = Index.load(tmp_path / "index", net).search(path)
    assert answer == [(os.fsdecode(path), 1.0)]
    similar.sheet(net, path, answer).savefig(tmp_path / "sheet.png")


def as_grey(image):
    return image.convert("L")


def with_alpha(image):
    return image.convert("RGBA")


def in_16_bits(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_a_palette(image):
    return image.convert("P")


@pytest.mark.parametrize("change", [as_grey, with_alpha, in_16_bits, with_a_palette])
def test_unusual_pictures(change, net, tmp_path):
    image = change(scenes.render(3).image)
    image.save(tmp_path / "picture.png")
    index = Index(net)
    index.add(tmp_path, progress=False)
    wanted = by_hand(net, Image.open(tmp_path / "picture.png"))
    assert np.allclose(index.vectors[0], wanted, atol=1e-6)


def test_a_picture_that_lies_on_its_side_is_turned(net, tmp_path):
    image = scenes.render(3).image
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    index = Index(net)
    index.add(tmp_path, progress=False)
    assert np.allclose(index.vectors[0], by_hand(net, image), atol=1e-6)


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


def test_what_is_missing_in_a_list_is_counted(net, pictures):
    index = Index(net)
    assert index.add([pictures / "a.png", pictures / "zzz.png"], progress=False) == 1
    assert list(index.skipped) == [str(pictures / "zzz.png")]


def test_the_index_grows(net, index, pictures, monkeypatch):
    opened = []
    read = photos.read
    monkeypatch.setattr(photos, "read", lambda path: opened.append(path) or read(path))
    assert index.add(pictures, progress=False) == 0 and opened == []
    scenes.render(20).image.save(pictures / "0.png")
    scenes.render(21).image.save(pictures / "b.png")
    os.utime(pictures / "b.png", ns=(1, 1))
    assert index.add(pictures, progress=False) == 2
    assert [os.path.basename(path) for path in opened] == ["0.png", "b.png"]
    whole = Index(net)
    whole.add(pictures, progress=False)
    assert whole.paths == index.paths and len(index) == 7
    assert np.allclose(whole.vectors, index.vectors, atol=1e-6)


def test_a_picture_that_broke_is_forgotten(index, pictures):
    (pictures / "b.png").write_bytes(b"broken")
    assert index.add(pictures, progress=False) == 0 and len(index) == 5
    assert list(index.skipped) == [str(pictures / "b.png")]


def test_what_was_done_is_kept_when_it_is_interrupted(net, pictures, monkeypatch):
    read = photos.read

    def interrupted(path):
        if os.path.basename(path) == "d.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(similar, "BATCH", 2)
    monkeypatch.setattr(photos, "read", interrupted)
    index = Index(net)
    with pytest.raises(KeyboardInterrupt):
        index.add(pictures, progress=False)
    assert [os.path.basename(path) for path in index.paths] == ["a.png", "b.png"]
    monkeypatch.setattr(photos, "read", read)
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


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere", "no file or folder"), ("empty", "no pictures in .*no files .jpg")],
)
def test_places_without_pictures(place, says, net, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=says):
        Index(net).add(tmp_path / place, progress=False)


def test_networks_that_cannot_be_used(net):
    with pytest.raises(InputError, match=r"xcnn\.Network\(module, size="):
        Index(net.module)
    assert len(Index(xcnn.Network(net.module, size=128))) == 0  # the advice works
    with pytest.raises(InputError, match=r"xcnn\.load"):
        Index("resnet_s")
    with pytest.raises(InputError, match="did you mean 'layer3'"):
        Index(net, "layer_3")


def test_a_layer_without_maps(net, pictures):
    with pytest.raises(InputError, match="layer 'fc' puts out"):
        Index(net, "fc").add(pictures, progress=False)


# ---- search


def test_the_answer_is_that_of_brute_force(index, net):
    for seed in (0, 3, 50):
        image = scenes.render(seed).image
        rows, values = oracle(index.vectors, by_hand(net, image), 4)
        answer = index.search(image, k=4)
        assert [path for path, _ in answer] == [index.paths[row] for row in rows]
        assert [value for _, value in answer] == pytest.approx(values, abs=2e-6)


@pytest.mark.parametrize(
    ("n", "k", "rows_at_once", "queries_at_once"),
    [
        (1, 5, 4, 64),
        (7, 3, 3, 2),
        (64, 5, 8, 3),
        (500, 5, 7, 64),
        (500, 499, 64, 1),
        (500, 900, 100, 9),
    ],
)
def test_blocks_give_the_same_as_one_product(n, k, rows_at_once, queries_at_once, monkeypatch):
    features = unit_vectors(n, 12)
    queries = unit_vectors(9, 12, seed=1)
    whole = Vectors(features).nearest(queries, k)
    monkeypatch.setattr(similar, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(similar, "QUERIES_AT_ONCE", queries_at_once)
    left_out = [[q % n] for q in range(9)]
    parts = Vectors(features).nearest(queries, k)
    others = Vectors(features).nearest(queries, k, left_out=left_out)
    for q, query in enumerate(queries):
        rows, values = oracle(features, query, k)
        for answer in (whole[q], parts[q]):
            assert len(answer[0]) == min(k, n)
            assert np.allclose(answer[1], values, atol=2e-6)
            assert set(answer[0].tolist()) == set(rows) and np.all(np.diff(answer[1]) <= 0)
        rows, values = oracle(features, query, k, left_out[q])
        assert set(others[q][0].tolist()) == set(rows)
        assert np.allclose(others[q][1], values, atol=2e-6)


@pytest.mark.parametrize("rows_at_once", [2, 5, 100])
def test_equal_ones_come_in_order(rows_at_once, monkeypatch):
    monkeypatch.setattr(similar, "ROWS_AT_ONCE", rows_at_once)
    v, w = np.eye(2, dtype=np.float32)
    features = np.stack([w, v, w, v, v, w, v, v])
    ((rows, values),) = Vectors(features).nearest(v[None], k=4)
    assert rows.tolist() == [1, 3, 4, 6] and values.tolist() == [1] * 4
    ((rows, _),) = Vectors(features).nearest(v[None], k=7)
    assert rows.tolist() == [1, 3, 4, 6, 7, 0, 2]


def test_queries_that_do_not_fit():
    vectors = Vectors(unit_vectors(4, 3))
    for queries in (unit_vectors(4, 2), unit_vectors(1, 3)[0]):
        with pytest.raises(InputError, match=r"queries must have shape \(Q, 3\)"):
            vectors.nearest(queries)
    with pytest.raises(InputError, match="k is how many"):
        vectors.nearest(unit_vectors(4, 3), k=-1)


def test_the_memory_of_a_search_is_bounded(monkeypatch):
    """However many vectors there are: no product is larger than a block."""
    sizes = []
    whole = np.ndarray.round

    class Watched(np.ndarray):
        def round(self, *args):
            sizes.append(self.size)
            return whole(np.asarray(self), *args)

    monkeypatch.setattr(similar, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(similar, "QUERIES_AT_ONCE", 10)
    Vectors(unit_vectors(1000, 4).view(Watched)).nearest(unit_vectors(95, 4), 3)
    assert max(sizes) == 500 and sum(sizes) == 95_000


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
    monkeypatch.setattr(similar, "BATCH", 2)
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
    index = Index(net)
    index.add(pictures / "a.png", progress=False)
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
    index = Index(net, "conv")
    index.add(pictures, progress=False)
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


def test_every_kind_of_weight_counts():
    prints = set()
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        prints.add(similar.fingerprint(xcnn.Network(nn.Linear(2, 3).to(kind).eval(), size=1)))
    module = nn.Linear(2, 3).eval()
    module.register_buffer("count", torch.tensor(7))
    module.register_buffer("mask", torch.tensor([True, False]))
    module.register_buffer("nothing", torch.empty(0))
    prints.add(similar.fingerprint(xcnn.Network(module, size=1)))
    module.mask[1] = True
    prints.add(similar.fingerprint(xcnn.Network(module, size=1)))
    assert len(prints) == 6


# ---- files of an index


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
    index = Index(net, "layer1")
    index.add(pictures, progress=False)
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
    assert stored == [*"abcd", "sub/e", "sub/sub/f"] or stored == [
        f"{name}.png" for name in ("a", "b", "c", "d", "sub/e", "sub/sub/f")
    ]


def test_a_file_is_whole_at_every_moment(index, net, tmp_path, monkeypatch):
    index.save(tmp_path / "index")
    before = (tmp_path / "index").read_bytes()

    def torn(tensors, path, about):
        with open(path, "wb") as file:
            file.write(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(similar, "save_file", torn)
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
    about, tensors, _ = similar._read(str(tmp_path / "index"))
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


# ---- the index of a folder


def test_the_index_of_a_folder_is_kept(net, pictures, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    assert len(similar.folder_index(net, pictures, kept, progress=False)) == 6
    opened = []
    read = photos.read
    monkeypatch.setattr(photos, "read", lambda path: opened.append(path) or read(path))
    os.remove(pictures / "a.png")
    scenes.render(9).image.save(pictures / "new.png")
    index = similar.folder_index(net, pictures, kept, progress=False)
    assert [os.path.basename(path) for path in opened] == ["new.png"]
    assert index.paths == sorted(str(path) for path in pictures.rglob("*.png"))
    assert Index.load(kept, net).paths == index.paths
    assert not [path for path in pictures.rglob("*") if path.suffix not in (".png", "")]


def test_the_index_of_a_folder_holds_that_folder_only(net, pictures, tmp_path):
    kept = tmp_path / "kept"
    similar.folder_index(net, pictures, kept, progress=False)
    other = tmp_path / "photos of ours"  # its name begins in the same way
    other.mkdir()
    scenes.render(9).image.save(other / "z.png")
    assert similar.folder_index(net, other, kept, progress=False).paths == [str(other / "z.png")]
    index = similar.folder_index(net, pictures, kept, progress=False)
    assert index.paths == sorted(str(path) for path in pictures.rglob("*.png"))


def test_the_index_of_a_folder_goes_on_where_it_stopped(net, pictures, tmp_path, monkeypatch):
    read = photos.read

    def interrupted(path):
        if os.path.basename(path) == "d.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(similar, "BATCH", 2)
    monkeypatch.setattr(photos, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        similar.folder_index(net, pictures, tmp_path / "kept", progress=False)
    assert len(Index.load(tmp_path / "kept", net)) == 2


def test_the_index_of_a_folder_says_what_was_skipped(net, pictures, tmp_path):
    (pictures / "text.png").write_bytes(b"text")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    index = similar.folder_index(net, pictures, tmp_path / "kept", progress=False)
    assert sorted(index.skipped) == [str(pictures / name) for name in ("gone.png", "text.png")]


def test_a_folder_without_pictures_leaves_no_file(net, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in"):
        similar.folder_index(net, tmp_path / "empty", tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()


# ---- the approximate search


def test_without_usearch_the_message_names_the_extra(monkeypatch, index, pictures):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(InputError, match=r"pip install 'xcnn\[similar\]'"):
        index.search(pictures / "a.png", exact=False)
    assert index.search(pictures / "a.png", exact=True)


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


def test_what_a_graph_proposes_is_put_in_order(monkeypatch, net, pictures):
    monkeypatch.setitem(sys.modules, "usearch", types.ModuleType("usearch"))
    monkeypatch.setitem(sys.modules, "usearch.index", types.SimpleNamespace(Index=Graph))
    monkeypatch.setattr(Graph, "made", 0)
    index = Index(net)
    index.add(pictures, progress=False)
    for k in (1, 3, 6, 10):
        for itself in (True, False):
            exact = index.search(pictures / "a.png", k, itself=itself)
            assert index.search(pictures / "a.png", k, exact=False, itself=itself) == exact
    assert Graph.made == 1  # once, and again only when the index has changed
    scenes.render(9).image.save(pictures / "g.png")
    index.add(pictures, progress=False)
    assert len(index.search(pictures / "g.png", 10, exact=False)) == 7 and Graph.made == 2


def test_equal_ones_come_in_order_from_a_graph_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", types.ModuleType("usearch"))
    monkeypatch.setitem(sys.modules, "usearch.index", types.SimpleNamespace(Index=Graph))
    v, w = np.eye(2, dtype=np.float32)
    vectors = Vectors(np.stack([w, v, w, v, v]))
    ((rows, values),) = vectors.nearest(v[None], k=5, exact=False)
    assert rows.tolist() == [1, 3, 4, 0, 2] and values.tolist() == [1, 1, 1, 0, 0]


def test_usearch_finds_what_the_exact_search_finds():
    pytest.importorskip("usearch", reason="the extra `similar` is not installed")
    features = unit_vectors(3000, 16)
    features[5] = features[7] = features[6]  # ties
    queries = unit_vectors(50, 16, seed=1)
    queries[0] = features[6]
    vectors = Vectors(features)
    exact = vectors.nearest(queries, 5)
    near = vectors.nearest(queries, 5, exact=False)
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for (a, _), (b, _) in zip(exact, near, strict=True)
    ]
    assert np.mean(shared) > 4.5
    assert near[0][0][:3].tolist() == [5, 6, 7]
    for rows, values in near:
        assert np.all(np.diff(values) <= 0) and len(rows) == 5


@pytest.mark.parametrize("n", [1, 3, 40])
def test_usearch_in_small_indexes(n):
    pytest.importorskip("usearch", reason="the extra `similar` is not installed")
    features = unit_vectors(n, 8)
    features[0] = 0  # a dead map
    ((rows, values),) = Vectors(features).nearest(features[-1:], k=50, exact=False)
    wanted = Vectors(features).nearest(features[-1:], k=50)[0]
    assert rows.tolist() == wanted[0].tolist() and np.allclose(values, wanted[1])


# ---- the sheet


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_the_sheet_shows_label_map_and_neighbours(index, net, pictures):
    path = pictures / "a.png"
    answer = index.search(path, k=3, itself=False)
    figure = similar.sheet(net, path, answer)
    ((_, label, p),) = net.top(net.preprocess(Image.open(path)), 1)[0]
    own, of_map, *others = titles(figure)
    assert own == f"{label}\n{p:.1%}" and of_map == f"Grad-CAM\n{label}"
    assert others == [f"{value:.2f}\n{os.path.basename(other)}" for other, value in answer]
    drawn = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    for array, shown in zip(drawn[2:], answer, strict=True):
        seen = net.picture(net.preprocess(Image.open(shown[0])))[0]
        assert np.allclose(array, seen, atol=1e-6)
    R = xcnn.grad_cam(net, net.preprocess(Image.open(path)))
    wanted = xcnn.show.overlay(net.picture(net.preprocess(Image.open(path)))[0], R[0])
    assert np.array_equal(drawn[1], np.asarray(wanted))


@pytest.mark.parametrize(
    ("target", "title"), [("clock", "clock"), (3, "clock"), (np.int64(3), "clock"), (None, None)]
)
def test_the_map_of_another_class(target, title, net, pictures):
    figure = similar.sheet(net, pictures / "a.png", [], target, "gradient")
    label = titles(figure)[0].split("\n")[0]
    assert titles(figure)[1] == f"gradient\n{title or label}" and len(figure.axes) == 2


def test_options_go_to_the_method(net, pictures):
    image = Image.open(pictures / "a.png")
    figure = similar.sheet(net, image, [], 3, "grad_cam", layer="layer1")
    R = xcnn.grad_cam(net, net.preprocess(image), 3, layer="layer1")
    wanted = xcnn.show.overlay(net.picture(net.preprocess(image))[0], R[0])
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    assert np.array_equal(drawn, np.asarray(wanted))


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(0, 1, 2), (5, 1, 7), (6, 2, 7), (20, 4, 7)]
)
def test_many_neighbours_take_more_rows(count, rows, columns, net, pictures):
    answer = [(pictures / "a.png", 0.5)] * count
    figure = similar.sheet(net, pictures / "a.png", answer)
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns)
    assert sum(bool(title) for title in titles(figure)) == 2 + count


@pytest.mark.parametrize("name", [*ODD_NAMES, "x" * 90 + ".png", "$.png", r"\frac{.png"])
def test_captions_can_be_drawn(name, net, pictures, recwarn):
    path = pictures / name
    scenes.render(0).image.save(path)
    figure = similar.sheet(net, path, [(path, 1.0)])
    FigureCanvasAgg(figure).draw()
    caption = titles(figure)[2].split("\n", 1)[1].replace(r"\$", "$")
    assert len(caption) <= similar.MAX_CAPTION and caption.isprintable()
    assert caption[:1] in (name[:1], "?") and caption[-1] == name[-1]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_network_without_names(net, pictures):
    nameless = xcnn.Network(net.module, size=128)
    figure = similar.sheet(nameless, pictures / "a.png", [], 3)
    assert titles(figure)[0].startswith("class ") and titles(figure)[1] == "Grad-CAM\nclass 3"


def test_a_function_as_target_has_no_name(net, pictures):
    figure = similar.sheet(net, pictures / "a.png", [], lambda S: S[:, 3] - S[:, 5])
    assert titles(figure)[1] == "Grad-CAM\n"


class Regression(nn.Module):
    """Two maps, and what it returns is not class scores."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return {"depth": self.maps(x).relu()}


def mean_depth(out):
    return out["depth"].mean((1, 2, 3))


def test_a_network_that_does_not_classify(pictures):
    torch.manual_seed(0)
    net = xcnn.Network(Regression().eval(), "depth", size=32)
    index = Index(net, "maps")
    index.add(pictures, progress=False)
    answer = index.search(pictures / "a.png", 2)
    figure = similar.sheet(net, pictures / "a.png", answer, mean_depth, layer="maps")
    assert titles(figure)[0] == "\n" and len(figure.axes) == 4


def test_sheets_that_cannot_be_drawn(index, net, pictures):
    for question, says in [
        (lambda: similar.sheet(net, pictures / "a.png", [], method="grad_kam"), "unknown method"),
        (lambda: similar.sheet(net, pictures / "a.png", [], "clok"), "did you mean 'clock'"),
        (lambda: similar.sheet(net, pictures / "no.png", []), r"cannot open .*no\.png"),
    ]:
        with pytest.raises(InputError, match=says):
            question()
    answer = index.search(pictures / "a.png")
    os.remove(pictures / "b.png")
    with pytest.raises(InputError, match=r"cannot open .*b\.png.*No such file"):
        similar.sheet(net, pictures / "a.png", answer)


# ---- the record of how search behaves


def test_vectors_are_drawn_around_real_ones():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    spread = np.array([[0.05, 0, 0, 0], [0.04, 0.03, 0, 0], [0, 0, 0.02, 0], [0, 0, 0, 0]])
    real = np.eye(4)[labels] + rng.normal(size=(600, 4)) @ spread.T
    means, factor = measure_similar.clusters(real, labels)
    assert np.allclose(means, [real[labels == kind].mean(0) for kind in range(3)])
    apart = np.concatenate([real[labels == kind] - means[kind] for kind in range(3)])
    assert np.allclose(factor @ factor.T, apart.T @ apart / 597)
    vectors = measure_similar.vectors_around(means, factor, 5000, rng)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    nearest = (vectors @ means.T).argmax(1)
    assert np.allclose(np.bincount(nearest) / 5000, 1 / 3, atol=0.03)
    for kind in range(3):
        mean = vectors[nearest == kind].mean(0)
        assert mean @ means[kind] / np.linalg.norm(mean) / np.linalg.norm(means[kind]) > 0.99
    again = measure_similar.vectors_around(means, factor, 10, np.random.default_rng(5))
    same = measure_similar.vectors_around(means, factor, 10, np.random.default_rng(5))
    assert np.array_equal(again, same)


class Forgetful(Graph):
    """It proposes every neighbour but the nearest."""

    memory_usage = 123

    def search(self, query, count):
        order = np.argsort(-(self.vectors @ query))[1 : count + 1]
        return types.SimpleNamespace(keys=self.keys[order])


def test_what_is_measured(monkeypatch):
    features = unit_vectors(300, 8)
    queries = unit_vectors(6, 8, seed=1)
    monkeypatch.setitem(sys.modules, "usearch", types.ModuleType("usearch"))
    monkeypatch.setitem(sys.modules, "usearch.index", types.SimpleNamespace(Index=Forgetful))
    row = measure_similar.measured(features, queries)
    near = row["approximate"]
    assert (row["n"], row["bytes"], near["bytes"]) == (300, 300 * 8 * 4, 123)
    assert near["recall"] == pytest.approx(0.8)  # four of five
    assert row["exact_seconds"] > 0 and near["seconds"] > 0 and near["build_seconds"] > 0
    assert 300 * 4 <= row["peak_bytes"] < 100_000
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    assert measure_similar.measured(features, queries)["approximate"] is None


def test_the_record_is_written(tmp_path, capsys):
    out = tmp_path / "similar.json"
    options = ["--scenes", "12", "--queries", "3", "--out", str(out), "--sizes"]
    measure_similar.main([*options, "200", "100"])
    measure_similar.main([*options, "50"])
    record = json.loads(out.read_text())
    assert [row["n"] for row in record["rows"]] == [50, 100, 200]
    assert (record["network"], record["channels"], record["k"]) == ("resnet_s", 80, 5)
