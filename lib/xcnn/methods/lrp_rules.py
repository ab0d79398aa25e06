"""The rules of layer-wise relevance propagation for one layer, z_k = sum_j a_j w_jk + b_k.

A rule takes a layer and R, the relevance R_k of its outputs, and returns that of its inputs. Each output hands down
its relevance in proportion to what each input contributed to it; the rules differ in what counts as a contribution.
Bach et al. 2015: doi 10.1371/journal.pone.0130140. Montavon et al. 2017: arXiv 1512.02479. Montavon et al. 2019:
doi 10.1007/978-3-030-28954-6_10.
"""

import copy
import functools
import math
import numbers

import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import InputError, nearest


def per(R, z):
    """R / z, and 0 where z is 0: there is nothing that R could be handed down to."""
    return (R / z).nan_to_num_(0, 0, 0)


def half(v, sign):
    """v+ or v-, the values of one sign, 0 in place of the others."""
    return v if v is None else v.clamp(min=0) if sign > 0 else v.clamp(max=0)


class Weighed:
    """z_k = sum_j a_j w_jk + b_k over one or more pairs (a, w), and the way back. f(a, w, b): the linear operation."""

    def __init__(self, f, *pairs, b=None):
        with torch.enable_grad():
            self.a = [a.detach().requires_grad_() for a, _ in pairs]
            weights = [w for _, w in pairs]
            if (
                len(pairs) > 1
                and self.a[0].ndim == weights[0].ndim
                and self.a[0].shape[1] == weights[0].shape[1]
            ):
                self.z = f(
                    torch.cat(self.a, 1), torch.cat(weights, 1), b
                )  # side by side, which costs less
            else:
                terms = [
                    f(a, w, None if i else b)
                    for i, (a, w) in enumerate(zip(self.a, weights, strict=True))
                ]
                self.z = functools.reduce(torch.add, terms)

    def back(self, s):
        """R_j = a_j sum_k w_jk s_k: what autograd brings back from s, times the input."""
        c = torch.autograd.grad(self.z, self.a, s, retain_graph=True)
        return functools.reduce(torch.add, [a.detach() * c for a, c in zip(self.a, c, strict=True)])


class Layer(Weighed):
    """One call of conv2d or linear. weights(): its w and b, with a batch norm folded in where one follows."""

    def __init__(self, f, a, w, b=None):
        super().__init__(f, (a, w), b=b)
        self.f, self.weights = f, lambda: (w, b)

    def fold(self, eps, mean, var, scale, shift):
        """This layer with a batch norm behind it as one layer. Its weights are folded only when a rule wants them."""
        folded = copy.copy(self)
        with torch.enable_grad():
            folded.z = F.batch_norm(self.z, mean, var, scale, shift, eps=eps)
        # made for convolutions; right for a linear layer's (outputs, inputs) as well
        fuse = lambda: fuse_conv_bn_weights(*self.weights(), mean, var, eps, scale, shift)  # noqa: E731
        folded.weights = functools.cache(lambda: [v.detach() for v in fuse()])
        return folded

    def part(self, sign):
        """Contributions of one sign: (a w)+ = a+ w+ + a- w- with b+, or (a w)- = a+ w- + a- w+ with b-."""
        (a,), (w, b) = self.a, self.weights()
        pairs = [(a, half(w, sign))]
        if a.min() < 0:  # otherwise there is no a-
            pairs = [(half(a, 1), half(w, sign)), (half(a, -1), half(w, -sign))]
        return Weighed(self.f, *pairs, b=half(b, sign))


def rule_0(layer, R):
    """R_j = sum_k a_j w_jk / z_k R_k. Bach et al. 2015, eq. 56; Montavon et al. 2019, LRP-0."""
    return layer.back(per(R, layer.z))


def rule_epsilon(layer, R, *, epsilon=1e-6):
    """R_j = sum_k a_j w_jk / (z_k + epsilon sign z_k) R_k. Bach et al. 2015, eq. 58."""
    z = layer.z.detach()
    return layer.back(R / (z + torch.copysign(z.new_tensor(epsilon), z)))


