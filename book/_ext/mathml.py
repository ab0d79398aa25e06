"""Sphinx extension: formulas become MathML when the book is built.

A browser draws MathML without a script, and a screen reader can read it.
"""

import latex2mathml.converter
from docutils import nodes


def visit_inline(translator, node):
    """Write a formula within a line."""
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Write a formula on a line of its own, in a box that the keyboard can scroll."""
    formula = latex2mathml.converter.convert(node.astext(), display="block")
    translator.body.append(f'<div class="math-block" tabindex="0">{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the extension with Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
