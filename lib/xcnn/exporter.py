"""Explanations leave Python: any method on one network, as an ONNX file.

The file holds what the method computes, its backward pass included. onnxruntime runs it without
PyTorch and without this library: in a program, or in a browser, as the book's page "Try your own
picture" does.
"""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import scenes
from .engine.contract import isolated, run
from .engine.onnx import model_of, translated
from .engine.record import record, same_steps
from .engine.target import class_outputs
from .errors import InputError, one_of
from .methods import METHODS
from .networks import COLOURS, as_network
from .packages import imported

SCORES = "scores"  # what the network itself says, in place of a map
WEIGHTS = "weights.bin"
PICTURES = 3  # fresh ones, on which a file is compared with the library
GRAIN = 0.2  # their noise: in even areas of a drawn scene a rounding decides between equal values
# How far a file's map may be from the library's, as a share of its length. A unit whose input is 0
# but for rounding moves it by less.
MAX_DISTANCE = 0.02
# methods whose steps depend on the picture, or that would make a file too large -> how
NOT_ONE_GRAPH = {
    "ablation_cam": "leaves out the maps that are 0, which are others in each picture",
    "cnn_fixations": "follows the largest contributions, which are others in each picture",
    "lime": "fits its answer to pieces of the picture, which are others in each",
    "rise": "would hold a thousand masks, and asks for a class's probability, not its score",
}


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written.

    :param path: of the file
    :param method: what it computes
    :param calls: how many operators
    :param difference: the largest to the library's map on fresh pictures, as a share of the map's
        largest value
    :param size: in bytes, with its weights

    >>> print(xcnn.exporter.Exported("a.onnx", "grad_cam", 52, 1e-6, 1_040_000))
    a.onnx: grad_cam, 52 operators, 1.04 MB; on 3 fresh pictures within 1e-06 of the maximum
    """

    path: Path
    method: str
    calls: int
    difference: float
    size: int

    def __str__(self):
        return (
            f"{self.path}: {self.method}, {self.calls} operators, {self.size / 1e6:.2f} MB; "
            f"on {PICTURES} fresh pictures within {self.difference:.0e} of the maximum"
        )


def export(net, method, path, target=None, size=None, **options):
    """Write what a method computes for one network as an ONNX file, checked against the method.

    The file's input `x` is (1, C, H, W), normalised as `net.preprocess` does. Its input `w` (1, K)
    is the question: the target is sum_k w_k S_k, so a class is a 1 in its place, and a contrast a
    1 and a -1. Its output `R` is the map. The metadata name the classes, the normalisation, the
    method and the versions.

    :param net: `Network` or nn.Module, in eval mode
    :param method: a name from `METHODS`, or "scores": what the network says, output `S` (1, K).
        Several names: a file each, in a folder, with their weights in one more file
    :param path: of the file; of several methods, of the folder
    :param target: None: the file asks for `w`. Else the one question that it answers: a class,
        `versus`, or a function of what the network returns
    :param size: side of the pictures in pixels, or (H, W); None: the network's own
    :param options: the method's, such as layer=
    :return: `Exported`; a list of several
    :raises InputError: an unknown method or option; a method that cannot be one graph (LIME, RISE,
        CNN Fixations, Ablation-CAM), or whose steps depend on the picture; a call that ONNX does
        not know; a file that does not compute what the method does; a missing package (onnx,
        onnxruntime)

    >>> made = xcnn.export(net, "grad_cam", folder / "clock.onnx", layer="layer3")
    >>> made.difference < 1e-4
    True
    """
    path = Path(path)
    if isinstance(method, str):
        (made,) = export_each(net, {path.name: (method, options)}, path.parent, target, size, True)
        return made
    questions = {f"{name}.onnx": (name, options) for name in method}
    return export_each(net, questions, path, target, size)


def export_each(net, questions, folder, target=None, size=None, alone=False, refused=None):
    """Write an ONNX file for each question, into one folder.

    :param net, target, size: as in `export`
    :param questions: name of a file -> (method, its options)
    :param folder: where; made where there is none
    :param alone: each file holds its weights; else all of them share the file weights.bin
    :param refused: a dict; what cannot be exported is left out, and its reason put here under the
        file's name. None: it is an error
    :return: list of `Exported`
    :raises InputError: as `export`; a folder that cannot be written

    >>> maps = {f"{layer}.onnx": ("hires_cam", {"layer": layer}) for layer in net.layers}
    >>> made = xcnn.exporter.export_each(net, maps, folder / "maps")
    >>> sorted(path.name for path in (folder / "maps").iterdir())
    ['layer1.onnx', 'layer2.onnx', 'layer3.onnx', 'relu.onnx', 'weights.bin']
    """
    net = as_network(net)
    for method, options in questions.values():
        _check(method, options)
    bench = _Bench(net, target, size)
    models = {}
    for name, (method, options) in questions.items():
        try:
            models[name] = bench.model(method, options)
        except InputError as error:
            if refused is None:
                raise
            refused[name] = str(error)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not alone:
            _share_weights([model for model, *_ in models.values()], folder / WEIGHTS)
        made = []
        for name, (model, weights, difference) in models.items():
            written = model.SerializeToString()
            (folder / name).write_bytes(written)
            length = len(written) + (0 if alone else weights)
            calls = len(model.graph.node)
            made.append(Exported(folder / name, questions[name][0], calls, difference, length))
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    return made


def _check(method, options):
    """Raise InputError for a method that cannot be one graph, or an option that it lacks."""
    if method != SCORES:
        one_of("method", method, METHODS)
    known = {} if method == SCORES else inspect.signature(METHODS[method]).parameters
    for name in options.keys() - known:
        raise InputError(f"{method} has no option {name}; help(xcnn.{method}) names those it has")
    if method in NOT_ONE_GRAPH:
        raise InputError(f"{method} cannot be exported: it {NOT_ONE_GRAPH[method]}")


class _Bench:
    """Where methods of one network are recorded, and compared with what was written.

    :param net, target, size: as in `export`
    """

    def __init__(self, net, target, size):
        self.net = net
        self.target = target
        self.runtime = imported("onnxruntime", "the check of an exported explanation")
        self.pictures = list(_fresh_pictures(net, size))
        of_classes = target is None
        self.questions = _questions(net, self.pictures[0]) if of_classes else [None] * PICTURES

    def model(self, method, options):
        """The model of a method; the bytes of its weights; its largest difference to the method."""
        function = self._function(method, options)
        names = ["x", "w"] if self.target is None and method != SCORES else ["x"]
        try:
            graph, places, (result,) = translated(self._recording(function, names))
            output = "S" if method == SCORES else "R"
            metadata = self._metadata(method, options)
            model = model_of(graph, places, {output: result}, metadata)
            difference = self._difference(model, function, names)
        except InputError as error:
            raise InputError(f"{method} of {self.net.name} cannot be exported: {error}") from error
        size = sum(tensor.nbytes for tensor in graph.weights.values())
        return model, size, difference

    def _recording(self, function, names):
        """The recording of a method, if it is the same for each picture and each question."""
        module = self.net.module
        weights = dict(module.named_parameters()) | dict(module.named_buffers())
        graphs = []
        for x, w in zip(self.pictures, self.questions, strict=False):
            inputs = dict(zip(names, (x.clone(), None if w is None else w.clone()), strict=False))
            if not graphs:
                function(*inputs.values())  # what is remembered of a size of pictures is known now
            graphs.append(record(function, inputs, weights))
        if not all(same_steps(graphs[0], other) for other in graphs[1:]):
            raise InputError("its steps depend on the picture or on the question")
        return graphs[0]

    def _function(self, method, options):
        """What is recorded: the picture, and the question, to the map."""
        if method == SCORES:
            return self._scores

        def explain(x, w=None):
            target = self.target if w is None else lambda S: (S * w).sum(1)
            return METHODS[method](self.net, x, target, **options)

        return explain

    def _scores(self, x):
        with isolated(grad=False):
            return class_outputs(run(self.net.module, x), 1)

    def _difference(self, model, function, names):
        """The largest difference between the model and the method, on fresh pictures.

        :raises InputError: where they are not the same
        """
        session = self.runtime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        differences = []
        for x in self.pictures[1:]:
            for w in self.questions if "w" in names else [None]:
                inputs = [x] if w is None else [x, w]
                R = function(*inputs).cpu().double()
                arrays = [v.cpu().numpy() for v in inputs]
                (own,) = session.run(None, dict(zip(names, arrays, strict=True)))
                gap = torch.from_numpy(own).double() - R
                if not gap.norm() <= MAX_DISTANCE * R.norm():
                    raise InputError(
                        f"on a fresh picture the file's map is {gap.norm() / R.norm():.0%} away "
                        "from the method's, which may divide by numbers near 0"
                    )
                if R.any():
                    differences.append((gap.abs().max() / R.abs().max()).item())
        if not differences:
            raise InputError(
                "its maps of all pictures that were tried are empty, so nothing could be "
                "compared; choose another layer"
            )
        return max(differences)

    def _metadata(self, method, options):
        """What a program that runs the file has to know, as text."""
        import torchvision

        net = self.net
        known = {
            "method": method,
            "options": {name: str(value) for name, value in options.items()},
            "network": net.name,
            "classes": list(net.classes),
            "mean": net.mean,
            "std": net.std,
            "activation": net.activation,
            "size": tuple(self.pictures[0].shape[2:]),
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        }
        return {key: v if isinstance(v, str) else json.dumps(v) for key, v in known.items()}


def _fresh_pictures(net, size):
    """Pictures to record and to compare on, (1, C, H, W) each: drawn scenes, with noise.

    A network of other channels than three gets noise alone.
    """
    sides = (size, size) if isinstance(size, int) else size or (net.size, net.size)
    weight = next(net.module.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    for seed in range(PICTURES + 1):
        pixels = torch.rand(net.channels, *sides, generator=generator)
        if net.channels == COLOURS:
            scene = scenes.render(seed, count=3).image.resize(sides[::-1])
            drawn = torch.from_numpy(np.array(scene)).permute(2, 0, 1) / 255
            pixels = drawn + GRAIN * (pixels - drawn)
        yield net.normalise(pixels)[None].to(weight)


def _questions(net, x):
    """Vectors w (1, K): the top class, another class, and the contrast of both.

    Of a network with one score: that score, its double and its opposite.
    """
    with isolated(grad=False):
        S = class_outputs(run(net.module, x), 1)
    top = torch.zeros_like(S).scatter(1, S.argmax(1, keepdim=True), 1)
    other = top.roll(1, 1)
    return [top, other, top - other] if S.shape[1] > 1 else [top, 2 * top, -top]


def _share_weights(models, path):
    """Move the weights of several models into one file, where each stands once."""
    onnx = imported("onnx", "an exported explanation")
    places = {}
    with path.open("wb") as file:
        for model in models:
            for tensor in model.graph.initializer:
                if not tensor.name.startswith("weight:"):
                    continue
                if tensor.name not in places:
                    places[tensor.name] = file.tell(), len(tensor.raw_data)
                    file.write(tensor.raw_data)
                offset, length = places[tensor.name]
                onnx.external_data_helper.set_external_data(tensor, path.name, offset, length)
                tensor.ClearField("raw_data")
