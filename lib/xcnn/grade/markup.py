"""HTML that is safe to open, from the texts, Markdown, formulas and pictures of students.

Nothing of a student's markup is passed on. It is read, and written anew from known tags.
Each function takes time in proportion to its text.
"""

import base64
import functools
import html
import io
import re
import warnings

MAX_MARKDOWN = 20_000  # characters of a Markdown cell; a longer one is shown as it was written
MAX_FORMULA = 2_000  # characters
MAX_CODE = 10_000  # characters of a source that gets colours
MAX_FORMULA_DEPTH = 40  # elements in each other
MAX_DEPTH = 24  # tags in each other
MAX_ADDRESS = 2_000  # characters of a link
MAX_SIDE = 10_000  # pixels
MAX_PIXELS = 25_000_000  # a figure of 16 by 16 inches at 300 dots per inch has 23 million
MAX_BLANKS = 500  # in a row; the reader of code takes quadratic time for them

HTML_TAGS = frozenset(
    "table thead tbody tr th td p br b i em strong code pre ul ol li h1 h2 h3 h4 sub sup div span"
    "".split()
)
MARKDOWN_TAGS = frozenset(
    "h1 h2 h3 h4 h5 h6 p ul ol li table thead tbody tr th td blockquote pre code em strong b i hr "
    "br a del sup sub formula formula-block".split()
)
EMPTY_TAGS = ("br", "hr")
# Their content is not text for a reader, so it goes with them.
UNSEEN_TAGS = frozenset(
    "script style title template iframe noscript object svg math select textarea".split()
)
# An opening tag on the left ends these elements, whose end tags HTML allows to leave out.
ENDED_BY = {
    **dict.fromkeys(("p", "ul", "ol", "table", "pre", "div", "blockquote"), ("p",)),
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6", "hr"), ("p",)),
    "li": ("p", "li"),
    **dict.fromkeys(("td", "th"), ("p", "td", "th")),
    "tr": ("p", "td", "th", "tr"),
    **dict.fromkeys(("thead", "tbody"), ("p", "td", "th", "tr", "thead", "tbody")),
}
MARK = re.compile(r"<!--|<([^<>]*)>")
TAG_NAME = re.compile(r"(/?)([a-zA-Z][a-zA-Z0-9-]*)(?=[\s/]|\Z)")
SPAN = re.compile(r"\b(colspan|rowspan)\s*=\s*[\"']?(\d{1,2})\b", re.I)
ADDRESS = re.compile(r"\bhref\s*=\s*[\"'](https?://[^\s\"'<>]+)[\"']", re.I)

# A backtick ends a formula: code wins over formulas.
BLOCK_FORMULA = r"^ {0,3}\$\$(?P<block_source>(?:[^$\\`]|\\[\s\S])+?)\$\$[ \t]*(?:\n|$)"
INLINE_FORMULA = (
    r"\$\$(?P<display_source>(?:[^$\\`]|\\[\s\S])+?)\$\$|"
    r"\$(?![\s$])(?P<inline_source>(?:[^$\\`]|\\[\s\S])+?)(?<!\s)\$(?!\d)"
)
# A formula that defines commands can grow without limit.
DEFINITION = re.compile(r"\\(?:def|gdef|let|new|renew|provide|Declare)")
MATH_TAGS = frozenset(
    "math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle mpadded mphantom msub msup "
    "msubsup munder mover munderover mtable mtr mtd".split()
)
MATH_ATTRIBUTES = frozenset(
    "display displaystyle scriptlevel mathvariant mathcolor stretchy fence separator form largeop "
    "movablelimits accent accentunder minsize maxsize width height depth lspace rspace voffset "
    "linethickness columnalign".split()
)
# Lengths have one digit before the point, so that a formula cannot cover the page.
PLAIN_VALUE = re.compile(r"[a-z]{1,20}|#[0-9a-fA-F]{3,8}|[+-]?\d?(?:\.\d{1,4})?(?:em|ex|px|pt)?")

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
OVERWRITTEN = re.compile(r"^.*\r(?=.)", re.M)  # a carriage return starts the line again


