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

import math
from dataclasses import dataclass

import torch

from ..engine.contract import isolated, to_image_size
from ..engine.head import MAX_NUMBERS, Head, targets_of
from ..engine.layers import hooked, layer_name, layout_of
from ..engine.layouts import Axes
from ..engine.progress import progress, timed
from ..engine.target import SCORE_KINDS, is_function, target_values
from ..errors import InputError, one_of, whole_number
from ..networks import as_network, ready
from . import shapley

BASELINES = ("mean", "zero")
ESTIMATORS = ("auto", "exact", "permutation", "path")
MAX_ORDERS = 256  # of arrival, where the caller does not say how many
MAX_RUNS = 2**14  # of the head, to which the default number of orders is cut
MIN_ORDERS = 8
MAX_ERROR = 0.01  # of the path integral, as a share of |phi|; above it "auto" samples instead
PILOT = 64  # orders that say how many are needed
MAX_ORDERS_ON_TABLE = 2**17
MAX_SCORES_ON_TABLE = 2**30  # numbers that are computed for them: a few seconds
FEW_PLAYERS = 12  # whose 4,096 coalitions are no more work than a few hundred orders
TRIALS = 32  # pairs of scores that tell whether a function is affine
SPARE = 1.2  # times the orders that a pilot says are needed, for it is not exact


