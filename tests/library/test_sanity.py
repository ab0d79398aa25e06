"""Whether a map is to be believed: shuffled weights, correlations, deletion and insertion."""

import numpy as np
import pytest
import quantus
import torch
import xcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xcnn.sanity import (
    average_drop,
    deletion,
    increase_in_confidence,
    insertion,
    masked_probability,
    max_sensitivity,
    randomisation,
    randomised,
    rank_correlation,
    ssim,
)


@pytest.mark.parametrize("name", ["vgg_s", "resnet_s"])
def test_randomised_shuffles_the_last_layers_and_nothing_else(name):
    net = xcnn.load(name)
    before = {key: value.clone() for key, value in net.module.state_dict().items()}
    layers = [key for key in before if key.endswith("weight") and before[key].ndim > 1]
    for n in (0, 1, 3, len(layers)):
        after = randomised(net, n).module.state_dict()
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        assert moved == layers[len(layers) - n :]
        assert all(
            torch.equal(before[key].flatten().sort()[0], after[key].flatten().sort()[0])
            for key in moved
        )
    assert all(torch.equal(value, before[key]) for key, value in net.module.state_dict().items())


def test_randomised_is_reproducible_and_knows_its_limits():
    net = xcnn.load("allconv_s")
    w, same, other = (randomised(net, 2, seed).module.classifier.weight for seed in (0, 0, 1))
    assert torch.equal(w, same) and not torch.equal(w, other)
    assert (
        randomised(net, 1).classes == net.classes and not randomised(net.module, 1).module.training
    )
    for n in (-1, 10):
        with pytest.raises(xcnn.InputError, match="0 to 9"):
            randomised(net, n)


def ranks_by_hand(values):
    """Mean rank among equals, one value at a time."""
    return [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]


@settings(deadline=None, max_examples=40)
@given(
    arrays(float, (2, 1, 3, 4), elements=st.integers(-4, 4)),
    arrays(float, (2, 3, 3, 4), elements=st.integers(-4, 4)),
)
def test_rank_correlation_is_pearsons_on_the_ranks(R, Q):
    for r, q, got in zip(R, Q, rank_correlation(R, Q), strict=True):
        a, b = (ranks_by_hand(np.abs(m).sum(0).ravel().tolist()) for m in (r, q))
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert got.isnan()
        else:
            assert got.item() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    arrays(float, (1, 2, 3, 4), elements=st.integers(-4, 4)),
    arrays(float, (1, 3, 3, 4), elements=st.integers(-4, 4)),
)
def test_signed_rank_correlation_keeps_the_sign(R, Q):
    a, b = (ranks_by_hand(m[0].sum(0).ravel().tolist()) for m in (R, Q))
    got = rank_correlation(R, Q, signed=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert got.isnan()
    else:
        assert got.item() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)


