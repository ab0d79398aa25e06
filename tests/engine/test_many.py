"""Many pictures of one image: scores and gradients do not depend on how many run together."""

import pytest
import torch
import xcnn
from xcnn.engine.many import at_once, gradients_of_many, scores_of_many

from tests.helpers.oracles import TARGETS, batch, network

X = batch(128)
OTHERS = torch.stack([X, X / 2, -X])  # three versions of three images


def by_autograd(module, x, f):
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(f(module(x)).sum(), x)
    return dx


@pytest.mark.parametrize(
    ("target", "f"),
    [
        (TARGETS, lambda S: S[range(3), TARGETS]),
        (xcnn.versus(TARGETS, [0, 0, 2]), lambda S: S[range(3), TARGETS] - S[range(3), [0, 0, 2]]),
        (lambda S: S[range(3), TARGETS].square(), lambda S: S[range(3), TARGETS].square()),
    ],
)
def test_gradients_at_each_version(target, f):
    net = network("resnet_s")
    got = gradients_of_many(net, OTHERS, target)
    for version, dx in zip(OTHERS, got, strict=True):
        assert torch.allclose(dx, by_autograd(net.module, version, f), atol=1e-12)


def test_the_rivals_of_all_classes():
    net = network("allconv_s")
    got = gradients_of_many(net, OTHERS, xcnn.versus(TARGETS))
    for version, dx in zip(OTHERS, got, strict=True):
        assert torch.allclose(dx, xcnn.gradient(net, version, xcnn.versus(TARGETS)), atol=1e-12)


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_scores_of_batches(score):
    net = network("vgg_s")
    told = []
    got = scores_of_many(net, X.split(2), 4, score, told.append)
    S = net.module(X).detach()
    wanted = S[:, 4] if score == "logit" else S.softmax(1)[:, 4]
    assert torch.allclose(got, wanted, atol=1e-12) and got.dtype == torch.float64
    assert told == [2, 1]


def test_how_many_at_once():
    assert at_once(torch.zeros(3, 128, 128)) == 24
    assert at_once(torch.zeros(3, 128, 128), most=5) == 5
    assert at_once(torch.zeros(1, 3, 448, 448)) == 2
    assert at_once(torch.zeros(1, 9000, 9000)) == 1
