"""One explorer, three back-ends: live widgets, a page that needs no kernel, or one still picture.

    explore(view, alt="Heat map of {image} at layer {layer}", image=["cat", "dog"], layer=range(4))

The environment variable `XCNN_EXPLORER` picks the back-end, so that a chapter reads the same
wherever it runs: `live` (the default) computes when a control moves; `baked` draws every
combination once, for the book; `snapshot` draws the first combination only, for print.
"""

import base64
import functools
import hashlib
import itertools
import json
import math
import os
import re
import string
from html import escape
from numbers import Integral, Real

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .errors import one_of
from .paths import data_folder
from .pictures import DPI, Page, drawn, encoded, frames_url, image_tag, stored

GALLERY = ["methods", "cat_or_cup", "layers", "rules"]
MAX_FRAMES = 96  # that a page carries: more would take too long to load
# The effort of the WebP encoder, from 0 to 6: a live picture is waited for, a baked one is stored.
LIVE_EFFORT = 0
BAKED_EFFORT = 4


def explore(view, *, alt, **choices):
    """Show `view` with one control per choice.

    :param view: called as `view(**choice)`, returns a matplotlib Figure; it is drawn on its full
        canvas, then closed
    :param alt: text for those who cannot see the picture: a string with a `{name}` field for each
        choice, or a function, `alt(**choice) -> str`
    :param choices: name -> options; numbers become a slider, strings a menu, and the first option
        is where it starts; in the label `_` becomes a space and a trailing `_` goes: `class_` reads
        "class"
    :return: something that Jupyter displays
    :raises ValueError: where the arguments do not fit together; also whatever `view` raises for the
        first picture; later, when a control has moved, the error takes the place of the picture

    >>> def view(layer):
    ...     return plt.figure()
    >>> widget = xcnn.explore(view, alt="Maps of layer {layer}", layer=range(4))
    >>> [type(part).__name__ for part in widget.children]
    ['SelectionSlider', 'HTML']
    """
    backend = os.environ.get("XCNN_EXPLORER", "live")
    if backend not in BACKENDS:
        raise ValueError(f"XCNN_EXPLORER is {backend!r}; set it to one of: {', '.join(BACKENDS)}")
    if not choices:
        raise ValueError(
            "explore() has nothing to choose from: add a choice such as layer=range(4)"
        )
    choices = {name: _options(name, values) for name, values in choices.items()}
    if not callable(alt):
        _check_fields(alt, choices)
    return BACKENDS[backend](view, alt, choices)


def frames(choices):
    """All combinations of choices, in the order of the baked pictures.

    :param choices: name -> list of options
    :return: list of dicts, name -> option; the last choice varies fastest

    >>> xcnn.explorer.frames({"image": ["cat", "dog"], "layer": [1]})
    [{'image': 'cat', 'layer': 1}, {'image': 'dog', 'layer': 1}]
    """
    combinations = itertools.product(*choices.values())
    return [dict(zip(choices, values, strict=True)) for values in combinations]


def recorded(name):
    """An explorer of the gallery: maps of real networks, drawn ahead, for readers without weights.

    :param name: `methods`, `cat_or_cup`, `layers` or `rules`, as on the gallery's page
    :return: something that Jupyter displays; a line of text where the gallery is not installed
    :raises InputError: for an unknown name

    >>> [control.description for control in xcnn.explorer.recorded("layers").children[:-1]]
    ['layer', 'question', 'network']
    """
    name = one_of("explorer of the gallery", name, GALLERY)
    page = data_folder() / "gallery" / f"{name}.html"
    if not page.exists():
        return "No ImageNet weights were found; the book's gallery shows what this figure would."
    html = page.read_text()
    data = json.loads(re.search(r"<script[^>]*>(.*)</script>", html, re.S)[1])
    labels = re.findall(r"<label[^>]*>(.*?)</label>", html)
    choices = {
        label.replace(" ", "_"): [int(text) if text.isdigit() else text for text in options]
        for label, options in zip(labels, data["options"], strict=True)
    }
    places = {tuple(choice.values()): k for k, choice in enumerate(frames(choices))}

    def alt(**choice):
        return data["alts"][places[tuple(choice.values())]]

    def view(**choice):
        picture = Image.open(page.parent / data["frames"][places[tuple(choice.values())]])
        figure = plt.figure(figsize=np.divide(picture.size, DPI), dpi=DPI)
        figure.figimage(np.asarray(picture.convert("RGB")))
        return figure

    if os.environ.get("XCNN_EXPLORER") == "baked":  # it was, when the gallery was drawn
        return Page(html, data["alts"][0])
    return explore(view, alt=alt, **choices)


# ---- choices


def _options(name, values):
    """The options of one choice as a list, checked."""
    is_list = hasattr(values, "__iter__") and not isinstance(values, str)
    options = list(values) if is_list else []
    texts_only = all(isinstance(option, str) for option in options)
    if not options or not (_numeric(options) or texts_only):
        raise ValueError(
            f"choice {name!r} is {values!r}: "
            "give a list of numbers or a list of strings, at least one"
        )
    if len({_text(option) for option in options}) < len(options):
        raise ValueError(
            f"choice {name!r} has options that read the same, {options!r}: give each once"
        )
    return options


def _check_fields(alt, choices):
    """Refuse an alt text whose fields are not the choices."""
    fields = [field for _, field, *_ in string.Formatter().parse(str(alt)) if field is not None]
    names = {re.split(r"[.\[]", field)[0] for field in fields}  # of "{image.name}" the image
    if names != set(choices):
        wanted = ", ".join(f"{{{name}}}" for name in choices)
        raise ValueError(
            f"alt is {alt!r}: say what the picture shows, with exactly the fields {wanted}"
        )


