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

from ..engine.contract import class_indices, isolated, to_image_size
from ..engine.head import Head
from ..engine.layers import check_maps, hooked
from ..errors import InputError, one_of
from ..networks import ready
from . import shapley

SCORES = ("logit", "probability")
BASELINES = ("mean", "zero")
ESTIMATORS = ("auto", "exact", "permutation", "path")
MAX_BATCH_NUMBERS = 2**25  # numbers in the maps that go through a head at once
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
    samples=256,
    seed=0,
    relu=True,
):
    """The map of the Shapley values of a layer's positions.

    Source: Zheng et al. 2022, arXiv 2208.03608 (the game, and sampling it). The closed form for
    scores and the second-order path integral for probabilities are derived in chapter 7.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer: name of a module that puts out maps (N, C, h, w); None: the last spatial layer
    :param score: "logit", or "probability" after the softmax
    :param baseline: what an absent position shows: "mean" of its channels, or "zero"
    :param estimator: "exact" (all coalitions, at most 20 positions), "permutation" (unbiased),
        "path" (probabilities, heads with a table), or "auto": the closed form or the path integral
        where they hold and can be trusted
    :param samples: orders of arrival, where permutations are needed
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
    samples=256,
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
    layer = net.layer if layer is None else layer
    heads = [Head(net.module, image[None], layer) for image in x]
    check_maps(heads[0].A, layer, N=1)
    S = torch.cat([head.S for head in heads])
    targets = class_indices(S, target, net.classes).tolist()
    games = [Game(head, c, score, baseline) for head, c in zip(heads, targets, strict=True)]
    return [_solve(game, estimator, samples, seed) for game in games]


def _solve(game, estimator, samples, seed):
    """The Shapley values of one game, by the estimator asked for."""
    has_table = game.L is not None
    if estimator == "path" and not has_table:
        raise InputError(
            "this head is not position-wise, so there is no path integral; "
            "use estimator='permutation'"
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
    if game.score == "logit":
        return _result(game, "closed form", game.L[:, game.c], error=0.0)
    phi, delta = shapley.path(game.L, game.b, game.c)
    if estimator == "auto" and delta > MAX_CORRECTION:
        return _result(game, "Sobol permutations", *_sampled(game, samples, seed, sobol=True))
    return _result(game, "path", phi, delta)


def _sampled(game, samples, seed, sobol=False):
    """phi (P,), and its standard error as a share of |phi|."""
    phi, error = shapley.permutations(game, game.P, samples, seed, sobol)
    return phi, error.norm() / phi.norm().clamp(min=shapley.TINY)


def _result(game, estimator, phi, error):
    nobody_and_all = torch.tensor([[False], [True]]).expand(2, game.P)
    ends = game(nobody_and_all)
    gain = (ends[1] - ends[0]).item()
    return ShapleyValues(phi.view(game.h, game.w), gain, estimator, float(error))


class Game:
    """v: coalitions (B, P) bool -> the score of class c, (B,), where only their positions are seen.

    :param head: `Head`, the network above the layer, for one image
    :param c: index of the class
    :param score: "logit", or "probability"
    :param baseline: what an absent position shows: "mean", or "zero"

    L (P, K), b (K,): the table of a position-wise head, else None. D (P, M), d (M,): the table of
    the first fully connected layer of another head, where there is one, else None.
    """

    L = None
    b = None
    D = None
    d = None

    def __init__(self, head, c, score="logit", baseline="mean"):
        self.head = head
        self.c = c
        self.score = score
        self.h, self.w = head.A.shape[2:]
        self.P = self.h * self.w
        self.A = head.A[0].flatten(1).T
        self.base = self.A.mean(0) if baseline == "mean" else torch.zeros_like(self.A[0])
        if not self._make_position_table():
            self._make_linear_table()

    def __call__(self, S):
        scores = self.scores(S).double()
        if self.score == "probability":
            scores = scores.softmax(1)
        return scores[:, self.c]

    def scores(self, S):
        """All K class scores of coalitions, (B, K), by the quickest way there is."""
        if self.L is not None:
            return self._from_position_table(S)
        if self.D is not None:
            return self._from_linear_table(S)
        at_once = max(1, MAX_BATCH_NUMBERS // self.A.numel())
        return torch.cat([self._from_maps(part) for part in S.split(at_once)])

    def maps(self, S):
        """The layer's maps (B, C, h, w) where only the positions in S are present."""
        present = S[:, :, None].to(self.A.device)
        return torch.where(present, self.A, self.base).mT.unflatten(2, (self.h, self.w))

    def _from_maps(self, S):
        return self.head(self.maps(S))

    def _from_position_table(self, S):
        return self.b + S.to(self.L) @ self.L

    def _from_linear_table(self, S):
        return self.above(self.d + S.to(self.D) @ self.D)

    def _make_position_table(self):
        """L_i = (g(A_i) - g(base)) / P; g is the head's answer to a map of one position.

        It is kept only where it gives the head's scores in numbers. Returns whether it does.
        """
        pixels = torch.cat([self.A, self.base[None]])[:, :, None, None]
        try:
            g = self.head(pixels).double()
        except (RuntimeError, InputError):  # the head wants maps of its own size
            return False
        self.L = (g[:-1] - g[-1]) / self.P
        self.b = g[-1]
        if not self._gives_the_same(self._from_position_table):
            self.L = None
            self.b = None
        return self.L is not None

    def _make_linear_table(self):
        """The head's first fully connected layer puts out d + sum_{i in S} D_i; `above` goes on.

        It is kept only where that gives the head's scores in numbers.
        """
        if self.P * self.A.numel() > 4 * MAX_BATCH_NUMBERS:  # all positions alone, at once
            return
        name, h = self._first_linear_output()
        if name is None or h.ndim != 2:
            return
        self.above = Head(self.head.module, self.head.x, name)
        self.D = h[:-1] - h[-1]
        self.d = h[-1]
        if not self._gives_the_same(self._from_linear_table):
            self.D = None
            self.d = None

    def _first_linear_output(self):
        """Name and output of the first fully connected layer above, for each position alone.

        The last row is that of the empty coalition. (None, None) where there is no such layer.
        """
        each_alone_then_nobody = torch.cat([torch.eye(self.P), torch.zeros(1, self.P)]) > 0
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
            self._from_maps(each_alone_then_nobody)
        return outputs[0] if outputs else (None, None)

    def _gives_the_same(self, table):
        """Does a table give the head's scores for nobody, for all, and for random coalitions?

        Only differences of the size of rounding errors are accepted. An almost additive head is
        refused.
        """
        draws = 4 if self.P > 8 else 32  # with few players many draws are alike
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(draws, self.P, generator=generator)
        S = share < torch.rand(draws, 1, generator=generator)
        nobody_and_all = torch.tensor([[False], [True]]).expand(2, self.P)
        S = torch.cat([S, nobody_and_all])
        with isolated(grad=False):
            scores = table(S).double()
            wanted = self._from_maps(S).double()
        eps = torch.finfo(self.A.dtype).eps
        # Errors grow with the differences between coalitions and with the scores themselves.
        span = (wanted - wanted[:1]).abs().max()
        tolerance = eps**0.5 * span + 100 * eps * wanted.abs().max()
        same_shape = scores.shape == wanted.shape
        return same_shape and bool((scores - wanted).abs().max() <= tolerance)
