"""Energy concentration against its definition."""

import numpy as np
import pytest
import torch
import xcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xcnn import energy_concentration
from xcnn.evaluate import box_iou, chance, dilated, pointing_game
from xcnn.sanity import deletion, insertion, randomised, rank_correlation, similarity


def brute_force(R, mask):
    inside = total = 0.0
    for c in range(R.shape[0]):
        for y in range(R.shape[1]):
            for x in range(R.shape[2]):
                total += float(R[c, y, x]) ** 2
                inside += float(R[c, y, x]) ** 2 * bool(mask[y, x])
    return inside / total


@pytest.mark.parametrize("channels", [1, 3])
def test_is_the_share_of_energy_on_the_mask(channels):
    rng = np.random.default_rng(0)
    R, mask = rng.normal(size=(4, channels, 5, 7)), rng.random((4, 5, 7)) < 0.4
    P = energy_concentration(torch.tensor(R), torch.tensor(mask), dilate=0)
    assert P.shape == (4,) and P.dtype == torch.float64
    np.testing.assert_allclose(
        P, [brute_force(r, m) for r, m in zip(R, mask, strict=True)], rtol=1e-12
    )


def test_one_mask_serves_all_maps():
    R, mask = torch.randn(3, 1, 6, 6), torch.zeros(6, 6, dtype=torch.bool)
    mask[1:4, 2:5] = True
    assert torch.equal(energy_concentration(R, mask), energy_concentration(R, mask.expand(3, 6, 6)))


def test_by_hand():
    R = torch.zeros(1, 1, 4, 4)
    R[0, 0, 0, 0], R[0, 0, 3, 3] = 3, -4
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert energy_concentration(R, mask, dilate=0).item() == pytest.approx(9 / 25)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])
def test_scale_does_not_matter_even_where_squares_overflow(scale):
    R, mask = torch.rand(2, 3, 8, 8) - 0.5, torch.rand(2, 8, 8) > 0.5
    np.testing.assert_allclose(
        energy_concentration(R * scale, mask), energy_concentration(R, mask), rtol=1e-5
    )


def test_no_energy_is_nan_for_that_map_alone():
    R = torch.ones(2, 1, 4, 4)
    R[0] = 0
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    P = energy_concentration(R, mask, dilate=0)
    assert P[0].isnan() and P[1] == 0.5


def test_empty_and_full_masks():
    R = torch.ones(1, 1, 4, 4)
    assert energy_concentration(R, torch.zeros(4, 4, dtype=torch.bool)) == 0
    assert energy_concentration(R, torch.ones(4, 4, dtype=torch.bool)) == 1


def test_default_grows_the_mask_by_a_fifth():
    R, mask = torch.rand(1, 1, 40, 40), torch.zeros(40, 40, dtype=torch.bool)
    mask[10:25, 10:25] = True
    grown = torch.tensor(dilated(mask.numpy(), 0.2))
    P = energy_concentration(R, mask)
    assert torch.equal(P, energy_concentration(R, grown, dilate=0))
    assert (P - energy_concentration(R, mask, dilate=0)).item() > 0