def _numeric(options):
    return all(isinstance(option, Real) and not isinstance(option, bool) for option in options)


def _is_slider(options):
    return len(options) > 1 and _numeric(options)  # a slider with one position cannot be drawn


def _text(option):
    return str(option) if isinstance(option, str | Integral) else f"{option:.6g}"


def _label(name):
    return name.removesuffix("_").replace("_", " ")


# ---- pictures


def _render(view, alt, choice, format="webp", effort=BAKED_EFFORT):
    """Draw one frame: (the encoded picture, its alt text).

    Closes the figures that `view` opened, also when it fails.

    :param effort: of the WebP encoder, from 0, fast, to 6, small
    """
    before = set(plt.get_fignums())
    try:
        figure = view(**choice)
        if not isinstance(figure, Figure):
            raise ValueError(
                f"view returned {type(figure).__name__}, not a matplotlib Figure: "
                "end it with return fig"
            )
        picture = encoded(drawn(figure), format, effort)
        plt.close(figure)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    text = alt(**choice) if callable(alt) else alt.format(**choice)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"alt gives {text!r} for {choice}: return a sentence that says what the picture shows"
        )
    return picture, text


# ---- live


def _live(view, alt, choices):
    """Controls above one picture, which each move replaces; ipywidgets 7.7.1, as on Colab, or 8."""
    import ipywidgets as widgets  # here, because the other back-ends do without

    @functools.cache
    def picture(*values):
        return image_tag(
            *_render(view, alt, dict(zip(choices, values, strict=True)), effort=LIVE_EFFORT)
        )

    def update(_):
        try:
            image.value = picture(*(control.value for control in controls))
        except Exception as error:  # the widget would only log it
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            image.value = f'<p role="alert">{escape(line)}</p>'

    controls = [_control(name, options) for name, options in choices.items()]
    image = widgets.HTML(picture(*(control.value for control in controls)))
    for control in controls:
        control.observe(update, names="value")
    return widgets.VBox([*controls, image])


def _control(name, options):
    """A slider or a menu of ipywidgets."""
    import ipywidgets as widgets

    settings = {
        "options": [(_text(option), option) for option in options],
        "description": _label(name),
        "style": {"description_width": "initial"},
        "layout": {"width": "100%", "max_width": "32rem"},
    }
    if _is_slider(options):
        return widgets.SelectionSlider(continuous_update=False, **settings)
    return widgets.Dropdown(**settings)


# ---- baked


class _Baked(Page):
    """Plain HTML around pictures drawn ahead.

    `XCNN_FRAMES` is the folder of the pictures, `XCNN_FRAMES_URL` its address. `explore.js` brings
    the controls to life; without it the first picture stands.
    """

    def __init__(self, view, alt, choices):
        _check_baking(choices)
        rendered = [_render(view, alt, choice) for choice in frames(choices)]
        names = [stored(webp) for webp, _ in rendered]
        alts = [text for _, text in rendered]
        url = frames_url()
        options = [[_text(option) for option in options] for options in choices.values()]
        data = json.dumps({"url": url, "options": options, "frames": names, "alts": alts})
        data = data.replace("<", "\\u003c")  # an option named </script> must not end the script
        first = image_tag(rendered[0][0], alts[0], f"{url}/{names[0]}")
        super().__init__(_page(choices, data, first, len(names)), alts[0])


def _check_baking(choices):
    """Refuse too many frames, and a folder without a name, before anything is drawn."""
    count = math.prod(map(len, choices.values()))
    if count > MAX_FRAMES:
        product = " x ".join(f"{len(options)} {_label(name)}" for name, options in choices.items())
        raise ValueError(
            f"{product} = {count} frames; a page carries at most {MAX_FRAMES}: offer fewer options"
        )
    if not os.environ.get("XCNN_FRAMES"):
        raise ValueError("XCNN_FRAMES is not set: name the folder that the pictures are baked into")


def _page(choices, data, image, count):
    """The HTML of a baked explorer: controls, the first picture, and the data for `explore.js`."""
    key = hashlib.sha256(f"{list(choices)} {data}".encode()).hexdigest()[:8]
    rows = [
        _row(f"xcnn-{key}-{k}", name, options) for k, (name, options) in enumerate(choices.items())
    ]
    note = f"The sliders and menus need JavaScript; this is the first of {count} pictures."
    return f"""<figure class="xcnn-explore">
<form autocomplete="off" hidden>{"".join(rows)}</form>
<noscript><p>{note}</p></noscript>
{image}
<p class="xcnn-explore-said" role="status"></p>
<script type="application/json">{data}</script>
</figure>"""


def _row(id, name, options):
    """A label and its control, whose value is the position of the option."""
    texts = [escape(_text(option)) for option in options]
    if _is_slider(options):  # the slider speaks its own value, so the <output> keeps quiet
        control = (
            f'<input type="range" id="{id}" min="0" max="{len(texts) - 1}" step="1" value="0"'
            f' aria-valuetext="{texts[0]}"><output for="{id}" aria-live="off">{texts[0]}</output>'
        )
    else:
        items = "".join(f'<option value="{k}">{text}</option>' for k, text in enumerate(texts))
        control = f'<select id="{id}">{items}</select>'
    label = f'<label for="{id}">{escape(_label(name))}</label>'
    return f'<div class="xcnn-explore-choice">{label}{control}</div>'


# ---- a still picture


class _Snapshot:
    """The first combination as a PNG."""

    def __init__(self, view, alt, choices):
        self.png, self.alt = _render(view, alt, frames(choices)[0], format="png")

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}


BACKENDS = {"live": _live, "baked": _Baked, "snapshot": _Snapshot}
