"""The rules of layer-wise relevance propagation for one layer, z_k = sum_j a_j w_jk + b_k.

A rule takes a layer and R, the relevance R_k of its outputs, and returns that of its inputs. Each
output hands down its relevance in proportion to what each input contributed to it. The rules differ
in what counts as a contribution. z_k+ is the sum of the positive contributions,
sum_j (a_j w_jk)+ + b_k+, and not the positive part of z_k; likewise z_k-.

Bach et al. 2015: doi 10.1371/journal.pone.0130140. Montavon et
al. 2017: arXiv 1512.02479. Montavon et al. 2019: doi 10.1007/978-3-030-28954-6_10.
"""

import copy
import functools
import math

import torch
import torch.nn.functional as F

from ..engine.fast import shortcut, sum_of_linear
from ..errors import InputError


def share(R, z):
    """R / z, and 0 where z is 0: there is nothing that R could be handed down to."""
    return (R / z).nan_to_num_(0, 0, 0)


def positive(v):
    """v+, the positive values of v, and 0 in place of the others; None stays None."""
    return None if v is None else v.clamp(min=0)


def negative(v):
    """v-, the negative values of v, and 0 in place of the others; None stays None."""
    return None if v is None else v.clamp(max=0)


class Contributions:
    """z_k = sum_j a_j w_jk + b_k over one or more pairs (a, w), and the way from z back to the a.

    :param f: the linear operation, f(a, w, b)
    :param pairs: inputs a and weights w
    :param b: bias, or None
    """

    def __init__(self, f, *pairs, b=None):
        self.f = f
        with torch.enable_grad():
            self.a = [a.detach().requires_grad_() for a, _ in pairs]
            self.z = sum_of_linear(f, self.a, [w for _, w in pairs], b)

    def back(self, s):
        """R_j = a_j sum_k w_jk s_k: what the backward pass brings from s, times the input."""
        c = torch.autograd.grad(self.z, self.a, s, retain_graph=True)
        products = [a.detach() * c for a, c in zip(self.a, c, strict=True)]
        return functools.reduce(torch.add, products)


class Layer(Contributions):
    """One call of a linear operation, with a batch norm folded in where one follows.

    For a rule of your own: `a[0]` is the input, `z` the output before any rule, `weights` are w and
    b. `back(s)` is a_j sum_k w_jk s_k; `positive_part().back(s)` and `negative_part().back(s)` are
    the same with (a_j w_jk)+ and (a_j w_jk)- alone.

    :param f: the linear operation, f(a, w, b)
    :param a, w, b: input, weights, bias
    :param times: function (w, factors of the output channels) -> w times them; None: a batch norm
        that follows cannot be folded in
    :param from_pixels: function (images) -> what this layer gets of them, where no layer lies
        between; None: it gets the output of other layers
    """

    def __init__(self, f, a, w, b=None, times=None, from_pixels=None):
        super().__init__(f, (a, w), b=b)
        self.times = times
        self.from_pixels = from_pixels
        self._unfolded = (w, b)
        self._norms = []

    @functools.cached_property
    def weights(self):
        """w and b. They are folded when a rule asks for them: some rules do not."""
        w, b = self._unfolded
        for norm in self._norms:
            factor, shift = norm.factor_and_shift()
            w = self.times(w, factor)
            b = shift if b is None else b * factor + shift
        return w, b

    def fold(self, norm):
        """This layer with a batch norm behind it, as one layer.

        :param norm: `Norm`
        """
        folded = copy.copy(self)
        folded.__dict__.pop("weights", None)
        folded._norms = [*self._norms, norm]
        with torch.enable_grad():
            folded.z = norm(self.z)
        return folded

    def positive_part(self):
        """Positive contributions, (a w)+ = a+ w+ + a- w-, with b+."""
        return self._part(positive, negative)

    def negative_part(self):
        """Negative contributions, (a w)- = a+ w- + a- w+, with b-."""
        return self._part(negative, positive)

    def _part(self, same, other):
        """same: of weights that meet a+, and of the bias. other: of weights that meet a-."""
        (a,) = self.a
        w, b = self.weights
        if a.min() < 0:
            pairs = [(positive(a), same(w)), (negative(a), other(w))]
        else:  # there is no a-
            pairs = [(a, same(w))]
        return Contributions(self.f, *pairs, b=same(b))