@settings(deadline=None, max_examples=60)
@given(arrays(bool, (12, 9)), st.floats(0, 3))
def test_a_mask_grows_evenly_and_no_further_than_it_must(mask, fraction):
    grown = dilated(mask, fraction)
    assert (grown | ~mask).all(), "the mask must stay inside"
    if not mask.any() or fraction == 0:
        assert (grown == mask).all()
        return
    assert grown.sum() >= min(mask.size, np.floor(mask.sum() * (1 + fraction)))
    ys, xs = np.nonzero(mask)
    y, x = np.mgrid[:12, :9]
    far2 = ((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2).min(-1)  # by brute force
    reach = far2[grown].max()
    assert grown.all() or far2[~grown].min() > reach, "all pixels nearer than the last one belong"
    if not grown.all():
        assert (far2 < reach).sum() < mask.sum() * (1 + fraction) + 1e-6, (
            "one ring less would not do"
        )


MASK = torch.ones(4, 4, dtype=torch.bool)


@pytest.mark.parametrize(("R", "mask", "dilate", "says"), [
    (torch.ones(1, 4, 4), MASK, 0.2, "N, C, H, W"),
    (torch.ones(1, 1, 4, 4), MASK.float(), 0.2, "mask > 0"),
    (torch.ones(1, 1, 4, 4), torch.ones(5, 4, dtype=torch.bool), 0.2, "does not fit"),
    (torch.ones(3, 1, 4, 4), MASK.expand(2, 4, 4), 0.2, "does not fit"),
    (torch.full((1, 1, 4, 4), float("nan")), MASK, 0.2, "NaN"),
    (torch.full((1, 1, 4, 4), float("inf")), MASK, 0.2, "infinite"),
    (torch.ones(1, 1, 4, 4), MASK, -0.1, "0 or more"),
])  # fmt: skip
def test_bad_input(R, mask, dilate, says):
    with pytest.raises(xcnn.InputError, match=says):
        energy_concentration(R, mask, dilate)


# ---- the sanity check


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
    one, same, other = (randomised(net, 2, seed).module.classifier.weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
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


# ---- pointing, boxes, chance


def scattered(seed=0, n=6, side=24):
    rng = np.random.default_rng(seed)
    R = torch.from_numpy(rng.normal(size=(n, 2, side, side)))
    masks = np.zeros((n, side, side), bool)
    for m, (y, x, h, w) in zip(masks, rng.integers(3, side // 2, (n, 4)), strict=True):
        m[y : y + h, x : x + w] = True
    return R, torch.from_numpy(masks)


@pytest.mark.parametrize("tolerance", [0, 2, 5])
def test_pointing_game_by_distances_written_out(tolerance):
    R, masks = scattered(n=20)
    hits = []
    for r, m in zip(R.sum(1), masks, strict=True):
        y, x = divmod(int(r.argmax()), r.shape[1])
        hits.append(
            any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in m.nonzero().tolist())
        )
    assert pointing_game(R, masks, tolerance).tolist() == hits and {True, False} == set(hits)


def test_pointing_game_has_no_winner_where_there_is_nothing():
    assert not pointing_game(torch.zeros(1, 1, 4, 4), torch.ones(4, 4, dtype=torch.bool))
    assert not pointing_game(torch.rand(1, 1, 4, 4), torch.zeros(4, 4, dtype=torch.bool))


def test_box_iou_by_hand():
    R, mask = torch.zeros(1, 1, 10, 10), torch.zeros(10, 10, dtype=torch.bool)
    mask[2:6, 2:6] = True
    R[..., 4:8, 4:8], R[..., 0, 0] = 1, 5  # one bright pixel is no object; the largest part is
    assert box_iou(R, mask).item() == pytest.approx(4 / (16 + 16 - 4))
    assert box_iou(R, mask, threshold=0.5).item() == 0  # above half of 5 there is only that pixel
    assert box_iou(mask[None, None].double(), mask).item() == 1
    assert box_iou(-R, mask).item() == 0 and box_iou(R, mask & False).isnan()


def test_chance_is_what_a_flat_map_gets():
    _, masks = scattered()
    assert torch.allclose(chance(masks), energy_concentration(torch.ones(6, 1, 24, 24), masks))
    assert chance(masks[0]).tolist() == chance(masks)[:1].tolist()
    with pytest.raises(xcnn.InputError, match="mask must be bool"):
        chance(masks.int())


# ---- does the network agree?


def two_pictures():
    net = xcnn.load("resnet_s")
    scenes = [xcnn.scenes.render(seed) for seed in (3, 4)]
    return (
        net,
        torch.cat([net.preprocess(s.image) for s in scenes]),
        [s.labels[0] for s in scenes],
        scenes,
    )


def test_curves_begin_and_end_where_they_should():
    net, x, names, _ = two_pictures()
    c = [[net.classes.index(name)] for name in names]
    p = lambda x: net.predict(x).gather(1, torch.tensor(c))[:, 0].double()  # noqa: E731
    R = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    out, in_ = deletion(net, x, R, names, steps=8), insertion(net, x, R, names, steps=8)
    assert out.shape == in_.shape == (2, 9)
    assert torch.allclose(out[:, 0], p(x), atol=1e-6) and torch.allclose(
        out[:, -1], p(0 * x), atol=1e-6
    )
    assert torch.allclose(in_[:, -1], p(x), atol=1e-6) and not torch.allclose(
        in_[:, 0], p(x), atol=1e-3
    )
    first = R.sum(1).flatten(1) >= R.sum(1).flatten(1).topk(128 * 128 // 8).values[:, -1:]
    assert torch.allclose(out[:, 1], p(x.masked_fill(first.view(2, 1, 128, 128), 0)), atol=1e-6)


def test_the_object_leaves_first_when_the_map_is_its_mask():
    net, x, names, scenes = two_pictures()
    good = torch.stack([torch.from_numpy(s.mask(n)) for s, n in zip(scenes, names, strict=True)])[
        :, None
    ].float()
    assert (deletion(net, x, good, names).mean(1) < deletion(net, x, -good, names).mean(1)).all()
    assert (insertion(net, x, good, names).mean(1) > insertion(net, x, -good, names).mean(1)).all()


def test_curves_refuse_what_does_not_fit():
    net, x, *_ = two_pictures()
    with pytest.raises(xcnn.InputError, match="N, H and W of x"):
        deletion(net, x, torch.rand(1, 1, 128, 128))


def test_similarity_falls_with_noise():
    R = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    same, near, far = (similarity(R, Q) for Q in (2 * R, R + 0.3 * noise, noise))
    assert torch.allclose(same, torch.ones(3).double()) and (1 > near).all() and (near > far).all()
    assert similarity(R, 0 * R).isnan().all()
