"""An exported explanation computes what the library does, and says what it is."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision.models as zoo
import xcnn
from torch import nn
from xcnn import exporter, scenes
from xcnn.errors import InputError

from tests.helpers.places import SMALL
from tools import ROOT

METHODS = sorted(
    xcnn.METHODS.keys()
    - exporter.NOT_ONE_GRAPH.keys()
    - {"occlusion", "score_cam", "smooth_grad", "integrated_gradients"}
)
MANY_RUNS = {  # method -> options that make it short
    "integrated_gradients": {"steps": 4},
    "occlusion": {"side": 64, "step": 64},
    "score_cam": {},
    "smooth_grad": {"samples": 3},
}
# Where a rounding decides on which side of 0 a unit stands, a map changes by more than a rounding.
CLOSE = 1e-4
FAR = 0.05
PICTURES = (21, 22, 23)


def session(path):
    return onnxruntime.InferenceSession(str(path))


def vector(net, c, rival=None):
    w = torch.zeros(1, len(net.classes))
    w[0, c] = 1
    if rival is not None:
        w[0, rival] = -1
    return w


def gaps(net, path, method, **options):
    """The largest differences between a file and the library, for other pictures and questions."""
    run = session(path).run
    for seed in PICTURES:
        pixels = torch.from_numpy(np.array(scenes.render(seed).image)).permute(2, 0, 1) / 255
        noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
        x = net.normalise(0.9 * pixels + 0.1 * noise)[None]
        for target, w in ((2, vector(net, 2)), (xcnn.versus(5, 1), vector(net, 5, 1))):
            R = xcnn.METHODS[method](net, x, target, **options)
            own = run(None, {"x": x.numpy(), "w": w.numpy()})[0]
            yield np.abs(own - R.numpy()).max() / max(R.abs().max().item(), 1e-9)


def assert_agrees(net, path, method, **options):
    """As close as 1e-4 of the maximum for most pictures; no map is another one."""
    found = list(gaps(net, path, method, **options))
    assert np.median(found) <= CLOSE
    assert max(found) <= FAR


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_a_file_computes_what_the_method_does(name, method, tmp_path):
    net = xcnn.load(name)
    if (name, method) in (("vgg_s", "cam"), ("vgg_s", "shap_cam")):
        with pytest.raises(InputError, match=r"global average pooling|for index"):
            xcnn.export(net, method, tmp_path / "map.onnx")
        return
    made = xcnn.export(net, method, tmp_path / "map.onnx")
    assert made.path.stat().st_size == made.size
    assert_agrees(net, made.path, method)


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "grad_cam", "hires_cam", "lrp"])
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18", "densenet121"])
def test_networks_of_many_families(name, method, tmp_path):
    torch.manual_seed(0)
    net = xcnn.Network(zoo.get_model(name, weights=None).eval(), name, size=64)
    assert xcnn.export(net, method, tmp_path / "map.onnx").difference <= FAR


@pytest.mark.parametrize("method", MANY_RUNS)
def test_methods_of_many_runs(method, tmp_path):
    net = xcnn.load("allconv_s")
    options = MANY_RUNS[method]
    made = xcnn.export(net, method, tmp_path / "map.onnx", **options)
    assert_agrees(net, made.path, method, **options)


@pytest.mark.parametrize("method", sorted(exporter.NOT_ONE_GRAPH.keys() - {"rise"}))
def test_methods_that_follow_the_picture_are_refused(method, tmp_path, monkeypatch):
    net = xcnn.load("resnet_s")
    with pytest.raises(InputError, match=f"{method} cannot be exported: it "):
        xcnn.export(net, method, tmp_path / "map.onnx")
    # and rightly: without the list, the comparison refuses them
    monkeypatch.setattr(exporter, "NOT_ONE_GRAPH", {})
    options = {"segments": 9, "samples": 40} if method == "lime" else {}
    with pytest.raises(InputError, match=f"{method} of resnet_s cannot be exported"):
        xcnn.export(net, method, tmp_path / "map.onnx", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "steps",
    [
        lambda R: R / R.abs().max().item(),
        lambda R: R * int((R > 0).sum()),
        lambda R: R * float(R.std()),
    ],
)
def test_a_value_that_python_reads_is_noticed(steps, tmp_path, monkeypatch):
    def method(net, x, target=None):
        return steps(xcnn.gradient(net, x, target) + x)

    monkeypatch.setitem(xcnn.METHODS, "own", method)
    several = xcnn.load("allconv_s")
    one_score = xcnn.Network(nn.Sequential(several.module, nn.Linear(10, 1)).eval(), size=64)
    for net, target in ((several, None), (several, 3), (one_score, None)):
        with pytest.raises(InputError, match="its steps depend on the picture"):
            xcnn.export(net, "own", tmp_path / "map.onnx", target=target)
    assert xcnn.export(one_score, "gradient", tmp_path / "map.onnx").difference < FAR


def test_files_of_one_network_share_their_weights(tmp_path):
    net = xcnn.load("resnet_s")
    made = xcnn.export(net, ["grad_cam", "lrp", "scores"], tmp_path / "maps")
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["grad_cam.onnx", "lrp.onnx", "scores.onnx", "weights.bin"]
    parameters = sum(v.nbytes for v in net.module.parameters())
    assert (tmp_path / "maps" / "weights.bin").stat().st_size < 1.1 * parameters
    assert all(one.path.stat().st_size < 50_000 for one in made)
    x = net.preprocess(scenes.render(5).image)
    (S,) = session(tmp_path / "maps" / "scores.onnx").run(["S"], {"x": x.numpy()})
    assert np.allclose(S, net.module(x).detach(), atol=1e-4)
    assert_agrees(net, tmp_path / "maps" / "lrp.onnx", "lrp")


def test_a_file_says_what_it_is(tmp_path):
    net = xcnn.load("vgg_s")
    made = xcnn.export(net, "grad_cam", tmp_path / "map.onnx", layer=list(net.layers)[1])
    about = session(made.path).get_modelmeta().custom_metadata_map
    assert about["method"] == "grad_cam" and about["network"] == "vgg_s"
    assert json.loads(about["classes"]) == net.classes
    assert json.loads(about["mean"]) == list(net.mean)
    assert json.loads(about["size"]) == [128, 128]
    assert json.loads(about["options"]) == {"layer": list(net.layers)[1]}
    assert json.loads(about["versions"])["torch"] == torch.__version__
    onnx.checker.check_model(str(made.path), full_check=True)


def test_one_question_and_another_size(tmp_path):
    net = xcnn.load("googlenet_s")
    target = xcnn.versus("clock")
    made = xcnn.export(net, "grad_cam", tmp_path / "map.onnx", target=target, size=(96, 160))
    x = torch.randn(1, 3, 96, 160)
    (R,) = session(made.path).run(None, {"x": x.numpy()})
    own = xcnn.grad_cam(net, x, target)
    assert torch.allclose(torch.from_numpy(R), own, atol=1e-4 * own.abs().max().item())


class Grey(nn.Module):
    """One channel, ReLUs in place, a skip sum, and maps as what it returns."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.first(x).relu_()
        z = self.second(y)
        z += y
        z[:, :2].mul_(0.5)
        return {"maps": nn.functional.relu(z, inplace=True)}


