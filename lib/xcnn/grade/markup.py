"""HTML that is safe to open, from the texts, Markdown, formulas and pictures of students.

nh3 reads a student's markup and writes it anew from known tags. Each function takes time in
proportion to its text.
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
# Their content is not text for a reader, so it goes with them.
UNSEEN_TAGS = frozenset(
    "script style title template iframe noscript object svg math select textarea".split()
)
SPAN = re.compile(r"\d{1,2}")
ADDRESS = re.compile(r"https?://[^\s\"'<>]{1,2000}")
FORMULA = re.compile(r"<formula(-block)?>([^<]*)</formula(?:-block)?>")

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
    import nh3

    return nh3.clean(
        text.encode("utf-8", "replace").decode(),  # half of a surrogate pair is not a character
        tags=set(tags),
        clean_content_tags=set(UNSEEN_TAGS),
        attributes={"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}, "a": {"href"}},
        attribute_filter=kept_attribute,
        link_rel="noopener noreferrer",
    )


def kept_attribute(tag, name, value):
    """The value of an attribute if it is harmless, else None."""
    if name in ("colspan", "rowspan", "href"):
        return value if (ADDRESS if name == "href" else SPAN).fullmatch(value) else None
    return value if name == "rel" else None


# --- Markdown and formulas ---


def markdown(source):
    """The Markdown of a cell as HTML; its source if it is too long or cannot be read."""
    if len(source) > MAX_MARKDOWN:
        return plain(source)
    reader = markdown_reader()
    try:
        return FORMULA.sub(read_formula, clean(reader(source), MARKDOWN_TAGS))
    except Exception:  # such as a RecursionError in the depth of a hostile list
        return plain(source)


def read_formula(found):
    """The formula of an element that the reader of Markdown made."""
    return formula(unescape(found[2]), display=bool(found[1]))


def plain(text):
    return f"<pre>{html.escape(text)}</pre>"


@functools.cache
def markdown_reader():
    """The reader of Markdown, made once. Its formulas become elements of their own."""
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
