"""SmoothGrad against captum with the same noise, and against a loop."""

import captum.attr
import pytest
import torch
import xcnn
from xcnn import InputError

from tests.helpers.oracles import TARGETS, assert_near, images, network
from tests.helpers.places import SMALL

NETWORKS = [*SMALL, "resnet18", "squeezenet1_1", "densenet121", "googlenet"]
SAMPLES = 4
NOISE = 0.1


def draws(x, samples, seed):
    """The noise, (samples, C, H, W), as the docstring says: the same for each image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(x.shape[1:], generator=generator) for _ in range(samples)])


def spread(x, noise=NOISE):
    return noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(-1, 1, 1, 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("squared", [False, True])
def test_the_same_noise_gives_what_captum_gives(monkeypatch, name, squared):
    net = network(name)
    x = images(name)
    g = draws(x, SAMPLES, seed=3).to(x)
    R = xcnn.smooth_grad(net, x, TARGETS, NOISE, SAMPLES, seed=3, squared=squared)

    def with_our_noise(mean, std):
        """captum asks for noise of all samples at once, image by image."""
        return (g[None] * spread(x)[:, None]).flatten(0, 1).view(std.shape)

    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(net.module))
    monkeypatch.setattr(torch, "normal", with_our_noise)
    oracle = tunnel.attribute(
        x.clone(),
        "smoothgrad_sq" if squared else "smoothgrad",
        nt_samples=SAMPLES,
        stdevs=1.0,
        target=torch.tensor(TARGETS),
        abs=False,
    )
    assert_near(R, oracle.detach(), 1e-9)


def test_a_loop():
    net = network("vgg_s")
    x = images("vgg_s")
    maps = [xcnn.gradient(net, x + spread(x) * g.to(x), TARGETS) for g in draws(x, 30, seed=0)]
    R = xcnn.smooth_grad(net, x, TARGETS, NOISE, samples=30)  # in several parts
    assert_near(R, sum(maps) / 30, 1e-10)


def test_the_noise_follows_the_range_of_each_picture():
    net = network("resnet_s")
    x = images("resnet_s")
    x = torch.cat([x[:1], 0.1 * x[:1]])
    both = xcnn.smooth_grad(net, x, 1, samples=3)
    for k in range(2):
        alone = xcnn.smooth_grad(net, x[k : k + 1], 1, samples=3)
        assert_near(both[k : k + 1], alone, 1e-10)


def test_without_noise_it_is_the_gradient():
    net = network("allconv_s")
    x = images("allconv_s")
    assert_near(xcnn.smooth_grad(net, x, TARGETS, noise=0), xcnn.gradient(net, x, TARGETS), 1e-12)


def test_the_class_is_that_of_the_picture_without_noise():
    net = network("googlenet_s")
    x = images("googlenet_s")
    own = net.predict(x).argmax(1).tolist()
    options = {"noise": 2, "samples": 3}
    assert torch.equal(
        xcnn.smooth_grad(net, x, None, **options), xcnn.smooth_grad(net, x, own, **options)
    )


def test_seeds():
    net = xcnn.load("resnet_s")
    x = images("resnet_s").float()[:1]
    first, again, other = (xcnn.smooth_grad(net, x, 1, samples=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 0}, "samples must be a whole number, 1 or more"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, at most 4294967295"),
        ({"noise": -0.1}, "noise must be a number, 0 or more, not -0.1"),
        ({"noise": float("nan")}, "noise must be"),
        ({"noise": "much"}, "noise must be"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        xcnn.smooth_grad(network("resnet_s"), images("resnet_s"), 1, **options)
