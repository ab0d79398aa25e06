"""Measures of maps against their definitions, by brute force and by Quantus."""

import functools

import numpy as np
import pytest
import quantus
import torch
import xcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xcnn import InputError, energy_concentration, evaluate, scenes, small_networks
from xcnn.evaluate import (
    box_iou,
    causal_agreement,
    causal_effects,
    chance,
    dilated,
    evidence,
    gain,
    pointing_game,
    relevance_mass_accuracy,
    relevance_of,
    relevance_rank_accuracy,
    rival_energy,
)
from xcnn.methods import CHANGE, SIGNS


def brute_force(R, mask):
    inside = 0.0
    total = 0.0
    for c in range(R.shape[0]):
        for y in range(R.shape[1]):
            for x in range(R.shape[2]):
                total += float(R[c, y, x]) ** 2
                inside += float(R[c, y, x]) ** 2 * bool(mask[y, x])
    return inside / total


@pytest.mark.parametrize("channels", [1, 3])
def test_is_the_share_of_energy_on_the_mask(channels):
    rng = np.random.default_rng(0)
    R = rng.normal(size=(4, channels, 5, 7))
    mask = rng.random((4, 5, 7)) < 0.4
    P = energy_concentration(torch.tensor(R), torch.tensor(mask), dilate=0)
    assert P.shape == (4,) and P.dtype == torch.float64
    np.testing.assert_allclose(
        P, [brute_force(r, m) for r, m in zip(R, mask, strict=True)], rtol=1e-12
    )


def test_one_mask_serves_all_maps():
    R = torch.randn(3, 1, 6, 6)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1:4, 2:5] = True
    assert torch.equal(energy_concentration(R, mask), energy_concentration(R, mask.expand(3, 6, 6)))


def test_by_hand():
    R = torch.zeros(1, 1, 4, 4)
    R[0, 0, 0, 0] = 3
    R[0, 0, 3, 3] = -4
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert energy_concentration(R, mask, dilate=0).item() == pytest.approx(9 / 25)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])
def test_scale_does_not_matter_even_where_squares_overflow(scale):
    R = torch.rand(2, 3, 8, 8) - 0.5
    mask = torch.rand(2, 8, 8) > 0.5
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
    R = torch.rand(1, 1, 40, 40)
    mask = torch.zeros(40, 40, dtype=torch.bool)
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
        one_ring_less = (far2 < reach).sum()
        assert one_ring_less < mask.sum() * (1 + fraction) + 1e-6, "one ring less would not do"


MASK = torch.ones(4, 4, dtype=torch.bool)
MAP = torch.ones(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("R", "mask", "dilate", "says"),
    [
        (torch.ones(1, 4, 4), MASK, 0.2, "N, C, H, W"),
        (MAP, MASK.float(), 0.2, "mask > 0"),
        (MAP, torch.ones(5, 4, dtype=torch.bool), 0.2, "does not fit"),
        (MAP.expand(3, 1, 4, 4), MASK.expand(2, 4, 4), 0.2, "does not fit"),
        (MAP * float("nan"), MASK, 0.2, "NaN"),
        (MAP * float("inf"), MASK, 0.2, "infinite"),
        (MAP, MASK, -0.1, "0 or more"),
    ],
)
def test_bad_input(R, mask, dilate, says):
    with pytest.raises(xcnn.InputError, match=says):
        energy_concentration(R, mask, dilate)


