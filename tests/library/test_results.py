"""Recorded results keep what the book says of them, and real networks give them again."""

import json
import statistics

import pytest
import xcnn
from xcnn import coco, photos, report
from xcnn.loading import REAL as NETWORKS
from xcnn.study import KEY, cases, records

from tools import ROOT
from tools.data import study_trust
from tools.data.study_fixations import rows
from tools.data.study_shap_cam import case

SHAP_CAM = json.loads((ROOT / "data" / "results" / "shap_cam.json").read_text())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_path_integral_on_real_networks(name):
    recorded = [row for row in SHAP_CAM["cases"] if row["network"] == name]
    sure = [row for row in recorded if row["reference"] <= 1e-3]
    # Where the softmax is sharp, sampling is slow: up to two references may be less sure.
    assert len(sure) >= 40 and len(sure) >= len(recorded) - 2
    errors = [row["second"] for row in recorded]
    assert statistics.median(errors) <= 3e-3 and statistics.quantiles(errors, n=10)[-1] <= 2e-2
    assert all(row["auto"] <= 5e-2 for row in recorded)  # those that were sampled as well
    assert all(row["gap"] <= 1e-6 for row in recorded)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])  # squeezenet1_1 takes a minute
def test_a_recorded_case_comes_out_again(real, name):
    recorded = next(
        row for row in SHAP_CAM["cases"] if row["network"] == name and row["picture"] == "coffee"
    )
    again = case(xcnn.load(name), photos.load("coffee"))
    assert again["class"] == recorded["class"] and again["estimator"] == recorded["estimator"]
    for key in ("p", "delta", "first"):
        assert again[key] == pytest.approx(recorded[key], rel=0.02)
    assert abs(again["second"] - recorded["second"]) <= 2e-3 and again["reference"] <= 1e-3


def records_of(name):
    return report.read(ROOT / "data" / "results" / f"{name}.jsonl.gz")


@pytest.mark.parametrize("name", ["contest_scenes", "contest_photographs", "contest_thesis"])
def test_records_of_a_contest_are_whole(name):
    """Each contestant has all questions of its part, and each record a reason where it has no P."""
    frame = records_of(name)
    assert not frame.duplicated(list(KEY)).any()
    parts = frame.groupby(["network", "size", "method"]).size().unstack()
    numbers = {"contest_scenes": {60, 180}, "contest_photographs": {92, 168}}
    assert set(parts.stack().dropna()) == numbers.get(name, {146})
    assert (frame.P.isna() == (frame.status != "ok")).all()
    assert frame.P.dropna().between(0, 1).all() and (frame["rank"].dropna() >= 1).all()
    assert {"random pixels", "random patches", "centre", "edges"} <= set(frame.method)


def test_what_readers_measured_on_scenes_comes_out_again():
    """Four networks, original size: 90 other scenes gave these P of LRP and Guided Grad-CAM."""
    frame = records_of("contest_scenes").query("size == 'original'")
    P = frame.pivot_table(index="method", columns="network", values="P")
    lrp = {"vgg_s": 0.970, "resnet_s": 0.914, "googlenet_s": 0.941, "allconv_s": 0.969}
    guided = {"vgg_s": 0.987, "resnet_s": 0.926, "googlenet_s": 0.943, "allconv_s": 0.944}
    for name, wanted in (("lrp", lrp), ("guided_grad_cam", guided)):
        assert P.loc[name].to_dict() == pytest.approx(wanted, abs=0.03)


def test_what_readers_measured_on_one_network_comes_out_again():
    """resnet_s on 72 other scenes: P of the positive part, in an interval of 60 scenes."""
    frame = records_of("contest_scenes").query("size == 'original' and network == 'resnet_s'")
    wanted = {"integrated_gradients": 0.749, "occlusion": 0.887, "hires_cam": 0.496}
    wanted |= {"grad_cam_plus_plus": 0.394, "layer_cam": 0.393}
    P = frame[frame.method.isin(wanted)].groupby("method").P
    wide = 2.5 * P.std() / P.count() ** 0.5
    for name, value in wanted.items():
        assert abs(P.mean()[name] - value) < wide[name] + 0.02, name