def test_a_network_of_ones_own(tmp_path):
    torch.manual_seed(0)
    net = xcnn.Network(Grey().eval(), size=16)
    before = copy.deepcopy(net.module.state_dict())

    def target(out):
        return out["maps"][:, 1].mean((1, 2))

    made = xcnn.export(net, "guided_backprop", tmp_path / "map.onnx", target=target)
    x = torch.randn(1, 1, 16, 16)
    (R,) = session(made.path).run(None, {"x": x.numpy()})
    assert torch.allclose(torch.from_numpy(R), xcnn.guided_backprop(net, x, target), atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in net.module.state_dict().items())
    with pytest.raises(InputError, match="dict with 'maps'"):
        xcnn.export(net, "gradient", tmp_path / "other.onnx")


def test_what_cannot_be_written_is_one_line(tmp_path):
    net = xcnn.load("allconv_s")
    with pytest.raises(InputError, match=r"unknown method 'grad_cm'; .*grad_cam"):
        xcnn.export(net, "grad_cm", tmp_path / "map.onnx")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write to"):
        xcnn.export(net, "gradient", tmp_path / "file" / "map.onnx")
    with pytest.raises(InputError, match="gradient has no option steps"):
        xcnn.export(net, "gradient", tmp_path / "map.onnx", steps=3)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(InputError, match=f"pip install {package}"):
                xcnn.export(xcnn.load("allconv_s"), "gradient", tmp_path / "map.onnx")


SIX_LINES = re.compile(r"```python\n(session = onnxruntime.*?)```", re.S)


@pytest.mark.parametrize("page", ["README.md", "book/how_to.md"])
def test_six_lines_run_a_file_where_there_is_no_torch(page, tmp_path):
    net = xcnn.load("resnet_s")
    xcnn.export(net, "grad_cam", tmp_path / "clock.onnx")
    scene = scenes.render(10, count=2)
    scene.image.save(tmp_path / "scene.png")
    (lines,) = SIX_LINES.findall((ROOT / page).read_text())
    assert len(lines.splitlines()) == 6
    start = (
        "import json, sys\n"
        "sys.modules['torch'] = sys.modules['xcnn'] = None\n"
        "import numpy as np, onnxruntime\n"
        "from PIL import Image\n"
        "picture = Image.open('scene.png')\n"
    )
    end = "np.save('map.npy', R)\n"
    subprocess.run([sys.executable, "-c", start + lines + end], cwd=tmp_path, check=True)
    R = xcnn.grad_cam(net, net.preprocess(scene.image), "clock")
    assert np.allclose(np.load(tmp_path / "map.npy"), R, atol=1e-4 * R.max().item())
