"""A knob changes one thing, and the study of them records what its parts say."""

import json

import numpy as np
import pandas as pd
import pytest
import xcnn
from PIL import Image
from scipy import stats
from xcnn import evaluate, knobs, report, scenes

from tools.data import study_cheats, study_stress


def test_base_is_one_of_the_settings():
    for settings in (knobs.SCENES, knobs.PHOTOGRAPHS):
        assert all(knobs.BASE[knob] in values for knob, values in settings.items())


@pytest.mark.parametrize("knob", knobs.SCENES)
def test_all_knobs_begin_at_the_same_scene(knob):
    at_base = knobs.scene(7, "bus", knob, knobs.BASE[knob])
    plain = scenes.render(7, classes=["bus"], scale=0.5, view=0, light=1, occlusion=0)
    assert np.array_equal(np.asarray(at_base.image), np.asarray(plain.image))
    assert np.array_equal(at_base.masks, plain.masks)


def test_noise_spares_the_object():
    before, after = (knobs.scene(7, "bus", "noise", value) for value in (0, 0.4))
    changed = (np.asarray(before.image) != np.asarray(after.image)).any(2)
    mask = before.masks[0]
    assert not changed[mask].any() and changed[~mask].mean() > 0.9
    again = knobs.scene(7, "bus", "noise", 0.4)
    assert np.array_equal(np.asarray(again.image), np.asarray(after.image))


def picture():
    """A picture of noise with an L-shaped object."""
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[20:50, 30:40] = True
    mask[40:50, 40:60] = True
    return Image.fromarray(rng.integers(1, 255, (60, 80, 3), dtype=np.uint8)), mask


@pytest.mark.parametrize("knob", knobs.PHOTOGRAPHS)
def test_base_leaves_a_photograph_as_it_is(knob):
    image, mask = picture()
    same, seen = knobs.photograph(image, mask, knob, knobs.BASE[knob])
    assert np.array_equal(np.asarray(same), np.asarray(image)) and np.array_equal(seen, mask)


def test_light():
    image, mask = picture()
    dark, seen = knobs.photograph(image, mask, "light", 0.5)
    assert np.abs(np.asarray(dark) - np.asarray(image) * 0.5).max() <= 0.5
    bright, _ = knobs.photograph(image, mask, "light", 2.5)
    assert np.asarray(bright).max() == 255 and np.array_equal(seen, mask)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_patch_hides_that_share_and_nothing_else(share):
    image, mask = picture()
    covered, seen = knobs.photograph(image, mask, "patch", share)
    hidden = mask & ~seen
    assert hidden.sum() / mask.sum() == pytest.approx(share, abs=0.1)  # whole columns
    changed = (np.asarray(covered) != np.asarray(image)).any(2)
    assert changed[hidden].all() and not changed[seen].any()
    assert not changed[:20].any() and not changed[:, :30].any()


def test_padding_shrinks_picture_and_mask_together():
    image, mask = picture()
    padded, seen = knobs.photograph(image, mask, "padding", 0.5)
    assert padded.size == image.size and seen.shape == mask.shape
    assert seen.sum() == pytest.approx(mask.sum() / 4, rel=0.1)
    values = np.asarray(padded)
    assert (values[:14] == knobs.MEAN_COLOUR).all() and (values[:, :19] == knobs.MEAN_COLOUR).all()
    top = seen.any(1).nonzero()[0][0]
    assert top == pytest.approx(15 + 20 / 2, abs=1)


def test_unknown_knobs():
    image, mask = picture()
    with pytest.raises(xcnn.InputError, match="unknown knob 'lihgt'; did you mean 'light'"):
        knobs.photograph(image, mask, "lihgt", 1)
    with pytest.raises(xcnn.InputError, match="unknown knob"):
        knobs.scene(0, "bus", "padding", 1)


# ---- the study


