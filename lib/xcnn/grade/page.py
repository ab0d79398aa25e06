"""Write the page of feedback that a student gets.

It is one file of HTML that does not run scripts or ask for anything outside. What a student's code
made may be hostile: it goes onto the page through `markup` or escaped.
"""

import html
import math
import re
from pathlib import Path

from . import markup

# A hidden line of at least this many characters gives a hidden test away when an output holds it;
# shorter ones turn up by chance.
MIN_SECRET_LENGTH = 12

MAX_TEXT = 50_000  # characters of one text: a source, or a text of an output
MAX_OUTPUTS = 200  # of a cell
MAX_CELLS = 500
MAX_PAGE = 40_000_000  # characters; a notebook may write 20 million, and colours are long

PICTURES = {"image/png": "png", "image/jpeg": "jpeg"}
LEAK = "left out: this output held text of a hidden test"
BY_HAND = "read by hand"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE_PATH = Path(__file__).with_name("page.css")


def page(row, shown, graded_cells):
    """The student's page: the notebook as it ran, with points.

    A hidden test is not on it, and neither is an output in which a line of one is found.
    """
    lines = [line for graded_cell in graded_cells for line in graded_cell.hidden.splitlines()]
    secrets = [secret for secret in map(squeeze, lines) if len(secret) >= MIN_SECRET_LENGTH]
    cells = []
    size = 0
    for part in shown[:MAX_CELLS]:
        if size > MAX_PAGE:
            break
        cells.append(draw_cell(part, secrets))
        size += len(cells[-1])
    if len(cells) < len(shown):
        cells.append(markup.note(f"cut: {len(shown) - len(cells)} cells more"))
    body = draw_head(row, graded_cells) + f"<main>\n{''.join(cells)}</main>\n"
    return frame(row, body, markup.code_style())


def points_page(row, graded_cells):
    """The page without the notebook, for where that cannot be drawn. It needs Python only."""
    return frame(row, draw_head(row, graded_cells))


def frame(row, body, more_style=""):
    """The document around the body. Lone surrogates become question marks."""
    written = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(str(row["student"]))}</title>
