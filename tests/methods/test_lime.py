"""LIME against the `lime` package, scikit-learn, and networks whose surrogate is known."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xcnn
from lime.lime_base import LimeBase
from lime.lime_image import LimeImageExplainer
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import nn
from xcnn import InputError
from xcnn.methods.lime import fit, lime, lime_surrogates, superpixels

from tests.helpers.oracles import network
from tools import ROOT


def scene(net, seed=3):
    """A scene as the network wants it, in float64."""
    return net.preprocess(xcnn.scenes.render(seed).image).double()


def grid(side=128, step=32):
    """Square superpixels, row by row."""
    row = torch.arange(side) // step
    return row[:, None] * (side // step) + row


class Presence(nn.Module):
    """Scores that depend on how much of each superpixel is present.

    Class 0: sum_i w_i (mean of channel 0 over superpixel i). Class 1: its square. Class 2: 1.
    """

    def __init__(self, cut, w):
        super().__init__()
        self.at = torch.nn.functional.one_hot(cut.flatten()).double()
        self.w = torch.as_tensor(w).double()

    def forward(self, x):
        s = (x[:, 0].double().flatten(1) @ self.at / self.at.sum(0)) @ self.w
        return torch.stack([s, s**2, 0 * s + 1], 1)


def linear(seed=0):
    """A linear network, an image that is 1 everywhere, the weights, and the superpixels.

    The weights are those of the surrogate, where a hidden pixel is 0.
    """
    w = np.random.default_rng(seed).normal(size=16)
    cut = grid()
    net = xcnn.Network(Presence(cut, w).eval(), mean=(0, 0, 0), std=(1, 1, 1), size=128)
    return net, torch.ones(1, 3, 128, 128, dtype=torch.float64), w, cut


# ---- against the lime package


@pytest.mark.parametrize("name", ["resnet_s", "vgg_s"])
def test_equals_the_lime_package_from_picture_to_weights(name):
    net = network(name)
    x = scene(net)
    mean, std = (np.array(v) for v in (net.mean, net.std))

    def predict(pictures):
        return net.predict(torch.from_numpy((pictures - mean) / std).permute(0, 3, 1, 2)).numpy()

    theirs = LimeImageExplainer(random_state=7).explain_instance(
        net.picture(x)[0],
        predict,
        top_labels=2,
        num_samples=60,
        random_seed=0,
        segmentation_fn=lambda picture: superpixels(picture, 30),
    )
    for c in theirs.top_labels:
        (ours,) = lime_surrogates(net, x, c, segments=30, samples=60, seed=7)
        w = np.array([value for _, value in sorted(theirs.local_exp[c])])
        assert np.abs(w).max() > 1e-8 and (ours.segments == theirs.segments).all()
        np.testing.assert_allclose(ours.w, w, rtol=1e-6, atol=1e-6 * np.abs(w).max())
        assert ours.b == pytest.approx(theirs.intercept[c], rel=1e-6)
        if c == theirs.top_labels[0]:  # they keep the R^2 of one label
            assert ours.r2 == pytest.approx(theirs.score, rel=1e-6)


@pytest.mark.parametrize("width", [0.1, 0.25, 2.0])
def test_equals_limes_regression_on_the_same_samples(width):
    net = network("googlenet_s")
    options = {"segments": 30, "samples": 100, "score": "logit", "kernel_width": width}
    (v,) = lime_surrogates(net, scene(net), 3, **options)
    z = v.z.astype(float)
    distances = pairwise_distances(z, z[:1], metric="cosine").ravel()
    pi = np.exp(-(distances**2) / (2 * width**2))
    np.testing.assert_allclose(v.pi, pi, rtol=1e-6, atol=1e-12)
    base = LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / width**2)))
    b, w, r2, _ = base.explain_instance_with_data(
        v.z, v.f[:, None], distances, 0, 99, feature_selection="none"
    )
    np.testing.assert_allclose(v.w, [value for _, value in sorted(w)], rtol=1e-6)
    assert (v.b, v.r2) == pytest.approx((b, r2), rel=1e-6)


@pytest.mark.parametrize("alpha", [1e-6, 1, 30])
def test_fit_is_weighted_ridge_regression(alpha):
    rng = np.random.default_rng(0)
    z = rng.random((80, 9)) < 0.5
    f = rng.normal(size=80)
    pi = rng.random(80)
    w, b, r2 = fit(z, f, pi, alpha)
    model = Ridge(alpha).fit(z, f, sample_weight=pi)
    np.testing.assert_allclose(w, model.coef_, rtol=1e-9)
    assert (b, r2) == pytest.approx((model.intercept_, model.score(z, f, pi)), rel=1e-9)
    # and by the normal equations, the intercept as a tenth weight that costs nothing
    Z = np.column_stack([z, np.ones(80)])
    ridge = alpha * np.diag([1] * 9 + [0])
    solved = np.linalg.solve(Z.T @ (pi[:, None] * Z) + ridge, Z.T @ (pi * f))
    np.testing.assert_allclose([*w, b], solved, rtol=1e-8)


def test_scores_are_the_networks_for_pictures_masked_by_hand():
    net = network("allconv_s")
    x = scene(net)
    (v,) = lime_surrogates(net, x, 2, segments=20, samples=7, batch=3)
    for shown, f in zip(v.z, v.f, strict=True):
        masked = x.clone()
        for k in np.flatnonzero(~shown):
            here = torch.from_numpy(v.segments == k)
            masked[0, :, here] = x[0, :, here].mean(1, keepdim=True)
        assert net.predict(masked)[0, 2].item() == pytest.approx(f, rel=1e-9)


# ---- networks whose surrogate is known


def test_recovers_a_linear_network():
    net, x, w, cut = linear()
    options = {"segments": cut, "hidden": "black", "score": "logit", "samples": 200}
    (v,) = lime_surrogates(net, x, 0, alpha=1e-9, **options)
    np.testing.assert_allclose(v.w, w, atol=1e-8)
    assert v.b == pytest.approx(0, abs=1e-8) and v.r2 == pytest.approx(1)
    (ridge,) = lime_surrogates(net, x, 0, **options)
    assert np.linalg.norm(ridge.w) < np.linalg.norm(w) and ridge.r2 < 1


def test_error_falls_as_samples_grow():
    net, x, w, cut = linear()
    options = {"segments": cut, "hidden": "black", "score": "logit"}

    def weights(c, samples, seed=0):
        return lime_surrogates(net, x, c, samples=samples, seed=seed, **options)[0].w

    error = [np.abs(weights(0, n) - w).max() for n in (50, 500, 5000)]
    assert error[0] > 4 * error[1] > 16 * error[2]
    # A score that is not linear has a best linear answer. With more samples, seeds agree more.
    spread = [np.std([weights(1, n, seed) for seed in range(8)], 0).mean() for n in (100, 1600)]
    assert spread[0] > 2.5 * spread[1]


def test_hidden_grey_counts_from_grey():
    net, x, w, cut = linear()
    options = {"segments": cut, "hidden": "grey", "score": "logit", "samples": 200}
    (v,) = lime_surrogates(net, x, 0, alpha=1e-9, **options)
    np.testing.assert_allclose(v.w, w / 2, atol=1e-8)


def test_hidden_colours_are_those_of_the_picture():
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    x = xcnn.Network(Look()).preprocess(xcnn.scenes.render(3).image)
    for hidden, level in (("grey", 0.5), ("black", 0.0)):
        net = xcnn.Network(Look().eval())
        (v,) = lime_surrogates(net, x, 0, samples=2, hidden=hidden)
        shown = v.z[1][v.segments]
        picture = net.picture(seen[-1][1:])[0]
        np.testing.assert_allclose(picture[~shown], level, atol=1e-6)
        np.testing.assert_allclose(picture[shown], net.picture(x)[0][shown], atol=1e-6)


def test_a_score_that_never_changes():
    net, x, _, cut = linear()
    options = {"segments": cut, "samples": 30, "score": "logit"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        R = lime(net, x, 2, **options)
        (v,) = lime_surrogates(net, x, 2, **options)
    assert (R == 0).all() and v.b == 1 and np.isnan(v.r2)


# ---- the map


def test_map_shows_each_superpixels_weight():
    net = network("resnet_s")
    R = lime(net, scene(net), 3, segments=20, samples=40)
    (v,) = lime_surrogates(net, scene(net), 3, segments=20, samples=40)
    assert R.shape == (1, 1, 128, 128) and R.dtype == torch.float64
    assert set(np.unique(v.segments)) == set(range(len(v.w)))
    assert (v.w < 0).any() and (v.w > 0).any()
    for k, w in enumerate(v.w):
        assert (R[0, 0][v.segments == k] == w).all()


def test_seeds_batches_and_random_state():
    net = network("resnet_s")
    x = torch.cat([scene(net, 1), scene(net, 2)])
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    R = lime(net, x, [3, 4], samples=30)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert torch.equal(R, lime(net, x, [3, 4], samples=30))
    assert not torch.equal(R, lime(net, x, [3, 4], samples=30, seed=1))
    torch.testing.assert_close(R, lime(net, x, [3, 4], samples=30, batch=7), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(R[1:], lime(net, x[1:], 4, samples=30), rtol=1e-9, atol=1e-12)


class Viewing(nn.Module):
    def __init__(self, flat):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Linear(4 * 15 * 15, 5)
        self.flat = flat

    def forward(self, x):
        return self.fc(self.flat(self.conv(x).relu()))


def test_a_network_may_look_at_its_maps_by_view():
    """`view` refuses channels that lie last in memory; the map is that of the same network."""
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    by_view = Viewing(lambda A: A.view(len(A), -1)).eval()
    by_flatten = Viewing(lambda A: A.flatten(1)).eval()
    R, Q = (xcnn.lime(module, x, 2, samples=40) for module in (by_view, by_flatten))
    torch.testing.assert_close(R, Q)


def test_own_segments_may_have_any_numbers():
    net = network("resnet_s")
    x = torch.cat([scene(net, 1), scene(net, 2)])
    cut = grid()
    R = lime(net, x, 3, segments=cut, samples=30)
    for same in (cut.numpy() * 5 - 7, torch.stack([cut, cut + 3])):
        assert torch.equal(R, lime(net, x, 3, segments=same, samples=30))


def test_superpixels_cut_the_whole_picture_into_about_n():
    for seed in range(4):
        picture = np.asarray(xcnn.scenes.render(seed).image) / 255
        for n in (20, 60, 120):
            cut = superpixels(picture, n)
            assert cut.shape == (128, 128) and set(np.unique(cut)) == set(range(cut.max() + 1))
            assert 0.4 * n < cut.max() + 1 < 1.2 * n


@pytest.mark.parametrize("seed", range(3))
def test_the_best_superpixel_lies_on_the_object(seed):
    net = xcnn.load("resnet_s")
    scene = xcnn.scenes.render(seed)
    R = lime(net, net.preprocess(scene.image), scene.labels[0], samples=300)
    mask = torch.from_numpy(scene.masks[0])
    assert mask[R[0, 0] == R.max()].float().mean() > 0.5


# ---- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hidden": "gray"}, "unknown hidden 'gray'.*did you mean 'grey'"),
        ({"score": "probabilities"}, "unknown score.*did you mean 'probability'"),
        ({"samples": 1}, "samples must be a whole number, 2 or more, not 1"),
        ({"samples": 10.5}, "samples must be a whole number"),
        ({"samples": True}, "samples must be a whole number"),
        ({"batch": 0}, "batch must be a whole number, 1 or more"),
        ({"seed": -1}, "seed must be a whole number, 0 or more"),
        ({"seed": None}, "seed must be a whole number, 0 or more"),
        ({"segments": 1}, "segments must be a whole number, 2 or more"),
        ({"segments": "slic"}, "segments must be a whole number"),
        ({"segments": grid(64)}, r"shape \(128, 128\) or \(2, 128, 128\), got int64 \(64, 64\)"),
        ({"segments": grid()[None]}, r"got int64 \(1, 128, 128\)"),
        ({"segments": grid() / 2}, "got float"),
        ({"kernel_width": 0}, "kernel_width must be above 0"),
        ({"kernel_width": float("nan")}, "kernel_width must be above 0"),
        ({"alpha": -1}, "alpha not below"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        lime(xcnn.load("resnet_s"), torch.zeros(2, 3, 128, 128), 3, **options)


# ---- large pictures


@pytest.mark.parametrize(("h", "w", "step"), [(67, 45, 2), (45, 67, 3), (30, 31, 2), (1, 90, 2)])
def test_a_large_picture_is_cut_at_reduced_size(monkeypatch, h, w, step):
    """SLIC sees the means of squares; each square belongs to one superpixel."""
    monkeypatch.setattr(sys.modules["xcnn.methods.lime"], "MAX_CUT_PIXELS", h * w / step**2 + 1)
    net = network("resnet_s")
    x = scene(net)[:, :, 30 : 30 + h, 30 : 30 + w]
    (v,) = lime_surrogates(xcnn.Network(Mean().eval()), x, 0, segments=6, samples=4)
    squares = [
        [x[0, :, i : i + step, j : j + step].mean((1, 2)) for j in range(0, w, step)]
        for i in range(0, h, step)
    ]
    reduced = torch.stack([torch.stack(row) for row in squares]).permute(2, 0, 1)
    cut = superpixels(xcnn.Network(Mean()).picture(reduced[None])[0], 6)
    wanted = [[cut[i // step, j // step] for j in range(w)] for i in range(h)]
    assert v.segments.shape == (h, w) and v.segments.max() > 0
    assert (v.segments == np.array(wanted)).all()


class Mean(nn.Module):
    """The mean of each channel, as scores; it notes what it was given."""

    seen = None

    def forward(self, x):
        self.seen = x
        return x.mean((2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mean_colours_of_large_superpixels_in_any_type(dtype):
    """A sum of ones in bfloat16 stops at 256, and one in float16 at 65,504."""
    x = torch.full((1, 3, 400, 400), 2.0).to(dtype)
    x[:, :, :, ::4] = 1
    halves = torch.arange(400)[:, None].repeat(1, 400) // 200
    module = Mean().eval()
    lime_surrogates(module, x, 0, segments=halves, samples=8)
    hidden = module.seen[:, 0, :, 0].double()
    assert ((hidden == 1) | (hidden == 1.75)).all() and (hidden == 1.75).any()


MEMORY = """
import torch
import xcnn
from torch import nn

