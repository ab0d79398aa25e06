"""A recorded graph in ONNX: the same computation, for programs that know nothing of PyTorch.

`onnx_calls` and `onnx_layers` are the table of aten calls and of the ONNX operators that do the
same; `onnx_graph` is the graph that its entries add to.
"""

import operator

from torch.fx import Node
from torch.utils._pytree import tree_map_only

from ..errors import InputError
from .onnx_calls import CALLS
from .onnx_graph import OnnxGraph, Value
from .onnx_layers import Switches

OPSET = 18
IR_VERSION = 9
MISSING = "a result that the table leaves out"
# calls that are given such a result and do without it, or that know what switches are
KNOW_MORE = frozenset(
    "native_batch_norm_backward max_pool2d_with_indices_backward clone detach".split()
)


def translated(module):
    """A recorded graph as an ONNX graph.

    :param module: from `record`
    :return: `OnnxGraph`; its inputs and its outputs, two lists of `Value`
    :raises InputError: a call that is not in the table

    >>> module = xcnn.engine.record.record(lambda v: (2 * v).relu_(), {"v": torch.ones(2)})
    >>> graph, inputs, outputs = xcnn.engine.onnx.translated(module)
    >>> [node.op_type for node in graph.nodes]
    ['Mul', 'Relu']
    """
    graph = OnnxGraph()
    values = {}
    inputs = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = graph.input(node.name, *_form(node))
            inputs.append(values[node])
        elif node.op == "get_attr":
            values[node] = _held(graph, node, getattr(module, node.target))
        elif node.op == "output":
            (outputs,) = tree_map_only(Node, values.get, node.args)
        else:
            values[node] = _called(graph, node, values)
    return graph, inputs, list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _held(graph, node, tensor):
    """The `Value` of a tensor that a recorded graph holds."""
    if "name" in node.meta:
        return graph.weight(node.meta["name"], tensor)
    return graph.number(tensor, tensor.dtype)


def _called(graph, node, values):
    """The `Value` of a call; of one with several results their list."""
    args, kwargs = tree_map_only(Node, values.get, (node.args, node.kwargs))
    if node.target is operator.getitem:
        results, k = args
        return _formed(results[k], node)
    name = node.target.overloadpacket.__name__
    if name not in CALLS:
        raise InputError(f"ONNX has no operator for {name} ({node.target})")
    signature = node.target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in signature}
    by_order = dict(zip(defaults, args, strict=False))
    special = [v for v in args if v is MISSING or isinstance(v, Switches)]
    if special and name not in KNOW_MORE:
        raise InputError(f"ONNX has no operator for what {name} ({node.target}) is given")
    out = graph.input("", *_form(node)) if "shape" in node.meta else None
    return _formed(CALLS[name](out, **defaults | by_order | kwargs), node)


def _formed(result, node):
    """A result in the shape and the type that it had when it was recorded."""
    if result is None:
        return MISSING
    if isinstance(result, Switches | list) or "shape" not in node.meta:
        return result
    shape, dtype = _form(node)
    result = result.to(dtype)
    return Value(result.graph, result.name, shape, dtype)


def _form(node):
    return tuple(node.meta["shape"]), node.meta["dtype"]


def model_of(graph, inputs, outputs, metadata):
    """The ONNX model, checked; its weights stand in it.

    :param graph, inputs: of `translated`
    :param outputs: name -> `Value`
    :param metadata: name -> text
    :return: `onnx.ModelProto`
    """
    onnx = graph.onnx
    last = [onnx.helper.make_node("Identity", [v.name], [name]) for name, v in outputs.items()]
    held = graph.weights | graph.numbers
    used = {name for node in [*graph.nodes, *last] for name in node.input}
    body = onnx.helper.make_graph(
        [*graph.nodes, *last],
        "explanation",
        [_declared(v.name, v) for v in inputs],
        [_declared(name, v) for name, v in outputs.items()],
        [
            onnx.numpy_helper.from_array(tensor.numpy(), name)
            for name, tensor in held.items()
            if name in used
        ],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        body, opset_imports=[opset], ir_version=IR_VERSION, producer_name="xcnn"
    )
    onnx.helper.set_model_props(model, metadata)
    return model


def _declared(name, v):
    """An input or output in ONNX's words."""
    helper = v.graph.onnx.helper
    return helper.make_tensor_value_info(name, v.graph.type_of(v.dtype), list(v.shape))
