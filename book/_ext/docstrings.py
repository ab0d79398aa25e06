"""Sphinx extension: the docstrings of the library and the help of its command line, for `api.md`.

autodoc finds names and signatures. Docstrings are written in Markdown, as the chapters are, so
formulas keep their bars and underscores, and tables are tables.
"""

import contextlib
import io
import os
import re
from pathlib import Path
from unittest import mock

from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils import new_document
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.sphinx_ import SphinxRenderer
from myst_parser.parsers.mdit import create_md_parser
from sphinx.util.docutils import SphinxDirective

ADDRESSES = {  # how docstrings name a paper, and where it is
    r"arXiv (\d{4}\.\d{4,5})": r"https://arxiv.org/abs/\1",
    r"doi (10\.\d{4,}/[\w.()/-]*\w)": r"https://doi.org/\1",
}
REFERENCE = re.compile(r"\b(as in|see) `([\w.]+)`")
QUOTED_VALUE = re.compile(r'(?<![\w`(])"([\w+ ]+)"')
FIELD = re.compile(r"(?m)^:param ([^:]*):")
EXAMPLE = re.compile(r"(?m)(^>>> (?:.+\n?)+)")


def linked(text):
    """The text with papers as links."""
    for paper, address in ADDRESSES.items():
        text = re.sub(paper, rf"[\g<0>]({address})", text)
    return text


def marked_up(text):
    """The text of a docstring with what its plain form leaves out: links, code, joined fields.

    An example is a block that begins with `>>>` and ends with a blank line.
    """
    parts = EXAMPLE.split(text)
    parts[::2] = [_marked_up_prose(prose) for prose in parts[::2]]
    parts[1::2] = [f"```pycon\n{example.rstrip()}\n```\n" for example in parts[1::2]]
    return "".join(parts)


def _marked_up_prose(text):
    text = linked(text)
    text = REFERENCE.sub(r"\1 {py:obj}`.\2`", text)
    text = QUOTED_VALUE.sub(r'`"\1"`', text)  # as it is typed, with straight quotes
    # After a space, Sphinx would take the first of several names for a type.
    return FIELD.sub(lambda field: field[0].replace(", ", ","), text)


class Markdown(SphinxDirective):
    """A docstring, with `:param x:` fields, for autodoc's reStructuredText."""

    has_content = True

    def run(self):
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        parser = create_md_parser(MdParserConfig(enable_extensions={"fieldlist"}), SphinxRenderer)
        parser.options["document"] = document
        parser.render(marked_up("\n".join(self.content)))
        return document.children


class Help(SphinxDirective):
    """What `python -m xcnn ARGUMENTS --help` prints."""

    has_content = True

    def run(self):
        from xcnn.__main__ import main

        printed = io.StringIO()
        width = mock.patch.dict(os.environ, COLUMNS="80")  # the same wherever the book is built
        with width, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*" ".join(self.content).split(), "--help"])
        return [nodes.literal_block(text=printed.getvalue(), language="text")]


class Methods(SphinxDirective):
    """The names of all methods, and the docstrings of those that have no place on the page."""

    def run(self):
        from xcnn import METHODS

        page = Path(self.env.doc2path(self.env.docname)).read_text()
        names = ", ".join(f":py:obj:`xcnn.{name}`" for name in METHODS)
        lines = [f"{len(METHODS)} methods: {names}.", ""]
        for name in METHODS:
            if not re.search(rf":: xcnn\.{name}$", page, re.M):
                lines += [f".. autofunction:: xcnn.{name}", ""]
        parent = nodes.Element()
        source = f"methods of {self.env.docname}"
        self.state.nested_parse(StringList(lines, source), self.content_offset, parent)
        return parent.children


def as_markdown(app, what, name, obj, options, lines):
    """Put the lines of a docstring, in place, into a `markdown` directive."""
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in lines), ""]


def setup(app):
    """Register the extension with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.config.autodoc_preserve_defaults = True  # `sigma=20 / 224`, as it is written
    app.config.autodoc_typehints = "none"  # the docstrings say more: shapes
    app.connect("autodoc-process-docstring", as_markdown)
    app.add_directive("markdown", Markdown)
    app.add_directive("help", Help)
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
