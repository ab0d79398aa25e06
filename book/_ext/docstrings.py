"""Sphinx extension: the docstrings of the library and the help of its command line, for `api.md`.

autodoc finds names and signatures. Docstrings are Markdown, as the chapters are: formulas keep their bars and
underscores, and tables are tables.
"""

import contextlib
import io
import os
import re
from unittest import mock

from docutils import nodes
from docutils.utils import new_document
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.sphinx_ import SphinxRenderer
from myst_parser.parsers.mdit import create_md_parser
from sphinx.util.docutils import SphinxDirective

ADDRESSES = {  # how docstrings name a paper, and where it is
    r"arXiv (\d{4}\.\d{4,5})": r"https://arxiv.org/abs/\1",
    r"doi (10\.\d{4,}/[\w.()/-]*\w)": r"https://doi.org/\1",
}


def linked(text):
    """Papers become links."""
    for paper, address in ADDRESSES.items():
        text = re.sub(paper, rf"[\g<0>]({address})", text)
    return text


class Markdown(SphinxDirective):
    """A docstring, with `:param x:` fields, for autodoc's reStructuredText."""

    has_content = True

    def run(self):
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        parser = create_md_parser(MdParserConfig(enable_extensions={"fieldlist"}), SphinxRenderer)
        parser.options["document"] = document
        text = linked("\n".join(self.content))
        text = re.sub(
            r"\b(as in|see) `([\w.]+)`", r"\1 {py:obj}`.\2`", text
        )  # "as in `gradient`" leads there
        text = re.sub(
            r'(?<![\w`(])"([\w+ ]+)"', r'`"\1"`', text
        )  # a value as it is typed, with straight quotes
        text = re.sub(
            r"(?m)^:param ([^:]*):", lambda x: x[0].replace(", ", ","), text
        )  # a space would end a type
        parser.render(text)
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


def as_markdown(app, what, name, obj, options, lines):
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in lines), ""]


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.config.autodoc_preserve_defaults = True  # `sigma=20 / 224`, as it is written
    app.config.autodoc_typehints = "none"  # the docstrings say more: shapes
    app.connect("autodoc-process-docstring", as_markdown)
    app.add_directive("markdown", Markdown)
    app.add_directive("help", Help)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