@dataclass
class ShapleyValues:
    """Shapley values of one image.

    :param phi: (h, w) float64
    :param gain: v(all) - v(none), their sum
    :param estimator: what computed them: "closed form", "exact", "path" or "permutations"
    :param error: how far off phi is, as a share of |phi|: 0 where exact; for the path integral an
        estimate, delta^2, the square of the size of its correction; for permutations the standard
        error

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
    scores and the second-order path integral for probabilities are derived in chapter 10.

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
        where they hold and can be trusted, else all coalitions of up to 12 positions, else orders
    :param samples: orders of arrival, where permutations are needed, in pairs of an order and its
        reverse. None: where there is a table of scores, as many as bring the standard error to 1 %,
        as far as that takes seconds; else 256, and fewer at layers of many positions, where each
        order needs as many runs of the head. What will take longer than a few seconds says so
        first, and shows a bar
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
    one_of("score", score, SCORE_KINDS)
    one_of("baseline", baseline, BASELINES)
    one_of("estimator", estimator, ESTIMATORS)
    net, x = ready(net, x)
    layer = layer_name(net, layer)
    heads = [Head(net.module, image, layer) for image in x.split(1)]
    values = []
    for head, its_target in zip(heads, targets_of(heads, target, net), strict=True):
        layout = layout_of(net.module, head.A, layer, head.x)
        game = Game(head, its_target, score, baseline, net, layout)
        values.append(_solve(game, estimator, samples, seed))
    return values


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
    if estimator == "permutation":
        return _sampled(game, samples, seed)
    by_path = None
    if has_table and (table := game.softmax_table()) is not None:
        phi, delta = shapley.path(*table)
        by_path = _result(game, "path", phi, delta**2)
        if estimator == "path" or by_path.error <= MAX_ERROR:
            return by_path
    elif has_table and game.is_affine():
        return _result(game, "closed form", game.of_each_position(), error=0.0)
    if game.P <= FEW_PLAYERS:
        return _result(game, "exact", shapley.exact(game, game.P), error=0.0)
    results = [_sampled(game, samples, seed), by_path]
    return min(filter(None, results), key=lambda values: values.error)


def _sampled(game, samples, seed):
    """The values by orders of arrival; where it takes long, with a bar."""
    if samples is None:
        samples = _orders_needed(game, seed)
    elif whole_number("samples", samples, least=2):
        samples = max(4, samples + samples % 2)  # two pairs, or more
    runs = samples * (game.P + 1)
    with progress(f"Shap-CAM: {runs:,} coalitions", runs, _seconds(game)) as game.done:
        phi, error = shapley.permutations(game, game.P, samples, seed, "paired")
    share = error.norm() / phi.norm().clamp(min=shapley.TINY)
    return _result(game, "permutations", phi, share)


def _seconds(game):
    """What the value of one coalition takes."""
    if game.has_table:
        _, seconds = timed(lambda: game.along(torch.arange(game.P)[None]))
        return seconds / (game.P + 1)
    _, seconds = timed(lambda: game(_nobody_and_all(game.P)))
    return seconds / 2


def _orders_needed(game, seed):
    """How many orders bring the standard error to `MAX_ERROR`; without a table, as many as may be.

    A pilot says it; its own orders are drawn again.
    """
    if game.L is None:
        return _orders_without_table(game.P)
    phi, error = shapley.permutations(game, game.P, PILOT, seed, "paired")
    share = (error.norm() / phi.norm().clamp(min=shapley.TINY)).item()
    needed = math.ceil(PILOT * SPARE * (share / MAX_ERROR) ** 2)
    affordable = MAX_SCORES_ON_TABLE // game.L.numel()
    return max(PILOT, min(needed, affordable, MAX_ORDERS_ON_TABLE) // 2 * 2)


def _orders_without_table(P):
    """How many orders of arrival there are if the caller does not say: fewer for more positions."""
    return max(MIN_ORDERS, min(MAX_ORDERS, MAX_RUNS // (P + 1)) // 2 * 2)


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
        at_once = max(1, MAX_NUMBERS // self.A.numel())
        parts = S.split(at_once)
        return torch.cat([self.value(self._from_maps(part), len(part)) for part in parts])

    @property
    def has_table(self):
        """Does a table stand in for a run of the head, or for its first part?"""
        return self.L is not None or self.D is not None

    def along(self, order):
        """The values along orders of arrival (B, P), as `shapley.values_along` wants them.

        On a table each player that arrives adds a row to a running sum.
        """
        form = (len(order), self.P + 1)
        if not self.has_table:
            return self(shapley.arrived(order).flatten(0, 1)).unflatten(0, form)
        start, rows = (self.b, self.L) if self.L is not None else (self.d, self.D)
        added = rows[order.to(rows.device)].cumsum(1)
        sums = start + torch.cat([torch.zeros_like(added[:, :1]), added], 1)
        out = sums.flatten(0, 1) if self.L is not None else self.above(sums.flatten(0, 1))
        if self.done:
            self.done(len(out))
        return self.value(out, len(out)).unflatten(0, form)

    def value(self, out, B):
        """What is asked of the scores (B, K), or of whatever else the head returns: (B,) float64.

        On the CPU: some devices have no float64. A function of the caller's sees what the network
        would return.
        """
        if isinstance(out, torch.Tensor) and not is_function(self.c):
            out = out.cpu().double()
        return target_values(out, self.c, self.net, B, self.score).cpu().double()

    def is_affine(self):
        """Is the value affine in the scores, so that each position adds what it adds alone?

        It is tried on noise. Along the coalitions of one game a function that is nearly constant
        there would look straight.
        """
        if isinstance(self.c, int) and self.score == "logit":
            return True
        generator = torch.Generator().manual_seed(0)
        trials = (2, TRIALS, len(self.b))
        S, T = torch.randn(trials, generator=generator, dtype=torch.float64).to(self.b)
        both, first, second, none = (
            self.value(scores, TRIALS) for scores in (S + T, S, T, torch.zeros_like(S))
        )
        tolerance = torch.finfo(torch.float64).eps ** 0.5 * (first.abs() + second.abs())
        return bool(((both - first - second + none).abs() <= tolerance).all())

    def of_each_position(self):
        """What each position adds to the baseline's value, alone: (P,)."""
        return self.value(self.b + self.L, self.P) - self.value(self.b[None], 1)

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
        if self.P * self.A.numel() > 4 * MAX_NUMBERS:  # all positions alone, at once
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
