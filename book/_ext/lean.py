"""Sphinx extension: pages that start small, ask no other server, and do not jump while they load.

The theme draws its icons twice, with a font and with 1.5 MB of script, and adds a script for remote kernels that this
book does not use. After the build we take both out. Pictures get their size and a smaller file, and load when a reader
comes near them.
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

# A full stop after a formula must not begin the next line. What has been wrapped by an earlier build is left alone.
FORMULA_AND_STOP = r'(?<!class="nowrap">)<math(?:(?!</math>).)*</math>[,.;:!?)]'


def slim(html):
    for pattern in DROP:
        html = re.sub(pattern, "", html, flags=re.S)
    html = html.replace("logo__image only-light", "logo__image")
    # The theme's own script lets the keyboard scroll boxes of this class where they are too narrow, but not these.
    html = html.replace(
        '"pst-scrollable-table-container"', '"pst-scrollable-table-container jp-RenderedHTMLCommon"'
    )
    html = re.sub(FORMULA_AND_STOP, r'<span class="nowrap">\g<0></span>', html, flags=re.S)
    return re.sub(
        r'<img (?=[^>]*src="(?!data:))(?![^>]*loading=)',
        '<img loading="lazy" decoding="async" ',
        html,
    )


def pictured(html, folder):
    """Each picture that has no size yet: with its size, so that text stays where it is, and a fifth of the bytes."""

    def better(match):
        path = folder / unescape(match[2])
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".webp"), quality=90)
            width, height = picture.size
        return f'{match[1]}{match[2].removesuffix(".png")}.webp" width="{width}" height="{height}"'

    return re.sub(r'(<img (?![^>]*\bwidth=)[^>]*\bsrc=")((?!data:)[^"]+\.png)"', better, html)


def slim_all(app, error):
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            html = path.read_text()
            if (slimmed := pictured(slim(html), path.parent)) != html:
                path.write_text(slimmed)


def setup(app):
    app.connect("build-finished", slim_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
