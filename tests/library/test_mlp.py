"""The multilayer network: the four equations against two other ways, and how it learns.

The other ways are autograd and finite differences.
"""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xcnn import InputError
from xcnn.mlp import MLP, SLOPE, relu, sigmoid, tanh

TORCH = {sigmoid: torch.sigmoid, tanh: torch.tanh, relu: torch.relu}
SEEDS = st.integers(0, 10_000)
UNITS = st.sampled_from([sigmoid, tanh, relu])
XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])


def example(sizes, f, seed, N):
    """A network with biases that are not 0, and a batch for it."""
    rng = np.random.default_rng(seed)
    net = MLP(sizes, f, seed)
    net.b = [rng.normal(0, 0.5, b.shape) for b in net.b]
    return net, rng.normal(size=(N, sizes[0])), rng.normal(size=(N, sizes[-1]))


def autograd(net, X, T):
    """Loss and gradients by PyTorch, in float64."""
    W, b = ([torch.tensor(p, requires_grad=True) for p in part] for part in (net.W, net.b))
    a = torch.tensor(X)
    for W_l, b_l in zip(W, b, strict=True):
        a = TORCH[net.f](torch.nn.functional.linear(a, W_l, b_l))
    E = ((a - torch.tensor(T)) ** 2).sum(1).mean() / 2
    return E.item(), *(torch.autograd.grad(E, part, retain_graph=True) for part in (W, b))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), UNITS, SEEDS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_the_four_equations_against_autograd(sizes, f, seed, N):
    net, X, T = example(sizes, f, seed, N)
    E, dW, db = autograd(net, X, T)
    assert np.isclose(net.loss(X, T), E, rtol=1e-12)
    for ours, theirs in zip(net.backprop(X, T), (dW, db), strict=True):
        for g, h in zip(ours, theirs, strict=True):
            assert g.shape == h.shape
            assert np.abs(g - h.numpy()).max() <= 1e-10 * max(np.abs(g).max(), 1e-3)


@pytest.mark.parametrize("f", [sigmoid, tanh, relu])
def test_finite_differences(f):
    net, X, T = example((3, 5, 4, 2), f, seed=1, N=6)
    for ours, params in zip(net.backprop(X, T), (net.W, net.b), strict=True):
        for g, p in zip(ours, params, strict=True):
            for i in np.ndindex(p.shape):
                old, E = p[i], []
                for h in (1e-6, -1e-6):
                    p[i] = old + h
                    E.append(net.loss(X, T))
                p[i] = old
                assert np.isclose(g[i], (E[0] - E[1]) / 2e-6, rtol=1e-5, atol=1e-8)


