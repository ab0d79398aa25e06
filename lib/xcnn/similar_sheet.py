"""One figure: a picture, what a network says of it, and the pictures that are similar to it."""

import os

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font

from . import show
from .errors import InputError, one_of
from .methods import LABELS, METHODS
from .similar_features import prepared

COLUMNS = 7  # the picture, its map and five neighbours are one row
PANEL = (1.7, 2.2)  # inches
PAD = 0.08  # inches, so that titles of two lines are not cut off at the edge
MAX_CAPTION = 19  # characters


def sheet(net, picture, neighbours, target=None, method="grad_cam", **options):
    """One figure: a picture with its label, its heat map, and the pictures that are similar to it.

    All pictures are shown as the network sees them, resized and cut.

    :param net: `Network`
    :param picture: the path of a file, a PIL image, or an array as in `photos.to_rgb`
    :param neighbours: list of (path, similarity), from `Index.search`
    :param target: what the map explains, as in every method; None: the top class
    :param method: name in `METHODS`
    :param options: of the method
    :return: matplotlib Figure
    :raises InputError: unknown method, class or option; a file that cannot be read

    >>> scene.image.save(folder / "scene.png")
    >>> figure = xcnn.similar.sheet(net, scene.image, [(folder / "scene.png", 1.0)])
    >>> [ax.get_title().split() for ax in figure.axes]
    [['broccoli', '4...%'], ['Grad-CAM', 'broccoli'], ['1.00', 'scene.png']]
    """
    one_of("method", method, METHODS)
    x = prepared(net, picture)
    seen = net.picture(x)[0]
    R = METHODS[method](net, x, target, **options)
    label, p = _label(net, x)
    asked = _caption(_asked(net, label if target is None else target))
    panels = [(f"{_caption(label)}\n{p}", seen), (f"{LABELS[method]}\n{asked}", seen, R[0])]
    for path, similarity in neighbours:
        name = os.path.basename(os.fsdecode(path))
        neighbour = net.picture(prepared(net, path))[0]
        panels.append((f"{similarity:.2f}\n{_caption(name)}", neighbour))
    return _in_rows(panels)


def _label(net, x):
    """The top class and its probability in words; nothing where the network does not classify."""
    try:
        ((_, label, p),) = net.top(x, 1)[0]
    except InputError:
        return "", ""
    return label, f"{p:.1%}"


def _asked(net, target):
    """A target in words; a function has none."""
    if hasattr(target, "__index__"):
        return net.classes[target] if len(net.classes) else f"class {target}"
    return target if isinstance(target, str) else ""


def _in_rows(panels):
    """Panels in rows; the last row is filled up with white."""
    columns = min(len(panels), COLUMNS)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    white = ("", np.ones((1, 1, 3)))
    rows[-1] += [white] * (columns - len(rows[-1]))
    figure = show.grid(rows, size=(PANEL[0] * columns, PANEL[1] * len(rows)))
    figure.get_layout_engine().set(h_pad=PAD)
    return figure


def _caption(text):
    """A text that matplotlib can draw, cut in the middle where it is long."""
    font = get_font(findfont(FontProperties()))
    text = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in str(text))
    if len(text) > MAX_CAPTION:
        half = MAX_CAPTION // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text.replace("$", r"\$")  # else it would start a formula
