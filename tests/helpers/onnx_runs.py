"""A function, recorded and translated, and run by onnxruntime on other inputs."""

import onnxruntime
import torch
from xcnn.engine.onnx import model_of, translated
from xcnn.engine.record import record

SHAPE = (2, 3, 6, 8)
TOLERANCE = 2e-5  # of the largest value
met = set()  # names of the calls that some test has translated


def picture(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(function, *inputs):
    """What onnxruntime makes of the recorded function, on other inputs than those recorded."""
    names = [f"x{k}" for k in range(len(inputs))]
    recorded = [torch.randn_like(v) if v.is_floating_point() else v for v in inputs]
    module = record(function, dict(zip(names, recorded, strict=True)))
    met.update(
        node.target.overloadpacket.__name__
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )
    graph, places, (result,) = translated(module)
    model = model_of(graph, places, {"R": result}, {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (R,) = session.run(["R"], {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
    return torch.from_numpy(R)


def assert_same(function, *inputs):
    R = function(*inputs)
    own = run(function, *inputs)
    assert own.shape == R.shape
    assert own.dtype == R.dtype
    gap = (own.double() - R.double()).abs().max().item()
    assert gap <= TOLERANCE * max(1, R.double().abs().max().item())


def back(function):
    """The gradient of a function, from a start that differs from place to place.

    It depends on the input, or the gradient of a linear function would be a number in the graph.
    """

    def gradient(x):
        x = x.clone().requires_grad_()
        y = function(x)
        start = torch.linspace(-1, 2, y.numel()).view(y.shape).to(y) * (2 + x.detach().mean())
        return torch.autograd.grad(y, x, start)[0]

    return gradient


def both_ways(*functions):
    return [*functions, *map(back, functions)]
