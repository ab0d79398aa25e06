"""Where the picture lies in a layer's output: which of its dimensions are rows and columns.

Maps are (N, C, h, w). Some networks keep their channels last, (N, h, w, C), or hold the picture as
a row of tokens, (N, T, C). Attention weights, (N, heads, T, T), have the form of maps and are not
maps. Mostly the shape tells. Where it does not, a trial does: the picture is changed in one half
only, and a dimension that is rows (columns) answers to the upper and lower (left and right) half.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputError

LAYOUTS = tuple(itertools.permutations((1, 2, 3)))  # where channels, rows and columns may lie
CHANNELS_FIRST = (1, 2, 3)
CHANNELS_LAST = (3, 1, 2)
MIN_ANSWER = 0.1  # by how much, as a share of its length, rows must follow a change
MIN_SIDE_ANSWER = 0.4  # of columns, as a share of that of rows, and the other way round


@dataclass(frozen=True)
class Axes:
    """Maps whose dimensions lie in another order.

    :param order: the dimensions that hold channels, rows and columns
    """

    order: tuple = CHANNELS_FIRST

    def maps(self, y):
        """A layer's output as maps (N, C, h, w)."""
        return y.permute(0, *self.order)

    def output(self, A, y):
        """The reverse of `maps`: what the layer would put out in place of y to show these maps."""
        back = [0, *(1 + self.order.index(dim) for dim in (1, 2, 3))]
        return A.permute(back)


@dataclass(frozen=True)
class Tokens:
    """Tokens (N, T, C) whose last h w hold the picture, row by row.

    :param h, w: rows and columns
    """

    h: int
    w: int

    def maps(self, y):
        """As for `Axes`. What stands before the picture, such as a class token, is left out."""
        return y[:, -self.h * self.w :].mT.unflatten(2, (self.h, self.w))

    def output(self, A, y):
        """As for `Axes`. What stands before the picture stays as it is in y."""
        before = y[:1, : -self.h * self.w].expand(len(A), -1, -1)
        return torch.cat([before, A.flatten(2).mT], 1)


@dataclass(frozen=True)
class AsItIs:
    """What is not a map."""

    def maps(self, y):
        """A layer's output, unchanged."""
        return y


def tokens(layout, y, layer):
    """`Tokens` of the caller's layout, checked against a layer's output.

    :param layout: (h, w)
    :raises InputError: where it does not fit
    """
    try:
        h, w = (side.__index__() for side in layout)
    except (TypeError, ValueError, AttributeError):
        h = w = 0
    if min(h, w) < 1:
        raise InputError(f"layout is (rows, columns) of tokens, such as (14, 14), not {layout!r}")
    if y.ndim != 3 or h * w > y.shape[1]:
        raise InputError(
            f"layout={layout!r} needs {h * w} tokens or more, (N, T, C), "
            f"and layer {layer!r} puts out {tuple(y.shape)}"
        )
    return Tokens(h, w)


def may_attend(module):
    """May a network hold attention weights, whose form is that of maps?

    >>> xcnn.engine.layouts.may_attend(net.module)
    False
    """
    kinds = (nn.LayerNorm, nn.Softmax, nn.MultiheadAttention)
    return any(
        isinstance(part, kinds) or "att" in name.rpartition(".")[2].lower()
        for name, part in module.named_modules()
    )


def layout_by_shape(shape, height, width):
    """The order of dimensions that a shape tells; None where it does not tell one.

    :param shape: (N, a, b, c) of a layer's output
    :param height, width: of the picture
    :return: CHANNELS_FIRST, or None

    >>> xcnn.engine.layouts.layout_by_shape((1, 768, 7, 7), 224, 224)
    (1, 2, 3)
    >>> xcnn.engine.layouts.layout_by_shape((1, 7, 7, 768), 224, 224)
    """
    _, a, b, c = shape
    if b == c == 1:
        return CHANNELS_FIRST
    first = _like_the_picture(b, c, height, width)
    last = _like_the_picture(a, b, height, width)
    return CHANNELS_FIRST if first and not last else None


