"""A multilayer network and backpropagation, written out. NumPy only.

Layer l = 1 ... L turns a(l-1) into z(l) = W(l) a(l-1) + b(l) and a(l) = f(z(l)); a(0) is the input.
"""

import numpy as np

from .errors import InputError


def sigmoid(z):
    """1 / (1 + exp(-z)), written so that it cannot overflow.

    >>> xcnn.mlp.sigmoid(np.array([-1000, 0, 1000]))
    array([0. , 0.5, 1. ])
    """
    return (1 + np.tanh(z / 2)) / 2


def tanh(z):
    """The hyperbolic tangent of z, from -1 to 1.

    >>> xcnn.mlp.tanh(np.array([-1000, 0, 1000]))
    array([-1.,  0.,  1.])
    """
    return np.tanh(z)


def relu(z):
    """z where z > 0, else 0.

    >>> xcnn.mlp.relu(np.array([-2, 0, 3]))
    array([0, 0, 3])
    """
    return np.maximum(z, 0)


# the derivative f'(z) of each unit; at its corner ReLU takes 0
SLOPE = {
    sigmoid: lambda z: sigmoid(z) * (1 - sigmoid(z)),
    tanh: lambda z: 1 - np.tanh(z) ** 2,
    relu: lambda z: (z > 0).astype(float),
}


def fitting(T, y):
    """The targets T as an array that fits the outputs y, (N, sizes[-1]).

    :raises InputError: T of another shape

    >>> xcnn.mlp.fitting([[0], [1]], np.array([[0.2], [0.7]]))
    array([[0.],
           [1.]])
    """
    T = np.asarray(T, float)
    if T.shape != y.shape:
        raise InputError(f"T must be {y.shape}, one row per example, got {T.shape}")
    return T


class MLP:
    """A network of fully connected layers, all with the same unit f.

    Its loss E is the mean of |a(L) - t|^2 / 2. W[l]: (sizes[l + 1], sizes[l]). b[l]:
    (sizes[l + 1],). Python counts from 0: W[0] belongs to layer 1.

    :param sizes: number of units per layer, the input first, for example (64, 30, 10)
    :param f: sigmoid, tanh or relu
    :param seed: of the random start
    :raises InputError: sizes that are not a network, a unit whose slope is not known

    >>> net = xcnn.mlp.MLP((64, 30, 10))
    >>> [W.shape for W in net.W]
    [(30, 64), (10, 30)]
    """

    def __init__(self, sizes, f=sigmoid, seed=0):
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(
                "sizes must name at least an input and an output layer, such as (2, 3, 1), "
                f"not {sizes!r}"
            )
        if f not in SLOPE:
            raise InputError(
                "f must be sigmoid, tanh or relu from xcnn.mlp, whose slopes are known"
            )
        rng = np.random.default_rng(seed)
        self.f = f
        self.slope = SLOPE[f]
        self.W = [
            rng.normal(0, n**-0.5, (m, n)) for n, m in zip(sizes[:-1], sizes[1:], strict=True)
        ]
        self.b = [np.zeros(m) for m in sizes[1:]]

    def forward(self, X):
        """All z and all a of a batch.

        :param X: (N, sizes[0]) examples
        :return: z and a, lists of arrays (N, units); row n of each belongs to example n
        :raises InputError: X of another shape

        >>> z, a = xcnn.mlp.MLP((2, 3, 1)).forward([[0, 1], [1, 0]])
        >>> [z_l.shape for z_l in z], [a_l.shape for a_l in a]
        ([(2, 3), (2, 1)], [(2, 2), (2, 3), (2, 1)])
        """
        z = []
        a = [np.asarray(X, float)]
        if a[0].ndim != 2 or a[0].shape[1] != self.W[0].shape[1]:
            raise InputError(f"X must be (N, {self.W[0].shape[1]}), got {a[0].shape}")
        for W, b in zip(self.W, self.b, strict=True):
            z.append(a[-1] @ W.T + b)
            a.append(self.f(z[-1]))
        return z, a

    def __call__(self, X):
        """The outputs a(L), (N, sizes[-1])."""
        return self.forward(X)[1][-1]

    def loss(self, X, T):
        """E, a float, for examples X (N, sizes[0]) and targets T (N, sizes[-1]).

        >>> net = xcnn.mlp.MLP((2, 1))
        >>> net.W[0][:] = 0  # so y = sigmoid(0) = 0.5
        >>> float(net.loss([[3, 4]], [[1]]))  # (0.5 - 1)^2 / 2
        0.125
        """
        y = self(X)
        return ((y - fitting(T, y)) ** 2).sum(1).mean() / 2

    def backprop(self, X, T):
        """The gradient of the loss.

        Source: Rumelhart, Hinton, Williams 1986, doi 10.1038/323533a0; the four equations as
        chapter 2 numbers them.

        :param X: (N, sizes[0]) examples
        :param T: (N, sizes[-1]) targets
        :return: dW and db, lists shaped like W and b
        :raises InputError: shapes that do not fit

        >>> net = xcnn.mlp.MLP((1, 1), xcnn.mlp.relu)
        >>> net.W[0][:] = 2  # y = 2 * 3 = 6, and dE/dW = (y - t) x = (6 - 5) * 3
        >>> net.backprop([[3]], [[5]])
        ([array([[3.]])], [array([1.])])
        """
        z, a = self.forward(X)
        dW = []
        db = []
        delta = (a[-1] - fitting(T, a[-1])) * self.slope(z[-1])  # (1) the output's error
        for l in reversed(range(len(self.W))):
            db.insert(0, delta.mean(0))  # (3) of a bias
            dW.insert(0, delta.T @ a[l] / len(delta))  # (4) of a weight
            if l:
                delta = delta @ self.W[l] * self.slope(z[l - 1])  # (2) one layer down
        return dW, db

    def sgd(self, X, T, rate, epochs, batch=16, seed=0):
        """Stochastic gradient descent: small batches in random order, one step after each.

        A step goes against the gradient. A generator that yields the loss over all of X after each
        epoch, so that a caller can watch, or stop.

        :param X: (N, sizes[0]) examples
        :param T: (N, sizes[-1]) targets
        :param rate: length of a step, as a factor of the gradient
        :param epochs: how many times all examples are seen
        :param batch: examples per step
        :param seed: of the order
        :raises InputError: shapes that do not fit, an empty batch

        >>> X, T = [[0, 0], [0, 1], [1, 0], [1, 1]], [[0], [1], [1], [1]]  # the OR gate
        >>> losses = list(xcnn.mlp.MLP((2, 1)).sgd(X, T, rate=5, epochs=50))
        >>> len(losses), bool(losses[-1] < losses[0] / 2)
        (50, True)
        """
        X = np.asarray(X, float)
        T = fitting(T, self(X))
        if batch < 1:
            raise InputError(f"batch must be 1 or more, not {batch}")
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            for part in np.array_split(rng.permutation(len(X)), max(1, len(X) // batch)):
                dW, db = self.backprop(X[part], T[part])
                for l in range(len(self.W)):
                    self.W[l] -= rate * dW[l]
                    self.b[l] -= rate * db[l]
            yield self.loss(X, T)
