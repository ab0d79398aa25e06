"""The page of feedback: it is safe to open, readable, and does not give hidden tests away."""

import base64
import html
import io
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell
from PIL import Image
from xcnn.grade import markup
from xcnn.grade import page as pages

SCRIPT = "<script>alert(1)</script>"
BAD_TAGS = {"script", "iframe", "object", "embed", "form", "base", "svg", "link", "input", "video"}
COLOURS = r"((background-)?color: rgb\(\d+,\d+,\d+\)(; )?){1,2}"
SECRET = 'assert f(x) == "a\\n" and 1 < 2, f"{x} > 3"'
ROW = {"student": "Ada", "score": 2, "max": 5, "status": "ok", "detail": "", "step-test": 2}
TEST = SimpleNamespace(id="step-test", points=2.0, hidden=SECRET, test=True, written=False)


class Reader(HTMLParser):
    """Collects the tags, attributes and visible text of a page."""

    def __init__(self, written):
        super().__init__()
        self.tags = []
        self.text = ""
        self.inside = ""
        self.feed(written)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside != "style":
            self.text += data


def draw(*nodes, row=ROW):
    """A page with these cells, the last of which is a test. It is checked to be safe."""
    shown = [{"node": node, "graded_cell": None, "visible": None, "hidden": None} for node in nodes]
    shown[-1:] = [part | {"graded_cell": TEST, "points": 2, "why": ""} for part in shown[-1:]]
    written = pages.page(row, shown, [TEST])
    check_safe(written)
    return written


def check_safe(written):
    """Raise AssertionError if the page could run or fetch something, or lacks its policy."""
    written.encode("utf-8")
    read = Reader(written)
    names = [tag for tag, _ in read.tags]
    assert not BAD_TAGS & set(names)
    assert names.count("style") == names.count("title") == 1
    assert read.tags[2] == ("meta", {"charset": "utf-8"})
    assert read.tags[3][1]["content"] == pages.POLICY
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith(("on", "xlink", "formaction"))]
        assert re.match(r"data:image/(png|jpeg);base64,[\w+/=]+$", attributes.get("src", PNG))
        assert re.match(r"https?://\S+$", attributes.get("href", "http://x"))
        assert "href" not in attributes or attributes["rel"] == "noopener noreferrer"
        assert re.fullmatch(COLOURS, attributes.get("style", "color: rgb(0,0,0)"))
        assert not {"id", "srcset", "data", "action", "background", "poster"} & set(attributes)
        assert tag != "meta" or attributes.get("http-equiv") != "refresh"


def picture(kind="PNG", size=(3, 2)):
    file = io.BytesIO()
    Image.new("1" if kind == "PNG" else "L", size).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


PNG = "data:image/png;base64," + picture()


def show(data, metadata=None):
    """A code cell that displays this data."""
    output = {"output_type": "display_data", "data": data, "metadata": metadata or {}}
    return ran(output)


def ran(*outputs, source="pass"):
    """A code cell with these outputs, which nbformat need not allow."""
    node = new_code_cell(source)
    node.outputs = list(outputs)
    return node


def printed(text):
    return ran(new_output("stream", text=text))


# --- an honest page ---


def test_honest():
    """What a notebook shows is there, as elements and not as visible tags."""
    error = new_output(
        "error", ename="E", evalue="no", traceback=["\x1b[0;31mE\x1b[0m: \x1b[38;5;28mno\x1b[39m"]
    )
    table = "<style>p {color: red}</style><table border=1><thead><tr><th colspan='2'>a</th></tr>"
    outputs = [new_output("stream", text="12%\r50%\r100%\n1 < 2 & 3\n"), error]
    written = draw(
        new_markdown_cell("# Title\n\nText, `code`, [a link](https://a.org/?b=1&c=2).\n\n- one"),
        ran(*outputs, source="def f(x):\n    return x < 1"),
        show({"text/html": table + "<tbody><tr><td>1<td>2</table>", "text/plain": "plain"}),
        new_raw_cell("raw <b>"),
    )
    read = Reader(written)
    assert "Ada: 2 of 5 points" in written
    assert "<title>Ada</title>" in written
    assert "<b>step-test: 2 of 2 points.</b>" in written
    assert "<h1>Title</h1>" in written
    assert 'href="https://a.org/?b=1&amp;c=2"' in written
    assert ("th", {"colspan": "2"}) in read.tags
    assert "<td>1</td><td>2</td></tr></tbody></table>" in written
    assert "color: red" not in written
    assert "plain" not in read.text
    assert "100%\n1 < 2 & 3\n" in read.text
    assert "50%" not in read.text
    assert "def f(x):\n    return x < 1" in read.text
    assert '<span class="ansi-red-fg">E</span>' in written
    assert "E: no" in read.text
    assert "raw <b>" in read.text
    assert not re.search(r"&lt;(h1|p|thead|table|/)", written)


