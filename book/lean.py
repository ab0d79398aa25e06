"""Sphinx extension: pages that start small and ask no other server.

The theme draws its icons twice, with a font and with 1.5 MB of script, and adds a script for remote kernels that this
book does not use. After the build we take both out, and let pictures load when a reader comes near them.
"""

import re
from pathlib import Path

DROP = [
    r"<script[^>]*fontawesome[^>]*></script>\s*",
    r'<link[^>]*rel="preload"[^>]*>\s*',
    r"<script>\s*const THEBE_JS_URL.*?</script>\s*",
    r"<script[^>]*sphinx-thebe[^>]*></script>\s*",
    r"<link[^>]*(?:sphinx-thebe|sphinx-design)[^>]*>\s*",
    r"<script[^>]*design-tabs[^>]*></script>\s*",
]


def slim(html):
    for pattern in DROP:
        html = re.sub(pattern, "", html, flags=re.S)
    return re.sub(r'<img (?=[^>]*src="(?!data:))(?![^>]*loading=)', '<img loading="lazy" decoding="async" ', html)


def slim_all(app, error):
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            html = path.read_text()
            if (slimmed := slim(html)) != html:
                path.write_text(slimmed)


def setup(app):
    app.connect("build-finished", slim_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
