"""Occlusion against captum, and on a network where the answer is known."""

import captum.attr
import pytest
import torch
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.engine.fill import filled

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL

NETWORKS = [*SMALL, "resnet18", "squeezenet1_1", "densenet121", "googlenet", "vgg11"]


def by_captum(net, x, side, step, cover, target=TARGETS):
    """Its map in float32, one image at a time: its baseline is one for all."""
    method = captum.attr.Occlusion(net.module)
    channels = x.shape[1]
    rows = [
        method.attribute(
            image[None],
            (channels, *side),
            (channels, *step),
            its_cover[None],
            c,
            perturbations_per_eval=16,
        )
        for image, its_cover, c in zip(x, cover, target, strict=True)
    ]
    return torch.cat(rows)[:, :1]


@pytest.mark.parametrize("name", NETWORKS)
def test_occlusion_equals_captum(name):
    net = network(name)
    x = images(name)
    R = xcnn.occlusion(net, x, TARGETS, side=40, step=30)
    cover = filled(net, x, "grey")
    assert_near(R, by_captum(net, x, (40, 40), (30, 30), cover))


@pytest.mark.parametrize(
    ("side", "step"), [((32, 50), (32, 21)), ((128, 1), (1, 1)), ((9, 40), (9, 40))]
)
@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
def test_other_windows_and_fills(side, step, fill):
    net = network("resnet_s")
    x = images("resnet_s")[:, :, :, :60]
    side = (side[0], min(side[1], 60))
    R = xcnn.occlusion(net, x, TARGETS, side, step, fill)
    assert_near(R, by_captum(net, x, side, step, filled(net, x, fill)))


def test_default_windows():
    net = network("allconv_s")
    x = images("allconv_s")[:1]
    assert torch.equal(xcnn.occlusion(net, x, 2), xcnn.occlusion(net, x, 2, side=18, step=9))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_linear_network_gives_the_sum_of_w_x(step):
    """Covered by 0, a window of one pixel lowers the score by w x of that pixel."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 4)).double().eval()
    net = xcnn.Network(linear, size=6)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    terms = (x * linear[1].weight[2].view(3, 6, 6)).sum(1, keepdim=True)
    R = xcnn.occlusion(net, x, 2, side=step, step=step, fill="zero")
    blocks = nn.functional.avg_pool2d(terms, step, divisor_override=1)
    assert_near(R, blocks.repeat_interleave(step, 2).repeat_interleave(step, 3), 1e-9)


def test_probabilities_and_functions():
    net = network("vgg_s")
    x = images("vgg_s")[:1]
    R = xcnn.occlusion(net, x, 4, side=64, score="probability")
    Q = xcnn.occlusion(net, x, lambda S: S.softmax(1)[:, 4], side=64)
    assert_near(R, Q, 1e-9)


def test_a_window_that_changes_nothing_is_exactly_nothing():
    class UpperHalf(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = xcnn.load("resnet_s").module

        def forward(self, x):
            return self.net(x[:, :, :64])

    x = images("resnet_s").float()[:1]
    R = xcnn.occlusion(UpperHalf().eval(), x, 3, side=32, step=32)
    assert R[:, :, :64].any() and not R[:, :, 64:].any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"side": 0}, "side must be a whole number, 1 or more, at most 128, not 0"),
        ({"side": 129}, "side must be a whole number, 1 or more, at most 128, not 129"),
        ({"side": (8, 8, 8)}, r"side is a number of pixels, or \(rows, columns\)"),
        ({"side": 8, "step": 9}, "step must be a whole number, 1 or more, at most 8, not 9"),
        ({"fill": "gray"}, "did you mean 'grey'"),
        ({"score": "log"}, "unknown score 'log'"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        xcnn.occlusion(network("resnet_s"), images("resnet_s"), 1, **options)
