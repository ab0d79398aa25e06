"""Recorded results keep what the book says of them, and real networks give them again."""

import json
import statistics

import pytest
import xcnn
from xcnn import coco, photos, report
from xcnn.loading import REAL as NETWORKS
from xcnn.study import KEY, cases, records

from tools import ROOT
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


def test_the_records_of_the_contest_on_photographs():
    frame = report.read(ROOT / "data" / "results" / "coco_study.jsonl.gz")
    assert not frame.duplicated(list(KEY)).any()
    assert frame.groupby(["network", "size", "method"]).size().unique().tolist() == [168]
    asked = frame.groupby("method")[["network", "size"]].agg(lambda column: set(column))
    assert len(asked) == 11
    assert asked.loc["lime"].tolist() == [set(NETWORKS), {224}]  # one map takes 150 runs
    assert all(
        row == [set(NETWORKS), {"original", 224}] for row in asked.drop("lime").values.tolist()
    )
    assert set(frame.status) == {"ok", "empty mask"} and frame.P.dropna().between(0, 1).all()


def test_a_recorded_picture_comes_out_again(real):
    frame = report.read(ROOT / "data" / "results" / "coco_study.jsonl.gz")
    images = (104455, 47112)
    every = cases(real / "coco", images=1000, largest=True)
    chosen = [case for case in every if case.image in images]
    assert len(chosen) == 2
    for made in records(chosen, "squeezenet1_1", 224, ["gradient", "grad_cam", "lrp"]):
        same_key = (frame[list(KEY)] == [made[key] for key in KEY]).all(axis=1)
        (kept,) = frame[same_key].to_dict("records")
        assert made["P_raw"] == pytest.approx(kept["P"], rel=0.02)  # they knew no evidence yet
        assert made["area"] == pytest.approx(kept["area"])


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
