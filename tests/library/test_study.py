"""The study: records that are right, none lost, none made twice, whatever stops the run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import xcnn
from PIL import Image
from xcnn import report, scenes, study

from tools import ROOT

METHODS = ["gradient", "deconvnet", "guided_backprop", "cam", "grad_cam", "guided_grad_cam"]
SMALL_RUN = dict(
    networks=["resnet_s", "googlenet_s"], sizes=("original", 96), methods=METHODS, progress=False
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one, other):
    """The same records but for their time; last digits depend on which pictures go through a network together."""
    numbers = ("P", "E", "E_total")
    order = lambda record: tuple(str(record[name]) for name in study.KEY)  # noqa: E731
    mine, theirs = (sorted(lines(path), key=order) for path in (one, other))
    blank = dict.fromkeys((*numbers, "seconds"))
    assert [record | blank for record in mine] == [record | blank for record in theirs]
    for name in numbers:
        assert [r[name] for r in mine] == pytest.approx(
            [r[name] for r in theirs], rel=1e-5, nan_ok=True
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "whole.jsonl"
    cases = study.cases(classes=["pizza", "clock"], images=3)
    assert study.run(path, cases, **SMALL_RUN) == 2 * 3 * 2 * 2 * 6
    return path, cases


def test_every_record_is_what_the_parts_say(whole):
    path, cases = whole
    found = lines(path)
    assert len(found) == len({tuple(r[k] for k in study.KEY) for r in found}) == 144
    for r in found[::7]:
        net, case = (
            xcnn.load(r["network"]),
            next(c for c in cases if (c.image, c.label) == (r["image"], r["class"])),
        )
        x, mask = study.prepared(net, *case.load(), r["size"])
        R = xcnn.METHODS[r["method"]](net, x, r["class"])
        assert r["P"] == pytest.approx(
            xcnn.energy_concentration(R, torch.from_numpy(mask)).item(), rel=1e-3
        )
        assert r["E_total"] == pytest.approx(R.double().square().sum().item(), rel=1e-3)
        assert (
            r["E"] == pytest.approx(r["P"] * r["E_total"])
            and mask.mean() < r["area"] < 1.3 * mask.mean() + 0.01
        )
        assert r["status"] == "ok" and r["seconds"] > 0


def test_a_second_run_has_nothing_to_do(whole):
    path, cases = whole
    before = path.read_bytes()
    assert study.run(path, cases, **SMALL_RUN) == 0 and path.read_bytes() == before


def test_goes_on_after_a_torn_line(whole, tmp_path):
    path, cases = whole
    part, kept = tmp_path / "part.jsonl", path.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(kept[:50]) + kept[50][:30])
    assert study.run(part, cases, **SMALL_RUN) == 94
    assert_same(part, path)


def test_killed_at_any_moment_it_goes_on(whole, tmp_path):
    path, cases = whole
    part = tmp_path / "killed.jsonl"
    code = (
        "from xcnn import study; study.run({!r}, study.cases(classes=['pizza', 'clock'], images=3), {!r}, "
        "{!r}, {!r}, progress=False)"
    ).format(str(part), SMALL_RUN["networks"], SMALL_RUN["sizes"], METHODS)
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
    passes, handle = [], net.module.register_forward_hook(lambda *_: passes.append(1))
    try:
        found = {
            name: R
            for name, R, _ in xcnn.explain_all(
                net, x, [2], ["gradient", "deconvnet", "guided_backprop"]
            )
        }
    finally:
        handle.remove()
    assert len(passes) == 1
    for name, R in found.items():
        assert torch.allclose(
            R, xcnn.METHODS[name](net, x, 2), rtol=1e-5, atol=1e-9 * R.abs().max().item()
        )


def test_a_method_that_refuses_is_recorded_and_counted(tmp_path):
    cases = study.cases(classes=["pizza"], images=2)
    study.run(
        tmp_path / "r.jsonl", cases, ["vgg_s"], ("original",), ["cam", "gradient"], progress=False
    )
    frame = report.read(tmp_path / "r.jsonl")
    assert (frame[frame.method == "cam"].status != "ok").all() and (
        frame[frame.method == "gradient"].status == "ok"
    ).all()
    assert report.left_out(frame).records.tolist() == [2] and list(report.table(frame).index) == [
        "gradient"
    ]


def test_the_largest_object_of_each_image(real):
    every, one = (
        study.cases(real / "coco", images=1000, largest=largest) for largest in (False, True)
    )
    assert len(one) == len({case.image for case in every}) < len(every)
    for case in one[:20]:
        area = {other.label: other.load()[1].sum() for other in every if other.image == case.image}
        assert area[case.label] == max(area.values())


@pytest.fixture
def folder(tmp_path):
    scenes.write(tmp_path / "coco", 4, seed=100)
    return tmp_path / "coco"


def test_broken_images_empty_masks_and_unknown_classes_are_recorded(folder, tmp_path):
    cases = study.cases(folder, images=4)
    assert len(cases) == 4
    name = lambda case: folder / "images" / f"{case.image:06d}.png"  # noqa: E731
    name(cases[0]).write_bytes(b"not a picture")
    annotations = json.loads((folder / "annotations" / "instances.json").read_text())
    wide = Image.new("RGB", (600, 128))  # the object lies where the middle square does not reach
    wide.paste(Image.open(name(cases[1])), (0, 0))
    wide.save(name(cases[1]))
    for image in annotations["images"]:
        if image["id"] == cases[1].image:
            image["width"] = 600
    for one in annotations["annotations"]:
        if one["image_id"] == cases[1].image:
            one["segmentation"] = [[1, 1, 20, 1, 20, 20, 1, 20]]
    (folder / "annotations" / "instances.json").write_text(json.dumps(annotations))
    out = tmp_path / "r.jsonl"
    study.run(out, cases, ["resnet_s"], (128,), ["gradient"], progress=False)
    status = {r["image"]: r["status"] for r in lines(out)}
    assert "cannot be read" in status[cases[0].image] and status[cases[1].image] == "empty mask"
    assert [status[case.image] for case in cases[2:]] == ["ok", "ok"]


def test_no_energy_is_recorded_as_such(monkeypatch, tmp_path):
    monkeypatch.setitem(xcnn.METHODS, "nothing", lambda net, x, target: torch.zeros_like(x))
    cases = study.cases(classes=["pizza"], images=2)
    study.run(tmp_path / "r.jsonl", cases, ["resnet_s"], ("original",), ["nothing"], progress=False)
    assert [(r["status"], r["E_total"]) for r in lines(tmp_path / "r.jsonl")] == [
        ("no energy", 0)
    ] * 2
    assert report.left_out(report.read(tmp_path / "r.jsonl")).records.tolist() == [2]


def test_the_likeliest_kind_is_asked_for(real):
    net, case = (
        xcnn.load("resnet18"),
        next(c for c in study.cases(real / "coco", ["zebra"]) if c.image == 104455),
    )
    x, _ = study.prepared(net, *case.load(), 224)
    assert net.classes[study.class_index(net, "zebra", x)] == "zebra"
    with pytest.raises(xcnn.InputError, match="knows no kind of giraffe"):
        study.class_index(net, "giraffe", x)


# ---- the report


def test_table_by_hand():
    rows = [("a", 1, 0.2), ("a", 2, 0.4), ("b", 1, 0.9), ("b", 2, 0.7)]
    frame = pd.DataFrame([{"source": "s", "image": i, "class": "c", "method": m, "P": p, "area": 0.1, "status": "ok"}
                          for m, i, p in rows])  # fmt: skip
    table = report.table(frame)
    assert list(table.index) == ["b", "a"] and table.records.tolist() == [2, 2]
    assert table["sum"].tolist() == pytest.approx([1.6, 0.6]) and table[
        "mean"
    ].tolist() == pytest.approx([0.8, 0.3])
    assert table.low.tolist() == pytest.approx([0.7, 0.2]) and table.high.tolist() == pytest.approx(
        [0.9, 0.4]
    )


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for k in range(200):  # 30 pictures, each seen by 4 networks that nearly agree
        P = 0.3 + 0.1 * rng.normal(size=(30, 1)) + 0.01 * rng.normal(size=(30, 4))
        of_picture = np.stack([P.sum(1), np.full(30, 4)], 1)
        low, high = report._interval(of_picture, seed=k)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("hue", [None, "network", "size"])
def test_graph_says_what_the_table_says(whole, hue):
    frame = report.read(whole[0])
    ax = report.graph(frame, hue).axes[0]
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert order == list(report.table(frame).index)
    *dots, _chance = ax.lines
    assert len(dots) == (frame[hue].nunique() if hue else 1)
    for dot, ends in zip(dots, ax.collections, strict=True):
        rows = report.table(frame[frame[hue].astype(str) == dot.get_label()] if hue else frame).loc[
            order
        ]
        assert dot.get_xdata() == pytest.approx(rows["mean"].to_numpy())
        assert np.array(ends.get_segments())[:, :, 0] == pytest.approx(
            rows[["low", "high"]].to_numpy()
        )


def test_graphs_are_written(whole, tmp_path):
    paths = report.graphs(report.read(whole[0]), tmp_path)
    assert {p.name for p in paths} == {
        f"{n}.{s}" for n in ("methods", "networks", "sizes") for s in ("png", "pdf")
    }
    assert all(p.stat().st_size > 5000 for p in paths)


@pytest.mark.parametrize(("text", "says"), [(None, "python -m xcnn study"), ("", "no records")])
def test_nothing_to_report(tmp_path, text, says):
    if text is not None:
        (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(xcnn.InputError, match=says):
        report.read(tmp_path / "r.jsonl")


def test_a_file_of_something_else_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(xcnn.InputError, match="is no record of a study"):
        study.run(path, study.cases(images=1), ["vgg_s"], progress=False)
    assert path.read_text() == "my notes\n"


def test_what_is_named_twice_is_asked_once(tmp_path):
    cases = study.cases(classes=["clock", "clock"], images=1)
    assert [case.key for case in cases] == [
        case.key for case in study.cases(classes=["clock"], images=1)
    ]
    made = study.run(
        tmp_path / "r.jsonl", cases, ["vgg_s"] * 2, [32] * 2, ["gradient"] * 2, progress=False
    )
    assert made == len(report.read(tmp_path / "r.jsonl")) == 1


# ---- many machines


def test_a_cluster_gives_the_same_and_loses_nothing_when_a_worker_dies(whole, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    path, cases = whole
    out = tmp_path / "cluster.jsonl"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        with distributed.Client(cluster) as client:
            victim = client.run(os.getpid).popitem()[1]
            client.submit(lambda: (time.sleep(0.5), os.kill(victim, signal.SIGKILL))[0], pure=False)
            study.run(out, cases, cluster=client, **SMALL_RUN)
            assert victim not in client.run(os.getpid).values()
    assert_same(path, out)
