"""Shap-CAM: each position of a layer's maps gets its Shapley value for the class score.

Source: Zheng, Wang, Zhou, Lu 2022. The players are the P = h w positions of a layer. An absent
position shows a baseline: its channels' means, or 0. The paper sends sampled coalitions through the
network. Here the network runs once. What happens then depends on the head, the part of the network
above the layer:

- Position-wise steps, a mean over positions, a linear layer: the scores of a coalition S are b +
  sum_{i in S} L_i with one table L (P, K). On scores the Shapley values are a column of L. On
  probabilities they are a path integral.
- Any other head: many coalitions go through the head in one batch. Where its first fully connected
  layer is a sum over the coalition's positions, a table gives that layer's output, and only what
  stands above it runs.
"""

from dataclasses import dataclass

import torch

from ..engine.contract import isolated, to_image_size
from ..engine.head import Head
from ..engine.layers import hooked, layer_name, layout_of
from ..engine.layouts import Axes
from ..engine.progress import progress, timed
from ..engine.target import (
    class_outputs,
    is_function,
    one_by_one,
    target_scores,
    target_values,
)
from ..errors import InputError, one_of
from ..networks import as_network, ready
from . import shapley

SCORES = ("logit", "probability")
BASELINES = ("mean", "zero")
ESTIMATORS = ("auto", "exact", "permutation", "path")
MAX_BATCH_NUMBERS = 2**25  # numbers in the maps that go through a head at once
MAX_ORDERS = 256  # of arrival, where the caller does not say how many
MAX_RUNS = 2**14  # of the head, to which the default number of orders is cut
MIN_ORDERS = 8
MAX_CORRECTION = 0.2  # relative size of the second-order term; above it "auto" samples instead


@dataclass
class ShapleyValues:
    """Shapley values of one image.

    :param phi: (h, w) float64
    :param gain: v(all) - v(none), their sum
    :param estimator: what computed them: "closed form", "exact", "path", "permutations" or "Sobol
        permutations"
    :param error: 0 where exact; delta of the path integral, the size of its correction; for
        permutations the standard error, as a share of |phi|

    >>> xcnn.shap_cam_values(net, x, "clock", score="probability")[0].estimator
    'path'
    """

    phi: torch.Tensor
    gain: float
    estimator: str
    error: float


def shap_cam(
    net,
    x,
    target=None,
    layer=None,
    score="logit",
    baseline="mean",
    estimator="auto",
    samples=None,
    seed=0,
    relu=True,
):
    """The map of the Shapley values of a layer's positions.

    Source: Zheng et al. 2022, arXiv 2208.03608 (the game, and sampling it). The closed form for
    scores and the second-order path integral for probabilities are derived in chapter 7.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function of what the network returns
    :param layer: a submodule that puts out maps, or its name; None: the last spatial layer
    :param score: of a class: "logit", or its "probability". What `versus` or a function gives is
        taken as it is
    :param baseline: what an absent position shows: "mean" of its channels, or "zero"
    :param estimator: "exact" (all coalitions, at most 20 positions), "permutation" (unbiased),
        "path" (probabilities, heads with a table), or "auto": the closed form or the path integral
        where they hold and can be trusted
    :param samples: orders of arrival, where permutations are needed; None: 256, and fewer at layers
        of many positions, where each order needs as many runs of the head. What will take longer
        than a few seconds says so first, and shows a bar
    :param seed: of the random orders
    :param relu: keep only what speaks for the class; False: the signed map
    :return: (N, 1, H, W), enlarged bilinearly
    :raises InputError: see `ready`; unknown layer, score, baseline, estimator, or one that cannot
        be used

    >>> R = xcnn.shap_cam(net, x, "clock", score="probability")
    >>> tuple(R.shape)
    (1, 1, 128, 128)
    """
    values = shap_cam_values(net, x, target, layer, score, baseline, estimator, samples, seed)
    phi = torch.stack([v.phi for v in values])[:, None].to(x)
    return to_image_size(phi.relu() if relu else phi, x)


