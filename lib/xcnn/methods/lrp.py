"""Layer-wise relevance propagation (Bach et al. 2015): the class score, handed down layer by layer to the pixels.

Relevance travels where autograd's gradient would. Each operation on the tape gets another way back: relevance of its
output in, relevance of its inputs out. Where a map is used twice, autograd adds up what comes back. `lrp_rules` holds
what happens inside a layer; here is what happens between layers.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.overrides import resolve_name

from ..engine.contract import check, class_scores, own_grad_mode, run
from ..engine.fast import as_it_is
from ..engine.operations import KIND, refuse
from ..engine.relu import ReLURule
from ..engine.tape import Tape, by_position, place, tensors
from ..errors import InputError
from ..networks import as_network
from .lrp_rules import Layer, Weighed, chooser, per, rule_0


def lrp(net, x, target=None, rule="epsilon_plus", **parameters):
    """Relevance R of every pixel: how much of the class score S_c came from it.

    Source: Bach et al. 2015, doi 10.1371/journal.pone.0130140, eq. 56 to 60; composites: Montavon et al. 2019,
    doi 10.1007/978-3-030-28954-6_10. Each rule's own equation stands in `lrp_rules`.

    | rule         | parameters      | which layers                                                      |
    |--------------|-----------------|-------------------------------------------------------------------|
    | "0"          |                 | all                                                               |
    | "epsilon"    | epsilon=1e-6    | all                                                               |
    | "gamma"      | gamma=0.25      | all                                                               |
    | "alpha_beta" | alpha=2, beta=1 | all; alpha - beta = 1                                             |
    | "z+"         |                 | all; alpha_beta with 1 and 0, but see `lrp_rules.rule_z_plus`      |
    | "zB"         | low, high       | the first, z+ above; bounds of normalised pixels, from net's mean and std |
    | "w2", "flat" |                 | the first, z+ above                                               |

    | composite                   | first layer | convolutions | linear layers |
    |-----------------------------|-------------|--------------|---------------|
    | "epsilon_plus"              | as others   | z+           | epsilon       |
    | "epsilon_plus_flat"         | flat        | z+           | epsilon       |
    | "epsilon_alpha2_beta1"      | as others   | alpha_beta   | epsilon       |
    | "epsilon_alpha2_beta1_flat" | flat        | alpha_beta   | epsilon       |
    | "epsilon_gamma_box"         | zB          | gamma        | epsilon       |
    | "deep_taylor"               | zB          | z+           | z+            |

    Without biases sum R = S_c (up to what epsilon absorbs, and see `lrp_rules.rule_alpha_beta`). A bias takes its
    share with it. Sums share in proportion to their terms and averages to their inputs, max pooling gives all to the
    winner, ReLU and factors pass R on. Batch norm is folded into the layers before it; on its own it is a layer of one
    weight per channel, with the rule of convolutions. What happens to the pixels before the first layer passes R on.

    :param net: `Network` or nn.Module, in eval mode, made of linear and convolutional layers, ReLU, pooling, batch
        norm, dropout, sums, concatenations, and what moves values about
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param rule: one of the names above, or a function (kind, index, name) -> name or (name, {parameter: value});
        kind is "conv", "linear" or "norm" (batch norm on its own), index counts the conv and linear layers as they
        run (norm: the layer that comes next), name is the submodule's
    :param parameters: of the rules, as the table names them
    :return: (N, 3, H, W), same dtype as x, signed
    :raises InputError: see `contract.check`; unknown rule or parameter; an operation that has no rule, with its place
    """
    net = as_network(net)
    check(net.module, x)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (net.mean, net.std))
    choose = chooser(rule, parameters, box=(-mean / std, (1 - mean) / std))
    with own_grad_mode(True):
        x = x.detach().clone().requires_grad_()
        start = x.clone()  # a copy, so that a network may work in place
        with Tape(Relevance(net.module, choose, start)):
            S = run(net.module, start)
        S_c = class_scores(S, target, net.classes)
        if not S_c.requires_grad:
            raise InputError(
                f"the scores of {net.name} do not depend on the image, or it switches gradients off"
            )
        (R,) = torch.autograd.grad(S_c, x, S_c.detach())
    return R


def deep_taylor(net, x, target=None):
    """Deep Taylor decomposition: LRP with z+ in every layer and zB at the pixels, each a Taylor expansion of a neuron.

    Source: Montavon et al. 2017, arXiv 1512.02479, z+-rule and zB-rule. Arguments, shape and errors as in `lrp`.
    """
    return lrp(net, x, target, "deep_taylor")


class _Op(torch.autograd.Function):
    """Forward: the operation as it is. Backward: back, from the relevance of its output to that of its inputs a."""

    @staticmethod
    def forward(ctx, run, back, *a):
        ctx.back, y = back, run(*a)
        if any(y is one for one in a):  # it worked in place
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, R):
        back, ctx.back = (
            ctx.back,
            None,
        )  # what the layer kept is free again as soon as it has been used
        return None, None, *back(R)


def unchanged(run, a):
    """One value to one value: relevance passes. Where a is repeated by broadcasting, what comes back adds up."""
    shape = a.shape
    return _Op.apply(run, lambda R: (R.sum_to_size(shape),), a)


class Relevance:
    """For `Tape`: runs each operation as it is, and gives it the way back of relevance.

    A map is a tensor that depends on the image; what depends on parameters alone is computed without a gradient.
    made: node of autograd's graph -> the layers whose joined output it is, each with its rule and input; mostly none.
    A map whose node is not in it was made unseen: by a scripted module, or by somebody else's autograd.Function.
    """

    def __init__(self, module, choose, x):
        self.names = {id(part): name for name, part in module.named_modules()}
        self.choose, self.layers = choose, 0
        self.made = {x.grad_fn: []}
        self.relu = ReLURule(unchanged)

    def __call__(self, func, args, kwargs):
        given = list(tensors([*args, *kwargs.values()]))
        maps = [a for a in given if a.grad_fn is not None]
        if not maps:
            with torch.no_grad() if given else contextlib.nullcontext():
                return func(*args, **kwargs)
        for a in maps:  # a hook of the caller's own on the way back: what passes there is as it was
            if type(a.grad_fn).__name__ == "BackwardHookFunctionBackward":
                self.made[a.grad_fn] = self.made.get(a.grad_fn.next_functions[a.output_nr][0])
        if any(self.made.get(a.grad_fn) is None for a in maps):
            self.refuse(
                "an operation that works unseen (scripted, or an autograd.Function of its own)"
            )
        args, kwargs = by_position(args, kwargs)
        y = HANDLERS.get(KIND.get(func), Relevance.other)(self, func, args, kwargs, maps)
        for a in tensors([y]):
            if a.grad_fn is not None:
                self.made.setdefault(a.grad_fn, [])
        return y

    def refuse(self, what):
        refuse("LRP", what, place(self.names))

    def hand_down(self, layer, rule, a):
        """The layer's output; what comes back to it goes by the rule to the layer's input a."""
        y = _Op.apply(lambda _: layer.z.detach().clone(), lambda R: (rule(layer, R),), a)
        if y.grad_fn is not None and isinstance(layer, Layer):
            self.made[y.grad_fn] = [(layer, rule, a)]
        return y

    def weighted(self, func, args, kwargs, maps):
        def parse(a, weight, bias=None, *rest, **options):
            return a, weight, bias, lambda a, w, b: func(a, w, b, *rest, **options)

        a, w, b, f = parse(*args, **kwargs)
        if len(maps) > 1 or maps[0] is not a:
            self.refuse(f"{_name(func)} whose weights depend on the image")
        rule = self.choose(
            "linear" if func is F.linear else "conv", self.layers, place(self.names)[0]
        )
        self.layers += 1
        a = a.clone()  # the network may go on to change its own in place
        return self.hand_down(Layer(f, a, w.detach(), None if b is None else b.detach()), rule, a)

    def average(self, func, args, kwargs, maps):
        a = maps[0].clone()
        mean = Weighed(
            lambda a, _w, _b: func(a, *args[1:], **kwargs), (a, None)
        )  # a layer of equal weights
        return self.hand_down(mean, rule_0, a)

    def batch_norm(self, func, args, kwargs, maps):
        def parse(a, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
            if training or mean is None or len(maps) > 1:
                self.refuse("batch norm with the statistics of the batch itself")
            return [mean, var, weight, bias], eps

        statistics, eps = parse(*args, **kwargs)
        # Straight after a layer, or after several joined by cat, it becomes part of them. torch.fx's `fuse` does this
        # for single layers, to a copy of the network, where it can trace it; the tape needs neither.
        layers = self.made[maps[0].grad_fn]
        if not layers or any(layer.z.ndim != layer.weights()[0].ndim for layer, *_ in layers):
            if self.layers == 0:
                return self.one_to_one(func, args, kwargs, maps)
            a, ones = maps[0].clone(), torch.ones_like(statistics[0])[:, None]
            layers = [
                (
                    Layer(_by_channel, a, ones),
                    self.choose("norm", self.layers, place(self.names)[0]),
                    a,
                )
            ]
        sizes = [layer.z.shape[1] for layer, *_ in layers]
        split = zip(
            *([None] * len(sizes) if v is None else v.split(sizes) for v in statistics), strict=True
        )
        folded = [
            (layer.fold(eps, *own), *rest)
            for (layer, *rest), own in zip(layers, split, strict=True)
        ]
        y = [self.hand_down(*one) for one in folded]
        return y[0] if len(y) == 1 else self.joined(torch.cat, (y, 1), {}, y)

    def joined(self, func, args, kwargs, maps):
        def parse(tensors, dim=0, **_):
            return tensors, dim

        y, (parts, dim) = func(*args, **kwargs), parse(*args, **kwargs)
        layers = [self.made.get(a.grad_fn) for a in parts]
        if dim == 1 and all(layers):
            self.made[y.grad_fn] = [one for several in layers for one in several]
        return y

    def one_to_one(self, func, args, kwargs, maps):
        return unchanged(lambda _: func(*args, **kwargs), maps[0])

    def rectified(self, func, args, kwargs, maps):
        before, y = self.relu.met, self.relu(func, args, kwargs)
        return y if self.relu.met > before else self.refuse(_name(func))

    def summed(self, func, args, kwargs, maps):
        def parse(a, other, *, alpha=1):
            return (a, -alpha * other if "sub" in func.__name__ else alpha * other), (a, other)

        if len(maps) == 1 and self.layers == 0:  # pixels are made ready
            return self.one_to_one(func, args, kwargs, maps)
        with torch.no_grad():
            terms, given = parse(*args, **kwargs)
            z = terms[0] + terms[1]
            shares = [
                (per(v, z), v.shape)
                for v, of in zip(terms, given, strict=True)
                if any(of is a for a in maps)
            ]
        back = lambda R: [(share * R).sum_to_size(shape) for share, shape in shares]  # noqa: E731
        return _Op.apply(lambda *_: func(*args, **kwargs), back, *maps)

    def scaled(self, func, args, kwargs, maps):
        if len(maps) > 1 or kwargs or (maps[0] is not args[0] and "div" in func.__name__):
            self.refuse(f"{_name(func)} of maps")
        return self.one_to_one(func, args, kwargs, maps)

    def dropped(self, func, args, kwargs, maps):
        if kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)):
            self.refuse("dropout that is always on")
        return func(*args, **kwargs)

    def routed(self, func, args, kwargs, maps):
        return as_it_is(func, args, kwargs)

    def other(self, func, args, kwargs, maps):
        y = func(*args, **kwargs)
        if any(a.grad_fn is not None and a.grad_fn not in self.made for a in tensors([y])):
            self.refuse(_name(func))
        return y


def _name(func):
    return resolve_name(func) or func.__name__


def _by_channel(a, w, b):
    shape = (1, -1, *[1] * (a.ndim - 2))
    return a * w.view(shape) if b is None else a * w.view(shape) + b.view(shape)


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