class Norm:
    """A batch norm with the statistics of the training: one factor and one shift per channel."""

    def __init__(self, mean, var, weight, bias, eps):
        self.mean = mean
        self.var = var
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, z):
        return F.batch_norm(z, self.mean, self.var, self.weight, self.bias, eps=self.eps)

    def factor_and_shift(self):
        """The norm as z_k * factor_k + shift_k."""
        factor = (self.var + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight.detach()
        shift = -self.mean * factor
        return factor, shift if self.bias is None else shift + self.bias.detach()

    def split(self, sizes):
        """The same for each of several parts of the channels."""
        statistics = (self.mean, self.var, self.weight, self.bias)
        parts = [[None] * len(sizes) if v is None else v.split(sizes) for v in statistics]
        return [Norm(*part, self.eps) for part in zip(*parts, strict=True)]


def rule_0(layer, R):
    """R_j = sum_k a_j w_jk / z_k R_k. Bach et al. 2015, eq. 56; Montavon et al. 2019, LRP-0.

    >>> R = xcnn.lrp(net, x, "clock", rule="0")
    >>> tuple(R.shape)
    (1, 3, 128, 128)
    """
    return layer.back(share(R, layer.z))


def rule_epsilon(layer, R, *, epsilon=1e-6):
    """R_j = sum_k a_j w_jk / (z_k + epsilon sign z_k) R_k. Bach et al. 2015, eq. 58.

    >>> R = xcnn.lrp(net, x, "clock", rule="epsilon", epsilon=0.01)
    """
    z = layer.z.detach()
    return layer.back(R / (z + torch.copysign(z.new_tensor(epsilon), z)))


def rule_gamma(layer, R, *, gamma=0.25):
    """R_j = sum_k [a_j w_jk + gamma (a_j w_jk)+] / [z_k + gamma z_k+] R_k where z_k > 0.

    Where z_k < 0, the same with ()- in place of ()+. Montavon et al. 2019, LRP-gamma; for inputs
    and outputs of both signs Andeol et al. 2021.

    >>> R = xcnn.lrp(net, x, "clock", rule="gamma", gamma=0.1)
    """
    z = layer.z
    P = layer.positive_part()
    s = share(R, z + gamma * torch.where(z < 0, z - P.z, P.z))
    # (a w)- = a w - (a w)+, so one part serves both signs.
    of_layer = torch.where(z < 0, (1 + gamma) * s, s)
    of_part = torch.where(z < 0, -gamma * s, gamma * s)
    return layer.back(of_layer) + P.back(of_part)


def rule_alpha_beta(layer, R, *, alpha=2.0, beta=1.0):
    """R_j = sum_k [alpha (a_j w_jk)+ / z_k+ - beta (a_j w_jk)- / z_k-] R_k.

    Bach et al. 2015, eq. 60, to the letter. A unit with positive contributions only hands down
    alpha R_k, one with negative contributions only hands down -beta R_k: there R is not conserved.

    >>> R = xcnn.lrp(net, x, "clock", rule="alpha_beta", alpha=2, beta=1)
    """
    P = layer.positive_part()
    N = layer.negative_part()
    return alpha * P.back(share(R, P.z)) - beta * N.back(share(R, N.z))


def rule_z_plus(layer, R):
    """R_j = sum_k (a_j w_jk)+ / z_k+ R_k: alpha = 1, beta = 0.

    Montavon et al. 2017, z+-rule (there a >= 0). A unit that has no positive contribution goes by
    rule 0: otherwise its relevance would be lost.

    >>> R = xcnn.lrp(net, x, "clock", rule="z+")
    """
    P = layer.positive_part()
    s = (R / P.z).nan_to_num_(0, math.inf, -math.inf)  # 0 / 0: nothing came, nothing is lost
    if shortcut(s.sum().isfinite()):
        return P.back(s)
    without = s.isinf()
    by_rule_0 = torch.where(without, share(R, layer.z), 0)
    return P.back(s.masked_fill(without, 0)) + layer.back(by_rule_0)


def rule_z_box(layer, R, *, low=None, high=None):
    """R_j = sum_k q_jk / (sum_j q_jk) R_k, q_jk = a_j w_jk - l_j w_jk+ - h_j w_jk-.

    Montavon et al. 2017, zB-rule. It asks for l_j <= a_j <= h_j, and is refused elsewhere. What a
    network does to the pixels before this layer is done to the bounds, too.

    :param low, high: bounds of the pixels, (C, 1, 1) or (C, H, W)
    :raises InputError: a layer that does not get the pixels; pixels outside of the bounds

    >>> R = xcnn.lrp(net, x, "clock", rule="zB", low=net.normalise(0), high=net.normalise(1))
    """
    w, b = layer.weights
    low, high = _bounds_of_input(layer, low, high)
    pairs = [(low, positive(w)), (high, negative(w))]
    box = Contributions(layer.f, *pairs, b=b)
    s = share(R, layer.z - box.z)
    return layer.back(s) - box.back(s)


BOX_SLACK = 0.01  # of the box: rounding in half precision, and what some resizing overshoots


def _bounds_of_input(layer, low, high):
    """The bounds of what a layer gets: those of the pixels, after what comes before the layer."""
    (a,) = layer.a
    if layer.from_pixels is None:
        raise InputError(
            "rule 'zB' is for the layer that gets the pixels, and this one gets "
            f"{tuple(a.shape)} from other layers; take 'w2', 'flat' or 'z+' here"
        )
    bounds = torch.stack([layer.from_pixels(bound) for bound in (low, high)])
    low, high = bounds.amin(0), bounds.amax(0)  # 1 - x makes the upper bound the lower one
    outside = torch.maximum(low - a, a - high)
    if (outside > BOX_SLACK * (high - low)).any():
        worst = outside.argmax()
        v, low, high = (values.flatten()[worst].item() for values in (a, low, high))
        raise InputError(
            f"rule 'zB' needs pixels between low and high: the first layer gets {v:.4g} where the "
            f"bounds are {low:.4g} and {high:.4g}. Normalise the picture with net.preprocess, or "
            "give low= and high=, the least and the largest value that x can have in each channel"
        )
    return low, high


def rule_w_square(layer, R):
    """R_j = sum_k w_jk^2 / sum_j w_jk^2 R_k, without the bias. Montavon et al. 2017, w2-rule.

    >>> R = xcnn.lrp(net, x, "clock", rule="w2")
    """
    w, _ = layer.weights
    return _whatever_the_input(layer, w**2, R)


def rule_flat(layer, R):
    """Every input of a unit gets the same. Lapuschkin et al. 2019.

    >>> R = xcnn.lrp(net, x, "clock", rule="flat")
    """
    w, _ = layer.weights
    return _whatever_the_input(layer, torch.ones_like(w), R)


def by_weights(layer, R):
    """The same for an average, whose weights are in its operation. For averages of pixels."""
    return _whatever_the_input(layer, None, R)


def _whatever_the_input(layer, w, R):
    """Shares in proportion to the weights alone, as if every input were 1."""
    V = Contributions(layer.f, (torch.ones_like(layer.a[0]), w))
    return V.back(share(R, V.z))


RULES = {
    "0": rule_0,
    "epsilon": rule_epsilon,
    "gamma": rule_gamma,
    "alpha_beta": rule_alpha_beta,
    "z+": rule_z_plus,
    "zB": rule_z_box,
    "w2": rule_w_square,
    "flat": rule_flat,
}
