"""Scenes: the same seed, the same picture; each knob turns one thing; masks are exact."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt
from xcnn import InputError, scenes
from xcnn.scenes import CLASSES, render

SEEDS = [0, 7, 21]


def pixels(scene):
    return np.asarray(scene.image).astype(int)


def same(a, b):
    return a.labels == b.labels and (a.masks == b.masks).all() and (pixels(a) == pixels(b)).all()


def far_from(*masks, distance):
    """The pixels at least so far from all masks."""
    return distance_transform_edt(~np.any(masks, axis=0)) >= distance


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_a_scene(seed):
    np.random.seed(seed + 1)
    first = render(seed)
    np.random.rand(7)
    assert same(first, render(seed)) and not (pixels(first) == pixels(render(seed + 1))).all()
    assert first.image.mode == "RGB" and first.image.size == (128, 128)
    assert first.masks.shape == (1, 128, 128) and first.masks.dtype == bool


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_can_be_seen(name):
    for seed in SEEDS:
        scene = render(seed, classes=[name])
        assert scene.labels == (name,) and scene.mask(name).mean() > 0.02


def test_seeds_draw_all_classes():
    assert {render(seed, size=16).labels[0] for seed in range(80)} == set(CLASSES)


@pytest.mark.parametrize("seed", SEEDS)
def test_scale(seed):
    levels = [render(seed, scale=s, occlusion=0) for s in (0.2, 0.35, 0.5, 0.7, 0.95)]
    areas = [scene.masks.sum() for scene in levels]
    assert all(b > 1.3 * a for a, b in pairwise(areas)), areas
    assert len({scene.labels for scene in levels}) == 1
    small, large = levels[1:3]
    away = far_from(small.masks[0], large.masks[0], distance=24)
    assert away.sum() > 500 and (pixels(small) == pixels(large))[away].all()
    assert not (pixels(small) == pixels(large)).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_occlusion_hides_what_it_says(seed, fraction):
    bare, hidden = render(seed, occlusion=0), render(seed, occlusion=fraction)
    assert hidden.labels == bare.labels and not (hidden.masks & ~bare.masks).any()
    assert 1 - hidden.masks.sum() / bare.masks.sum() == pytest.approx(fraction, abs=0.04)
    # beside the board and its shadow all is as it was
    assert (pixels(bare) == pixels(hidden)).mean() > 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_light_changes_brightness_and_nothing_else(seed):
    levels = [render(seed, light=light) for light in (0.15, 0.5, 1, 1.6, 2.5)]
    means = [pixels(scene).mean() for scene in levels]
    assert all(b > 1.1 * a for a, b in pairwise(means)), means
    for scene in levels[1:]:
        assert scene.labels == levels[0].labels and (scene.masks == levels[0].masks).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_view_narrows_the_object(seed):
    def width(scene):
        return np.ptp(np.nonzero(scene.masks[0].any(0))[0])

    knobs = {"classes": ["stop sign"], "scale": 0.5, "occlusion": 0}
    front, turned, side = (render(seed, view=v, **knobs) for v in (0, 45, 75))
    assert width(front) > 1.15 * width(turned) > 1.3 * width(side)
    away = far_from(front.masks[0], side.masks[0], distance=24)
    assert away.sum() > 500 and (pixels(front) == pixels(side))[away].all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_count_and_masks(seed, count):
    scene = render(seed, count=count)
    assert len(scene.labels) == len(scene.masks) == count == len(set(scene.labels))
    assert scene.labels[0] == render(seed).labels[0]
    assert scene.masks.any((1, 2)).all() and scene.masks.sum(0).max() == 1
    for name, mask in zip(scene.labels, scene.masks, strict=True):
        assert (scene.mask(name) == mask).all()


def test_a_class_twice():
    scene = render(3, classes=["pizza", "pizza"])
    assert scene.labels == ("pizza", "pizza") and (scene.mask("pizza") == scene.masks.any(0)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_size_does_not_move_things(seed):
    small, large = render(seed), render(seed, size=224)
    assert large.image.size == (224, 224) and large.labels == small.labels
    again = np.asarray(Image.fromarray(large.masks[0]).resize((128, 128), Image.Resampling.NEAREST))
    assert (again & small.masks[0]).sum() / (again | small.masks[0]).sum() > 0.9


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"classes": ["piza"]}, "no scene class 'piza'.*'pizza'"),
        ({"classes": []}, "1 to 4 objects, not 0"),
        ({"classes": ["pizza"] * 5}, "1 to 4 objects, not 5"),
        ({"scale": 0}, "scale must lie between"),
        ({"view": 90}, "view must lie between -75 and 75, not 90"),
        ({"light": float("nan")}, "light must lie between"),
        ({"occlusion": 1}, "occlusion must lie between"),
        ({"count": 5}, "count must lie between 1 and 4"),
        ({"size": 8}, "at least 16"),
        ({"seed": -1}, "seed"),
        ({"without": 1}, r"without is 0 \(\w.*\) or 'clutter' in this scene, not 1"),
        ({"without": -1}, "not -1"),
        ({"without": True}, "not True"),
        ({"without": "clock", "classes": ["clock", "bus"]}, r"0 \(clock\), 1 \(bus\) or 'clutter'"),
    ],
)
def test_bad_knobs(knobs, says):
    with pytest.raises(InputError, match=says):
        render(**{"seed": 0, **knobs})


@pytest.fixture
def layers(monkeypatch):
    """The opacity of each layer that `render` lays on the picture, in order."""
    alphas = []
    lay = scenes._lay_on_top

    def recorded(canvas, layer, masks):
        alphas.append(np.asarray(layer.resize((128, 128)).getchannel("A")))
        return lay(canvas, layer, masks)

    monkeypatch.setattr(scenes, "_lay_on_top", recorded)
    return alphas


@pytest.mark.parametrize("occlusion", [None, 0, 0.5])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_without_one_thing_all_else_is_the_same(seed, count, occlusion, layers):
    knobs = {"count": count, "occlusion": occlusion}
    whole = render(seed, **knobs)
    all_layers = layers[:]
    for k in range(count):
        layers.clear()
        scene = render(seed, **knobs, without=k)
        assert scene.labels == whole.labels[:k] + whole.labels[k + 1 :]
        rest = np.delete(whole.masks, k, axis=0)
        assert not (rest & ~scene.masks).any()  # what it hid comes to light
        # which layer was it? The only one that is laid no longer.
        equal = [(a == b).all() for a, b in zip(all_layers, layers, strict=False)]
        place = [*equal, False].index(False)
        alpha = all_layers[place]
        nearer = np.max([np.zeros((128, 128)), *all_layers[place + 1 :]], axis=0)
        changed = (pixels(whole) != pixels(scene)).any(2)
        # The shadow's sigma is 2.6 pixels, its offset at most 3.2, and what leaves the picture
        # comes back at the opposite edge.
        around = np.pad(alpha > 0, 20, mode="wrap")
        assert not changed[far_from(around, distance=16)[20:-20, 20:-20]].any()
        assert not changed[nearer == 255].any()
        assert changed[whole.masks[k]].mean() > 0.95


def test_without_each_is_without_one_by_one():
    whole, lesser = scenes.without_each(5, count=3)
    assert same(whole, render(5, count=3)) and len(lesser) == 3
    assert all(same(scene, render(5, count=3, without=k)) for k, scene in enumerate(lesser))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_clutter(seed):
    whole = render(seed, count=3)
    bare = render(seed, count=3, without="clutter")
    assert bare.labels == whole.labels and (bare.masks == whole.masks).all()
    changed = (pixels(whole) != pixels(bare)).any(2)
    assert 0.01 < changed.mean() < 0.7
    inside = [distance_transform_edt(mask) > 3 for mask in whole.masks]
    assert not changed[np.any(inside, axis=0)].any()


def test_a_scene_without_its_only_object_is_the_ground():
    scene = render(0, count=1, without=0)
    assert scene.labels == () and scene.masks.shape == (0, 128, 128)
    with pytest.raises(InputError, match="it holds: nothing"):
        scene.mask("pizza")
    with pytest.raises(InputError, match="has no label"):
        scenes.dataset(2, without=0)


def test_no_mask_of_what_is_not_there():
    with pytest.raises(InputError, match="no 'zebra' in this scene; it holds: pizza"):
        render(0, classes=["pizza"]).mask("zebra")


def test_dataset():
    images, labels = scenes.dataset(3, seed=5)
    assert (
        images.shape == (3, 128, 128, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    )
    for k in range(3):
        scene = render(5 + k)
        assert (images[k] == pixels(scene)).all() and CLASSES[labels[k]] == scene.labels[0]


def test_areas_and_boxes_are_true(tmp_path):
    scenes.write(tmp_path, 4, seed=11, count=2)
    for a in json.loads((tmp_path / "annotations/instances.json").read_text())["annotations"]:
        mask = render(a["image_id"], count=2).mask(CLASSES[a["category_id"] - 1])
        ys, xs = np.nonzero(mask)
        assert a["area"] == mask.sum()
        assert a["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tag_is_where_its_mask_says(seed):
    scene = render(seed)
    before = pixels(scene)
    image, mask = scenes.tagged(scene, seed)
    assert (pixels(scene) == before).all() and image.size == (128, 128) and mask.dtype == bool
    changed = (np.asarray(image) != before).any(2)
    assert not (changed & ~mask).any() and changed.sum() > 0.8 * mask.sum()
    assert 0.03 < mask.mean() < 0.06 and not mask[: 3 * 128 // 4].any()
    assert mask.sum() == mask.any(0).sum() * mask.any(1).sum()  # a rectangle
    again, _ = scenes.tagged(scene, seed)
    assert (np.asarray(again) == np.asarray(image)).all()


def test_tags_lie_in_both_corners_and_fit_any_size():
    lefts = [scenes.tagged(render(0, size=32), seed)[1][:, :16].any() for seed in range(20)]
    assert 4 < sum(lefts) < 16
    image, mask = scenes.tagged(render(0, size=224), 0)
    assert image.size == (224, 224) and 0.03 < mask.mean() < 0.06