def peak():
    lines = open("/proc/self/status").read().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024  # MB

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
).eval()
x = nn.functional.interpolate(torch.rand(1, 3, 6, 8), (3000, 4000), mode="bilinear")
xcnn.lime(net, x[:, :, :64, :64], 1, samples=2)  # what is imported does not count
with torch.no_grad():
    net(x)
before = peak()
R = xcnn.lime(net, x, 1, samples=3)
assert R.shape == (1, 1, 3000, 4000) and R.unique().numel() > 2
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak in")
def test_memory_for_a_photograph_in_its_own_size_is_bounded():
    """A batch of 64 copies would have been 9 GB, and SLIC alone took 0.6."""
    answer = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 100 < float(answer.stdout.splitlines()[-1]) < 500


@pytest.mark.parametrize(("factor", "shift"), [(255, 0), (60, -30), (1000, 5), (-40, 3)])
def test_a_picture_that_is_not_normalised_is_cut_by_what_it_shows(factor, shift):
    """w10: pixels from 0 to 255 were cut as if they were white."""
    net = xcnn.Network(Mean().eval(), mean=0.5, std=0.25)
    x = factor * torch.from_numpy(net.picture(scene(net))).permute(0, 3, 1, 2) + shift
    (v,) = lime_surrogates(net, x, 0, segments=30, samples=4)
    colours = x[0].permute(1, 2, 0) * 0.25 + 0.5
    scaled = (colours - colours.min()) / (colours.max() - colours.min())
    assert (v.segments == superpixels(scaled.float().numpy(), 30)).mean() > 0.9
    white = superpixels(np.clip(colours.float().numpy(), 0, 1), 30)
    assert v.segments.max() > 10 and not np.array_equal(v.segments, white)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (8, 8), (32, 31)])
def test_tiny_pictures(size):
    """A picture smaller than its superpixels: each is a pixel or more, and the map is finite."""
    net = xcnn.Network(Mean().eval())
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    for segments in (2, 50, np.arange(size[0] * size[1]).reshape(size)):
        R = lime(net, x, 0, segments=segments, samples=20)
        assert R.shape == (2, 1, *size) and R.isfinite().all()
    own = np.arange(size[0] * size[1]).reshape(size)
    hidden = lime(net, x, 0, segments=own, samples=20)
    assert (hidden == 0).all(), "a pixel that is its own superpixel is hidden by itself"
    assert size == (1, 1) or lime(net, x, 0, segments=own, samples=20, hidden="grey").any()


def test_a_picture_of_one_colour():
    net = network("resnet_s")
    R = lime(net, torch.full((1, 3, 40, 40), 0.3).double(), 3, samples=20)
    assert R.shape == (1, 1, 40, 40) and (R == 0).all()