def test_what_readers_measured_on_photographs_comes_out_again():
    """How often the class is the network's first, and what the centre gets, at 224 pixels."""
    frame = records_of("contest_photographs").query("size == 224 and method == 'centre'")
    asked = frame[frame.p.notna()].groupby("network")
    first = asked["rank"].agg(lambda rank: (rank == 1).mean())
    wanted = {"squeezenet1_1": 0.22, "mobilenet_v2": 0.26, "resnet18": 0.26}
    assert first.to_dict() == pytest.approx(wanted, abs=0.015)
    median = {"squeezenet1_1": 0.007, "mobilenet_v2": 0.013, "resnet18": 0.009}
    assert asked.p.median().to_dict() == pytest.approx(median, abs=0.002)
    assert 0.33 < frame.P.mean() < 0.38  # a tighter or wider blob: .340 to .366


def test_records_of_causes():
    frame = records_of("trust")
    key = ["image", "network", "method"]
    assert not frame.duplicated(key).any()
    assert set(frame.groupby(["network", "method"]).size()) == {60}
    refused = frame[frame.status != "ok"]
    assert set(refused.method) == {"cam"} and set(refused.network) == {"vgg_s"}
    assert frame.causal_ranks.dropna().between(-1, 1).all()


def test_a_recorded_picture_comes_out_again(real):
    frame = records_of("contest_photographs")
    images = (104455, 47112)
    every = cases(real / "coco", images=1000, largest=True)
    chosen = [case for case in every if case.image in images]
    assert len(chosen) == 2
    for made in records(chosen, "squeezenet1_1", 224, ["gradient", "grad_cam", "lrp"]):
        same_key = (frame[list(KEY)] == [made[key] for key in KEY]).all(axis=1)
        (kept,) = frame[same_key].to_dict("records")
        for column in ("P", "area", "p", "left", "mass"):
            assert made[column] == pytest.approx(kept[column], rel=0.02)


@pytest.mark.parametrize("name", ["gradient", "lrp", "edges"])
def test_a_recorded_scene_comes_out_again(name):
    frame = records_of("contest_scenes")
    made = list(records(cases(images=2)[:2], "allconv_s", 224, [name]))
    for record in made:
        same_key = (frame[list(KEY)] == [record[key] for key in KEY]).all(axis=1)
        (kept,) = frame[same_key].to_dict("records")
        for column in ("P", "P_raw", "area", "p", "rival"):
            assert record[column] == pytest.approx(kept[column], rel=0.02)


def test_a_recorded_cause_comes_out_again():
    frame = records_of("trust")
    net = xcnn.load("googlenet_s")
    (made,) = study_trust.rows(net, [study_trust.question(net, 50_003)], "grad_cam")
    same_key = (frame[["image", "network", "method"]] == [50_003, "googlenet_s", "grad_cam"]).all(1)
    (kept,) = frame[same_key].to_dict("records")
    for column in ("causal_signs", "causal_ranks", "deletion", "insertion", "P"):
        assert made[column] == pytest.approx(kept[column], rel=0.02)


def test_a_recorded_share_of_points_comes_out_again(real, monkeypatch):
    recorded = json.loads((ROOT / "data" / "results" / "fixations.json").read_text())
    assert list(recorded) == list(NETWORKS) and min(map(len, recorded.values())) >= 40
    kinds = {"zebra": coco.class_map()["zebra"]}
    monkeypatch.setattr(coco, "class_map", lambda: kinds)
    again = list(rows(xcnn.load("resnet18"), coco.Folder(real / "coco")))
    zebras = [row for row in recorded["resnet18"] if row["category"] == "zebra"]
    assert [row["image"] for row in again] == [row["image"] for row in zebras] and len(zebras) > 1
    for made, kept in zip(again, zebras, strict=True):
        assert made["share"] == pytest.approx(kept["share"], abs=0.1)
        assert made["chance"] == kept["chance"]
