"""What becomes of relevance between the layers of a network: a handler for each kind of operation.

A handler runs a call as it is, and gives it another backward pass: relevance of its output in,
relevance of its inputs out. It takes `tape`, the `Relevance` of `lrp_tape`; the call; and maps, the
tensors among its arguments that depend on the image, be they vectors.

Functions that go into autograd's graph must not hold the tape, which holds places in this graph:
their memory would be free only when Python's garbage collector runs.
"""

import torch
import torch.nn.functional as F
from torch.overrides import resolve_name

from ..engine.fast import run_call
from ..engine.operations import copies_values, in_words, own_values, signal_of
from ..engine.tape import bind, running_part
from ..errors import InputError
from .lrp_layers import (
    average_of_call,
    batch_norm_arguments,
    image_norm_of_call,
    layer_of_call,
    layer_of_channels,
    norm_of_call,
)
from .lrp_rules import by_weights, rule_0, share

HALF = (torch.float16, torch.bfloat16)


class Operation(torch.autograd.Function):
    """An operation whose backward pass takes the relevance of its output to that of its inputs."""

    @staticmethod
    def forward(ctx, call, back, *inputs):
        y = call(*inputs)
        ctx.back = back
        if any(y is a for a in inputs):  # it worked in place
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, R):
        back = ctx.back
        ctx.back = None  # what the layer kept is free again as soon as it has been used
        return None, None, *back(R)


def unchanged(call, a):
    """An elementwise operation: relevance passes through unchanged.

    If `a` was repeated by broadcasting, its relevance is the sum over the repeated dimensions.
    """
    shape = a.shape

    def back(R):
        return (R.sum_to_size(shape),)

    return Operation.apply(call, back, a)


def is_map(v):
    """Does this value depend on the image?"""
    return isinstance(v, torch.Tensor) and v.grad_fn is not None


def at(a):
    """The place of a map in autograd's graph: the node that made it, which of its outputs."""
    return a.grad_fn, a.output_nr


def name_of(func):
    """A call's name, for messages."""
    return resolve_name(func) or func.__name__


# ---- layers


def weighted(tape, func, args, kwargs, maps):
    """A convolution, also a transposed one, or a linear map: one of the rules."""
    if len(maps) > 1 or maps[0] is not args[0]:
        tape.refuse(f"{name_of(func)} whose weights depend on the image")
    rule = tape.choose_rule("linear" if func is F.linear else "conv")
    tape.layer_count += 1
    a = args[0].clone()  # the network may go on to change its own in place
    layer = layer_of_call(func, a, args[1:], kwargs, tape.pixels.get(at(args[0])))
    return tape.output_with_rule(layer, rule, a)


def batch_norm(tape, func, args, kwargs, maps):
    """Straight after a layer, or several joined by cat, it becomes part of them.

    Anywhere else it is a layer of its own. (torch.fx's `fuse` folds into single layers, in a copy
    of the network, where it can trace it. The tape needs neither.)
    """
    norm = norm_of_call(args, kwargs)
    if norm is None or len(maps) > 1:
        tape.refuse("batch norm with the statistics of the batch itself")
    layers = tape.layers_of[at(maps[0])]
    if not layers or any(layer.times is None for layer, *_ in layers):
        if tape.are_pixels(maps[0]):  # part of normalising the pixels
            return one_to_one(tape, func, args, kwargs, maps)
        layers = [(layer_of_channels(maps[0], norm), tape.choose_rule("norm"), maps[0].clone())]
    parts = norm.split([layer.z.shape[1] for layer, *_ in layers])
    outputs = [
        tape.output_with_rule(layer.fold(part), rule, a)
        for (layer, rule, a), part in zip(layers, parts, strict=True)
    ]
    if len(outputs) == 1:
        return outputs[0]
    return joined(tape, torch.cat, (outputs, 1), {}, outputs)


def image_norm(tape, func, args, kwargs, maps):
    """A layer norm, group norm or instance norm, its deviation held fixed: rule 0.

    What is left is to subtract an average, times a factor, plus a bias. Source: Ali et al. 2022,
    arXiv 2202.07304, LN-rule. Not the rule of convolutions: with z+ each unit would hand down to
    all values of its group that make the average small. After eight convolutions with group norms,
    1/6 of a unit's |R| lay in its receptive field with z+, and 5/6 with rule 0.
    """
    if len(maps) > 1:
        tape.refuse(f"{name_of(func)} whose weights depend on the image")
    if func is F.instance_norm and (call := batch_norm_arguments(args, kwargs)):
        return batch_norm(tape, F.batch_norm, *call, maps)
    if tape.are_pixels(maps[0]):  # part of normalising the pixels
        return one_to_one(tape, func, args, kwargs, maps)
    return tape.output_with_rule(image_norm_of_call(func, args, kwargs), rule_0, maps[0])


def average(tape, func, args, kwargs, maps):
    """An average or a sum over positions is a layer of equal weights; so is enlarging."""
    # A pixel's value is a colour. How much of an average it makes does not depend on it.
    rule = by_weights if tape.are_pixels(maps[0]) else rule_0
    return tape.output_with_rule(average_of_call(func, args, kwargs), rule, maps[0])


def enlarged(tape, func, args, kwargs, maps):
    """Enlarging copies values, or averages them."""
    handle = routed if copies_values(func, args, kwargs) else average
    return handle(tape, func, args, kwargs, maps)


# ---- value by value


def one_to_one(tape, func, args, kwargs, maps):
    """An activation: each value comes from one value of the map, and passes relevance on.

    Source: Bach et al. 2015, where R of a unit is the same before and after its activation: the
    rules see what it is given, z, and hand down what it got.
    """
    if len(maps) > 1:
        return other(tape, func, args, kwargs, maps)

    def call(_):
        return func(*args, **kwargs)

    return unchanged(call, maps[0])