def unescape(text):
    """`html.unescape` for hostile text: it raises an error for numbers of thousands of digits."""
    text = re.sub(r"(&#[xX]?)0+(?=[0-9a-fA-F])", r"\1", text)
    return html.unescape(re.sub(r"&#[0-9]{9,};?", "\ufffd", text))


def note(text):
    """A remark of the grader between the things that students made."""
    return f'<p class="note">[{html.escape(text)}]</p>\n'


# --- HTML ---


def clean(text, tags=HTML_TAGS):
    """The HTML with these tags only, all closed, without attributes but spans and web links."""
    writer = Writer(tags)
    position = 0
    while mark := MARK.search(text, position):
        writer.write(text[position : mark.start()])
        position = writer.read_mark(text, mark)
    writer.write(text[position:])
    writer.end(len(writer.open))
    return "".join(writer.parts)


class Writer:
    """Writes HTML anew. What it writes is text that is escaped, and tags that it knows."""

    def __init__(self, tags):
        self.tags = tags
        self.parts = []
        self.open = []  # names of the elements that are open, the outermost first

    def write(self, text):
        """Write text, whose entities are those of HTML."""
        self.parts.append(html.escape(unescape(text)))

    def read_mark(self, text, mark):
        """Write what this mark in the text asks for: where to read on."""
        if mark[1] is None:
            end = text.find("-->", mark.end())
            return len(text) if end < 0 else end + len("-->")
        if mark[1].startswith(("!", "?")):
            return mark.end()
        found = TAG_NAME.match(mark[1])
        if not found:  # a comparison, or a Python object such as <__main__.Net>
            self.write(mark[0])
            return mark.end()
        name = found[2].lower()
        if found[1]:
            if name in self.open:
                self.end(self.open[::-1].index(name) + 1)
            return mark.end()
        if name in UNSEEN_TAGS or (name.startswith("formula") and name in self.tags):
            closing = re.compile(f"</{name}", re.I).search(text, mark.end())
            end = closing.start() if closing else len(text)
            if name not in UNSEEN_TAGS:
                content = unescape(text[mark.end() : end])
                self.parts.append(formula(content, name == "formula-block"))
            return end
        if name in self.tags:
            self.start(name, mark[1][found.end() :])
        return mark.end()

    def start(self, name, attributes):
        """Open an element, and end those that it ends."""
        while self.open and self.open[-1] in ENDED_BY.get(name, ()):
            self.end(1)
        if name in EMPTY_TAGS:
            self.parts.append(f"<{name}>")
            return
        written = ""
        if name in ("td", "th"):
            spans = dict(SPAN.findall(attributes.lower()))
            written = "".join(f' {key}="{int(value)}"' for key, value in spans.items())
        elif name == "a":
            address = ADDRESS.search(unescape(attributes))
            if not address or len(address[1]) > MAX_ADDRESS or "a" in self.open:
                return
            written = f' href="{html.escape(address[1])}" rel="noopener noreferrer"'
        if len(self.open) < MAX_DEPTH:
            self.open.append(name)
            self.parts.append(f"<{name}{written}>")

    def end(self, count):
        """Close the innermost elements."""
        for _ in range(count):
            self.parts.append(f"</{self.open.pop()}>")


# --- Markdown and formulas ---


def markdown(source):
    """The Markdown of a cell as HTML; its source if it is too long or cannot be read."""
    if len(source) > MAX_MARKDOWN:
        return plain(source)
    reader = markdown_reader()
    try:
        return clean(reader(source), MARKDOWN_TAGS)
    except Exception:  # such as a RecursionError in the depth of a hostile list
        return plain(source)


def plain(text):
    return f"<pre>{html.escape(text)}</pre>"


