"""`import xcnn` and all methods on the small networks do without packages that they do not need."""

import json
import re
import subprocess
import sys

import pytest
import xcnn
from xcnn import InputError, packages

from tools import ROOT

# what some features need, and neither the methods nor the small networks
SPARED = (
    *("torchvision", "pycocotools", "matplotlib", "pandas", "seaborn", "ipywidgets"),
    *("usearch", "timm", "captum", "zennit", "lime", "distributed", "onnx", "onnxruntime"),
)

CHILD = """
import importlib.abc
import json
import sys

class Refuse(importlib.abc.MetaPathFinder):
    names = set()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
Refuse.names |= set(sys.argv[1].split(","))
report = {}

import xcnn
report["after import xcnn"] = list(sys.modules)
xcnn.METHODS
report["after the methods"] = list(sys.modules)

import numpy as np
import torch
torch.set_num_threads(1)

OPTIONS = {"lime": {"samples": 4, "segments": 4}, "rise": {"masks": 4}}
report["maps"] = {}
for name in xcnn.available():
    net = xcnn.load(name)
    scene = xcnn.scenes.render(1)
    x = net.preprocess(scene.image, size=64)
    net.top(x)
    for method, explain in xcnn.METHODS.items():
        try:
            R = explain(net, x, 3, **OPTIONS.get(method, {}))
            report["maps"][f"{method} {name}"] = [*R.shape, bool(R.isfinite().all())]
        except xcnn.InputError as error:
            report["maps"][f"{method} {name}"] = str(error)
P = xcnn.energy_concentration(torch.ones(1, 1, 128, 128), scene.masks[0])
report["energy"] = bool(P > 0)

def said(use):
    try:
        use()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""

R = torch.ones(1, 1, 64, 64)
uses = {
    "load": lambda: xcnn.load("resnet18"),
    "load, unknown": lambda: xcnn.load("resnet_x"),
    "insertion": lambda: xcnn.sanity.insertion(net, x, R, 3),
    "study at another size": lambda: xcnn.study.prepared(net, scene.image, scene.masks[0], 64),
    "folder": lambda: xcnn.coco.Folder(sys.argv[2]),
    "study of a folder": lambda: xcnn.study.cases(sys.argv[2]),
    "write": lambda: xcnn.scenes.write(sys.argv[3], 1),
    "show": lambda: xcnn.show,
    "report": lambda: xcnn.report,
    "graphs": lambda: xcnn.graphs,
}
report["said"] = {name: said(use) for name, use in uses.items()}

def refuse(*names):
    Refuse.names |= set(names)
    for name in [name for name in sys.modules if name.partition(".")[0] in Refuse.names]:
        del sys.modules[name]

halves = np.arange(64)[None].repeat(64, 0) // 32
refuse("skimage")
report["said"]["superpixels"] = said(lambda: xcnn.lime(net, x, 3, samples=4))
R_of_halves = xcnn.lime(net, x, 3, segments=halves, samples=4)
report["own superpixels"] = len(R_of_halves.unique())
refuse("sklearn", "scipy")
more = {
    "no regression": lambda: xcnn.lime(net, x, 3, segments=halves, samples=4),
    "ssim": lambda: xcnn.sanity.ssim(R, R),
    "rank": lambda: xcnn.sanity.rank_correlation(R, R),
    "photograph": lambda: xcnn.photos.load("cat"),
    "another photograph": lambda: xcnn.photos.load("temple"),
    "fixations": lambda: xcnn.cnn_fixations(net, x, 3),
    "no photograph": lambda: xcnn.photos.load("dog"),
}
report["said"] |= {name: said(use) for name, use in more.items()}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a Python found in which the packages cannot be imported."""
    folder = tmp_path_factory.mktemp("coco")
    xcnn.scenes.write(folder, 1)
    command = [sys.executable, "-c", CHILD, ",".join(SPARED), str(folder), str(folder / "new")]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def packages_in(modules):
    return {name.partition(".")[0] for name in modules}


def test_importing_brings_nothing_but_what_methods_need(report):
    assert "torch" not in packages_in(report["after import xcnn"])
    there = packages_in(report["after the methods"])
    needed_by_some = {*SPARED, "scipy", "skimage", "sklearn", "safetensors"}
    assert {"torch", "numpy", "PIL"} <= there and not there & needed_by_some


def test_every_method_runs_on_every_small_network(report):
    names = xcnn.loading.SMALL
    assert report["maps"].keys() == {f"{method} {net}" for method in xcnn.METHODS for net in names}
    for pair, R in report["maps"].items():
        if pair == "cam vgg_s":
            assert "CAM needs a head" in R
            continue
        channels = 3 if pair.split()[0] in xcnn.methods.PIXEL_METHODS else 1
        assert R == [1, channels, 64, 64, True], pair
    assert report["energy"]


@pytest.mark.parametrize(
    ("use", "kind", "says"),
    [
        ("load", "InputError", "'resnet18' is none of vgg_s, .* needs torchvision: pip install"),
        ("load, unknown", "InputError", "'resnet_x' is none of .*: pip install torchvision"),
        ("insertion", "InputError", "needs torchvision: pip install torchvision"),
        ("study at another size", "InputError", "needs torchvision: pip install torchvision"),
        ("folder", "InputError", "a COCO folder needs pycocotools: pip install pycocotools"),
        ("study of a folder", "InputError", "needs pycocotools: pip install pycocotools"),
        ("write", "InputError", "needs pycocotools: pip install pycocotools"),
        ("show", "ModuleNotFoundError", "xcnn.show needs matplotlib: pip install matplotlib"),
        ("report", "ModuleNotFoundError", "xcnn.report needs pandas: pip install pandas"),
        ("graphs", "ModuleNotFoundError", "xcnn.graphs needs matplotlib: pip install matplotlib"),
        ("superpixels", "InputError", "segments= takes your own.*: pip install scikit-image"),
        ("no regression", "InputError", "LIME needs scikit-learn: pip install scikit-learn"),
        ("ssim", "InputError", "needs scikit-image: pip install scikit-image"),
        ("rank", "InputError", "needs scipy: pip install scipy"),
        ("photograph", "InputError", "needs scikit-image: pip install scikit-image"),
        ("another photograph", "InputError", "needs scikit-learn: pip install scikit-learn"),
        ("fixations", "InputError", "needs scipy: pip install scipy"),
        ("no photograph", "InputError", "no photograph 'dog'"),
    ],
)
def test_a_missing_package_is_named_in_one_line(report, use, kind, says):
    name, message = report["said"][use]
    assert name == kind
    assert "\n" not in message
    assert re.search(says, message), message


def test_lime_of_own_superpixels_needs_no_scikit_image(report):
    assert report["own superpixels"] == 2


@pytest.mark.parametrize(
    ("module", "install"),
    [("skimage.data", "scikit-image"), ("PIL.Image", "pillow"), ("usearch", "usearch")],
)
def test_how_a_package_is_installed(module, install):
    message = packages.missing(module, "this", ImportError("it is broken"))
    assert message == f"this needs {install}: pip install {install} (it is broken)"


def test_what_is_there_is_imported():
    assert packages.imported("json", "this") is json
    with pytest.raises(InputError, match=r"this needs xcnn_without: pip install xcnn_without \(No"):
        packages.imported("xcnn_without.part", "this")
