"""Sphinx extension: pages that start small, ask no other server, and do not jump while they load.

The theme draws its icons twice, with a font and with 1.5 MB of script, and adds a script for remote
kernels that this book does not use. After the build both are taken out. Pictures get their size and
a smaller file, and load when a reader comes near them.
"""

import re
from html import unescape
from pathlib import Path

from PIL import Image

DROP = [
    r"<script[^>]*fontawesome[^>]*></script>\s*",
    r'<link[^>]*rel="preload"[^>]*>\s*',
    r"<script>\s*const THEBE_JS_URL.*?</script>\s*",
    r"<script[^>]*sphinx-thebe[^>]*></script>\s*",
    r"<link[^>]*(?:sphinx-thebe|sphinx-design)[^>]*>\s*",
    r"<script[^>]*design-tabs[^>]*></script>\s*",
    r"<script>document\.write\(`<img [^`]*only-dark[^`]*`\);</script>",  # the logo, a second time
]
# A full stop after a formula must not begin the next line. Formulas that an earlier build has
# wrapped are left alone.
FORMULA_AND_STOP = r'(?<!class="nowrap">)<math(?:(?!</math>).)*</math>[,.;:!?)]'
LOADED_AT_ONCE = r'<img (?=[^>]*src="(?!data:))(?![^>]*loading=)'
UNSIZED_PICTURE = r'(<img (?![^>]*\bwidth=)[^>]*\bsrc=")((?!data:)[^"]+\.(?:png|webp))"'
# Two elements where one is enough: the page of names has two thousand of them.
DOUBLED = r'(<span class="[\w -]+">)<span class="pre">([^<]*)</span></span>'
SCROLLS = "pst-scrollable-table-container"
SCROLLS_BY_KEYBOARD = "jp-RenderedHTMLCommon"
WEBP_QUALITY = 90  # a fifth of the bytes of a PNG


def slim(html):
    """The text of a page without what it does not need, with pictures that load late."""
    for pattern in DROP:
        html = re.sub(pattern, "", html, flags=re.S)
    html = html.replace("logo__image only-light", "logo__image")
    # The theme's own script lets the keyboard scroll boxes of the second class, not of the first.
    html = html.replace(f'"{SCROLLS}"', f'"{SCROLLS} {SCROLLS_BY_KEYBOARD}"')
    html = re.sub(DOUBLED, r"\1\2</span>", html)
    html = re.sub(FORMULA_AND_STOP, r'<span class="nowrap">\g<0></span>', html, flags=re.S)
    return re.sub(LOADED_AT_ONCE, '<img loading="lazy" decoding="async" ', html)


def pictured(html, folder):
    """The text of a page whose pictures have their size, so that text stays where it is.

    Each PNG without a size gets a WebP file beside it, which the page then names; a WebP file is
    named as it is.

    :param folder: of the page
    """

    def sized(match):
        path = folder / unescape(match[2])
        with Image.open(path) as picture:
            if path.suffix == ".png":
                picture.save(path.with_suffix(".webp"), quality=WEBP_QUALITY)
            width, height = picture.size
        name = match[2].rsplit(".", 1)[0]
        return f'{match[1]}{name}.webp" width="{width}" height="{height}"'

    return re.sub(UNSIZED_PICTURE, sized, html)


def slim_all(app, error):
    """Rewrite the pages of a build that succeeded."""
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        html = path.read_text()
        slimmed = pictured(slim(html), path.parent)
        if slimmed != html:
            path.write_text(slimmed)


def setup(app):
    """Register the extension with Sphinx."""
    app.connect("build-finished", slim_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
