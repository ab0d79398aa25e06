"""CNN Fixations as published, in plain loops: one unit after the other, one layer after the other.

A function takes a set of units and gives the units below that led to them. A unit of a map is
(channel, y, x), of a vector (j,). Batch norm is folded into the weights.
"""

import numpy as np
import torch
import xcnn
from torch import nn


def below_linear(units, a, W):
    """From a vector all that speak for the unit, from a map the one that does most."""
    below = set()
    for (o,) in units:
        contributions = W[o] * a.ravel()
        if a.ndim == 3:
            if contributions.any():
                below.add(place_of_largest(contributions.reshape(a.shape)))
        else:
            below |= {(int(j),) for j in np.flatnonzero(contributions > 0)}
    return below


def below_average(units, a):
    """Through a global average: where each channel is largest."""
    return {(c, *place_of_largest(a[c])) for (c,) in units}


def place_of_largest(a):
    return tuple(int(v) for v in np.unravel_index(a.argmax(), a.shape))


def below_conv(units, a, W, stride=1, padding=0, dilation=1, groups=1, inside=False):
    """The channel with the largest sum over the window: at its middle, or where it is largest.

    :param inside: look for the largest value in the window, as on a residual branch
    """
    below = set()
    _, height, width = a.shape
    outputs, inputs, kernel, _ = W.shape
    for o, y, x in units:
        window = [
            (i, j, y * stride - padding + i * dilation, x * stride - padding + j * dilation)
            for i in range(kernel)
            for j in range(kernel)
        ]
        window = [(i, j, v, u) for i, j, v, u in window if 0 <= v < height and 0 <= u < width]
        channel = best_channel(a, W[o], window, first=o // (outputs // groups) * inputs)
        if channel is None:
            continue
        if inside:
            v, u = max(((v, u) for _, _, v, u in window), key=lambda at: a[channel][at])
        else:
            middle = (kernel - 1) // 2 * dilation - padding
            v = min(max(y * stride + middle, 0), height - 1)
            u = min(max(x * stride + middle, 0), width - 1)
        below.add((channel, v, u))
    return below


def best_channel(a, w, window, first):
    """The channel whose w a sum to most over a window; None where all of them are 0."""
    best = -np.inf
    channel = None
    alive = False
    for n in range(len(w)):
        terms = [a[first + n, v, u] * w[n, i, j] for i, j, v, u in window]
        alive |= any(terms)
        if sum(terms) > best:
            best = sum(terms)
            channel = first + n
    return channel if alive else None


def below_pool(units, a, kernel, stride=None, padding=0):
    """The largest value in the window."""
    below = set()
    stride = stride or kernel
    for c, y, x in units:
        rows = range(y * stride - padding, y * stride - padding + kernel)
        columns = range(x * stride - padding, x * stride - padding + kernel)
        inside = [
            (v, u) for v in rows for u in columns if 0 <= v < a.shape[1] and 0 <= u < a.shape[2]
        ]
        below.add((c, *max(inside, key=lambda at: a[c][at])))
    return below


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def walk_sequence(layers, x, units):
    """Through a stack of layers; a linear layer straight after `nn.Flatten` reads a map."""
    values = []
    h = x
    for layer in layers:
        values.append(h[0].detach().numpy().copy())
        h = layer(h.clone())
    for k in reversed(range(len(layers))):
        units = _one_layer_down(layers, values, k, units)
    return units


def _one_layer_down(layers, values, k, units):
    layer = layers[k]
    a = values[k]
    if isinstance(layer, nn.Linear):
        if isinstance(layers[k - 1], nn.Flatten):
            a = values[k - 1]
        return below_linear(units, a, layer.weight.detach().numpy())
    if isinstance(layer, nn.Conv2d):
        W = layer.weight.detach().numpy()
        geometry = (layer.stride[0], layer.padding[0], layer.dilation[0], layer.groups)
        return below_conv(units, a, W, *geometry)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return below_pool(units, a, layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, GlobalMean):
        return below_average(units, a)
    return units


def places(units):
    """The places (y, x) of units."""
    return {(y, x) for _, y, x in units}


def fixated(net, x, *args, **options):
    """All points that CNN Fixations finds in an image, outliers too: set of (y, x)."""
    (fixations,) = xcnn.find_fixations(net, x, *args, **options)
    return {tuple(point) for point in fixations.all_points.tolist()}


# ---- networks in which the answer can be seen


class Net(nn.Module):
    """From a function of itself and x, and some layers by name."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.double().eval()

    def forward(self, x):
        return self.run(self, x)


def moves(dy=0, dx=0, kernel=3):
    """A convolution that copies the first channel: the value at (y + dy, x + dx) to (y, x)."""
    layer = nn.Conv2d(3, 3, kernel, padding=kernel // 2, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, kernel // 2 + dy, kernel // 2 + dx] = 1
    return layer


def dots(*at, side=16):
    """Black but for some dots (y, x, value) in the first channel."""
    x = torch.zeros(1, 3, side, side, dtype=torch.float64)
    for y, u, value in at:
        x[0, 0, y, u] = value
    return x
