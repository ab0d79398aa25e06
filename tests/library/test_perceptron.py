"""The perceptron: gates, Rosenblatt's rule against scikit-learn's, and the convergence theorem."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Perceptron as Reference
from xcnn import InputError
from xcnn.perceptron import Perceptron, step

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
SEEDS = st.integers(0, 10_000)


def separable(seed, n=3, N=40, gap=0.1):
    """Examples and targets of a hidden unit of length 1, and the unit.

    None of the examples is nearer to its line than `gap`.
    """
    rng = np.random.default_rng(seed)
    star = rng.normal(size=n + 1) * [*[1] * n, 0.2]  # a small bias, so that both targets occur
    star /= np.linalg.norm(star)
    X = rng.normal(size=(4 * N, n))
    z = X @ star[:n] + star[n]
    keep = np.abs(z) > gap
    return X[keep][:N], step(z[keep][:N]), star


def test_step_is_strict():
    assert step([-1.0, 0.0, 1e-300, 2.0]).tolist() == [0, 0, 1, 1]
    assert step(3) == 1 and step(3).dtype.kind == "i"


@pytest.mark.parametrize(
    "w, b, t",
    [((1, 1), -1.5, (0, 0, 0, 1)), ((1, 1), -0.5, (0, 1, 1, 1)), ((-1, -1), 1.5, (1, 1, 1, 0))],
)
def test_gates(w, b, t):
    unit = Perceptron(w, b)
    assert unit(CORNERS).tolist() == list(t)
    assert [int(unit(x)) for x in CORNERS] == list(t)  # one example at a time is the same
    assert unit(CORNERS.reshape(2, 2, 2)).shape == (2, 2)  # and so is any grid of examples


def test_the_callers_arrays_stay_as_they_are():
    w, X, t = np.zeros(2), CORNERS.copy(), np.array([0, 0, 0, 1])
    unit = Perceptron(w)
    list(unit.learn(X, t))
    assert (w == 0).all() and (X == CORNERS).all() and t.tolist() == [0, 0, 0, 1]
    assert (unit.w != 0).any()


def test_each_look_follows_the_formula():
    X, t, _ = separable(0)
    unit = Perceptron(np.zeros(3), b=0.3)
    w, b = unit.w.copy(), unit.b
    for i, e in unit.learn(X, t, rate=0.7):
        assert e == t[i] - step(w @ X[i] + b)
        before = w @ X[i] + b
        w, b = w + 0.7 * e * X[i], b + 0.7 * e
        assert np.allclose(unit.w, w) and np.isclose(unit.b, b)
        moved = unit.w @ X[i] + unit.b - before
        assert np.isclose(moved, 0.7 * e * (X[i] @ X[i] + 1))  # towards the right side


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_convergence_theorem(seed):
    X, t, star = separable(seed)
    R2, gamma = (X**2).sum(1).max() + 1, np.abs(X @ star[:-1] + star[-1]).min()
    unit = Perceptron(np.zeros(3))
    looks = list(unit.learn(X, t, epochs=10_000))
    assert sum(e != 0 for _, e in looks) <= R2 / gamma**2
    assert (unit(X) == t).all()


@given(SEEDS, st.sampled_from([0.125, 0.5, 8.0]))
@settings(max_examples=20, deadline=None)
def test_from_zero_the_rate_changes_no_decision(seed, rate):
    X, t, _ = separable(seed)
    one, other = Perceptron(np.zeros(3)), Perceptron(np.zeros(3))
    assert list(one.learn(X, t)) == list(other.learn(X, t, rate=rate))
    assert (other.w == rate * one.w).all() and other.b == rate * one.b  # powers of two, so exactly


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed):
    X, t, _ = separable(seed)
    # scikit-learn also corrects where z = 0 and t = 0; that can happen at the first look only
    first = int(t.argmax())
    X, t = np.roll(X, -first, axis=0), np.roll(t, -first)
    epochs = 3
    theirs = Reference(shuffle=False, max_iter=epochs, tol=None).fit(X, t)
    ours = Perceptron(np.zeros(3))
    list(ours.learn(X, t, epochs=epochs))
    assert np.allclose(ours.w, theirs.coef_[0]) and np.isclose(ours.b, theirs.intercept_[0])


def test_learning_stops_after_a_round_without_a_mistake():
    unit, t = Perceptron((0, 0)), np.array([0, 0, 0, 1])
    looks = list(unit.learn(CORNERS, t))
    assert len(looks) % 4 == 0 and [i for i, _ in looks] == [0, 1, 2, 3] * (len(looks) // 4)
    assert all(e == 0 for _, e in looks[-4:]) and any(e for _, e in looks[-8:-4])
    assert len(list(unit.learn(CORNERS, t))) == 4  # what is learned stays


def test_xor_is_never_learned():
    unit = Perceptron((0, 0))
    looks = list(unit.learn(CORNERS, np.array([0, 1, 1, 0]), epochs=50))
    assert len(looks) == 200 and all(any(e for _, e in looks[k : k + 4]) for k in range(0, 200, 4))


def test_learning_can_be_watched():
    """A generator: nothing happens before the first look, and a caller may leave at any time."""
    unit = Perceptron((0, 0))
    looks = unit.learn(CORNERS, np.array([1, 1, 1, 1]))
    assert unit.b == 0
    assert next(looks) == (0, 1) and unit.b == 1


@pytest.mark.parametrize(
    "X, t",
    [
        ([[0, 0, 1], [1, 1, 1]], [0, 1]),  # three inputs for two weights
        ([0, 1], [0, 1]),  # one example is not a batch
        (CORNERS, [0, 1]),  # too few targets
        (CORNERS, [[0], [0], [0], [1]]),  # a column of targets
        (CORNERS, [-1, -1, -1, 1]),  # targets are 0 or 1
        (CORNERS, [0, 0, 0, np.nan]),
    ],
)
def test_bad_input_gets_a_clear_error(X, t):
    with pytest.raises(InputError, match="must be"):
        next(Perceptron((0, 0)).learn(X, t))
