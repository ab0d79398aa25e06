"""The perceptron: one unit that decides, and the rule by which it learns from its mistakes.

NumPy only.
"""

import numpy as np

from .errors import InputError


def step(z):
    """1 where z > 0, else 0.

    >>> xcnn.perceptron.step([-1.5, 0, 0.5])
    array([0, 0, 1])
    """
    return (np.asarray(z) > 0).astype(int)


class Perceptron:
    """y = step(w . x + b). The bias b is minus the threshold that w . x must exceed.

    Source: Rosenblatt 1958, doi 10.1037/h0042519; the threshold is written as a bias.

    :param w: (n,) weights
    :param b: float

    >>> both = xcnn.perceptron.Perceptron([1, 1], b=-1.5)  # the AND gate
    >>> both([[0, 0], [0, 1], [1, 0], [1, 1]])
    array([0, 0, 0, 1])
    """

    def __init__(self, w, b=0.0):
        self.w = np.array(w, float)
        self.b = float(b)

    def __call__(self, X):
        """The decisions, 0 or 1, for one example X, (n,), or for many, (N, n)."""
        return step(np.asarray(X) @ self.w + self.b)

    def learn(self, X, t, rate=1.0, epochs=100):
        """Rosenblatt's rule, one example after the other: w += rate (t - y) x, b += rate (t - y).

        A generator: each iteration yields (i, e), the number of its example and the error e = t - y
        that was corrected. Stops after an epoch without an error, or after `epochs` epochs.

        :param X: (N, n) examples
        :param t: (N,) targets, 0 or 1
        :param rate: how far each mistake moves w and b
        :param epochs: at most, each once through all examples
        :raises InputError: shapes that do not fit, targets that are not 0 or 1

        >>> unit = xcnn.perceptron.Perceptron([0.0])
        >>> list(unit.learn([[1]], [1]))  # one mistake, corrected; then an epoch without one
        [(0, 1), (0, 0)]
        """
        X = np.asarray(X, float)
        t = np.asarray(t)
        if X.ndim != 2 or X.shape[1:] != self.w.shape or t.shape != X.shape[:1]:
            raise InputError(f"X {X.shape} and t {t.shape} must be (N, {len(self.w)}) and (N,)")
        if not np.isin(t, (0, 1)).all():
            raise InputError("targets must be 0 or 1")
        for _ in range(epochs):
            mistakes = 0
            for i in range(len(X)):
                e = int(t[i] - self(X[i]))
                self.w += rate * e * X[i]
                self.b += rate * e
                mistakes += e != 0
                yield i, e
            if mistakes == 0:
                return