@functools.cache
def markdown_reader():
    """The reader of Markdown, made once. Its formulas are elements that `Writer` knows."""
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def image(self, text, url, title=None):
            return f"<em>[image: {text}]</em>"

        def inline_formula(self, text):
            return f"<formula>{html.escape(text)}</formula>"

        def block_formula(self, text):
            return f"<formula-block>{html.escape(text)}</formula-block>"

    def read_block(parser, match, state):
        state.append_token({"type": "block_formula", "raw": match["block_source"]})
        return match.end()

    def read_inline(parser, match, state):
        inside = match["inline_source"]
        kind = "inline_formula" if inside else "block_formula"
        state.append_token({"type": kind, "raw": inside or match["display_source"]})
        return match.end()

    reader = mistune.create_markdown(
        renderer=Renderer(escape=False), plugins=["table", "strikethrough"]
    )
    reader.block.register("block_formula", BLOCK_FORMULA, read_block, before="list")
    reader.inline.register("inline_formula", INLINE_FORMULA, read_inline, before="codespan")
    return reader


def formula(source, display=False):
    """A formula as MathML; its source if it cannot be read."""
    from latex2mathml.converter import convert_to_element

    source = source.strip()
    kind = "block" if display else "inline"
    try:
        if len(source) > MAX_FORMULA or DEFINITION.search(source):
            raise ValueError("not a formula that is read")
        # Its function `convert` would write the tags that stand in a \text as tags.
        written = write_math(convert_to_element(source, display=kind))
    except Exception:  # the reader raises errors of many kinds
        sign = "$$" if display else "$"
        return f"<code>{html.escape(f'{sign}{source}{sign}')}</code>"
    return f'<span class="formula-{kind}">{written}</span>'


def write_math(element, depth=0):
    """An element of MathML with the tags, attributes and values that are known to be harmless."""
    if depth > MAX_FORMULA_DEPTH:
        raise ValueError("the formula is too deep")
    inside = html.escape(unescape(element.text or ""))
    inside += "".join(write_math(child, depth + 1) for child in element)
    if element.tag not in MATH_TAGS:
        return inside
    attributes = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in MATH_ATTRIBUTES and PLAIN_VALUE.fullmatch(value)
    )
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


# --- code, terminal text and pictures ---


def code(source):
    """Python code in colours; in one colour if it cannot be read."""
    if len(source) > MAX_CODE or re.search(rf"\s{{{MAX_BLANKS}}}", source):
        return html.escape(source)
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    try:
        return highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip()
    except Exception:
        return html.escape(source)


@functools.cache
def code_style():
    """The style sheet of `code`, by day and by night."""
    from pygments.formatters import HtmlFormatter

    day = HtmlFormatter(style="default").get_style_defs(".source")
    night = HtmlFormatter(style="github-dark").get_style_defs(".source")
    plain_errors = ".source .err { all: unset }"  # IPython's % and ! are not errors
    return f"{day}\n@media (prefers-color-scheme: dark) {{\n{night}\n}}\n{plain_errors}"


def terminal(text):
    """Text as a terminal shows it: in colours, without what was overwritten."""
    from nbconvert.filters.ansi import ansi2html, strip_ansi

    text = OVERWRITTEN.sub("", text)
    try:
        coloured = ansi2html(text)
    except Exception:  # IndexError for a colour that lacks its number
        coloured = html.escape(strip_ansi(text))
    return CONTROL.sub("", coloured)


def picture(value, kind):
    """A picture of this kind, "png" or "jpeg", given in base64; a note if it is not one."""
    from PIL import Image

    try:
        data = base64.b64decode("".join(value.split()), validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of pictures that are too large
            with Image.open(io.BytesIO(data), formats=[kind.upper()]) as opened:
                width, height = opened.size
                too_large = max(width, height) > MAX_SIDE or width * height > MAX_PIXELS
                if not too_large:
                    opened.verify()
    except Exception:  # Pillow raises errors of many kinds
        return note(f"left out: this is not a {kind.upper()} picture")
    if too_large:
        return note(f"left out: this picture has {width} by {height} pixels")
    size = f'width="{width}" height="{height}"'
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="a picture that the code made" {size} src="{address}">\n'
