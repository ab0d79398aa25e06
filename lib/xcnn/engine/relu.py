"""ReLUs, however they are spelled, and what they do in the backward pass.

Deconvnet and guided backprop change the backward pass of each ReLU, and LRP passes relevance
through it unchanged. `ReLUInterceptor` finds the ReLUs of a forward pass. `ReLUBackward` changes
their backward pass, and looks through autograd's graph for those that no call showed.
"""

import math
import warnings

import torch
import torch.nn.functional as F

from .fast import run_call
from .operations import RELUS
from .tape import by_position, tensors

# Calls that are a ReLU where they put out what a ReLU would: where(x > 0, x, 0), maximum(x, 0),
# x * (x > 0), x.masked_fill(x < 0, 0), leaky_relu(x, 0) and the like.
NAMES = "where maximum max fmax mul multiply masked_fill leaky_relu prelu clamp clip"
MAYBE_RELUS = frozenset(
    function
    for owner in (torch, torch.Tensor, F)
    for name in NAMES.split()
    if (function := getattr(owner, name, None))
)
# name of an autograd node -> the attribute that holds its lower bound (None: it is 0 by nature)
RELU_NODES = {
    "ReluBackward0": None,
    "ThresholdBackward0": "_saved_threshold",
    "ClampMinBackward0": "_saved_min",
}
# nodes of calls that may rectify a map together with others: (x + |x|) / 2
MAY_RECTIFY = {
    "AbsBackward0": "abs",
    "ClampBackward0": "clamp",
    "ClampMinBackward1": "clamp",
    "FmaxBackward0": "fmax",
    "FminBackward0": "fmin",
    "IndexPutBackward0": "x[...] = ...",
    "MaskedFillBackward0": "masked_fill",
    "MaskedScatterBackward0": "masked_scatter",
    "MaximumBackward0": "maximum",
    "MinimumBackward0": "minimum",
    "WhereBackward0": "where",
}
WATCHED = "the backward pass of this node is ours"


class ReLUInterceptor:
    """For `Tape`: each ReLU goes through `run_relu(relu, x)`. Everything else runs as it is.

    A ReLU is any call in `RELUS` that turns negative values into 0: of a module, as a function, as
    a method, in place or not, and also one that stops at 6; and any call in `MAYBE_RELUS` that puts
    out exactly what a ReLU would. Smooth units (SiLU, GELU, Hardswish) and units with a slope below
    0 (leaky ReLU) are not ReLUs and keep their derivative.

    count: how many ReLUs have run.
    """

    def __init__(self, run_relu):
        self.run_relu = run_relu
        self.count = 0

    def __call__(self, func, args, kwargs):
        if func in MAYBE_RELUS and func not in RELUS:
            return self._perhaps(func, args, kwargs)
        if func not in RELUS:
            return run_call(func, args, kwargs)
        (x, *rest), kwargs = by_position(args, kwargs)
        lower_bound = RELUS[func](*rest, **kwargs)
        if not isinstance(lower_bound, int | float) or lower_bound != 0:
            return func(x, *rest, **kwargs)
        self.count += 1
        return self.run_relu(lambda x: func(x, *rest, **kwargs), x)

    def _perhaps(self, func, args, kwargs):
        """A call that is a ReLU if its result is one of one of its maps."""
        y = func(*args, **kwargs)
        if not isinstance(y, torch.Tensor) or y.grad_fn is None:
            return y
        maps = [a for a in tensors([*args, *kwargs.values()]) if a.requires_grad]
        for x in maps:
            same_form = x.shape == y.shape and x.dtype == y.dtype
            if same_form and torch.equal(y, x.clamp(min=0)) and not torch.equal(y, x):
                self.count += 1
                return self.run_relu(torch.relu, x)
        return y


class ReLUBackward:
    """A hook on the autograd node of every ReLU, which may change its backward pass.

    rule: function (g, passed) -> the gradient to send below the ReLU. g is the gradient that
    arrives from above; `passed` is g times the ReLU's derivative, in memory that the rule may
    overwrite. None: the plain gradient.
    """

    rule = None

    def __call__(self, grad_inputs, grad_outputs):
        if self.rule is None:
            return None
        return (self.rule(grad_outputs[0], grad_inputs[0]),)

    def watch(self, relu, x):
        """Run the ReLU and register this hook on its autograd node."""
        # After an in-place call on a view, `y.grad_fn` is the node of the view, not the ReLU's. So
        # the ReLU runs on a copy, which is written back.
        own = x.clone() if x._is_view() else x
        y = relu(own)
        if y.grad_fn is not None:
            self._watch_node(y.grad_fn)
        in_place = y is own
        return x.copy_(y) if in_place and own is not x else y

    def _watch_node(self, node):
        node.register_hook(self)
        node.metadata[WATCHED] = True

    def watch_unseen(self, score, name):
        """Watch the ReLUs below a score that no call showed, and warn of what may be one.

        Autograd's graph holds every operation, also those that run below torch's functions.

        :param score: (N,)
        :param name: of the network, for the warning
        :return: how many ReLUs were found
        """
        found = 0
        doubtful = set()
        for node in nodes_below(score.grad_fn):
            if WATCHED in node.metadata:
                continue
            if _is_relu(node):
                self._watch_node(node)
                found += 1
            elif _is_unseen(node):
                doubtful.add(f"{node.name()}, which runs unseen")
            elif node.name() in MAY_RECTIFY:
                doubtful.add(MAY_RECTIFY[node.name()])
        if doubtful:
            warnings.warn(
                f"{name} may rectify by other calls than ReLU: {', '.join(sorted(doubtful))}. "
                "They keep their derivative; where one is a ReLU, write it as torch.relu",
                stacklevel=5,
            )
        return found


def nodes_below(node):
    """A node of autograd's graph and all that it depends on."""
    seen = set()
    to_visit = [node] if node is not None else []
    while to_visit:
        node = to_visit.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        to_visit += [below for below, _ in node.next_functions if below is not None]


def _is_relu(node):
    """Is this the node of a ReLU?"""
    name = node.name()
    if name == "ClampBackward1":  # clamp between two numbers, of which one may be missing
        return node._saved_min == 0 and node._saved_max in (None, 6, math.inf)
    if name == "HardtanhBackward0":
        return node._saved_min_val == 0 and node._saved_max_val in (6, math.inf)
    if name == "LeakyReluBackward0":
        return node._saved_negative_slope == 0
    if name not in RELU_NODES:
        return False
    bound = RELU_NODES[name]
    return bound is None or getattr(node, bound) == 0


def _is_unseen(node):
    """Does this node stand for code that autograd does not see into?"""
    own = "_MaxPool" in node.name()  # `fast.max_pool`
    written_in_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    compiled = "Compiled" in node.name() or "DifferentiableGraph" in node.name()
    return (written_in_python and not own) or compiled