def rule_gamma(layer, R, *, gamma=0.25):
    """R_j = sum_k [a_j w_jk + gamma (a_j w_jk)+] / [z_k + gamma z_k+] R_k where z_k > 0, and with ()- where z_k < 0.

    Montavon et al. 2019, LRP-gamma; for inputs and outputs of both signs Andeol et al. 2021.
    """
    z, P = layer.z, layer.part(+1)
    s = per(R, z + gamma * torch.where(z < 0, z - P.z, P.z))
    # (a w)- = a w - (a w)+
    return layer.back(torch.where(z < 0, (1 + gamma) * s, s)) + P.back(
        torch.where(z < 0, -gamma * s, gamma * s)
    )


def rule_alpha_beta(layer, R, *, alpha=2.0, beta=1.0):
    """R_j = sum_k [alpha (a_j w_jk)+ / z_k+ - beta (a_j w_jk)- / z_k-] R_k. Bach et al. 2015, eq. 60.

    To the letter: a unit whose contributions have one sign only hands down alpha R_k, or -beta R_k.
    """
    P, N = layer.part(+1), layer.part(-1)
    return alpha * P.back(per(R, P.z)) - beta * N.back(per(R, N.z))


def rule_z_plus(layer, R):
    """R_j = sum_k (a_j w_jk)+ / z_k+ R_k: alpha = 1, beta = 0. Montavon et al. 2017, z+-rule (there a >= 0).

    A unit that has no positive contribution goes by rule 0: otherwise its relevance would be lost.
    """
    P = layer.part(+1)
    s = (R / P.z).nan_to_num_(0, math.inf, -math.inf)  # 0 / 0: nothing came, nothing is lost
    if s.sum().isfinite():
        return P.back(s)
    none = s.isinf()
    return P.back(s.masked_fill(none, 0)) + layer.back(torch.where(none, per(R, layer.z), 0))


def rule_z_box(layer, R, *, low=None, high=None):
    """R_j = sum_k q_jk / (sum_j q_jk) R_k, q_jk = a_j w_jk - l_j w_jk+ - h_j w_jk-. Montavon et al. 2017, zB-rule.

    :param low, high: bounds of the pixels, l <= a <= h, (3, 1, 1) or (3, H, W)
    """
    (a,), (w, b) = layer.a, layer.weights()
    box = Weighed(layer.f, (_like(low, a), half(w, 1)), (_like(high, a), half(w, -1)), b=b)
    s = per(R, layer.z - box.z)
    return layer.back(s) - box.back(s)