def product(tape, func, args, kwargs, maps):
    """A factor, a gate or a divisor passes relevance on to the other operand.

    Source for gates: Arras et al. 2017, arXiv 1706.07206: the signal takes all.
    """
    call = bind(args, kwargs, "a other", other=None, rounding_mode=None)
    divides = "div" in func.__name__
    if call.rounding_mode or (divides and not is_map(call.a)):
        return other(tape, func, args, kwargs, maps)
    signal = 0
    if len(maps) == 2 and not divides:
        signal = signal_of(maps, [tape.factors[at(a)] for a in maps])
    if signal is None:
        what = f"{name_of(func)} of two maps, neither of which is seen to be a gate"
        return without_rule(tape, what, func, args, kwargs)

    def run(_):
        return func(*args, **kwargs)

    y = unchanged(run, maps[signal])
    if len(maps) == 2 and is_map(y) and tape.are_pixels(maps[signal]):
        tape.pixels[at(y)] = None  # the other one has changed their bounds
    return y


def squashed(tape, func, args, kwargs, maps):
    """A sigmoid is an activation. Where a product makes it a gate, nothing arrives here."""
    refuse_at_the_end = _refusal_at_the_end(tape, func)

    def back(R):
        if R.any():
            refuse_at_the_end()
        return (R,)

    return Operation.apply(lambda _: func(*args, **kwargs), back, maps[0])


def softmax(tape, func, args, kwargs, maps):
    """A softmax is a gate, or the end of the network. As an activation it has no rule."""
    refuse_at_the_end = _refusal_at_the_end(tape, func)
    return without_rule(tape, name_of(func), func, args, kwargs, refuse_at_the_end)


def _refusal_at_the_end(tape, func):
    """A function that raises, if relevance has not met a layer on its way down to this call."""
    place = in_words(running_part(tape.names))
    backward_pass = tape.backward_pass

    def refusal():
        if not backward_pass.met_a_layer:
            raise InputError(
                f"this network ends in {name_of(func)}, which runs in {place}: relevance starts "
                "from the scores before it. Leave it out (nn.Identity() may take its place), "
                "or explain this network with gradient or grad_cam"
            )

    return refusal


def dropped(tape, func, args, kwargs, maps):
    """Dropout must be off."""
    call = bind(args, kwargs, "a p training inplace", training=True)
    if vars(call).get("train", call.training):  # torch.dropout calls it train
        tape.refuse("dropout that is always on")
    return func(*args, **kwargs)


# ---- several maps, or none of their values changed


def summed(tape, func, args, kwargs, maps):
    """A sum shares relevance in proportion to its terms."""
    if all(map(tape.are_pixels, maps)):  # part of normalising the pixels
        sizes = [own_values(a) for a in maps]
        if len(maps) == 1 or sizes[0] != sizes[1]:  # the smaller one is a mean of the pixels
            whole = maps[sizes.index(max(sizes))]
            return unchanged(lambda _: func(*args, **kwargs), whole)
    call = bind(args, kwargs, "a other", alpha=1)
    factor = -call.alpha if "sub" in func.__name__ else call.alpha
    with torch.no_grad():
        first = call.a
        second = factor * call.other
        z = first + second
        shares = [
            (share(term, z), term.shape)
            for term, operand in ((first, call.a), (second, call.other))
            if any(operand is a for a in maps)
        ]

    def back(R):
        return [(part * R).sum_to_size(shape) for part, shape in shares]

    return Operation.apply(lambda *_: func(*args, **kwargs), back, *maps)


def joined(tape, func, args, kwargs, maps):
    """A concatenation: relevance goes where the values came from."""
    y = func(*args, **kwargs)
    call = bind(args, kwargs, "tensors dim", dim=0)
    layers = [tape.layers_of.get(at(a)) for a in call.tensors]
    if call.dim == 1 and all(layers) and is_map(y):
        tape.layers_of[at(y)] = [layer for part in layers for layer in part]
    return y


def routed(tape, func, args, kwargs, maps):
    """Relevance goes where the values came from, as the gradient does."""
    return run_call(func, args, kwargs)


def same(tape, func, args, kwargs, maps):
    """As `routed`, but a change to half precision is not made."""
    y = func(*args, **kwargs)
    return maps[0].clone() if y.dtype in HALF else y


# ---- what has no rule


def other(tape, func, args, kwargs, maps):
    """A call that is not in the table."""
    return without_rule(tape, name_of(func), func, args, kwargs)


def without_rule(tape, what, func, args, kwargs, *checks):
    """Run a call that is refused if relevance reaches it. On the way to a gate none does.

    :param checks: functions that may raise another error first
    """
    refusal = tape.refusal(what)
    y = func(*args, **kwargs)

    def stop(_):
        for check in (*checks, refusal):
            check()

    for a in y if isinstance(y, list | tuple) else [y]:
        if is_map(a) and at(a) not in tape.factors:
            a.grad_fn.register_prehook(stop)
    return y


HANDLERS = {
    "same": same,
    "moved": routed,
    "maximum": routed,
    "average": average,
    "upsampling": enlarged,
    "convolution": weighted,
    "transposed convolution": weighted,
    "linear": weighted,
    "joined": joined,
    "batch norm": batch_norm,
    "image norm": image_norm,
    "rescaled": one_to_one,
    "relu": one_to_one,
    "unit": one_to_one,
    "sigmoid": squashed,
    "softmax": softmax,
    "sum": summed,
    "product": product,
    "dropout": dropped,
}
