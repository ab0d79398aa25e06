"""Shap-CAM: each position of a layer's maps gets its Shapley value for the class score (Zheng, Wang, Zhou, Lu 2022).

The players are the P = h w positions of a layer. An absent position shows a baseline: its channels' means, or 0. The
paper sends sampled coalitions through the network. Here the network runs once; what follows depends on its head:

- position-wise steps, a mean over positions, a linear map: the scores of a coalition S are b + sum_{i in S} L_i with
  one table L (P, K). On scores the Shapley values are a column of L; on probabilities they are a path integral.
- any other head: coalitions go through it many at once, up to the first fully connected layer by a table.
"""

from dataclasses import dataclass

import torch

from ..engine.contract import check, class_indices, own_grad_mode, to_image_size
from ..engine.head import Remainder
from ..engine.layers import hooked
from ..errors import InputError, nearest
from ..networks import as_network, last_layer
from . import shapley

SCORES, BASELINES = ("logit", "probability"), ("mean", "zero")
ESTIMATORS = ("auto", "exact", "permutation", "path")
TOGETHER = 2**25  # numbers in maps that go through a head at once
TRUST = 0.2  # where the second order corrects the first by more along the path, it is not trusted


@dataclass
class Values:
    """Shapley values of one image.

    :param phi: (h, w) float64
    :param gain: v(all) - v(none), their sum
    :param estimator: what found them
    :param error: 0 where exact; delta of the path integral, the size of its correction; for permutations the standard
        error, as a share of |phi|
    """

    phi: torch.Tensor
    gain: float
    estimator: str
    error: float


def shap_cam(net, x, target=None, layer=None, score="logit", baseline="mean", estimator="auto", samples=256, seed=0,
             relu=True):  # fmt: skip
    """The map of the Shapley values of a layer's positions.

    Source: Zheng et al. 2022, arXiv 2208.03608 (the game, and sampling it). The closed form for scores and the
    second-order path integral for probabilities are derived in chapter 7.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer: name of a module that puts out maps (N, C, h, w); None: the last spatial layer
    :param score: "logit", or "probability" after the softmax
    :param baseline: what an absent position shows: "mean" of its channels, or "zero"
    :param estimator: "exact" (all coalitions, at most 20 positions), "permutation" (unbiased), "path" (probabilities,
        heads with a table), or "auto": the closed form or the path integral where they hold and can be trusted
    :param samples: orders of arrival, where permutations are needed
    :param seed: of these orders
    :param relu: keep only what speaks for the class; False: the signed map
    :return: (N, 1, H, W), enlarged bilinearly; its attribute `values` holds the `Values` of each image
    :raises InputError: see `contract.check`; unknown layer, score, baseline, estimator, or one that cannot be used
    """
    for name, given, known in [("score", score, SCORES), ("baseline", baseline, BASELINES),
                               ("estimator", estimator, ESTIMATORS)]:  # fmt: skip
        if given not in known:
            raise InputError(f"unknown {name} {given!r}; {nearest(given, known)}")
    given, net = net, as_network(net)
    check(net.module, x)
    layer = last_layer(given, x) if layer is None else layer
    heads = [Remainder(net.module, one[None], layer) for one in x]
    if (A := heads[0].A).ndim != 4:
        raise InputError(
            f"layer {layer!r} puts out {tuple(A.shape)}, not maps (N, C, h, w); choose another layer"
        )
    targets = class_indices(torch.cat([head.S for head in heads]), target, net.classes).tolist()
    values = [
        _values(Game(head, c, score, baseline), estimator, samples, seed)
        for head, c in zip(heads, targets, strict=True)
    ]
    phi = torch.stack([one.phi for one in values])[:, None].to(x)
    R = to_image_size(phi.relu() if relu else phi, x)
    R.values = values
    return R


def _values(game, estimator, samples, seed):
    """The Shapley values of one game, by the estimator asked for."""
    P, error = game.P, 0.0
    if estimator == "path" and game.L is None:
        raise InputError(
            "this head is not position-wise, so there is no path integral; use estimator='permutation'"
        )
    if estimator == "exact":
        phi, name = shapley.exact(game, P), "exact"
    elif estimator != "permutation" and game.L is not None and game.score == "logit":
        phi, name = game.L[:, game.c], "closed form"
    elif estimator != "permutation" and game.L is not None:
        phi, error = shapley.path(game.L, game.b, game.c)
        name = "path"
    if estimator == "permutation" or (game.L is None and estimator == "auto"):
        phi, error, name = *_sampled(game, samples, seed), "permutations"
    elif estimator == "auto" and error > TRUST:
        phi, error, name = *_sampled(game, samples, seed, sobol=True), "Sobol permutations"
    ends = game(torch.tensor([[False] * P, [True] * P]))
    return Values(phi.view(game.h, game.w), (ends[1] - ends[0]).item(), name, float(error))