def shap_cam_values(
    net,
    x,
    target=None,
    layer=None,
    score="logit",
    baseline="mean",
    estimator="auto",
    samples=None,
    seed=0,
):
    """The Shapley values of a layer's positions, how they were computed, and how far off they are.

    Arguments and errors as in `shap_cam`, which draws these values.

    :return: list of N `ShapleyValues`

    >>> v = xcnn.shap_cam_values(net, x, "clock", score="probability")[0]
    >>> round(abs(v.phi.sum().item() - v.gain), 6)  # the shares add up
    0.0
    """
    one_of("score", score, SCORES)
    one_of("baseline", baseline, BASELINES)
    one_of("estimator", estimator, ESTIMATORS)
    net, x = ready(net, x)
    layer = layer_name(net, layer)
    heads = [Head(net.module, image, layer) for image in x.split(1)]
    values = []
    for head, its_target in zip(heads, _targets(heads, target, net), strict=True):
        layout = layout_of(net.module, head.A, layer, head.x)
        orders = samples or _default_orders(layout.maps(head.A))
        game = Game(head, its_target, score, baseline, net, layout)
        values.append(_solve(game, estimator, orders, seed))
    return values


def _targets(heads, target, net):
    """The settled target of each image."""
    outputs = [head.S for head in heads]
    if is_function(target):
        target_scores(outputs[0], target, net, N=1)
        return [target] * len(heads)
    S = torch.cat([class_outputs(out, N=1) for out in outputs])
    return one_by_one(S, target, net, len(heads))


