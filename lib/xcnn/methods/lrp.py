"""Layer-wise relevance propagation (LRP): the class score, handed down to the pixels.

Source: Bach et al. 2015. The score goes down layer by layer: relevance travels where autograd's
gradient would. Each operation on the tape gets another backward pass: relevance of its output in,
relevance of its inputs out. Where a map is used twice, autograd adds up what comes back.

What happens inside a layer stands in `lrp_rules`; which layer gets which rule, in `lrp_composites`.
Here is what happens between layers.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.overrides import resolve_name

from ..engine.contract import backward, class_scores, isolated, no_gradient_message, run
from ..engine.fast import run_call
from ..engine.operations import KIND, refuse
from ..engine.relu import ReLUInterceptor
from ..engine.tape import Tape, bind, by_position, running_part, tensors
from ..networks import ready
from .lrp_composites import chooser
from .lrp_rules import Contributions, Layer, Norm, rule_0, share


def lrp(net, x, target=None, rule="epsilon_plus", **parameters):
    """Relevance R of every pixel: how much of the class score S_c came from it.

    Source: Bach et al. 2015, doi 10.1371/journal.pone.0130140, eq. 56 to 60; composites: Montavon
    et al. 2019, doi 10.1007/978-3-030-28954-6_10. Each rule's own equation stands in `lrp_rules`.

    | rule         | parameters      | which layers                                                |
    |--------------|-----------------|-------------------------------------------------------------|
    | "0"          |                 | all                                                         |
    | "epsilon"    | epsilon=1e-6    | all                                                         |
    | "gamma"      | gamma=0.25      | all                                                         |
    | "alpha_beta" | alpha=2, beta=1 | all; alpha - beta = 1                                       |
    | "z+"         |                 | all; alpha_beta with 1 and 0, but see `rule_z_plus`         |
    | "zB"         | low, high       | the first, z+ above; bounds of the pixels, normalised       |
    | "w2", "flat" |                 | the first, z+ above                                         |

    | composite                   | first layer | convolutions | linear layers |
    |-----------------------------|-------------|--------------|---------------|
    | "epsilon_plus"              | as others   | z+           | epsilon       |
    | "epsilon_plus_flat"         | flat        | z+           | epsilon       |
    | "epsilon_alpha2_beta1"      | as others   | alpha_beta   | epsilon       |
    | "epsilon_alpha2_beta1_flat" | flat        | alpha_beta   | epsilon       |
    | "epsilon_gamma_box"         | zB          | gamma        | epsilon       |
    | "deep_taylor"               | zB          | z+           | z+            |

    Without biases sum R = S_c (up to what epsilon absorbs, and see `rule_alpha_beta`). Each bias
    keeps its share of R. Sums share in proportion to their terms and averages to their inputs, max
    pooling gives all to the winner, ReLU and factors pass R on. Batch norm is folded into the
    layers before it. On its own it is a layer of one weight per channel, with the rule of
    convolutions. Operations on the pixels before the first layer pass R on unchanged.

    :param net: `Network` or nn.Module, in eval mode, made of linear and convolutional layers, ReLU,
        pooling, batch norm, dropout, sums, concatenations, and what moves values about
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param rule: one of the names above, or a function (kind, index, name) -> name or (name,
        {parameter: value}); kind is "conv", "linear" or "norm" (batch norm on its own), index
        counts the conv and linear layers as they run (norm: the layer that comes next), name is the
        submodule's
    :param parameters: of the rules, as the table names them
    :return: (N, 3, H, W), same dtype as x, signed
    :raises InputError: see `ready`; unknown rule or parameter; an operation that has no rule, with
        its place

    >>> def flat_below(kind, index, name):
    ...     return "flat" if index == 0 else "z+"
    >>> R = xcnn.lrp(net, x, "clock", rule=flat_below)
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    net, x = ready(net, x)
    choose = chooser(rule, parameters, box=(net.normalise(0), net.normalise(1)))
    with isolated(grad=True):
        x = x.clone().requires_grad_()
        image = x.clone()  # the first node of the graph: by it the tape knows what is a map
        with Tape(Relevance(net.module, choose, image)):
            S = run(net.module, image)
        S_c = class_scores(S, target, net.classes)
        return backward(S_c, x, no_gradient_message(net), start=S_c.detach())