# ---- maps and masks of any kind


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
    "big-endian": lambda R: R.numpy().astype(">f8"),
    "whole numbers": lambda R: R.numpy().astype(np.int32),
    "flipped": lambda R: R.numpy()[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_any_kind(kind, recwarn):
    R = torch.from_numpy(np.random.default_rng(0).integers(-8, 9, (2, 3, 24, 24))).float()
    masks = torch.zeros(2, 24, 24, dtype=torch.bool)
    masks[:, 4:12, 6:15] = True
    for measure in (energy_concentration, pointing_game, box_iou):
        wanted = measure(R, masks)
        assert wanted.isfinite().all()
        assert torch.equal(measure(KINDS[kind](R), masks), wanted)
        flipped = masks.numpy()[:, ::-1].copy()[:, ::-1]
        flipped.flags.writeable = False
        assert torch.equal(measure(KINDS[kind](R), flipped), wanted)
    assert not recwarn.list


# ---- pointing, boxes, chance


def scattered(seed=0, n=6, side=24):
    """Random maps, and masks that are rectangles anywhere."""
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
    R = torch.zeros(1, 1, 10, 10)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[2:6, 2:6] = True
    R[..., 4:8, 4:8] = 1
    R[..., 0, 0] = 5  # one bright pixel is not an object; the largest part is
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


# ---- controls


def test_controls_know_the_picture_only_and_are_never_negative():
    x = torch.randn(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    maps = evaluate.controls(x, seed=1)
    for name, R in maps.items():
        assert R.shape == (3, 1, 20, 30) and R.dtype == x.dtype, name
        assert (R >= 0).all() and R.flatten(1).std(1).min() > 0, name
    again = evaluate.controls(x, seed=1)
    assert all(torch.equal(R, again[name]) for name, R in maps.items())
    other = evaluate.controls(x, seed=2)
    alike = [name for name, R in maps.items() if torch.equal(R, other[name])]
    assert alike == ["centre", "edges"]
    for name in ("random pixels", "random patches"):
        assert not torch.equal(maps[name][0], maps[name][1])  # each picture has its own


def test_the_edges_are_where_the_picture_is_steep():
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    E = evaluate.controls(x)["edges"]
    assert E[..., 3:5].min() == 0.5 and not E[..., :3].any() and not E[..., 5:].any()


def test_the_centre_falls_off_by_a_quarter_of_the_shorter_side():
    C = evaluate.controls(torch.zeros(1, 1, 41, 61))["centre"][0, 0]
    assert C[20, 30] == 1 and C.max() == 1
    assert C[20, 30 + 10] == pytest.approx(np.exp(-(10**2) / (2 * (41 / 4) ** 2)), rel=1e-5)
    assert torch.allclose(C, C.flip(0)) and torch.allclose(C, C.flip(1))


def test_patches_are_constant():
    R = evaluate.controls(torch.zeros(1, 3, 14, 21))["random patches"][0, 0]
    cells = R[::2, ::3]
    assert len(R.unique()) == 49
    assert torch.equal(R, cells.repeat_interleave(2, 0).repeat_interleave(3, 1))


def test_controls_of_one_row():
    assert all(torch.isfinite(R).all() for R in evaluate.controls(torch.ones(1, 1, 1, 9)).values())


@pytest.mark.parametrize(("x", "seed"), [(torch.zeros(3, 8, 8), 0), (torch.zeros(1, 3, 8, 8), -1)])
def test_controls_of_something_else(x, seed):
    with pytest.raises(InputError, match=r"x must be a tensor|seed must be"):
        evaluate.controls(x, seed)


# ---- evidence and gain


def test_every_method_says_what_its_sign_means():
    assert SIGNS.keys() == xcnn.METHODS.keys()
    changes = {"gradient", "smooth_grad", "deconvnet", "guided_backprop", "guided_grad_cam"}
    assert {name for name, sign in SIGNS.items() if sign == CHANGE} == changes


@pytest.mark.parametrize("method", xcnn.METHODS)
@pytest.mark.parametrize("channels", [1, 3])
def test_evidence_by_hand(method, channels):
    R = torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    E = evidence(R, method)
    signed = evidence(R, method, signed=True)
    assert E.shape == signed.shape == (2, 1, 4, 5) and (E >= 0).all()
    for n in range(2):
        for place in np.ndindex(4, 5):
            values = R[n, :, *place].tolist()
            total = sum(values)
            size = sum(v * v for v in values) ** 0.5
            of_change = SIGNS[method] == CHANGE
            assert E[n, 0, *place].item() == pytest.approx(size if of_change else max(total, 0))
            assert signed[n, 0, *place].item() == pytest.approx(size if of_change else total)


def test_what_speaks_against_the_class_is_not_evidence_for_it():
    R = torch.tensor([[[[1.0, -5.0]]]])
    mask = torch.tensor([[True, False]])
    assert energy_concentration(R, mask, dilate=0).item() < 0.04
    assert energy_concentration(evidence(R, "lrp"), mask, dilate=0).item() == 1


@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_evidence_of_maps_that_overflow_when_squared(method):
    R = torch.full((1, 3, 2, 2), 1e25)
    assert evidence(R, method).isfinite().all() and (evidence(R, method) > 1e25).all()
    assert not evidence(0 * R, method).any()
    half = torch.full((1, 3, 2, 2), 300.0, dtype=torch.float16)
    assert evidence(half, method).dtype == torch.float16 and evidence(half, method).isfinite().all()


def test_evidence_refuses_what_is_not_a_map_of_a_method():
    with pytest.raises(InputError, match="unknown method 'grad_kam'; did you mean 'grad_cam'"):
        evidence(torch.ones(1, 1, 2, 2), "grad_kam")
    with pytest.raises(InputError, match=r"\(N, C, H, W\), got \(2, 2\)"):
        evidence(torch.ones(2, 2), "lrp")


def test_gain_is_what_chance_left_open():
    assert gain(0.6, 0.2) == pytest.approx(0.5) and gain(1, 0.3) == 1 and gain(0.3, 0.3) == 0
    assert gain(0.1, 0.2) < 0
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:7] = True
    P0 = chance(mask)
    uniform = energy_concentration(torch.ones(1, 1, 10, 10), mask)
    assert gain(uniform, P0).item() == pytest.approx(0, abs=1e-12)
    assert gain(torch.tensor(1.0), torch.tensor(1.0)).isnan() and np.isnan(gain(1, 1))


# ---- mass, rank and the rival


def rank_accuracy_by_hand(R, mask, draws=400):
    """The K strongest pixels counted one by one, equals in random order, on average."""
    rng = np.random.default_rng(0)
    K = mask.sum()
    hits = []
    for _ in range(draws):
        order = rng.permutation(R.size)
        strongest = order[np.argsort(-R.ravel()[order], kind="stable")][:K]
        hits.append(mask.ravel()[strongest].sum() / K)
    return np.mean(hits)


def test_rank_accuracy_of_different_values():
    rng = np.random.default_rng(1)
    for _ in range(20):
        R = rng.permutation(30).reshape(1, 1, 5, 6).astype(float)
        mask = rng.random((5, 6)) < 0.4
        mask[0, 0] = True
        wanted = rank_accuracy_by_hand(R[0, 0], mask, draws=1)
        assert relevance_rank_accuracy(R, mask).item() == pytest.approx(wanted)


def test_rank_accuracy_shares_what_is_equal():
    rng = np.random.default_rng(2)
    R = rng.integers(0, 3, (1, 1, 6, 6)).astype(float)
    mask = rng.random((6, 6)) < 0.3
    wanted = rank_accuracy_by_hand(R[0, 0], mask, draws=4000)
    assert relevance_rank_accuracy(R, mask).item() == pytest.approx(wanted, abs=0.02)
    assert relevance_rank_accuracy(np.ones((1, 1, 6, 6)), mask).item() == pytest.approx(mask.mean())
    assert relevance_rank_accuracy(R, np.zeros((6, 6), bool)).isnan()


def test_mass_accuracy_by_hand():
    R = np.array([[[[4.0, -1], [2, 0]], [[-1.0, -1], [1, 1]]]])  # sums 3, -2, 3, 1
    mask = np.array([[True, True], [False, True]])
    assert relevance_mass_accuracy(R, mask).item() == pytest.approx((3 + 1) / 7)
    assert relevance_mass_accuracy(-np.ones((1, 1, 2, 2)), mask).isnan()


def of_quantus(measure, R, masks):
    """What Quantus says of maps that are there already; its own defaults would take |R| first."""
    asked = measure(abs=False, normalise=False, disable_warnings=True)
    return asked(
        model=torch.nn.Identity(),
        x_batch=np.zeros(R.shape),
        y_batch=np.zeros(len(R), int),
        a_batch=R,
        s_batch=masks[:, None],
        device="cpu",
    )


@pytest.mark.filterwarnings("ignore")
def test_against_quantus():
    rng = np.random.default_rng(3)
    R = rng.normal(size=(8, 1, 12, 14))
    masks = rng.random((8, 12, 14)) < 0.3
    rank = of_quantus(quantus.RelevanceRankAccuracy, R, masks)
    np.testing.assert_allclose(relevance_rank_accuracy(R, masks), rank)
    hits = of_quantus(quantus.PointingGame, R, masks)
    assert pointing_game(R, masks, tolerance=0).tolist() == [bool(hit) for hit in hits]
    # Quantus sums what is negative, too, so its share can leave [0, 1]; of maps >= 0 it agrees
    mass = of_quantus(quantus.RelevanceMassAccuracy, np.abs(R), masks)
    np.testing.assert_allclose(relevance_mass_accuracy(np.abs(R), masks), mass)


def test_rival_energy_by_hand():
    rng = np.random.default_rng(4)
    R = rng.normal(size=(3, 2, 8, 8))
    own, rival = rng.random((2, 3, 8, 8)) < 0.3
    for r, a, b, got in zip(R, own, rival, rival_energy(R, own, rival, dilate=0), strict=True):
        energy = [sum((r[:, y, x] ** 2).sum() for y, x in np.argwhere(m)) for m in (a, b)]
        assert got.item() == pytest.approx(energy[1] / sum(energy))
    nothing = np.zeros((8, 8), bool)
    assert rival_energy(R, own, nothing).tolist() == [0, 0, 0]
    assert rival_energy(R, nothing, nothing).isnan().all()


# ---- causes

SCENES = 40


@functools.cache
def warm_or_cold():
    module = small_networks.WarmOrCold().double().eval()
    return xcnn.Network(module, "warm_or_cold", ["warm", "cold"], size=128)


def things(seed, count=4):
    """A scene of many things: x, the same without each, and the masks of the things."""
    net = warm_or_cold()
    whole, lesser = scenes.without_each(seed, count=count)
    without = torch.cat([net.preprocess(scene.image) for scene in lesser]).double()
    return net.preprocess(whole.image).double(), without, whole.masks


def test_effects_by_hand():
    net = warm_or_cold()
    x, without, _ = things(0)
    for target in (0, "cold"):
        c = 0 if target == 0 else 1
        by_hand = [(net.module(x) - net.module(w[None]))[0, c].item() for w in without]
        assert causal_effects(net, x, without, target).tolist() == pytest.approx(by_hand)
    S = net.module(x)[0]
    top = S.argmax().item()
    assert torch.equal(causal_effects(net, x, without), causal_effects(net, x, without, top))
    contrast = causal_effects(net, x, without, xcnn.versus(0, 1))
    assert torch.allclose(contrast, causal_effects(net, x, without, lambda S: S[:, 0] - S[:, 1]))
    assert torch.allclose(contrast, 2 * causal_effects(net, x, without, 0))


def test_effects_want_one_whole_picture():
    x, without, _ = things(0)
    with pytest.raises(InputError, match="one whole picture"):
        causal_effects(warm_or_cold(), without, without, 0)
    with pytest.raises(InputError, match="NaN"):
        causal_effects(warm_or_cold(), x, without * torch.nan, 0)


def test_relevance_of_things_is_a_sum():
    rng = np.random.default_rng(5)
    R = rng.normal(size=(1, 3, 6, 6))
    masks = rng.random((4, 6, 6)) < 0.3
    by_hand = [R[0][:, mask].sum() for mask in masks]
    np.testing.assert_allclose(relevance_of(R, masks), by_hand)
    with pytest.raises(InputError, match="does not fit"):
        relevance_of(R, masks[:, :5])


def test_agreement_by_hand():
    assert causal_agreement([3, 1, 2], [30, 10, 20]) == pytest.approx((1, 1))
    assert causal_agreement([-3, -1, -2], [30, 10, 20]) == pytest.approx((-1, -1))
    signs, ranks = causal_agreement([1, 0, -1, 2], [5, 3, 1, -1])
    assert signs == pytest.approx((1 + 0 - 1 - 1) / 4)
    by_hand = np.corrcoef([2, 1, 0, 3], [3, 2, 1, 0])[0, 1]
    assert ranks == pytest.approx(by_hand)
    assert np.isnan(causal_agreement([1, 1], [1, 2])[1])
    assert causal_agreement([1, -1, 3], [0, -1, 2]) == pytest.approx((1, 1))
    assert np.isnan(causal_agreement([1, -1], [0, 0])).all()
    for bad in (([1], [1]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(InputError, match="two things or more"):
            causal_agreement(*bad)


def test_true_effects_agree_and_random_maps_do_not():
    """On the network whose reason is known: the truth gets 1, noise 0 within three errors."""
    net = warm_or_cold()
    rng = np.random.default_rng(6)
    scores = {"truth": [], "contributions": [], "noise": []}
    for seed in range(SCENES):
        x, without, masks = things(seed)
        effects = causal_effects(net, x, without, 0)
        maps = {
            "contributions": net.module.contributions(x, 0),
            "noise": rng.normal(size=(1, 1, 128, 128)),
        }
        scores["truth"].append(causal_agreement(effects, effects))
        for name, R in maps.items():
            scores[name].append(causal_agreement(relevance_of(R, masks), effects))
    scores = {name: np.array(pairs) for name, pairs in scores.items()}
    np.testing.assert_allclose(scores["truth"], 1)
    # what an object hides speaks, too, when it is gone: the exact map of the picture is not the
    # effect of its things, only near
    assert (scores["contributions"].mean(0) > 0.6).all()
    error = scores["noise"].std(0) / SCENES**0.5
    assert (abs(scores["noise"].mean(0)) < 3 * error).all()