def test_signed_rank_correlation_against_quantus():
    R, Q = torch.randn(2, 5, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    theirs = [
        quantus.similarity_func.correlation_spearman(a.flatten().numpy(), b.flatten().numpy())
        for a, b in zip(R, Q, strict=True)
    ]
    assert rank_correlation(R, Q, signed=True).tolist() == pytest.approx(theirs)


def test_a_map_turned_around_is_another_map():
    R = torch.randn(1, 1, 8, 8)
    assert rank_correlation(R, -R).item() == pytest.approx(1)
    assert rank_correlation(R, -R, signed=True).item() == pytest.approx(-1)


# ---- several shuffles, and small changes of the picture


def guided(net, x):
    return xcnn.guided_backprop(net, x, "clock")


def test_randomisation_is_one_correlation_for_each_shuffle():
    net = xcnn.load("resnet_s")
    x = torch.cat([net.preprocess(xcnn.scenes.render(seed).image) for seed in (0, 1)])
    survived = randomisation(net, x, guided, last=2, shuffles=3, seed=5)
    R = guided(net, x)
    for k in range(3):
        Q = guided(randomised(net, 2, 5 + k), x)
        assert torch.equal(survived["unsigned"][k], rank_correlation(R, Q))
        assert torch.equal(survived["signed"][k], rank_correlation(R, Q, signed=True))
    everything = randomisation(net, x, guided, shuffles=1)["unsigned"][0]
    layers = len(xcnn.sanity.weighted_layers(net.module))
    assert torch.equal(everything, rank_correlation(R, guided(randomised(net, layers), x)))


def test_a_map_that_does_not_look_survives_and_one_that_died_is_nan():
    net = xcnn.load("resnet_s")
    x = net.preprocess(xcnn.scenes.render(0).image)
    survived = randomisation(net, x, lambda net, x: xcnn.evaluate.controls(x)["edges"], shuffles=2)
    assert torch.allclose(survived["signed"], torch.ones(2, 1).double())
    assert randomisation(net, x, lambda net, x: 0 * x, shuffles=2)["signed"].isnan().all()
    with pytest.raises(xcnn.InputError, match="shuffles"):
        randomisation(net, x, guided, shuffles=0)


def test_sensitivity_of_maps_that_are_known():
    """The map w x of a linear network moves as the picture does; a constant one stays."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(4)
    noise = [2 * torch.rand(x.shape, generator=generator) - 1 for _ in range(5)]
    wanted = torch.stack([0.1 * d.flatten(1).norm(dim=1) for d in noise]).amax(0)
    found = max_sensitivity(net, x, lambda net, x: x, radius=0.1, samples=5, seed=4)
    assert torch.allclose(found, (wanted / x.flatten(1).norm(dim=1)).double(), atol=1e-6)
    assert max_sensitivity(net, x, lambda net, x: torch.ones_like(x)).tolist() == [0, 0]
    assert max_sensitivity(net, x, lambda net, x: 0 * x).isnan().all()
    before = torch.random.get_rng_state()
    max_sensitivity(net, x, lambda net, x: x)
    assert torch.equal(before, torch.random.get_rng_state())
    for options in ({"radius": 0}, {"radius": float("nan")}, {"samples": 0}):
        with pytest.raises(xcnn.InputError, match=r"radius|samples"):
            max_sensitivity(net, x, lambda net, x: x, **options)


@pytest.mark.filterwarnings("ignore")
def test_sensitivity_against_quantus():
    """The same noise for both."""
    net = xcnn.load("resnet_s")
    x = torch.cat([net.preprocess(xcnn.scenes.render(seed).image) for seed in (0, 1)])
    generator = torch.Generator().manual_seed(7)

    def perturb_func(arr, **_):
        noise = 0.02 * (2 * torch.rand(x.shape, generator=generator) - 1)
        return arr + noise.flatten(1).numpy()

    def explain_func(model, inputs, targets, **_):
        return xcnn.grad_cam(net, torch.as_tensor(inputs).float(), targets.tolist()).numpy()

    asked = quantus.MaxSensitivity(
        nr_samples=6, perturb_func=perturb_func, abs=False, normalise=False, disable_warnings=True
    )
    theirs = asked(
        model=net.module,
        x_batch=x.numpy(),
        y_batch=np.array([3, 5]),
        a_batch=explain_func(net.module, x, torch.tensor([3, 5])),
        explain_func=explain_func,
        device="cpu",
    )

    def explain(net, x):
        return xcnn.grad_cam(net, x, [3, 5])

    ours = max_sensitivity(net, x, explain, radius=0.02, samples=6, seed=7)
    assert ours.tolist() == pytest.approx(theirs, rel=1e-4)


def test_rank_correlation_of_what_does_not_fit():
    with pytest.raises(xcnn.InputError, match="same N, H and W"):
        rank_correlation(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5))


def test_similarity_falls_with_noise():
    R = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    same, near, far = (ssim(R, Q) for Q in (2 * R, R + 0.3 * noise, noise))
    assert torch.allclose(same, torch.ones(3).double()) and (1 > near).all() and (near > far).all()
    assert ssim(R, 0 * R).isnan().all()


class OnDevice(torch.Tensor):
    """A tensor on a device that has no float64."""

    def double(self):
        raise TypeError("this device has no float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


KINDS = {
    "bfloat16": lambda R: R.bfloat16(),
    "half": lambda R: R.half(),
    "grad": lambda R: R.clone().requires_grad_(),
    "device": lambda R: R.as_subclass(OnDevice),
    "array": lambda R: R.numpy(),
    "half array": lambda R: R.numpy().astype(np.float16),
    "whole numbers": lambda R: R.numpy().astype(np.int32),
    "flipped": lambda R: R.numpy()[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["half", "array"])
def test_maps_of_any_kind(kind, other, recwarn):
    rng = np.random.default_rng(0)
    R, Q = (torch.from_numpy(rng.integers(-8, 9, (2, n, 16, 16))).float() for n in (1, 3))
    for measure in (rank_correlation, ssim):
        wanted = measure(R, Q)
        assert wanted.isfinite().all()
        assert torch.allclose(measure(KINDS[kind](R), KINDS[other](Q)), wanted, atol=1e-6)
        assert torch.allclose(measure(KINDS[other](R), KINDS[kind](Q)), wanted, atol=1e-6)
    assert not recwarn.list


def test_half_maps_are_summed_without_overflow():
    R = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 60000
    for half in (R.half(), R.half().numpy()):
        assert rank_correlation(half, R).item() > 0.999 and ssim(half, R).item() > 0.999


# ---- does the network agree?


def two_pictures():
    """A network, two pictures as it wants them, the class of an object in each, and the scenes."""
    net = xcnn.load("resnet_s")
    scenes = [xcnn.scenes.render(seed) for seed in (3, 4)]
    x = torch.cat([net.preprocess(scene.image) for scene in scenes])
    return net, x, [scene.labels[0] for scene in scenes], scenes


def test_curves_begin_and_end_where_they_should():
    net, x, names, _ = two_pictures()
    c = torch.tensor([[net.classes.index(name)] for name in names])

    def p(x):
        return net.predict(x).gather(1, c)[:, 0].double()

    R = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    out = deletion(net, x, R, names, steps=8)
    in_ = insertion(net, x, R, names, steps=8)
    assert out.shape == in_.shape == (2, 9)
    assert torch.allclose(out[:, 0], p(x), atol=1e-6)
    assert torch.allclose(out[:, -1], p(0 * x), atol=1e-6)
    assert torch.allclose(in_[:, -1], p(x), atol=1e-6)
    assert not torch.allclose(in_[:, 0], p(x), atol=1e-3)
    total = R.sum(1).flatten(1)
    first = total >= total.topk(128 * 128 // 8).values[:, -1:]
    assert torch.allclose(out[:, 1], p(x.masked_fill(first.view(2, 1, 128, 128), 0)), atol=1e-6)


def test_the_object_leaves_first_when_the_map_is_its_mask():
    net, x, names, scenes = two_pictures()
    masks = [torch.from_numpy(s.mask(name)) for s, name in zip(scenes, names, strict=True)]
    good = torch.stack(masks)[:, None].float()
    assert (deletion(net, x, good, names).mean(1) < deletion(net, x, -good, names).mean(1)).all()
    assert (insertion(net, x, good, names).mean(1) > insertion(net, x, -good, names).mean(1)).all()


def test_curves_refuse_what_does_not_fit():
    net, x, *_ = two_pictures()
    with pytest.raises(xcnn.InputError, match="N, H and W of x"):
        deletion(net, x, torch.rand(1, 1, 128, 128))


FILLS = ["zero", "black", "grey", "white", "mean", "blur"]


@pytest.mark.parametrize("fill", FILLS)
def test_deletion_ends_in_its_fill(fill):
    net, x, names, _ = two_pictures()
    c = torch.tensor([[net.classes.index(name)] for name in names])
    R = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    p = deletion(net, x, R, names, steps=4, fill=fill)
    empty = xcnn.engine.fill.filled(net, x, fill)
    wanted = [net.predict(v).gather(1, c)[:, 0].double() for v in (x, empty)]
    assert torch.allclose(p[:, 0], wanted[0], atol=1e-6)
    assert torch.allclose(p[:, -1], wanted[1], atol=1e-6)
    half = R.sum(1, keepdim=True) >= R.sum(1).flatten(1).median(1).values.view(2, 1, 1, 1)
    middle = net.predict(torch.where(half, empty, x)).gather(1, c)[:, 0].double()
    assert torch.allclose(p[:, 2], middle, atol=1e-3)  # one pixel more or less


def test_deletion_by_pictures_without_the_object():
    """The third fill: what the scene shows where the object is gone."""
    net = xcnn.load("resnet_s")
    whole, lesser = xcnn.scenes.without_each(10, count=2)
    x = torch.cat([net.preprocess(whole.image)] * 2)
    without = torch.cat([net.preprocess(scene.image) for scene in lesser])
    R = torch.from_numpy(whole.masks)[:, None].float()
    p = deletion(net, x, R, list(whole.labels), steps=5, fill=without)
    single = deletion(net, x[:1], R[:1], whole.labels[0], steps=5, fill=without[0])
    assert torch.allclose(p[:1], single, atol=1e-6)
    assert (p[:, 0] > p[:, -1]).all()
    with pytest.raises(xcnn.InputError, match="C, H, W"):
        deletion(net, x, R, list(whole.labels), fill=without[:1, :, :5])
    with pytest.raises(xcnn.InputError, match="NaN"):
        deletion(net, x, R, list(whole.labels), fill=without * torch.nan)
    with pytest.raises(xcnn.InputError, match="unknown fill"):
        deletion(net, x, R, list(whole.labels), fill="bluur")


# ---- what a map leaves of the picture


def test_masked_probability_by_hand():
    net, x, names, _ = two_pictures()
    c = torch.tensor([[net.classes.index(name)] for name in names])
    R = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    p, q = masked_probability(net, x, R, names)
    for k in range(2):
        total = R[k].sum(0)
        share = total.clamp(min=0) / total.max()
        left = net.predict((x[k] * share)[None])[0, c[k, 0]].double()
        assert q[k].item() == pytest.approx(left.item(), abs=1e-6)
        assert p[k].item() == pytest.approx(net.predict(x[k : k + 1])[0, c[k, 0]].item(), abs=1e-6)


def test_a_map_of_everything_drops_nothing_and_one_of_nothing_all():
    net, x, names, _ = two_pictures()
    p, q = masked_probability(net, x, torch.ones(2, 1, 128, 128), names)
    assert torch.allclose(p, q) and not average_drop(p, q).gt(1e-5).any()
    for nothing in (torch.zeros(2, 1, 128, 128), -torch.ones(2, 1, 128, 128)):
        p, q = masked_probability(net, x, nothing, names)
        empty, _ = masked_probability(net, 0 * x, torch.ones(2, 1, 128, 128), names)
        assert torch.allclose(q, empty, atol=1e-6)
    with pytest.raises(xcnn.InputError, match="N, H and W of x"):
        masked_probability(net, x, torch.ones(1, 1, 128, 128), names)


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(0, 1))
def test_drop_and_increase(p, q):
    p, q = torch.tensor([p]).double(), torch.tensor([q]).double()
    drop = average_drop(p, q).item()
    assert 0 <= drop <= 1 and bool(increase_in_confidence(p, q)) == (q > p).item()
    assert drop == pytest.approx(max(0, (p - q).item() / p.item()))
