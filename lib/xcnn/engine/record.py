"""A recorder: what a computation does to its inputs, written down as one graph.

Every call that a method makes, also in its backward pass, ends in calls of `aten`, torch's lowest
layer. The recorder stands below autograd and writes these calls down while they run on real
tensors. What depends on an input is a node of the graph; what does not is a number in it.

Tensors may share memory: a view shows a part of another tensor, and an in-place call changes all
that its memory is seen through. In the graph nothing ever changes. So the recorder knows which node
holds each part of a piece of memory at this moment, and a change gives new nodes to all parts that
it touches.

A value that Python reads (`.item()`, the truth of a tensor) leaves no trace in the graph. Where a
method goes another way for other values, its recordings of several inputs are not the same graph:
`same_steps` tells.
"""

import contextlib
import operator
import threading

import torch
from torch.fx import Graph, GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import InputError

aten = torch.ops.aten
MAX_CALLS = 30_000  # in one graph

# The result depends on the form of the argument alone, or on nothing.
OF_FORM = frozenset(
    "empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like "
    "rand_like randint_like randn_like zeros_like".split()
)


def record(function, inputs, weights=()):
    """What function(*inputs) does, as a graph.

    :param function: from tensors to one tensor, or to several
    :param inputs: name -> tensor; the graph's inputs
    :param weights: name -> tensor, of a network. What is made of them is computed in the graph, so
        each stands in it as it is
    :return: `torch.fx.GraphModule` of aten calls, none of them in place, without what the results
        do not need. Of each node, `meta` tells "shape" and "dtype"; of a weight also its "name"
    :raises InputError: a call that cannot be written down

    >>> graph = xcnn.engine.record.record(lambda v: (2 * v).relu_(), {"v": torch.ones(2)})
    >>> graph(torch.tensor([-1.0, 3.0]))
    tensor([0., 6.])
    """
    recorder = Recorder()
    for name, tensor in inputs.items():
        recorder.know(tensor, recorder.graph.placeholder(name))
    for name, tensor in dict(weights).items():
        if tensor.nbytes == tensor.untyped_storage().nbytes():  # not a part of something larger
            recorder.know(tensor, recorder.number(tensor, name))
    with recorder, _recording():
        result = function(*inputs.values())
    recorder.graph.output(tree_map_only(torch.Tensor, recorder.node_of, result))
    return recorder.module()


def same_steps(graph, other):
    """Have two recordings the same calls, in the same order, of the same numbers and shapes?

    :param graph, other: from `record`

    >>> def halved_if_large(v):
    ...     return v / 2 if v.max() > 1 else v * 1
    >>> small, large = torch.zeros(2), torch.ones(2) * 3
    >>> graphs = [xcnn.engine.record.record(halved_if_large, {"v": v}) for v in (small, large)]
    >>> xcnn.engine.record.same_steps(*graphs)
    False
    """
    numbers, others = (dict(one.named_buffers()) for one in (graph, other))
    forms, other_forms = (
        [node.meta.get("shape") for node in one.graph.nodes] for one in (graph, other)
    )
    return (
        graph.code == other.code
        and forms == other_forms
        and all(number.equal(others[name]) for name, number in numbers.items())
    )


_here = threading.local()


@contextlib.contextmanager
def _recording():
    _here.recording = True
    try:
        yield
    finally:
        _here.recording = False


def is_recording():
    """Is this thread's computation being written down, for other inputs than those it has?

    >>> xcnn.engine.record.is_recording()
    False
    """
    return getattr(_here, "recording", False)


class Recorder(TorchDispatchMode):
    """Writes down the aten calls that run inside it, see `record`."""

    def __init__(self):
        super().__init__()
        self.graph = Graph()
        self.numbers = {}  # name -> tensor that does not depend on an input
        self.memory = {}  # id of a piece of memory -> `Memory`

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        known = any(_address(v) in self.memory for v in _tensors([args, kwargs]))
        if not known or _name(func) in OF_FORM or _only_looks_elsewhere(func):
            result = func(*args, **kwargs)
            # Memory that nobody has written yet holds anything; two recordings shall hold the same.
            return result.zero_() if "empty" in _name(func) else result
        target = _written(func, args, kwargs)
        if target is not None and not target.numel():
            return func(*args, **kwargs)
        if target is not None and _address(target) not in self.memory:
            whole = target.new_empty(0).set_(target.untyped_storage())
            self.know(whole, self.number(whole))
        if len(self.graph.nodes) > MAX_CALLS:
            raise InputError(f"it makes more than {MAX_CALLS:,} calls; ask for fewer steps")
        in_nodes = tree_map_only(torch.Tensor, self.node_of, (args, kwargs))
        result = func(*args, **kwargs)
        if target is None:
            self._add(self.graph.call_function(func, *in_nodes), result)
        else:
            self._change(target, func, *in_nodes)
        return result

    def know(self, tensor, node):
        """From now on this node holds this tensor."""
        _describe(node, tensor)
        address = _address(tensor)
        if address not in self.memory:
            self.memory[address] = Memory(self, tensor)
        self.memory[address].parts[_form(tensor)] = node

    def node_of(self, tensor):
        """The node that holds a tensor now."""
        memory = self.memory.get(_address(tensor))
        return self.number(tensor) if memory is None else memory.read(tensor)

    def number(self, tensor, name=None):
        """A new node for a tensor that does not depend on an input; name: that of a weight."""
        key = f"number_{len(self.numbers)}"
        self.numbers[key] = tensor.detach() if name else tensor.detach().clone()
        node = self.graph.create_node("get_attr", key)
        if name:
            node.meta["name"] = name
        return _describe(node, tensor)

    def call(self, like, function, *args, **kwargs):
        """A new node for a call whose result has the form of a tensor like this one."""
        return _describe(self.graph.call_function(function, args, kwargs), like)

    def _add(self, node, result):
        """The node of a call, and a node for each of its results."""
        if isinstance(result, torch.Tensor):
            self.know(result, node)
        elif isinstance(result, list | tuple):
            for k, part in enumerate(result):
                if isinstance(part, torch.Tensor):
                    self.know(part, self.graph.call_function(operator.getitem, (node, k)))

    def _change(self, target, func, args, kwargs):
        """An in-place call, as a new node for what it has changed."""
        function, kwargs = _out_of_place(func, kwargs)
        node = self.call(target, function, *args, **kwargs)
        # What is made of two types is rounded to the target's.
        node = self.call(target, aten._to_copy.default, node, dtype=target.dtype)
        self.memory[_address(target)].write(target, node)

    def module(self):
        """The graph as a module, without what its result does not need."""
        root = torch.nn.Module()
        for name, tensor in self.numbers.items():
            root.register_buffer(name, tensor)
        module = GraphModule(root, self.graph)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()
        return module