def deep_taylor(net, x, target=None):
    """Deep Taylor decomposition: LRP with z+ in every layer and zB at the pixels.

    Each rule is a Taylor expansion of a neuron. Source: Montavon et al. 2017, arXiv 1512.02479,
    z+-rule and zB-rule. Arguments, shape and errors as in `lrp`.

    >>> R = xcnn.deep_taylor(net, x, "clock")
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return lrp(net, x, target, "deep_taylor")


class _Operation(torch.autograd.Function):
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

    return _Operation.apply(call, back, a)


class Relevance:
    """For `Tape`: runs each operation as it is, and gives it the backward pass of relevance.

    A map here is any tensor that depends on the image, be it a vector. What depends on parameters
    alone is computed without a gradient.

    layers_of: for each autograd node of a map, the layers whose (concatenated) output the map is,
    as (layer, rule, input). Usually an empty list. A map whose node is missing was made unseen: by
    a scripted module, or by somebody else's autograd.Function.
    """

    def __init__(self, module, choose, image):
        self.names = {id(part): name for name, part in module.named_modules()}
        self.choose = choose
        self.layer_count = 0
        self.layers_of = {image.grad_fn: []}
        self.relus = ReLUInterceptor(unchanged)

    def __call__(self, func, args, kwargs):
        inputs = list(tensors([*args, *kwargs.values()]))
        maps = [a for a in inputs if a.grad_fn is not None]
        if not maps:
            # A call without tensors runs as it is: it may be the network's switch of the grad mode.
            with torch.no_grad() if inputs else contextlib.nullcontext():
                return func(*args, **kwargs)
        self._check_seen(maps)
        args, kwargs = by_position(args, kwargs)
        handle = HANDLERS.get(KIND.get(func), Relevance.other)
        y = handle(self, func, args, kwargs, maps)
        for a in tensors([y]):
            if a.grad_fn is not None:
                self.layers_of.setdefault(a.grad_fn, [])
        return y

    def _check_seen(self, maps):
        """Refuse a map that was made unseen."""
        for a in maps:
            # A full backward hook of the caller's wraps the tensor in a node of its own. It counts
            # as the node below it.
            if type(a.grad_fn).__name__ == "BackwardHookFunctionBackward":
                below, _ = a.grad_fn.next_functions[a.output_nr]
                self.layers_of[a.grad_fn] = self.layers_of.get(below)
        if any(self.layers_of.get(a.grad_fn) is None for a in maps):
            self.refuse(
                "an operation that works unseen (scripted, or an autograd.Function of its own)"
            )

    def refuse(self, what):
        refuse("LRP", what, running_part(self.names))

    def choose_rule(self, kind):
        name, _ = running_part(self.names)
        return self.choose(kind, self.layer_count, name)

    def output_with_rule(self, layer, rule, a):
        """The layer's output; its backward pass takes relevance by the rule to the input a."""

        def call(_):
            return layer.z.detach().clone()

        def back(R):
            return (rule(layer, R),)

        y = _Operation.apply(call, back, a)
        if y.grad_fn is not None and isinstance(layer, Layer):
            self.layers_of[y.grad_fn] = [(layer, rule, a)]
        return y

    # One handler for each kind of operation. maps: the tensors among its arguments that are maps.

    def weighted(self, func, args, kwargs, maps):
        """A convolution or a linear map: one of the rules."""
        a, w, b, rest, options = _weights(*args, **kwargs)
        if len(maps) > 1 or maps[0] is not a:
            self.refuse(f"{_name(func)} whose weights depend on the image")
        rule = self.choose_rule("linear" if func is F.linear else "conv")
        self.layer_count += 1

        def linear_operation(a, w, b):
            return func(a, w, b, *rest, **options)

        a = a.clone()  # the network may go on to change its own in place
        b = None if b is None else b.detach()
        return self.output_with_rule(Layer(linear_operation, a, w.detach(), b), rule, a)

    def average(self, func, args, kwargs, maps):
        """An average or a sum over positions is a layer of equal weights."""
        a = maps[0].clone()

        def mean(a, _weight, _bias):
            return func(a, *args[1:], **kwargs)

        return self.output_with_rule(Contributions(mean, (a, None)), rule_0, a)

    def batch_norm(self, func, args, kwargs, maps):
        """Straight after a layer, or several joined by cat, it becomes part of them.

        Anywhere else it is a layer of its own. (torch.fx's `fuse` folds into single layers, in a
        copy of the network, where it can trace it. The tape needs neither.)
        """
        norm = self._norm(args, kwargs, maps)
        layers = self.layers_of[maps[0].grad_fn]
        # A linear layer on (N, T, C) has its outputs last, and a norm its channels second.
        if not layers or any(layer.z.ndim != layer.weights[0].ndim for layer, *_ in layers):
            if self.layer_count == 0:  # part of normalising the pixels
                return self.one_to_one(func, args, kwargs, maps)
            layers = [self._channel_layer(maps[0], norm)]
        parts = norm.split([layer.z.shape[1] for layer, *_ in layers])
        outputs = [
            self.output_with_rule(layer.fold(part), rule, a)
            for (layer, rule, a), part in zip(layers, parts, strict=True)
        ]
        if len(outputs) == 1:
            return outputs[0]
        return self.joined(torch.cat, (outputs, 1), {}, outputs)

    def _norm(self, args, kwargs, maps):
        """The norm of a call to F.batch_norm, which must not use the statistics of the batch."""
        names = "a running_mean running_var weight bias training momentum eps"
        call = bind(args, kwargs, names, weight=None, bias=None, training=False, eps=1e-5)
        if call.training or call.running_mean is None or len(maps) > 1:
            self.refuse("batch norm with the statistics of the batch itself")
        return Norm(call.running_mean, call.running_var, call.weight, call.bias, call.eps)

    def _channel_layer(self, a, norm):
        """A batch norm on its own becomes a layer of weights 1, into which it is then folded."""
        a = a.clone()
        ones = torch.ones_like(norm.mean)[:, None]
        return Layer(_by_channel, a, ones), self.choose_rule("norm"), a

    def joined(self, func, args, kwargs, maps):
        """A concatenation: relevance goes where the values came from."""
        y = func(*args, **kwargs)
        call = bind(args, kwargs, "tensors dim", dim=0)
        layers = [self.layers_of.get(a.grad_fn) for a in call.tensors]
        if call.dim == 1 and all(layers):
            self.layers_of[y.grad_fn] = [layer for part in layers for layer in part]
        return y

    def one_to_one(self, func, args, kwargs, maps):
        """Each value of the output comes from one value of the map."""

        def call(_):
            return func(*args, **kwargs)

        return unchanged(call, maps[0])

    def rectified(self, func, args, kwargs, maps):
        """A ReLU passes relevance on."""
        count = self.relus.count
        y = self.relus(func, args, kwargs)
        if self.relus.count == count:  # a clamp or a threshold that is not a ReLU
            self.refuse(_name(func))
        return y

    def summed(self, func, args, kwargs, maps):
        """A sum shares relevance in proportion to its terms."""
        if len(maps) == 1 and self.layer_count == 0:
            # No layer has run yet, so this sum is part of normalising the pixels.
            return self.one_to_one(func, args, kwargs, maps)
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

        return _Operation.apply(lambda *_: func(*args, **kwargs), back, *maps)

    def scaled(self, func, args, kwargs, maps):
        """A factor passes relevance on."""
        divides_by_a_map = "div" in func.__name__ and maps[0] is not args[0]
        if len(maps) > 1 or kwargs or divides_by_a_map:
            self.refuse(f"{_name(func)} of maps")
        return self.one_to_one(func, args, kwargs, maps)

    def dropped(self, func, args, kwargs, maps):
        """Dropout must be off."""
        call = bind(args, kwargs, "a p training inplace", training=True)
        if vars(call).get("train", call.training):  # torch.dropout calls it train
            self.refuse("dropout that is always on")
        return func(*args, **kwargs)

    def routed(self, func, args, kwargs, maps):
        """Relevance goes where the values came from, as the gradient does."""
        return run_call(func, args, kwargs)

    def other(self, func, args, kwargs, maps):
        """A call without a rule. It is refused where it made a map."""
        y = func(*args, **kwargs)
        if any(a.grad_fn is not None and a.grad_fn not in self.layers_of for a in tensors([y])):
            self.refuse(_name(func))
        return y


def _weights(a, weight, bias=None, *rest, **options):
    """The arguments of a call to conv2d or linear."""
    return a, weight, bias, rest, options


def _name(func):
    return resolve_name(func) or func.__name__


def _by_channel(a, w, b):
    """A factor and a shift for each channel, as a linear operation."""
    shape = (1, -1, *[1] * (a.ndim - 2))
    z = a * w.view(shape)
    return z if b is None else z + b.view(shape)


HANDLERS = {
    "same": Relevance.routed,
    "moved": Relevance.routed,
    "maximum": Relevance.routed,
    "average": Relevance.average,
    "convolution": Relevance.weighted,
    "linear": Relevance.weighted,
    "joined": Relevance.joined,
    "batch norm": Relevance.batch_norm,
    "relu": Relevance.rectified,
    "sum": Relevance.summed,
    "scaled": Relevance.scaled,
    "dropout": Relevance.dropped,
}
