"""What stands where a picture is hidden."""

import pytest
import torch
import xcnn
from scipy.ndimage import gaussian_filter
from xcnn import InputError
from xcnn.engine.fill import FILLS, blurred, filled

NET = xcnn.load("resnet_s")
X = torch.randn(2, 3, 40, 60, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fill", FILLS)
def test_as_large_and_of_the_type_of_x(fill):
    for x in (X, X.double()):
        cover = filled(NET, x, fill)
        assert cover.shape == x.shape and cover.dtype == x.dtype


@pytest.mark.parametrize(("fill", "shade"), [("black", 0), ("grey", 0.5), ("white", 1)])
def test_shades_are_those_of_the_picture(fill, shade):
    assert abs(NET.picture(filled(NET, X, fill)) - shade).max() < 1e-6


def test_zero_and_the_mean_of_each_picture():
    assert not filled(NET, X, "zero").any()
    means = filled(NET, X, "mean")
    for picture, mean in zip(X, means, strict=True):
        for channel, its_mean in zip(picture, mean, strict=True):
            assert torch.allclose(its_mean, channel.mean())


def test_the_blur_is_a_gaussian_of_a_twentieth_of_the_shorter_side():
    x = X.double()
    cover = filled(NET, x, "blur")
    wanted = gaussian_filter(x.numpy(), (0, 0, 2, 2), mode="mirror", truncate=2)
    assert torch.allclose(cover, torch.from_numpy(wanted), atol=1e-12)


def test_tiny_pictures_are_blurred_as_far_as_they_reach():
    assert blurred(X[..., :1, :1], 3).equal(X[..., :1, :1])
    assert blurred(X[..., :2, :9], 3).equal(X[..., :2, :9])
    assert blurred(X[..., :3, :9], 3).std() < X[..., :3, :9].std()


def test_a_picture_of_the_callers_own():
    own = torch.rand(3, 40, 60).double()
    assert torch.equal(filled(NET, X, own), own.float().expand_as(X))


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        ("gray", "unknown fill 'gray'; did you mean 'grey'"),
        (None, "unknown fill None"),
        (0, "unknown fill 0"),
        (
            torch.zeros(3, 40, 61),
            r"must be \(C, H, W\) = \(3, 40, 60\), as x is, got \(3, 40, 61\)",
        ),
        (torch.zeros(1, 3, 40, 60), "must be"),
        (torch.full((3, 40, 60), torch.nan), "holds NaN"),
    ],
)
def test_what_is_not_a_fill(fill, says):
    with pytest.raises(InputError, match=says):
        filled(NET, X, fill)
