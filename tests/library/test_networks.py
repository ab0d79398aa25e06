"""Networks behind one face: their layers, their answers, and a picture on its way in and back."""

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from torch import nn
from xcnn import coco, scenes

from tests.helpers.places import SMALL


@pytest.mark.parametrize(
    ("name", "last", "shape"),
    [
        ("vgg_s", "features.15", (64, 8, 8)),
        ("resnet_s", "layer3", (80, 8, 8)),
        ("googlenet_s", "inception4", (128, 8, 8)),
        ("allconv_s", "features.15", (88, 8, 8)),
    ],
)
def test_layers(name, last, shape):
    net = xcnn.load(name)
    assert net.layer == last == list(net.layers)[-1] and net.layers[last] == shape
    sizes = [h for _, h, _ in net.layers.values()]
    assert sizes == sorted(set(sizes), reverse=True) and len(sizes) >= 4
    for layer, maps in net.layers.items():
        seen = []
        handle = net.module.get_submodule(layer).register_forward_hook(
            lambda *a, to=seen: to.append(a[-1].shape[1:])
        )
        net.module(torch.zeros(1, 3, 128, 128))
        handle.remove()
        assert seen == [maps]


def test_probabilities_and_top():
    net = xcnn.load("resnet_s")
    x = torch.cat([net.preprocess(scenes.render(s).image) for s in (1, 2)])
    p = net.predict(x)
    assert p.shape == (2, 10) and torch.allclose(p.sum(1), torch.ones(2)) and not p.requires_grad
    for row, top in zip(p, net.top(x, 3), strict=True):
        assert [c for c, _, _ in top] == row.argsort(descending=True)[:3].tolist()
        assert [name for _, name, _ in top] == [net.classes[c] for c, _, _ in top]
        assert [q for _, _, q in top] == pytest.approx(row.sort(descending=True)[0][:3].tolist())


def test_few_classes_and_a_network_that_works_in_place():
    class Halving(nn.Module):
        def forward(self, x):
            return x.mul_(0.5).mean((2, 3))

    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    assert len(xcnn.Network(Halving().eval(), "halving").top(x)[0]) == 3 and torch.equal(x, before)


@pytest.mark.parametrize("name", SMALL)
def test_size(name):
    net, picture = xcnn.load(name), scenes.render(3, size=160).image.crop((0, 0, 150, 110))
    assert net.preprocess(picture).shape == (1, 3, 128, 128)
    assert net.preprocess(picture, size=96).shape == (1, 3, 96, 96)
    assert net.preprocess(picture, size=None).shape == (1, 3, 110, 150)
    assert net.preprocess(Image.new("RGB", (1, 1), "red")).shape == (1, 3, 128, 128)


def test_the_middle_is_kept():
    picture = np.zeros((128, 384, 3), np.uint8)
    picture[:, 128:256] = 255
    assert xcnn.load("resnet_s").preprocess(picture).min() > 2  # nothing but white


def test_picture_inverts_preprocess():
    net, picture = xcnn.load("resnet_s"), scenes.render(5).image
    back = (net.picture(net.preprocess(picture))[0] * 255).round().astype(np.uint8)
    assert (back == np.asarray(picture)).all()
    assert torch.equal(net.preprocess(picture), net.preprocess(np.asarray(picture)))


def test_a_real_map_lies_on_the_zebra(real):
    net, folder = xcnn.load("resnet18"), coco.Folder(real / "coco")
    x = net.preprocess(folder.image(104455), size=None)
    mask = torch.tensor(folder.mask(104455, "zebra"))
    P = xcnn.energy_concentration(xcnn.grad_cam(net, x, "zebra"), mask, dilate=0)
    assert P.item() > 1.3 * mask.double().mean().item()
