"""The study: records that are right, none lost, none made twice, whatever stops the run."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
import xcnn
from PIL import Image
from xcnn import contestants, report, scenes, study, study_cases
from xcnn.methods import EVIDENCE, SIGNS

from tools import ROOT

SMALL_RUN = {
    "networks": ["resnet_s", "googlenet_s"],
    "sizes": ("original", 96),
    "methods": [
        "gradient",
        "deconvnet",
        "guided_backprop",
        "cam",
        "grad_cam",
        "shap_cam_probability",
        "random pixels",
    ],
    "progress": False,
}
SCENE_CLASSES = ["pizza", "clock"]
MEASURES = ("P", "mass", "ranks", "pointing", "iou", "left", "P_raw", "rival")
NUMBERS = ("p", "area", *MEASURES)


def lines(path):
    """The records in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_order(path):
    """The records in a file, in the order of their keys."""
    return sorted(lines(path), key=lambda record: [str(record[name]) for name in study.KEY])


def without_numbers(records):
    """The records without what may differ between two runs."""
    return [record | dict.fromkeys((*NUMBERS, "seconds")) for record in records]


def assert_same(path, other):
    """The same records but for their time.

    Last digits depend on which pictures go through a network together.
    """
    records = in_order(path)
    others = in_order(other)
    assert without_numbers(records) == without_numbers(others)
    for name in NUMBERS:
        assert [r[name] for r in records] == pytest.approx(
            [r[name] for r in others], rel=1e-4, abs=1e-6
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "whole.jsonl"
    cases = study.cases(classes=SCENE_CLASSES, images=3)
    assert study.run(path, cases, **SMALL_RUN) == 2 * 3 * 2 * 2 * 7
    return path, cases


def test_every_record_is_what_the_parts_say(whole):
    path, cases = whole
    records = lines(path)
    assert len(records) == len({tuple(r[k] for k in study.KEY) for r in records}) == 168
    case_of = {(case.image, case.label): case for case in cases}
    for r in records[::7]:
        net = xcnn.load(r["network"])
        case = case_of[r["image"], r["class"]]
        x, mask = study.prepared(net, *case.load(), r["size"])
        assert mask.mean() < r["area"] < 1.3 * mask.mean() + 0.01
        S = net.module(x)[0]
        c = net.classes.index(r["class"])
        assert r["p"] == pytest.approx(S.softmax(0)[c].item(), rel=1e-3, abs=1e-6)
        assert r["rank"] == S.argsort(descending=True).tolist().index(c) + 1
        R, E = map_and_evidence(net, x, r)
        rival = study_cases.cut(case.rival(), r["size"])
        for name, wanted in by_hand(net, x, R, E, mask, rival, c).items():
            assert r[name] == pytest.approx(wanted, rel=2e-3, abs=1e-5), name
        assert r["status"] == "ok" and r["seconds"] > 0


def map_and_evidence(net, x, record):
    """The map of a record's contestant, drawn by itself, and what it says for the class."""
    name = record["method"]
    if name in contestants.CONTROLS:
        key = str([record["source"], record["image"], record["class"]])
        R = xcnn.evaluate.controls(x, zlib.crc32(key.encode()))[name]
        return R, R
    method, options = contestants.VARIANTS.get(name, (name, {}))
    R = xcnn.METHODS[method](net, x, record["class"], **options)
    return R, xcnn.evaluate.evidence(R, method)


def by_hand(net, x, R, E, mask, rival, c):
    """The measures of one record, from sums over pixels."""
    mask, rival = (xcnn.evaluate.dilated(M, 0.2) for M in (mask, rival))
    E, energy = E[0, 0].double().numpy(), R[0].double().square().sum(0).numpy()
    K = mask.sum()
    left = net.predict(x * torch.from_numpy(E / E.max()).float())[0, c].item()
    own, other = (E[mask] ** 2).sum(), (E[rival] ** 2).sum()
    return {
        "P": own / (E**2).sum(),
        "mass": E[mask].sum() / E.sum(),
        "ranks": mask.flat[np.argsort(-E, axis=None)[:K]].mean(),
        "pointing": float(mask.flat[E.argmax()]),
        "left": left,
        "P_raw": energy[mask].sum() / energy.sum(),
        "rival": other / (own + other),
    }


def test_a_second_run_has_nothing_to_do(whole):
    path, cases = whole
    before = path.read_bytes()
    assert study.run(path, cases, **SMALL_RUN) == 0 and path.read_bytes() == before


def test_goes_on_after_a_torn_line(whole, tmp_path):
    path, cases = whole
    part = tmp_path / "part.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(kept[:50]) + kept[50][:30])
    assert study.run(part, cases, **SMALL_RUN) == 118
    assert_same(part, path)


def test_killed_at_any_moment_it_goes_on(whole, tmp_path):
    path, cases = whole
    part = tmp_path / "killed.jsonl"
    code = (
        "from xcnn import study; "
        f"study.run({str(part)!r}, study.cases(classes={SCENE_CLASSES!r}, images=3), "
        f"**{SMALL_RUN!r})"
    )
    for wanted in (10, 60):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and (
            not part.exists() or part.read_bytes().count(b"\n") < wanted
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert part.read_bytes().count(b"\n") >= wanted
    study.run(part, cases, **SMALL_RUN)
    assert_same(part, path)


def test_one_forward_serves_what_can_share_it():
    net = xcnn.load("vgg_s")
    x = net.preprocess(scenes.render(3).image)
    names = ["gradient", "deconvnet", "guided_backprop"]
    passes = []
    handle = net.module.register_forward_hook(lambda *_: passes.append(1))
    try:
        maps = {name: R for name, R, _ in xcnn.explain_all(net, x, [2], names)}
    finally:
        handle.remove()
    assert len(passes) == 1
    for name, R in maps.items():
        alone = xcnn.METHODS[name](net, x, 2)
        assert torch.allclose(R, alone, rtol=1e-5, atol=1e-9 * R.abs().max().item())


def test_a_method_that_refuses_is_recorded_and_counted(tmp_path):
    cases = study.cases(classes=["pizza"], images=2)
    out = tmp_path / "r.jsonl"
    study.run(out, cases, ["vgg_s"], ("original",), ["cam", "gradient"], progress=False)
    frame = report.read(out)
    assert (frame[frame.method == "cam"].status != "ok").all()
    assert (frame[frame.method == "gradient"].status == "ok").all()
    assert report.left_out(frame).records.tolist() == [2]
    assert list(report.table(frame).index) == ["gradient"]


def test_the_largest_object_of_each_image(real):
    every = study.cases(real / "coco", images=1000, largest=False)
    largest = study.cases(real / "coco", images=1000, largest=True)
    assert len(largest) == len({case.image for case in every}) < len(every)
    for case in largest[:20]:
        area = {other.label: other.load()[1].sum() for other in every if other.image == case.image}
        assert area[case.label] == max(area.values())


def test_fewer_pictures_of_a_class_are_a_part_of_more(tmp_path):
    scenes.write(tmp_path / "coco", 12, seed=100, count=2)
    every = study.cases(tmp_path / "coco", images=100, largest=True)
    few = study.cases(tmp_path / "coco", images=1, largest=True)
    assert set(few) < set(every) and len(every) == 12
    assert len(few) == len({case.label for case in every})


@pytest.fixture
def folder(tmp_path):
    scenes.write(tmp_path / "coco", 4, seed=100)
    return tmp_path / "coco"


def test_broken_images_empty_masks_and_unknown_classes_are_recorded(folder, tmp_path):
    cases = study.cases(folder, images=4)
    assert len(cases) == 4
    broken, cropped = (folder / "images" / f"{case.image:06d}.png" for case in cases[:2])
    broken.write_bytes(b"not a picture")
    wide = Image.new("RGB", (600, 128))  # the object lies where the middle square does not reach
    wide.paste(Image.open(cropped), (0, 0))
    wide.save(cropped)
    move_objects_aside(folder / "annotations" / "instances.json", cases[1].image)
    out = tmp_path / "r.jsonl"
    study.run(out, cases, ["resnet_s"], (128,), ["gradient"], progress=False)
    status = {r["image"]: r["status"] for r in lines(out)}
    assert "cannot be read" in status[cases[0].image] and status[cases[1].image] == "empty mask"
    assert [status[case.image] for case in cases[2:]] == ["ok", "ok"]


def move_objects_aside(path, image_id):
    """Annotations of a picture that is 600 pixels wide, with all objects at its left end."""
    data = json.loads(path.read_text())
    for image in data["images"]:
        if image["id"] == image_id:
            image["width"] = 600
    for annotation in data["annotations"]:
        if annotation["image_id"] == image_id:
            annotation["segmentation"] = [[1, 1, 20, 1, 20, 20, 1, 20]]
    path.write_text(json.dumps(data))


def test_no_energy_is_recorded_as_such(monkeypatch, tmp_path):
    monkeypatch.setitem(xcnn.METHODS, "nothing", lambda net, x, target: torch.zeros_like(x))
    monkeypatch.setitem(SIGNS, "nothing", EVIDENCE)
    cases = study.cases(classes=["pizza"], images=2)
    out = tmp_path / "r.jsonl"
    study.run(out, cases, ["resnet_s"], ("original",), ["nothing"], progress=False)
    assert [r["status"] for r in lines(out)] == ["no energy"] * 2
    assert report.left_out(report.read(out)).records.tolist() == [2]


def test_a_map_that_only_speaks_against_the_class_is_counted(monkeypatch, tmp_path):
    monkeypatch.setitem(xcnn.METHODS, "against", lambda net, x, target: -torch.ones_like(x))
    monkeypatch.setitem(SIGNS, "against", EVIDENCE)
    out = tmp_path / "r.jsonl"
    cases = study.cases(classes=["pizza"], images=1)
    study.run(out, cases, ["resnet_s"], ("original",), ["against"], progress=False)
    (record,) = lines(out)
    assert record["status"] == "nothing for the class" and "P" not in record
    assert 0 < record["p"] <= 1 and record["rank"] >= 1


def test_controls_do_not_depend_on_the_batch(tmp_path):
    cases = study.cases(classes=["pizza"], images=4)
    for batch in (1, 4):
        study.run(
            tmp_path / f"{batch}.jsonl",
            cases,
            ["resnet_s"],
            (64,),
            contestants.CONTROLS,
            batch=batch,
            progress=False,
        )
    assert_same(tmp_path / "1.jsonl", tmp_path / "4.jsonl")
    frame = report.read(tmp_path / "4.jsonl")
    assert frame.P.nunique() == len(frame) == 16  # each picture has noise of its own


def test_records_of_an_earlier_version_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "records.jsonl"
    old = dict.fromkeys(study.KEY, "x") | {"P": 0.5, "E": 1.0, "E_total": 2.0, "area": 0.1}
    path.write_text(json.dumps(old | {"status": "ok", "seconds": 0.1}) + "\n")
    before = path.read_text()
    with pytest.raises(xcnn.InputError, match=r"earlier version.*another --out"):
        study.run(path, study.cases(images=1), ["vgg_s"], progress=False)
    assert path.read_text() == before


def test_the_rival_is_the_other_object():
    for case in study.cases(classes=["clock"], images=5):
        image, mask = case.load()
        rival = case.rival()
        assert rival.any() and not (rival & mask).any() and rival.shape == image.size
    assert study.Case("somewhere/coco", 3, "clock").rival() is None


def test_the_likeliest_kind_is_asked_for(real):
    net = xcnn.load("resnet18")
    zebras = study.cases(real / "coco", ["zebra"])
    case = next(case for case in zebras if case.image == 104455)
    x, _ = study.prepared(net, *case.load(), 224)
    assert net.classes[study.class_index(net, "zebra", x)] == "zebra"
    with pytest.raises(xcnn.InputError, match="knows no kind of giraffe"):
        study.class_index(net, "giraffe", x)


def test_a_file_of_something_else_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(xcnn.InputError, match="is no record of a study"):
        study.run(path, study.cases(images=1), ["vgg_s"], progress=False)
    assert path.read_text() == "my notes\n"


def test_what_is_named_twice_is_asked_once(tmp_path):
    cases = study.cases(classes=["clock", "clock"], images=1)
    once = study.cases(classes=["clock"], images=1)
    assert [case.key for case in cases] == [case.key for case in once]
    out = tmp_path / "r.jsonl"
    made = study.run(out, cases, ["vgg_s"] * 2, [32] * 2, ["gradient"] * 2, progress=False)
    assert made == len(report.read(out)) == 1


# ---- many machines


def test_a_cluster_gives_the_same_and_loses_nothing_when_a_worker_dies(whole, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    path, cases = whole
    out = tmp_path / "cluster.jsonl"
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        victim = client.run(os.getpid).popitem()[1]

        def kill_soon():
            time.sleep(0.5)
            os.kill(victim, signal.SIGKILL)

        client.submit(kill_soon, pure=False)
        study.run(out, cases, cluster=client, **SMALL_RUN)
        assert victim not in client.run(os.getpid).values()
    assert_same(path, out)
