"""Whether a map is to be believed: shuffled weights, correlations, deletion and insertion."""

import numpy as np
import pytest
import torch
import xcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xcnn.sanity import deletion, insertion, randomised, rank_correlation, ssim


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
