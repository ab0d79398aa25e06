"""Pictures as a page takes them: figures drawn once, small files, and tags of known size."""

import base64
import hashlib
import io
import os
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

DPI = 130  # a figure 7 inches wide gives 910 pixels
QUALITY = 80  # of WebP pictures, out of 100


def drawn(figure):
    """A figure as a PIL RGB image of its full canvas, on white."""
    for ax in figure.axes:
        if not ax.axison:  # hidden ticks would still be measured for the layout: half of the time
            ax.set(xticks=[], yticks=[])
    figure.set(dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; savefig lays out and draws twice
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def encoded(picture, format, effort):
    """A picture as the bytes of a file. Of the settings PNG takes only dpi."""
    buffer = io.BytesIO()
    picture.save(buffer, format, quality=QUALITY, method=effort, dpi=(DPI, DPI))
    return buffer.getvalue()


def image_tag(webp, alt, address=None):
    """An <img> of known size.

    :param address: of the picture, which then loads when a reader comes near; None: the <img>
        brings its picture along
    """
    width, height = Image.open(io.BytesIO(webp)).size
    address = address or "data:image/webp;base64," + base64.b64encode(webp).decode()
    style = "display:block;max-width:100%;height:auto"
    return (
        f'<img loading="lazy" width="{width}" height="{height}" style="{style}" '
        f'alt="{escape(alt)}" src="{escape(address)}">'
    )


def stored(webp):
    """Write a picture of the book under the hash of its content, so that equal ones are one file.

    The folder is `XCNN_FRAMES`.

    :return: the file name
    """
    folder = Path(os.environ["XCNN_FRAMES"])
    name = hashlib.sha256(webp).hexdigest()[:16] + ".webp"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(webp)
    return name


def frames_url():
    """The address of the folder of stored pictures, as a page of the book names it."""
    return os.environ.get("XCNN_FRAMES_URL", "../_static").rstrip("/")


class Page:
    """HTML that Jupyter displays, and what stands for it where it cannot."""

    def __init__(self, html, alt):
        self.html = html
        self.alt = alt

    def __repr__(self):
        return self.alt

    def _repr_html_(self):
        return self.html