def test_head():
    """Why points are lost is said; the points of each test are in a table."""
    row = ROW | {"status": "repaired", "detail": "repaired: 1 <cell> | step-test: hidden: no"}
    written = draw(new_markdown_cell("a"), row=row)
    assert "Status: <b>repaired</b>. repaired: 1 &lt;cell&gt;</p>" in written
    assert "hidden: no" not in written
    assert "<tr><td>step-test</td><td>2</td><td>2</td></tr>" in written


def test_formulas():
    written = markup.markdown(
        "So $a_1 * b$ and $c * d$, `$x` and `$y`, $5 and `x$`.\n\n$$\n\\frac{a}{b}\n\n- c\n$$\n\n"
        "```\n$z$\n```\n\n- in a list $$\\gamma$$"
    )
    assert written.count("<math") == 4
    assert written.count('<math display="block"') == 2
    assert "<mfrac>" in written
    assert "γ" in written
    assert "<em>" not in written
    for kept in ("<code>$x</code>", "<code>$y</code>", "$5", "<code>x$</code>", "$z$\n</code>"):
        assert kept in written
    assert markup.markdown("$\\frac$") == "<p><code>$\\frac$</code></p>\n"


def test_pictures():
    written = draw(show({"image/png": picture() + "\n", "text/plain": "figure"}))
    assert f'width="3" height="2" src="{PNG}"' in written
    assert "figure" not in Reader(written).text
    assert "data:image/jpeg" in draw(show({"image/jpeg": picture("JPEG")}))
    for data, said in {
        base64.b64encode(b"<html><script>alert(1)</script>").decode(): "not a PNG",
        picture("JPEG"): "not a PNG",
        picture()[:40]: "not a PNG",
        picture() + '" onerror="alert(1)': "not a PNG",
        picture(size=(10_001, 1)): "10001 by 1 pixels",
        picture(size=(9_000, 9_000)): "9000 by 9000 pixels",
        picture(size=(10_000, 10_000)): "not a PNG",  # Pillow's own warning
    }.items():
        written = draw(show({"image/png": data, "text/html": "<b>x</b>"}))
        assert said in written
        assert "<img" not in written


def test_cuts():
    """Long texts and many outputs are cut, with a note that says so."""
    assert "[cut: 7 characters more]" in draw(printed("x" * (pages.MAX_TEXT + 7)))
    assert "[cut: 7 characters more]" in draw(new_code_cell("x" * (pages.MAX_TEXT + 7)))
    assert "[cut: 7 characters more]" in draw(new_markdown_cell("x" * (pages.MAX_TEXT + 7)))
    assert "[cut: 7 characters more]" in draw(show({"text/html": "x" * (pages.MAX_TEXT + 7)}))
    many = [new_output("stream", text="x")] * (pages.MAX_OUTPUTS + 7)
    assert "[cut: 7 outputs more]" in draw(ran(*many))
    cells = [new_raw_cell("x")] * (pages.MAX_CELLS + 7)
    assert "[cut: 7 cells more]" in draw(*cells)


# --- attacks ---