@given(UNITS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_a_batch_is_the_mean(f, seed):
    net, X, T = example((3, 4, 2), f, seed, N=5)
    each = [net.backprop(X[n : n + 1], T[n : n + 1]) for n in range(5)]
    for k, whole in enumerate(net.backprop(X, T)):
        for l, g in enumerate(whole):
            assert np.allclose(g, np.mean([dE[k][l] for dE in each], axis=0))


def test_by_hand():
    """The network of chapter 2: 2-2-1, ReLU, one unit off."""
    net = MLP((2, 2, 1), relu)
    net.W = [np.array([[1.0, 1], [2, -3]]), np.array([[2.0, 4]])]
    net.b = [np.array([0.0, 1]), np.array([-1.0])]
    z, a = net.forward([[1, 2]])
    assert [v.tolist() for v in z] == [[[3, -3]], [[5]]]
    assert [v.tolist() for v in a] == [[[1, 2]], [[3, 0]], [[5]]]
    dW, db = net.backprop([[1, 2]], [[3]])
    assert [g.tolist() for g in dW] == [[[4, 8], [0, 0]], [[6, 0]]]
    assert [g.tolist() for g in db] == [[4, 0], [2]]


def test_sigmoid_does_not_overflow():
    z = np.array([-1e308, -1000.0, -1, 0, 1, 1000, 1e308])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = sigmoid(z)
    assert y.tolist()[:2] == [0, 0] and y.tolist()[-2:] == [1, 1] and y[3] == 0.5
    assert np.isclose(y[4], 1 / (1 + np.exp(-1)), rtol=1e-15) and np.isclose(y[2] + y[4], 1)


@pytest.mark.parametrize("f", [sigmoid, tanh, relu])
def test_slopes(f):
    z = torch.linspace(-4, 4, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(TORCH[f](z).sum(), z)
    assert np.allclose(SLOPE[f](z.detach().numpy()), slope)
    assert SLOPE[relu](np.zeros(1)) == 0  # at its corner


def test_sgd_learns_xor():
    net = MLP((2, 3, 1))
    before = net.loss(*XOR)
    *_, after = net.sgd(*XOR, rate=10, epochs=2000, batch=4)
    assert after == net.loss(*XOR) < before / 20 and (net(XOR[0]).round() == XOR[1]).all()


@given(UNITS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_small_step_against_the_gradient_lowers_the_loss(f, seed):
    net, X, T = example((3, 4, 2), f, seed, N=8)
    dW, db = net.backprop(X, T)
    assume(any(g.any() for g in (*dW, *db)))  # some networks of ReLUs answer 0 to all examples
    before = net.loss(X, T)
    (after,) = net.sgd(X, T, rate=1e-4, epochs=1, batch=8)
    assert after < before


def test_one_step_with_all_examples_is_gradient_descent():
    net, X, T = example((3, 4, 2), tanh, seed=3, N=8)
    dW, db = net.backprop(X, T)
    wanted = [p - 0.1 * g for p, g in zip([*net.W, *net.b], [*dW, *db], strict=True)]
    next(net.sgd(X, T, rate=0.1, epochs=1, batch=8))
    assert all(map(np.allclose, [*net.W, *net.b], wanted))


def test_the_seed_decides():
    def run(start, order):
        net, X, T = MLP((3, 4, 2), seed=start), *example((3, 4, 2), sigmoid, 0, 20)[1:]
        return list(net.sgd(X, T, rate=1, epochs=3, batch=4, seed=order))

    assert run(0, 0) == run(0, 0) and run(0, 0) != run(0, 1) and run(0, 0) != run(1, 0)


def test_each_epoch_looks_at_every_example_once():
    net, X, T = example((3, 4, 2), sigmoid, seed=0, N=10)
    seen = []
    honest = net.backprop

    def watched(X, T):
        seen.append(X)
        return honest(X, T)

    net.backprop = watched
    list(net.sgd(X, T, rate=0.1, epochs=2, batch=3))
    first = np.concatenate(seen[: len(seen) // 2])
    assert len(seen) == 6 and {len(part) for part in seen} == {3, 4}
    assert sorted(map(tuple, first)) == sorted(map(tuple, X))


def test_learning_can_be_watched():
    """A generator: nothing changes before the first epoch, and a caller may leave at any time."""
    net, X, T = example((3, 4, 2), sigmoid, seed=0, N=10)
    W = net.W[0].copy()
    epochs = net.sgd(X, T, rate=1, epochs=5)
    assert (net.W[0] == W).all()
    assert next(epochs) == net.loss(X, T) and (net.W[0] != W).any()


def test_the_callers_arrays_stay_as_they_are():
    net, X, T = example((3, 4, 2), sigmoid, seed=0, N=10)
    X_, T_ = X.copy(), T.copy()
    dW, db = net.backprop(X, T)
    kept = [g.copy() for g in (*dW, *db)]
    list(net.sgd(X, T, rate=1, epochs=2))
    assert (X == X_).all() and (T == T_).all()
    assert all((g == k).all() for g, k in zip((*dW, *db), kept, strict=True))
    state = np.random.get_state()[1].copy()
    list(MLP((3, 2)).sgd(X, T, rate=1, epochs=1))
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (-1, 2)])
def test_sizes_that_are_no_network(sizes):
    with pytest.raises(InputError, match="sizes must name"):
        MLP(sizes)


def test_a_unit_without_a_known_slope():
    with pytest.raises(InputError, match="sigmoid, tanh or relu"):
        MLP((2, 1), np.sin)


@pytest.mark.parametrize(
    "X, T, message",
    [
        (np.zeros((4, 3)), np.zeros((4, 1)), "X must be"),  # three inputs for two
        (np.zeros(2), np.zeros(1), "X must be"),  # one example is not a batch
        (np.zeros((4, 2)), np.zeros(4), "T must be"),  # would broadcast to (4, 4)
        (np.zeros((4, 2)), np.zeros((3, 1)), "T must be"),
        (np.zeros((4, 2)), np.zeros((1, 1)), "T must be"),  # would broadcast, too
    ],
)
def test_bad_input_gets_a_clear_error(X, T, message):
    net = MLP((2, 3, 1))
    for call in (net.loss, net.backprop, lambda X, T: next(net.sgd(X, T, rate=1, epochs=1))):
        with pytest.raises(InputError, match=message):
            call(X, T)


def test_an_empty_batch():
    with pytest.raises(InputError, match="batch must be 1 or more"):
        next(MLP((2, 3, 1)).sgd(*XOR, rate=1, epochs=1, batch=0))