<style>
{more_style}
{STYLE_PATH.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}</body>
</html>
"""
    return written.encode("utf-8", "replace").decode("utf-8")


def draw_head(row, graded_cells):
    """The head of the page: the score, the status and the points of each test."""
    reason = row["detail"].split(" | ")[0] if row["status"] != "ok" else ""
    title = html.escape(f"{row['student']}: {row['score']} of {row['max']} points")
    rows = "".join(
        f"<tr><td>{html.escape(str(graded_cell.id))}</td>"
        f"<td>{BY_HAND if graded_cell.written else html.escape(str(row.get(graded_cell.id, '')))}"
        f"</td><td>{short_number(graded_cell.points)}</td></tr>\n"
        for graded_cell in graded_cells
        if graded_cell.test or graded_cell.written
    )
    return (
        f"<header>\n<h1>{title}</h1>\n"
        f"<p>Status: <b>{html.escape(str(row['status']))}</b>. {html.escape(reason)}</p>\n"
        "<table>\n<thead><tr><th>test</th><th>points</th><th>of</th></tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table>\n</header>\n"
    )


def draw_cell(part, secrets):
    """A cell with its outputs and, if it is a test, its points."""
    try:
        inside = draw_node(part["node"], secrets)
    except Exception:  # one cell that cannot be drawn must not cost the others
        inside = markup.note("left out: this cell cannot be drawn")
    graded_cell = part["graded_cell"]
    below = draw_verdict(part) if "points" in part else ""
    if graded_cell and graded_cell.written:
        of = short_number(graded_cell.points)
        name = html.escape(graded_cell.id)
        below = f'<p class="verdict"><b>{name}: {BY_HAND}, up to {of} points.</b></p>\n'
    return f"<section>\n{inside}</section>\n{below}"


def draw_node(node, secrets):
    """The source of a cell and its outputs."""
    source, rest = cut(text_of(node.get("source")) or "")
    if node.get("cell_type") == "markdown":
        return f'<div class="markdown">{markup.markdown(source)}</div>\n{rest}'
    if node.get("cell_type") != "code":
        return f"<pre>{html.escape(source)}</pre>\n{rest}"
    outputs = node.get("outputs") or []
    drawn = [draw_kept(output, secrets) for output in outputs[:MAX_OUTPUTS]]
    if len(outputs) > MAX_OUTPUTS:
        drawn.append(markup.note(f"cut: {len(outputs) - MAX_OUTPUTS} outputs more"))
    return f'<pre class="source">{markup.code(source)}</pre>\n{rest}{"".join(drawn)}'


def draw_verdict(part):
    """The line below a test: its points, and why some are lost."""
    graded_cell = part["graded_cell"]
    of = short_number(graded_cell.points)
    kind = "full" if part["points"] == of else "lost"
    points = html.escape(f"{graded_cell.id}: {part['points']} of {of} points.")
    why = html.escape(str(part.get("why", "")))
    return f'<p class="verdict {kind}"><b>{points}</b> {why}</p>\n'


# --- outputs ---


def draw_kept(output, secrets):
    """An output, or a note in its place if it holds a line of a hidden test."""
    drawn = draw_output(censor(output, secrets))
    # Once more, for what can be read on the page only: say a line in pieces of dropped markup.
    text = re.sub(r'src="[^"]*"', "", drawn)
    return markup.note(LEAK) if holds_secret(text, secrets) else drawn


def draw_output(output):
    """An output of a kind that notebooks have. Its metadata is not used."""
    kind = output.get("output_type")
    if kind == "stream":
        text = text_of(output.get("text")) or ""
        return draw_text(text, "stderr" if output.get("name") == "stderr" else "stdout")
    if kind == "error":
        lines = output.get("traceback")
        lines = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
        error = f"{text_of(output.get('ename')) or ''}: {text_of(output.get('evalue')) or ''}"
        return draw_text("\n".join(lines) or error, "error")
    if kind in ("execute_result", "display_data"):
        data = output.get("data")
        return draw_data(data if isinstance(data, dict) else {})
    return markup.note("left out: an output of another kind")


def draw_data(data):
    """The best of the forms in which an output is given: a picture, a table, or text."""
    for key, kind in PICTURES.items():
        value = text_of(data.get(key))
        if value is not None:
            return markup.picture(value, kind)
    value = text_of(data.get("text/html"))
    if value is not None:
        value, rest = cut(value)
        cleaned = markup.clean(value)
        if re.sub(r"<[^<>]*>", "", cleaned).strip():
            return f'<div class="html">{cleaned}</div>\n{rest}'
    value = text_of(data.get("text/plain"))
    if value is not None:
        return draw_text(value, "result")
    return markup.note("left out: an output of another kind")


def draw_text(text, kind):
    text, rest = cut(text)
    return f'<pre class="{kind}">{markup.terminal(text)}</pre>\n{rest}'


def cut(text):
    """The text up to MAX_TEXT characters, and a note on how many are left."""
    if len(text) <= MAX_TEXT:
        return text, ""
    return text[:MAX_TEXT], markup.note(f"cut: {len(text) - MAX_TEXT} characters more")


def text_of(value):
    """A text, which a notebook may hold as a list of lines; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return None


# --- hidden tests ---


def squeeze(value):
    """Text without colours, quotes, backslashes and blanks: the same in every way of writing it."""
    return re.sub(r"\x1b\[[0-9;]*m|[\s\\'\"]", "", value)


def strings(value):
    """All text in an output."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def holds_secret(written, secrets):
    """Is a line of a hidden test in this text, as it is or as a reader of HTML sees it?"""
    without_tags = markup.unescape(re.sub(r"<[^<>]*>", "", written))
    squeezed = [squeeze(written), squeeze(without_tags)]
    return any(secret in text for secret in secrets for text in squeezed)


def censor(output, secrets):
    """The output, or a note in its place if it holds a line of a hidden test."""
    if not holds_secret("\n".join(strings(output)), secrets):
        return output
    from nbformat import v4

    return v4.new_output("stream", text=f"[{LEAK}]\n")


def short_number(number):
    """The number without zeros at its end: 2.0 as 2, 1.50 as 1.5."""
    rounded = round(float(number), 4)
    return int(rounded) if math.isfinite(rounded) and rounded == int(rounded) else rounded
