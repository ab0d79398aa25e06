"""The vector of a picture: the means of the maps, whatever the network and the picture."""

import shutil

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from torch import nn
from xcnn import InputError, scenes, similar_features
from xcnn.similar import Index, fingerprint

from tests.helpers.albums import Watching, by_hand, index_of, of_colours


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
    index = index_of(pictures / "a.png", net)
    assert np.allclose(index.vectors[0], by_hand(net, Image.open(pictures / "a.png"), net.layer))


def test_a_layer_may_be_given_as_a_module(net):
    assert Index(net, net.module.layer2).layer == "layer2"


def test_many_images_have_the_features_of_each(net, monkeypatch):
    monkeypatch.setattr(similar_features, "BATCH", 3)
    x = torch.cat([net.preprocess(scenes.render(seed).image) for seed in range(7)])
    together = Index(net).features(x)
    each = [Index(net).features(image) for image in x.split(1)]
    assert np.allclose(together, np.concatenate(each), atol=1e-6)


def test_images_that_see_each_other_go_through_one_by_one(pictures):
    torch.manual_seed(0)
    net = xcnn.Network(Watching().eval(), "watching", size=32)
    shutil.copy(pictures / "a.png", pictures / "aa.png")  # the first two are the same
    index = index_of(pictures, net, "norm")
    for path, feature in zip(index.paths, index.vectors, strict=True):
        x = net.preprocess(Image.open(path))
        assert np.allclose(feature, Index(net, "norm").features(x)[0], atol=1e-6)


def test_a_dead_map_is_similar_to_nothing(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    index = index_of(tmp_path, of_colours(), "maps")
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
    index = index_of(tmp_path, of_colours(1e30), "maps")
    assert np.allclose(index.vectors, [[0.5**0.5, 0, 0.5**0.5]])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision(kind, tmp_path):
    """Nothing is lost but what the maps themselves have lost."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    net = of_colours()
    net.module.to(kind)
    index = index_of(tmp_path, net, "maps")
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
    index = index_of(tmp_path, net)
    wanted = by_hand(net, Image.open(tmp_path / "picture.png"))
    assert np.allclose(index.vectors[0], wanted, atol=1e-6)


def test_a_picture_that_lies_on_its_side_is_turned(net, tmp_path):
    image = scenes.render(3).image
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    index = index_of(tmp_path, net)
    assert np.allclose(index.vectors[0], by_hand(net, image), atol=1e-6)


def test_a_layer_without_maps(net, pictures):
    with pytest.raises(InputError, match="layer 'fc' puts out"):
        Index(net, "fc").add(pictures, progress=False)


def test_every_kind_of_weight_counts():
    prints = set()
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        prints.add(fingerprint(xcnn.Network(nn.Linear(2, 3).to(kind).eval(), size=1)))
    module = nn.Linear(2, 3).eval()
    module.register_buffer("count", torch.tensor(7))
    module.register_buffer("mask", torch.tensor([True, False]))
    module.register_buffer("nothing", torch.empty(0))
    prints.add(fingerprint(xcnn.Network(module, size=1)))
    module.mask[1] = True
    prints.add(fingerprint(xcnn.Network(module, size=1)))
    assert len(prints) == 6