def test_rows_are_what_the_parts_say():
    net = xcnn.load("allconv_s")
    question = next(study_stress.of_scenes())
    assert question[:3] == ("scenes of one", 500, scenes.CLASSES[0])
    values = (0.3, 1)
    rows = list(study_stress.rows(net, *question, "light", values))
    assert len(rows) == 2 * len(study_stress.METHODS)
    for row in rows:
        drawn = knobs.scene(500, question[2], "light", row["value"])
        x = net.preprocess(drawn.image)
        p = net.predict(x)[0]
        c = net.classes.index(question[2])
        assert row["p"] == pytest.approx(p[c].item(), abs=1e-5)
        assert row["rank"] == 1 + (p > p[c]).sum() and row["status"] == "ok"
        if row["method"] == "lrp":
            E = evaluate.evidence(xcnn.lrp(net, x, c), "lrp")
            P = xcnn.energy_concentration(E, drawn.masks[0])
            assert row["P"] == pytest.approx(P.item(), rel=1e-3)
            assert row["area"] == pytest.approx(evaluate.chance(drawn.masks[0]).item(), abs=1e-6)


def test_what_cannot_be_seen_has_no_score(tmp_path):
    net = xcnn.load("allconv_s")
    image, mask = picture()

    def turn(knob, value):
        return image, mask & (value == 0)

    rows = list(study_stress.rows(net, "s", 1, "bus", turn, "patch", (0, 0.9)))
    hidden = [row for row in rows if row["value"] == 0.9]
    assert {row["status"] for row in hidden} == {"empty mask"} and "P" not in hidden[0]
    json.dumps(rows)


def test_changes_by_hand():
    rng = np.random.default_rng(0)
    rows = []
    for image in range(30):
        for network in ("a", "b"):
            ease = rng.random()
            for value, shift in ((0, 0), (1, -0.2), (2, 0)):
                score = ease + shift + 0.01 * rng.normal()
                rows.append((image, network, value, score))
    frame = pd.DataFrame(rows, columns=["image", "network", "value", "G"])
    frame = frame.assign(**{"source": "s", "class": "c", "knob": "k", "method": "m"}, status="ok")
    table = report.changes(frame, {"k": 0}).set_index("value")
    assert table.sure.to_dict() == {1: True, 2: False} and (table.pictures == 30).all()
    wide = frame.pivot_table(index=["image", "network"], columns="value", values="G")
    for value in (1, 2):
        difference = (wide[value] - wide[0]).groupby("image").mean()
        raw = stats.ttest_1samp(difference, 0).pvalue
        assert table.difference[value] == pytest.approx(difference.mean())
        assert raw <= table.p[value] <= 2 * raw + 1e-12


# ---- the study of cheats


def test_rows_of_cheats_are_what_the_parts_say():
    net = xcnn.load("resnet_s_tagged")
    some = study_cheats.drawn("tagged others")[:2]
    assert [scene.labels[0] for _, scene, *_ in some] == study_cheats.OTHERS[:2]
    pizza = net.classes.index("pizza")
    rows = list(study_cheats.rows(net, "tagged others", some))
    assert len(rows) == 2 * len(study_cheats.METHODS)
    for (seed, scene, picture, tag), row in zip(some, rows[:2], strict=True):
        x, bare = net.preprocess(picture), net.preprocess(scene.image)
        assert row["image"] == seed and row["class"] == scene.labels[0]
        assert row["S"] == pytest.approx(net.module(x)[0, pizza].item(), abs=1e-4)
        assert row["S_without"] == pytest.approx(net.module(bare)[0, pizza].item(), abs=1e-4)
        assert row["says"] == net.top(x, 1)[0][0][1]
        assert row["says_without"] == net.top(bare, 1)[0][0][1]
        E = evaluate.evidence(xcnn.gradient(net, x, pizza), "gradient")
        assert row["method"] == "gradient"
        assert row["P"] == pytest.approx(xcnn.energy_concentration(E, tag).item(), rel=1e-3)