class Memory:
    """Which nodes hold the parts of one piece of memory, at this moment.

    :param recorder: `Recorder`
    :param tensor: all of this memory. As long as it lives, no other tensor gets the same memory
    """

    def __init__(self, recorder, tensor):
        self.recorder = recorder
        self.whole = tensor.detach()  # whatever becomes of the tensor itself
        self.parts = {}  # form -> node

    def read(self, tensor):
        """The node that holds a tensor in this memory; where there is none, one is made."""
        form = _form(tensor)
        if form not in self.parts:
            places = self._places(self.whole, tensor)
            if (places < 0).any():
                raise InputError("it reads memory that holds more than the tensor it came with")
            self.parts[form] = self._taken(tensor, self.parts[_form(self.whole)], places)
        return self.parts[form]

    def write(self, tensor, node):
        """A tensor in this memory has changed, and is now held by this node.

        The whole gets the new values. Other parts are forgotten: who reads them takes them from it.
        """
        whole = self.read(self.whole)
        places = self._places(tensor, self.whole)
        changed = places >= 0
        if changed.all():
            whole = self._taken(self.whole, node, places)
        else:
            values = self._taken(places[changed], node, places[changed])
            values.meta["dtype"] = tensor.dtype
            where = self.recorder.number(changed.flatten().nonzero()[:, 0])
            whole = self.recorder.call(self.whole, aten.put.default, whole, where, values)
        self.parts = {_form(self.whole): whole, _form(tensor): node}

    def _places(self, source, tensor):
        """For each value of a tensor, its place among those of another one; -1: it is not there."""
        if source.dtype != tensor.dtype:
            raise InputError("it reads a tensor's memory as if it were of another type")
        size = source.untyped_storage().nbytes() // source.element_size()
        place = torch.full((size,), -1)
        _strided(place, source).copy_(torch.arange(source.numel()).view(source.shape))
        return _strided(place, tensor)

    def _taken(self, like, node, places):
        """A node with the values of another one that stand at these places, in row-major order."""
        in_order = torch.arange(places.numel()).view(places.shape)
        if places.equal(in_order) and places.numel() == node.meta["shape"].numel():
            return self.recorder.call(like, aten.reshape.default, node, list(like.shape))
        return self.recorder.call(like, aten.take.default, node, self.recorder.number(places))


def _strided(flat, tensor):
    """A view of a vector in the form of a tensor."""
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _tensors(values):
    return [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]


def _address(tensor):
    return tensor.untyped_storage()._cdata


def _form(tensor):
    """What tells a tensor from others in the same memory."""
    return tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()


def _describe(node, tensor):
    node.meta.update(shape=tensor.shape, dtype=tensor.dtype)
    return node


def _name(func):
    """`relu_` of aten.relu_.default."""
    return func.overloadpacket.__name__


def _only_looks_elsewhere(func):
    """Does a call change which part of its memory a tensor shows? Then it is read from there."""
    return _name(func) == "as_strided" or torch.Tag.inplace_view in func.tags


def _is_written(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


def _written(func, args, kwargs):
    """The tensor that a call changes, or None."""
    written = []
    for k, argument in enumerate(func._schema.arguments):
        if _is_written(argument):
            written.append(args[k] if k < len(args) else kwargs.get(argument.name))
    written = _tensors(written)
    if len(written) > 1:
        raise InputError(f"{func} changes several tensors at once")
    return written[0] if written else None


def _out_of_place(func, kwargs):
    """The function that gives what an in-place one would write, and its keyword arguments."""
    name = _name(func)
    out = {a.name for a in func._schema.arguments if a.kwarg_only and _is_written(a)}
    packet = getattr(aten, name if out else name.removesuffix("_"), None)
    wanted = [a.name for a in func._schema.arguments if a.name not in out]
    for overload in packet.overloads() if packet else ():
        function = getattr(packet, overload)
        arguments = function._schema.arguments
        if [a.name for a in arguments] == wanted and not any(map(_is_written, arguments)):
            if out or overload == func._overloadname:
                return function, {key: v for key, v in kwargs.items() if key not in out}
    raise InputError(f"there is no way to write {func} without a change in place")