def _default_orders(A):
    """How many orders of arrival there are if the caller does not say: fewer for more positions."""
    positions = A[0, 0].numel()
    return max(MIN_ORDERS, min(MAX_ORDERS, MAX_RUNS // (positions + 1)))


def _solve(game, estimator, samples, seed):
    """The Shapley values of one game, by the estimator asked for."""
    has_table = game.L is not None
    if estimator == "path" and (not has_table or game.softmax_table() is None):
        raise InputError(
            "there is a path integral for the probability of a class alone, and not where the "
            "head is not position-wise; use estimator='permutation'"
        )
    if estimator == "exact":
        if game.P > shapley.MAX_PLAYERS:
            raise InputError(
                f"{game.P} players have 2^{game.P} coalitions; exact values are "
                f"for 1 to {shapley.MAX_PLAYERS}: use estimator='permutation'"
            )
        return _result(game, "exact", shapley.exact(game, game.P), error=0.0)
    if estimator == "permutation" or not has_table:
        return _result(game, "permutations", *_sampled(game, samples, seed))
    if game.is_affine():
        return _result(game, "closed form", game.of_each_position(), error=0.0)
    table = game.softmax_table()
    if table is None:
        return _result(game, "Sobol permutations", *_sampled(game, samples, seed, sobol=True))
    phi, delta = shapley.path(*table)
    if estimator == "auto" and delta > MAX_CORRECTION:
        return _result(game, "Sobol permutations", *_sampled(game, samples, seed, sobol=True))
    return _result(game, "path", phi, delta)


def _sampled(game, samples, seed, sobol=False):
    """phi (P,), and its standard error as a share of |phi|."""
    _, seconds = timed(lambda: game(_nobody_and_all(game.P)))
    runs = samples * (game.P + 1)
    with progress(f"Shap-CAM: {runs:,} runs above the layer", runs, seconds / 2) as game.done:
        phi, error = shapley.permutations(game, game.P, samples, seed, sobol)
    return phi, error.norm() / phi.norm().clamp(min=shapley.TINY)


def _adds_up(half, other_half, nobody, everybody):
    """Are two halves of the players worth together what all are worth, up to rounding?"""
    difference = (half + other_half - nobody - everybody).abs().max()
    scale = torch.stack([half, other_half, nobody, everybody]).abs().max()
    return bool(difference <= torch.finfo(half.dtype).eps ** 0.5 * scale)


def _nobody_and_all(P):
    """The empty coalition and that of all P players, (2, P) bool."""
    return torch.tensor([[False], [True]]).expand(2, P)


def _result(game, estimator, phi, error):
    ends = game(_nobody_and_all(game.P))
    gain = (ends[1] - ends[0]).item()
    return ShapleyValues(phi.view(game.h, game.w), gain, estimator, float(error))


class Game:
    """v: coalitions (B, P) bool -> the score of class c, (B,), where only their positions are seen.

    :param head: `Head`, the network above the layer, for one image
    :param c: index of the class; or a settled `Contrast`, or a function of what the head returns
    :param score: "logit", or "probability" of a class
    :param baseline: what an absent position shows: "mean", or "zero"
    :param net: `Network`, for its `activation`; None: the head's module with the usual one
    :param layout: how the layer's output holds its maps, see `engine.layouts`

    L (P, K), b (K,): the table of a position-wise head, else None. D (P, M), d (M,): the table of
    the first fully connected layer of another head, where there is one, else None. done: None, or a
    function that is told how many maps have gone through the head.
    """

    done = None
    L = None
    b = None
    D = None
    d = None

    def __init__(self, head, c, score="logit", baseline="mean", net=None, layout=None):
        self.head = head
        self.c = c
        self.score = score
        self.net = as_network(head.module) if net is None else net
        self.layout = Axes() if layout is None else layout
        A = self.layout.maps(head.A)
        self.h, self.w = A.shape[2:]
        self.P = self.h * self.w
        self.A = A[0].flatten(1).T
        self.base = self.A.mean(0) if baseline == "mean" else torch.zeros_like(self.A[0])
        if isinstance(head.S, torch.Tensor) and head.S.ndim == 2:
            self._make_tables()

    def __call__(self, S):
        """By the quickest way there is."""
        if self.L is not None:
            return self.value(self._from_position_table(S), len(S))
        if self.D is not None:
            return self.value(self._from_linear_table(S), len(S))
        at_once = max(1, MAX_BATCH_NUMBERS // self.A.numel())
        parts = S.split(at_once)
        return torch.cat([self.value(self._from_maps(part), len(part)) for part in parts])

    def value(self, out, B):
        """What is asked of the scores (B, K), or of whatever else the head returns: (B,) float64.

        On the CPU: some devices have no float64. A function of the caller's sees what the network
        would return.
        """
        if isinstance(out, torch.Tensor) and not is_function(self.c):
            out = out.cpu().double()
        return target_values(out, self.c, self.net, B, self.score).cpu().double()

    def is_affine(self):
        """Is the value affine in the scores, so that each position adds what it adds alone?"""
        if isinstance(self.c, int) and self.score == "logit":
            return True
        return self._gives_the_same(self._added_up, self.__call__, torch.float64)

    def of_each_position(self):
        """What each position adds to the baseline's value, alone: (P,)."""
        return self.value(self.b + self.L, self.P) - self.value(self.b[None], 1)

    def _added_up(self, S):
        return self.value(self.b[None], 1) + S.to(self.L) @ self.of_each_position()

    def softmax_table(self):
        """L, b and c for which the value is softmax(b + sum L_i)_c; None where it is not one.

        A sigmoid is the softmax of the score and 0.
        """
        is_class = isinstance(self.c, int)
        if not is_class or self.score != "probability":
            return None
        activation = self.net.activation_of(self.head.S)
        if activation == "softmax":
            return self.L, self.b, self.c
        if activation == "sigmoid":
            own = [self.c, self.c]
            of_none = torch.tensor([0.0, 1.0]).to(self.L)
            return self.L[:, own] * of_none, self.b[own] * of_none, 1
        return None

    def maps(self, S):
        """The layer's maps (B, C, h, w) where only the positions in S are present."""
        present = S[:, :, None].to(self.A.device)
        return torch.where(present, self.A, self.base).mT.unflatten(2, (self.h, self.w))

    def _from_maps(self, S):
        if self.done:
            self.done(len(S))
        return self._head_of(self.maps(S))

    def _head_of(self, maps):
        """What the head returns for maps (B, C, h, w)."""
        return self.head(self.layout.output(maps, self.head.A))

    def _from_position_table(self, S):
        return self.b + S.to(self.L) @ self.L

    def _from_linear_table(self, S):
        return self.above(self.d + S.to(self.D) @ self.D)

    def _make_tables(self):
        """The table of the whole head, else that of its first fully connected layer, if any holds.

        Two halves of the players tell in four runs of the head which one cannot hold.
        """
        generator = torch.Generator().manual_seed(0)
        half = torch.rand(1, self.P, generator=generator) < 0.5
        coalitions = torch.cat([half, ~half, _nobody_and_all(self.P)])
        scores, _, h = self._with_first_linear(coalitions)
        has_table = _adds_up(*scores) and self._make_position_table()
        if not has_table and h is not None and h.ndim == 2 and _adds_up(*h):
            self._make_linear_table()

    def _make_position_table(self):
        """L_i = (g(A_i) - g(base)) / P; g is the head's answer to a map of one position.

        It is kept only where it gives the head's scores in numbers. Returns whether it does.
        """
        pixels = torch.cat([self.A, self.base[None]])[:, :, None, None]
        try:
            g = self._head_of(pixels).cpu().double()
        except (RuntimeError, InputError):  # the head wants maps of its own size
            return False
        self.L = (g[:-1] - g[-1]) / self.P
        self.b = g[-1]
        if not self._gives_the_same(self._from_position_table, self._from_maps, self.A.dtype):
            self.L = None
            self.b = None
        return self.L is not None

    def _make_linear_table(self):
        """The head's first fully connected layer puts out d + sum_{i in S} D_i; `above` goes on.

        It is kept only where that gives the head's scores in numbers.
        """
        if self.P * self.A.numel() > 4 * MAX_BATCH_NUMBERS:  # all positions alone, at once
            return
        each_alone_then_nobody = torch.cat([torch.eye(self.P), torch.zeros(1, self.P)]) > 0
        _, name, h = self._with_first_linear(each_alone_then_nobody)
        self.above = Head(self.head.module, self.head.x, name)
        self.D = h[:-1] - h[-1]
        self.d = h[-1]
        if not self._gives_the_same(self._from_linear_table, self._from_maps, self.A.dtype):
            self.D = None
            self.d = None

    def _with_first_linear(self, S):
        """The scores of coalitions (B, P), with name and output of the first linear layer above.

        Name and output are None where there is no such layer.
        """
        outputs = []
        layer_has_run = []

        def note_layer(*_):
            layer_has_run.append(True)

        def note(name):
            def hook(_module, _inputs, h):
                # `clone` is itself a call. Below the layer the replay counts calls, so we must
                # not add one.
                if layer_has_run:
                    outputs.append((name, h.clone()))

            return hook

        linear = [
            (part, note(name))
            for name, part in self.head.module.named_modules()
            if isinstance(part, torch.nn.Linear)
        ]
        with hooked([(self.head.layer, note_layer), *linear]):
            scores = self._from_maps(S)
        return scores, *(outputs[0] if outputs else (None, None))

    def _gives_the_same(self, table, way, dtype):
        """Does a table give what another way gives for nobody, for all, and for some coalitions?

        Only differences of the size of rounding errors are accepted. An almost additive head is
        refused.
        """
        draws = 4 if self.P > 8 else 32  # with few players many draws are alike
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(draws, self.P, generator=generator)
        S = share < torch.rand(draws, 1, generator=generator)
        S = torch.cat([S, _nobody_and_all(self.P)])
        with isolated(grad=False):
            scores = table(S).cpu().double()
            wanted = way(S).cpu().double()
        eps = torch.finfo(dtype).eps
        # Errors grow with the differences between coalitions and with the scores themselves.
        span = (wanted - wanted[:1]).abs().max()
        tolerance = eps**0.5 * span + 100 * eps * wanted.abs().max()
        same_shape = scores.shape == wanted.shape
        return same_shape and bool((scores - wanted).abs().max() <= tolerance)