def _sampled(game, samples, seed, sobol=False):
    phi, error = shapley.permutations(game, game.P, samples, seed, sobol)
    return phi, error.norm() / phi.norm().clamp(min=1e-300)


class Game:
    """v: coalitions (B, P) bool -> the score of class c (B,), where only the positions of a coalition are seen.

    head: the network above the layer, for one image. L (P, K), b (K): the table of a position-wise head, else None.
    """

    def __init__(self, head, c, score="logit", baseline="mean"):
        self.head, self.c, self.score = head, c, score
        _, C, self.h, self.w = head.A.shape
        self.P = self.h * self.w
        self.A = head.A.view(C, self.P).T
        self.base = self.A.mean(0) if baseline == "mean" else torch.zeros_like(self.A[0])
        self.L, self.b = self._position_table()
        self.above, self.D, self.d = (
            (None, None, None) if self.L is not None else self._linear_table()
        )

    def __call__(self, S):
        scores = self.scores(S).double()
        return (scores.softmax(1) if self.score == "probability" else scores)[:, self.c]

    def scores(self, S):
        """All K class scores of coalitions, (B, K), by the quickest way there is."""
        if self.L is not None:
            return self.b + S.to(self.L) @ self.L
        if self.D is not None:
            return self.above(self.d + S.to(self.D) @ self.D)
        return torch.cat(
            [self.head(self.maps(some)) for some in S.split(max(1, TOGETHER // self.A.numel()))]
        )

    def maps(self, S):
        """The layer's maps (B, C, h, w) where only the positions in S are present."""
        return torch.where(S[:, :, None].to(self.A.device), self.A, self.base).mT.unflatten(
            2, (self.h, self.w)
        )

    def _position_table(self):
        """L_i = (g(A_i) - g(base)) / P, where g is the head's answer to a map of one position; checked in numbers."""
        try:
            g = self.head(torch.cat([self.A, self.base[None]])[:, :, None, None]).double()
        except (RuntimeError, InputError):  # the head wants maps of its own size
            return None, None
        L, b = (g[:-1] - g[-1]) / self.P, g[-1]
        return (
            (L, b)
            if self._holds(lambda S: b + S.to(L) @ L, lambda S: self.head(self.maps(S)))
            else (None, None)
        )

    def _linear_table(self):
        """The head's first fully connected layer of a coalition is d + sum_{i in S} D_i; and the network above it."""
        if self.P * self.A.numel() > 4 * TOGETHER:
            return None, None, None
        module, above, seen = self.head.module, [], []
        alone = (
            torch.cat([torch.eye(self.P), torch.zeros(1, self.P)]) > 0
        )  # each position alone, then none

        def note(name):
            def hook(_module, _inputs, h):
                if (
                    above
                ):  # calls below the layer are answered from memory, and must not become more
                    seen.append((name, h.clone()))

            return hook

        linear = [
            (part, note(name))
            for name, part in module.named_modules()
            if isinstance(part, torch.nn.Linear)
        ]
        with hooked([(self.head.layer, lambda *_: above.append(True)), *linear]):
            self.head(self.maps(alone))
        if not seen or seen[0][1].ndim != 2:
            return None, None, None
        name, h = seen[0]
        above, D, d = Remainder(module, self.head.x, name), h[:-1] - h[-1], h[-1]
        holds = self._holds(lambda S: above(d + S.to(D) @ D), lambda S: self.head(self.maps(S)))
        return (above, D, d) if holds else (None, None, None)

    def _holds(self, short, long):
        """Do both ways give the same scores for nobody, for all, and for coalitions drawn at random?"""
        generator, n = (
            torch.Generator().manual_seed(0),
            4 if self.P > 8 else 32,
        )  # of few players many draws are alike
        S = torch.rand(n, self.P, generator=generator) < torch.rand(n, 1, generator=generator)
        S = torch.cat([S, torch.tensor([[False], [True]]).expand(2, self.P)])
        with own_grad_mode(False):
            got, wanted = short(S).double(), long(S).double()
        eps = torch.finfo(
            self.A.dtype
        ).eps  # nearly additive is not additive: what differs must be rounding
        scale = eps**0.5 * (wanted - wanted[:1]).abs().max() + 100 * eps * wanted.abs().max()
        return got.shape == wanted.shape and bool((got - wanted).abs().max() <= scale)