HOSTILE_HTML = [
    SCRIPT,
    "<SCRIPT SRC=//e.vil/x.js></SCRIPT >",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<img src='http://e.vil/x.png'>",
    "<svg/onload=alert(1)><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img onerror=1&gt;'>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=x></object><embed src=x><base href=//e.vil><link rel=stylesheet href=//e.vil>",
    "<form action=//e.vil><input name=a><button formaction=javascript:alert(1)>b</form>",
    "<meta http-equiv=refresh content='0;url=//e.vil'>",
    "<p style='background:url(//e.vil)' onclick=alert(1) id=a class=verdict>text</p>",
    "<td colspan='1 onerror=alert(1)' rowspan=2 onmouseover=alert(1)>x",
    "<!--><script>alert(1)</script>-->",
    "<!DOCTYPE x [<!ENTITY a 'b'>]><?php echo ?>",
    "</section></main></body></html><script>alert(1)</script>",
    "</pre></div><b/onclick=alert(1)>x",
    "<a href='javascript:alert(1)'>a</a><a href='data:text/html,x'>b</a><a href=//e.vil>c</a>",
    "<a href='https://x\" onclick=\"alert(1)'>a</a>",
    "<a href='https://x&quot; onclick=&quot;alert(1)'>a</a>",
    "<title>x</title><textarea></textarea><noscript><p title='</noscript><img src=x onerror=1>'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<style>@import '//e.vil';",
    "<b\x00><scr\x00ipt>alert(1)</script>",
    "<p \x0conclick=alert(1)>",
    "<formula>\\text{<img src=x onerror=alert(1)>}</formula>",
    "&#" + "9" * 5000 + ";",
    "<div>" * 1000,
]
HOSTILE_MARKDOWN = [
    "[a](javascript:alert(1)) [b](JaVaScRiPt&#58;alert(1)) [c](data:text/html,x) [d](//e.vil)",
    '![a](http://e.vil/x.png) ![b](data:image/svg+xml,x) !["onerror=alert(1)](x)',
    "[a](https://x.org '\"onclick=alert(1)') <https://x\"onclick=alert(1)>",
    "[a]: javascript:alert(1)\n\n[a] ![a]",
    "$\\text{<script>alert(1)</script>}$ $\\mbox{&lt;img src=x onerror=alert(1)&gt;}$",
    "$\\href{javascript:alert(1)}{x}$ $\\style{background:url(//e.vil)}{x}$ $\\class{verdict}{x}$",
    '$\\color{red" onclick="alert(1)}{x}$ $\\hspace{9" onclick="alert(1)}$ $\\rule{99em}{99em}$',
    "$\\unicode{60}\\unicode{x3c}script\\unicode{x3e}$ $<img src=x onerror=alert(1)>$",
    "$\\def\\a{xxxxxxxxxx}\\def\\b{\\a\\a\\a\\a\\a\\a\\a\\a}\\b$",
    "```html onclick=alert(1)\n<script>alert(1)</script>\n```",
    '[$\\text{"}$](https://x/$\\text{"onclick=1}$)',
    "| a |\n|:-:|\n| <img src=x onerror=alert(1)> |",
    "> " * 500 + "x",
    "$" + "x^{" * 300 + "$",
]


@pytest.mark.parametrize("attack", HOSTILE_HTML)
def test_html(attack):
    """`draw` checks the page; what stands in scripts is not text on it either."""
    written = draw(show({"text/html": "before" + attack}), new_markdown_cell("before\n\n" + attack))
    draw(show({"text/html": "before <p>" + attack}), new_markdown_cell("before " + attack))
    assert written.count("before") == 2
    assert written.count("<section>") == written.count("</section>") == 2
    assert "step-test: 2 of 2 points" in Reader(written).text


@pytest.mark.parametrize("attack", HOSTILE_MARKDOWN)
def test_markdown(attack):
    written = draw(new_markdown_cell("before\n\n" + attack))
    assert "before" in written
    assert "cannot be drawn" not in written


def test_script_text():
    """A script and a style sheet go with their content."""
    for attack in (
        "<script>bad()</script>",
        "<STYLE x>bad</STYLE>",
        "<script>bad",
        "<svg>bad</svg>",
    ):
        assert markup.clean(f"<p>a{attack}") == "<p>a</p>"
    assert markup.clean("a < b and c > d, <module 'x'>") == ("a &lt; b and c &gt; d, ")
    assert markup.clean("<__main__.Net at 0x7f>") == "&lt;__main__.Net at 0x7f&gt;"


@pytest.mark.parametrize(
    "attack",
    [SCRIPT, "</pre><img src=x onerror=alert(1)>", "\x1b[31;<script>m", '"onclick="1', "\ud800"],
)
def test_strings(attack):
    """Each string of a notebook may be hostile: streams, errors, sources, names, details."""
    outputs = [
        {"output_type": "stream", "name": attack, "text": attack},
        new_output("error", ename=attack, evalue=attack, traceback=[attack]),
        new_output("error", ename=attack, evalue=attack, traceback=[]),
        {"output_type": "execute_result", "data": {"text/plain": attack, attack: attack}},
        {"output_type": attack},
    ]
    row = ROW | {"student": attack, "status": attack, "detail": attack, "score": attack}
    written = draw(
        ran(*outputs, source=attack),
        new_raw_cell(attack),
        new_markdown_cell(attack, metadata={"attachments": {attack: attack}}),
        row=row,
    )
    assert "<script>" not in written
    check_safe(pages.points_page(row, [TEST]))


def test_metadata():
    """The metadata of pictures does not come onto the page."""
    written = draw(
        show(
            {"image/png": picture()},
            {
                "image/png": {"width": "1 onerror=alert(1)", "height": '"><script>'},
                "filenames": {"image/png": "http://e.vil/x.png"},
            },
        )
    )
    assert "onerror" not in written
    assert "e.vil" not in written


