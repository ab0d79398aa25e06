"""A recorded graph becomes an ONNX model, with its weights under their names."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from xcnn.engine.onnx import model_of, translated
from xcnn.engine.record import record
from xcnn.errors import InputError


def picture(seed):
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(seed))


def model(function, weights=()):
    graph, places, results = translated(record(function, {"x": picture(0)}, weights))
    outputs = {f"y{k}": result for k, result in enumerate(results)}
    return model_of(graph, places, outputs, {"about": "a test"})


def run(made, x):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return [torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()})]


def test_several_results_and_what_the_model_says_of_itself():
    made = model(lambda x: (x + 1, x.sum(1)))
    onnx.checker.check_model(made, full_check=True)
    first, second = run(made, picture(1))
    assert torch.equal(first, picture(1) + 1)
    assert torch.allclose(second, picture(1).sum(1))
    assert made.producer_name == "xcnn"
    assert [(one.key, one.value) for one in made.metadata_props] == [("about", "a test")]


def test_a_result_that_is_the_input_itself():
    (same,) = run(model(lambda x: x), picture(1))
    assert torch.equal(same, picture(1))


def test_a_result_that_the_table_leaves_out_is_refused():
    norm = (torch.zeros(3), torch.ones(3))

    def statistics(x):
        return torch.native_batch_norm(x, None, None, *norm, False, 0.1, 1e-5)[1] + x.sum()

    with pytest.raises(InputError, match="no operator for what add"):
        model(statistics)


def test_a_network_with_a_parameter_of_an_inputs_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.tensor(2.0))

        def forward(self, v):
            return v * self.x

    net = Scaled()
    made = model(net, dict(net.named_parameters()))
    assert [one.name for one in made.graph.initializer] == ["weight:x"]
    (y,) = run(made, picture(1))
    assert torch.equal(y, picture(1) * 2)