def _last_by_shape(shape, height, width):
    """CHANNELS_LAST where the shape tells that; else None."""
    _, a, b, c = shape
    first = _like_the_picture(b, c, height, width)
    last = _like_the_picture(a, b, height, width)
    return CHANNELS_LAST if last and not first else None


def _like_the_picture(h, w, height, width):
    """May maps of h x w show a picture of this height and width?"""
    if height == width:
        return h == w
    longer = (w - h) * (1 if width > height else -1)
    return 0 <= longer <= abs(width - height)


def trial_pictures(like):
    """Noise, and the same noise changed in the upper, lower, left or right half: (5, C, H, W).

    :param like: (N, C, H, W), of the size, type and device of the pictures
    """
    generator = torch.Generator().manual_seed(0)
    noise, other = torch.randn(2, *like.shape[1:], generator=generator).to(like)
    H, W = like.shape[2:]
    pictures = noise.expand(5, *noise.shape).clone()
    pictures[1, :, : H // 2] = other[:, : H // 2]
    pictures[2, :, H // 2 :] = other[:, H // 2 :]
    pictures[3, :, :, : W // 2] = other[:, :, : W // 2]
    pictures[4, :, :, W // 2 :] = other[:, :, W // 2 :]
    return pictures


def layout_by_trial(y, height, width):
    """The order of dimensions of a layer's output, by how it answers to `trial_pictures`.

    :param y: (5, a, b, c), what the layer puts out for the five
    :param height, width: of the pictures. Where the layer looks at the whole picture at once, no
        dimension answers, and the shape must tell
    :return: where channels, rows and columns lie; None where the output is not a map
    """
    if y.ndim != 4 or len(y) != 5 or are_attention(y):
        return None
    change = (y[1:] - y[:1]).cpu().double().abs()  # some devices have no float64
    if not change.any():  # a dead layer tells nothing, and its maps are all alike
        return CHANNELS_FIRST
    rows = _answers(change[0], change[1])
    columns = _answers(change[2], change[3])
    best = max(LAYOUTS, key=lambda order: rows[order[1] - 1] + columns[order[2] - 1])
    by_rows = rows[best[1] - 1]
    by_columns = columns[best[2] - 1]
    weaker, stronger = sorted((by_rows, by_columns))
    if max(map(abs, rows + columns)) < MIN_ANSWER:
        return layout_by_shape(y.shape, height, width) or _last_by_shape(y.shape, height, width)
    clear = _stands_out(rows, best[1]) and _stands_out(columns, best[2])
    return best if clear and weaker >= MIN_SIDE_ANSWER * stronger else None


def layout_of_convolutions(y, height, width):
    """As `layout_by_trial`, in a network in which nothing attends: channels first, or clearly last.

    Small maps answer to chance, too. So channels are last only where the shape allows it.
    """
    _, a, b, _ = y.shape
    is_last = layout_by_trial(y, height, width) == CHANNELS_LAST
    return CHANNELS_LAST if is_last and _like_the_picture(a, b, height, width) else CHANNELS_FIRST


def _stands_out(answers, dim):
    """Is one dimension's answer twice that of any other?"""
    others = [abs(answer) for d, answer in enumerate(answers, start=1) if d != dim]
    return answers[dim - 1] > 2 * max(others)


def _answers(one, other):
    """How far the middle of a change moves along each dimension from one half to the other."""
    return [
        (_middle(other, dim) - _middle(one, dim)) if one.shape[dim] > 1 else 0.0 for dim in range(3)
    ]


def _middle(change, dim):
    """Where along a dimension a change lies on average, from 0 to 1."""
    total = change.sum([d for d in range(3) if d != dim])
    place = torch.linspace(0, 1, len(total), dtype=total.dtype, device=total.device)
    return float((total * place).sum() / total.sum().clamp(min=1e-300))


def are_attention(y):
    """Are these weights (.., T) that share 1 among T tokens?"""
    sums = y.detach().cpu().double().sum(-1)
    return y.shape[-1] > 1 and bool((y >= 0).all() and ((sums - 1).abs() < 1e-3).all())