@pytest.mark.parametrize("value", [None, 3, {"a": "b"}, ["a", 3], [["a"]], True])
def test_types(value):
    """A value of another type is dropped; lines are joined."""
    kinds = ("image/png", "image/jpeg", "text/html", "text/plain")
    written = draw(show(dict.fromkeys(kinds, value)), show(value))
    assert written.count("an output of another kind") == 2
    assert "left out" in draw(show({"text/latex": "a", "image/svg+xml": "<svg>", "a/b": "c"}))
    assert ">a\nb</pre>" in draw(show({"text/plain": ["a\n", "b"]}))


# --- time ---

UNITS = [
    *("<", "[", "*", "> ", "|", "$", "`", "_", "~", "![", "[a](", "<b>", "<!--", "<![CDATA[", "</"),
    *(
        "&",
        "&#",
        "&#0",
        "&#x0",
        "\\",
        "- ",
        "1. ",
        "  - a\n",
        "|a|b|\n",
        "|-|\n",
        "[a]: b\n",
        "[^a]",
    ),
    *("**a*", "<a@", "<a:", "`a``", "``` \n", " $$\n", "$x$", "$a$b`", "  \n", "a\n=\n", "<td>"),
    *(
        "<p><b a=1>",
        "<style>x",
        "<a href='http://",
        "\x1b[",
        "\x1b[3",
        "x\x1b[A",
        "\x1b[31mx\x1b[m",
    ),
    *("'''", 'f"{', "(", "lambda ", "\\\n", "a\r", "\x00", "\ud800", "\n" + " " * 490, "$\\a{"),
]


def seconds(work, *arguments):
    """The processor time of a call."""
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


@pytest.mark.parametrize("unit", UNITS)
def test_time(unit):
    """Hostile texts take time in proportion to their length, and less than a second each."""
    long = unit * (200_000 // len(unit))
    took = {
        "censor": seconds(pages.censor, {"a": long}, [pages.squeeze(SECRET)]),
        "markdown": seconds(markup.markdown, long[: markup.MAX_MARKDOWN]),
        "clean": seconds(markup.clean, long[: pages.MAX_TEXT]),
        "code": seconds(markup.code, long[: markup.MAX_CODE]),
        "terminal": seconds(markup.terminal, long[: pages.MAX_TEXT]),
        "formula": seconds(markup.formula, long[: markup.MAX_FORMULA]),
    }
    assert max(took.values()) < 10, took  # generous: a machine may be ten times as slow


# --- hidden tests ---


def test_censor():
    secrets = [pages.squeeze(SECRET)]
    coloured = re.sub(r"(\w+)", "\x1b[38;5;28m\\1\x1b[39m", SECRET)
    html_code = "<pre>" + re.sub(r"\b(f)\b", r"<b>\1</b>", html.escape(SECRET)) + "</pre>"
    for output in (
        new_output("stream", text=f"one\n{SECRET}\n"),
        new_output("stream", text=repr([SECRET])),
        new_output("stream", text=json.dumps(repr(SECRET))),
        new_output("error", ename="E", evalue="", traceback=["", f"----> 1 {coloured}"]),
        new_output("display_data", data={"text/html": html_code}),
    ):
        assert "left out" in pages.censor(output, secrets).text
    kept = new_output("stream", text="assert f(x) == 1")
    assert pages.censor(kept, secrets) is kept


def test_pieces():
    """A line that only a reader of the page sees whole is left out, too."""
    escaped = html.escape(SECRET)
    for text in (
        escaped.replace("(x)", "<style>a</style>(x)"),
        escaped.replace("(x)", "<!-- > -->(x)"),
        escaped.replace("(", "&#" + "0" * 5000 + "40;"),
    ):
        written = draw(show({"text/html": text}), printed("kept"))
        assert written.count(pages.LEAK) == 1
        assert "kept" in written
    assert pages.LEAK in draw(printed(SECRET.replace("f(x)", "f\x1b[A(\x01x)")))
    assert pages.LEAK in draw(printed(SECRET + "x" * pages.MAX_TEXT))


# --- the parent process ---


def test_points_page():
    """The page of points is drawn without the packages that draw cells."""
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom xcnn.grade import page\n"
        f"row = {ROW}\n"
        "test = SimpleNamespace("
        "id='step-test', points=2.0, hidden='', test=True, written=False)\n"
        "print(page.points_page(row, [test]))\n"
        "print('loaded:', {'nbconvert', 'bleach', 'mistune'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    written, _, loaded = done.stdout.rpartition("loaded:")
    check_safe(written)
    assert "Ada: 2 of 5 points" in written
    assert loaded.strip() == "set()"


def test_short_number():
    assert [pages.short_number(number) for number in (2.0, 1.5, "3", float("inf"))] == [
        *(2, 1.5, 3),
        float("inf"),
    ]
