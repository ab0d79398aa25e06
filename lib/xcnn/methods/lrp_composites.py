"""Which rule of layer-wise relevance propagation each layer gets, and with which parameters."""

import functools
import inspect
import math
import numbers
from typing import NamedTuple

import torch

from ..errors import InputError, nearest, one_of
from .lrp_rules import RULES


class Composite(NamedTuple):
    """The rules of the first layer (None: that of its kind), of convolutions, of linear layers."""

    first: str | None
    conv: str
    linear: str


COMPOSITES = {name: Composite(name, name, name) for name in RULES} | {
    # These three are rules for the layer that gets the pixels. The layers above it get z+.
    "zB": Composite("zB", "z+", "z+"),
    "w2": Composite("w2", "z+", "z+"),
    "flat": Composite("flat", "z+", "z+"),
    "deep_taylor": Composite("zB", "z+", "z+"),
    "epsilon_plus": Composite(None, "z+", "epsilon"),
    "epsilon_plus_flat": Composite("flat", "z+", "epsilon"),
    "epsilon_alpha2_beta1": Composite(None, "alpha_beta", "epsilon"),
    "epsilon_alpha2_beta1_flat": Composite("flat", "alpha_beta", "epsilon"),
    "epsilon_gamma_box": Composite("zB", "gamma", "epsilon"),
}


def chooser(rule, parameters, box):
    """Which rule each layer gets.

    :param rule, parameters: as in `lrp`
    :param box: low and high where parameters give none
    :return: function (kind, index, name) -> function (layer, R) -> relevance of the layer's inputs
    :raises InputError: unknown rule, a parameter that it does not have or that makes no sense
    """
    if callable(rule):
        return _by_function(rule, parameters, box)
    return _by_name(rule, parameters, box)


def _by_function(rule, parameters, box):
    """The caller's function chooses a rule for each layer, perhaps with parameters of its own."""
    _complete(parameters, RULES, box)
    try:
        inspect.signature(rule).bind("conv", 0, "name")
    except TypeError as error:
        raise InputError(
            f"the function rule= is called with (kind, index, name) of each layer: {error}. "
            "For a rule of your own in every layer write rule=lambda kind, index, name: my_rule"
        ) from error
    except ValueError:  # written in C, without a signature
        pass

    def choose(kind, index, name):
        chosen = rule(kind, index, name)
        own = {}
        if isinstance(chosen, tuple) and len(chosen) == 2:
            chosen, own = chosen
        if callable(chosen):
            return _checked(functools.partial(chosen, **own), name)
        if not isinstance(chosen, str) or chosen not in RULES:
            raise InputError(
                f"the function rule= chose {chosen!r} for {name!r}; "
                f"it must return a rule's name or a function (layer, R), {nearest(chosen, RULES)}"
            )
        shared = {key: v for key, v in parameters.items() if key in _defaults(chosen)}
        return functools.partial(RULES[chosen], **_complete(shared | own, [chosen], box))

    return choose


def _checked(rule, name):
    """The caller's own rule (layer, R) -> relevance of the inputs, with a look at what it returns.

    :param name: of the submodule, for messages
    """

    def checked(layer, R):
        (a,) = layer.a
        relevance = rule(layer, R.clone())
        if not isinstance(relevance, torch.Tensor) or relevance.shape != a.shape:
            is_tensor = isinstance(relevance, torch.Tensor)
            got = tuple(relevance.shape) if is_tensor else type(relevance).__name__
            raise InputError(
                f"the rule for {name!r} must return the relevance of the layer's inputs, "
                f"{tuple(a.shape)}, like layer.a[0]; it returned {got}"
            )
        if not relevance.isfinite().all():
            raise InputError(
                f"the rule for {name!r} returned NaN or infinite relevance; "
                "it may have divided by 0: xcnn.methods.lrp_rules.share(R, z) gives 0 there"
            )
        return relevance.detach().to(R)

    return checked


def _by_name(rule, parameters, box):
    """A rule's or a composite's name chooses."""
    composite = COMPOSITES[one_of("rule", rule, COMPOSITES)]
    # A composite says in its name what alpha and beta are.
    fixed = () if rule == "alpha_beta" else {"alpha", "beta"}
    values = _complete(parameters, {name for name in composite if name}, box, fixed)

    def choose(kind, index, _name):
        if composite.first and index == 0:
            chosen = composite.first
        else:
            chosen = composite.linear if kind == "linear" else composite.conv
        if kind == "norm" and chosen == "alpha_beta":
            # A batch norm on its own has one input per unit. Alpha-beta would multiply its
            # relevance by alpha.
            chosen = "z+"
        return functools.partial(RULES[chosen], **{key: values[key] for key in _defaults(chosen)})

    return choose


def _defaults(rule):
    """The parameters of a rule with their defaults."""
    return RULES[rule].__kwdefaults__ or {}


def _complete(parameters, rules, box, fixed=()):
    """The parameters of these rules: the caller's, checked, and defaults for the rest.

    :param fixed: parameters that the caller may not give
    """
    defaults = {}
    for name in rules:
        defaults |= _defaults(name)
    free = sorted(set(defaults) - set(fixed))
    for key in parameters:
        if key not in free:
            has = "its parameters: " + ", ".join(free) if free else "it has no parameters"
            raise InputError(f"this rule has no parameter {key!r}; {has}")
    values = defaults | parameters
    _check_numbers(values)
    if "low" in values:
        values |= _bounds(values, box)
    return values


def _check_numbers(values):
    """Raise InputError for an epsilon, gamma, alpha or beta that makes no sense."""
    for key in {"epsilon", "gamma", "alpha", "beta"} & set(values):
        v = values[key]
        if isinstance(v, bool) or not isinstance(v, numbers.Real) or not math.isfinite(v):
            raise InputError(f"{key} must be a number, got {v!r}")
    if values.get("epsilon", 1) <= 0:
        raise InputError(f"epsilon must be above 0, got {values['epsilon']}; rule '0' does without")
    if values.get("gamma", 0) < 0:
        raise InputError(f"gamma must not be below 0, got {values['gamma']}")
    if "alpha" in values:
        alpha = values["alpha"]
        beta = values["beta"]
        if beta < 0 or abs(alpha - beta - 1) > 1e-9:
            raise InputError(
                f"alpha - beta must be 1 and beta not below 0, got {alpha} and {beta}; try 2 and 1"
            )


def _bounds(values, box):
    """The bounds of the pixels, low and high; those of the network where the caller gave none."""
    bounds = {}
    for key, default in zip(("low", "high"), box, strict=True):
        bounds[key] = _bound(key, default if values[key] is None else values[key])
    low, high = bounds.values()
    channels = {len(bound) for bound in (low, high)} - {1}
    if len(channels) > 1:
        raise InputError(
            f"low has {len(low)} channels and high {len(high)}; give both for the images' channels"
        )
    if not (low < high).all():
        raise InputError(
            "low must be below high: "
            "the darkest and the brightest value a pixel can have, normalised"
        )
    return bounds


def _bound(key, v):
    """A number, one per channel, or an image, as (1, 1, 1), (C, 1, 1) or (C, H, W)."""
    try:
        bound = torch.as_tensor(v)
        channels, *sides = bound.shape[-3:] if bound.ndim > 2 else (bound.numel(), 1, 1)
        return bound.reshape(channels, *sides)
    except (TypeError, ValueError, RuntimeError) as error:
        got = tuple(v.shape) if isinstance(v, torch.Tensor) else repr(v)
        raise InputError(
            f"{key} must be a number, one per channel, or (C, H, W), got {got}"
        ) from error