def _like(bound, a):
    """A bound in the shape of the layer's input: (N, 3, H, W), or (N, 3 H W) where the pixels come flattened."""
    try:
        if a.ndim == 2:
            bound = bound.flatten(1).expand(3, a.shape[1] // 3).flatten()
        return bound.to(a).expand(a.shape)
    except RuntimeError as error:
        raise InputError(
            f"rule 'zB' is for the layer that gets the pixels, and this one gets {tuple(a.shape)}; "
            "give low and high of one value per channel, or take 'w2' or 'flat'"
        ) from error


def rule_w_square(layer, R):
    """R_j = sum_k w_jk^2 / sum_j w_jk^2 R_k, no bias. Montavon et al. 2017, w2-rule."""
    return _without_input(layer, layer.weights()[0] ** 2, R)


def rule_flat(layer, R):
    """Every input of a unit gets the same. Lapuschkin et al. 2019."""
    return _without_input(layer, torch.ones_like(layer.weights()[0]), R)


def _without_input(layer, w, R):
    V = Weighed(layer.f, (torch.ones_like(layer.a[0]), w))
    return V.back(per(R, V.z))


RULES = {"0": rule_0, "epsilon": rule_epsilon, "gamma": rule_gamma, "alpha_beta": rule_alpha_beta, "z+": rule_z_plus,
         "zB": rule_z_box, "w2": rule_w_square, "flat": rule_flat}  # fmt: skip

# name -> rules of the first layer, of convolutions, of linear layers
COMPOSITES = {name: (name,) * 3 for name in RULES} | {
    "zB": ("zB", "z+", "z+"),  # bounds and weights alone speak of pixels: above the first layer z+
    "w2": ("w2", "z+", "z+"),
    "flat": ("flat", "z+", "z+"),
    "deep_taylor": ("zB", "z+", "z+"),
    "epsilon_plus": (None, "z+", "epsilon"),
    "epsilon_plus_flat": ("flat", "z+", "epsilon"),
    "epsilon_alpha2_beta1": (None, "alpha_beta", "epsilon"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha_beta", "epsilon"),
    "epsilon_gamma_box": ("zB", "gamma", "epsilon"),
}


def chooser(rule, parameters, box):
    """Which rule each layer gets.

    :param rule, parameters: as in `lrp`
    :param box: low and high where parameters give none
    :return: function (kind, index, name) -> function (layer, R) -> relevance of the layer's inputs
    :raises InputError: unknown rule, a parameter that it does not have or that makes no sense
    """
    if callable(rule):
        _checked(parameters, RULES, box)

        def choose(kind, index, name):
            chosen = rule(kind, index, name)
            chosen, own = chosen if isinstance(chosen, tuple) else (chosen, {})
            if not isinstance(chosen, str) or chosen not in RULES:
                raise InputError(
                    f"the function rule= chose {chosen!r} for {name!r}; {nearest(chosen, RULES)}"
                )
            shared = {
                key: v
                for key, v in parameters.items()
                if key in (RULES[chosen].__kwdefaults__ or {})
            }
            return functools.partial(RULES[chosen], **_checked(shared | own, [chosen], box))

        return choose

    if not isinstance(rule, str) or rule not in COMPOSITES:
        raise InputError(f"unknown rule {rule!r}; {nearest(rule, COMPOSITES)}")
    first, conv, linear = COMPOSITES[rule]
    names = {name for name in (first, conv, linear) if name}
    fixed = (
        {"alpha", "beta"} if rule != "alpha_beta" else ()
    )  # a composite says in its name what they are
    values = _checked(parameters, names, box, fixed)

    def choose(kind, index, _name):
        chosen = first if first and index == 0 else linear if kind == "linear" else conv
        if (kind, chosen) == (
            "norm",
            "alpha_beta",
        ):  # of one input per unit alpha would make more at every step
            chosen = "z+"
        return functools.partial(
            RULES[chosen], **{key: values[key] for key in RULES[chosen].__kwdefaults__ or ()}
        )

    return choose


def _checked(values, rules, box, fixed=()):
    """The parameters of these rules, with defaults for those not given."""
    defaults = {key: v for name in rules for key, v in (RULES[name].__kwdefaults__ or {}).items()}
    free = sorted(set(defaults) - set(fixed))
    for key in values:
        if key not in free:
            has = "its parameters: " + ", ".join(free) if free else "it has no parameters"
            raise InputError(f"this rule has no parameter {key!r}; {has}")
    p = defaults | values
    for key in {"epsilon", "gamma", "alpha", "beta"} & set(p):
        if (
            isinstance(p[key], bool)
            or not isinstance(p[key], numbers.Real)
            or not math.isfinite(p[key])
        ):
            raise InputError(f"{key} must be a number, got {p[key]!r}")
    if p.get("epsilon", 1) <= 0:
        raise InputError(f"epsilon must be above 0, got {p['epsilon']}; rule '0' does without")
    if p.get("gamma", 0) < 0:
        raise InputError(f"gamma must not be below 0, got {p['gamma']}")
    if "alpha" in p and (p["beta"] < 0 or abs(p["alpha"] - p["beta"] - 1) > 1e-9):
        raise InputError(
            f"alpha - beta must be 1 and beta not below 0, got {p['alpha']} and {p['beta']}; try 2 and 1"
        )
    if "low" in p:
        p |= {
            key: _bound(key, v if p[key] is None else p[key])
            for key, v in zip(("low", "high"), box, strict=True)
        }
        if (p["low"] >= p["high"]).any():
            raise InputError(
                "low must be below high: the darkest and the brightest value a pixel can have, normalised"
            )
    return p


def _bound(key, v):
    """A number, one per channel, or an image, as (3, 1, 1) or (3, H, W)."""
    try:
        t = torch.as_tensor(v)
        t = (
            t.reshape(-1, 1, 1).expand(3, 1, 1)
            if t.numel() in (1, 3)
            else t.reshape(3, *t.shape[-2:])
        )
    except (TypeError, ValueError, RuntimeError) as error:
        got = tuple(v.shape) if isinstance(v, torch.Tensor) else repr(v)
        raise InputError(
            f"{key} must be a number, one per colour channel, or (3, H, W), got {got}"
        ) from error
    return t
