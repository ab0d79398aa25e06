"""RISE against a loop over the same masks, and its standard error against repetition."""

import pytest
import torch
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.methods.rise import _Masks

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL

NETWORKS = [*SMALL, "resnet18", "squeezenet1_1"]
N = 30


def masks(x, n=N, grid=7, share=0.5, seed=0):
    """The masks that `rise` draws, (n, 1, H, W) float64."""
    return torch.cat(list(_Masks(n, grid, share, seed, x.shape[2:]).batches(n))).double()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loop_over_the_same_masks(name):
    net = network(name)
    x = images(name)
    R = xcnn.rise(net, x, TARGETS, masks=N)
    for image, c, its_map in zip(x, TARGETS, R, strict=True):
        total = 0
        f = []
        for M in masks(x):
            with torch.no_grad():
                f.append(net.module((image * M)[None]).softmax(1)[0, c])
            total = total + f[-1] * M
        paper = total / (N * 0.5)
        mean = sum(f) / N
        share = sum(masks(x)) / (N * 0.5)  # of the times that each pixel was shown
        assert_near(its_map, paper - mean * share, 1e-9)


def test_the_papers_map_is_this_one_and_nearly_a_constant():
    net = network("resnet_s")
    x = images("resnet_s")[:1]
    values = xcnn.rise_values(net, x, 3, masks=400)[0]
    M = masks(x, 400)
    with torch.no_grad():
        f = torch.cat([net.module(x * part) for part in M.split(50)]).softmax(1)[:, 3]
    paper = (f[:, None, None] * M[:, 0]).mean(0) / 0.5
    assert values.mean == pytest.approx(f.mean().item(), rel=1e-9)
    spread = (paper - values.R - values.mean).abs().max()
    assert spread < 0.2 * values.mean  # by as much as pixels are not shown equally often


def test_masks_are_grids_enlarged_and_shifted():
    M = masks(torch.zeros(1, 3, 100, 60), n=600, grid=5, share=0.3)
    assert M.shape == (600, 1, 100, 60) and M.min() == 0 and M.max() == 1
    assert (M.mean(0) - 0.3).abs().max() < 0.1  # each pixel is shown equally often
    assert M.mean() == pytest.approx(0.3, abs=0.02)
    assert (M.diff(dim=2).abs() <= 1 / 20 + 1e-6).all()  # cells are 20 by 12 pixels
    assert (M.diff(dim=3).abs() <= 1 / 12 + 1e-6).all()


def test_masks_do_not_depend_on_how_many_come_together():
    drawn = [torch.cat(list(_Masks(7, 3, 0.5, 1, (20, 30)).batches(n))) for n in (1, 3, 7)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_the_standard_error_is_the_spread_of_repetitions():
    net = network("allconv_s")
    x = images("allconv_s")[:1, :, :32, :32]
    runs = [xcnn.rise_values(net, x, 2, masks=60, seed=seed)[0] for seed in range(40)]
    spread = torch.stack([run.R for run in runs]).std(0)
    error = torch.stack([run.error for run in runs]).square().mean(0).sqrt()
    assert ((error / spread).log().mean()).exp() == pytest.approx(1, abs=0.15)


def test_the_sign_says_whether_showing_a_pixel_helps():
    class Difference(nn.Module):
        def forward(self, x):
            left, right = x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))
            return torch.stack([left - right, right], 1)

    x = torch.ones(1, 3, 16, 16)
    R = xcnn.rise(xcnn.Network(Difference().eval(), size=16), x, 0, masks=2000, score="logit")
    assert (R[..., :6] > 0).all() and (R[..., 10:] < 0).all()


def test_hidden_pixels_show_the_fill():
    net = network("resnet_s")
    x = images("resnet_s")[:1]
    own = x[0].flip(1)
    R = xcnn.rise(net, x, 3, masks=N, fill=own)
    M = masks(x)
    with torch.no_grad():
        f = net.module(x * M + own * (1 - M)).softmax(1)[:, 3]
    wanted = ((f - f.mean())[:, None, None] * M[:, 0]).mean(0) / 0.5
    assert_near(R[0, 0], wanted, 1e-9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"masks": 1}, "masks must be a whole number, 2 or more"),
        ({"grid": 0}, "grid must be a whole number, 1 or more"),
        ({"share": 0}, "share must be between 0 and 1, not 0"),
        ({"share": 1}, "share must be between 0 and 1, not 1"),
        ({"seed": -1}, "seed must be"),
        ({"fill": "none"}, "unknown fill"),
        ({"score": "p"}, "unknown score"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        xcnn.rise(network("resnet_s"), images("resnet_s"), 1, **options)
