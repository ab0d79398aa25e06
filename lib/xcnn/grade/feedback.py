"""Write the page of feedback that a student gets."""

import functools
import html
import math
import re

from .sandbox import silent_log

# A hidden line of at least this many characters gives a hidden test away when an output holds it;
# shorter ones turn up by chance.
MIN_SECRET_LENGTH = 12


def page(row, shown, graded_cells):
    """The student's page: the notebook as it ran, with points.

    It holds no hidden test, and no output in which a line of one is found.
    """
    from nbformat import v4

    lines = [line for graded_cell in graded_cells for line in graded_cell.hidden.splitlines()]
    secrets = [secret for secret in map(squeeze, lines) if len(secret) >= MIN_SECRET_LENGTH]
    cells = [v4.new_markdown_cell(summary(row, graded_cells))]
    for part in shown:
        node = part["node"]
        if node.cell_type == "code":
            node.outputs = [censor(output, secrets) for output in node.outputs]
        cells.append(node)
        if "points" in part:
            cells.append(v4.new_markdown_cell(verdict(part)))
    book = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    return exporter().from_notebook_node(book, {"metadata": {"name": row["student"]}})[0]


def summary(row, graded_cells):
    """The head of the page, in Markdown: the score, the status and the points of each test."""
    reason = row["detail"].split(" | ")[0] if row["status"] != "ok" else ""
    lines = [
        f"# {html.escape(row['student'])}: {row['score']} of {row['max']} points",
        "",
        f"Status: **{row['status']}**. {html.escape(reason)}",
        "",
        "| test | points | of |",
        "|---|---|---|",
    ]
    for graded_cell in graded_cells:
        if graded_cell.test:
            points = short_number(graded_cell.points)
            lines.append(f"| {graded_cell.id} | {row[graded_cell.id]} | {points} |")
    return "\n".join(lines)


def verdict(part):
    """The line below a test: its points, and why some are lost."""
    graded_cell = part["graded_cell"]
    points = f"{part['points']} of {short_number(graded_cell.points)} points"
    return f"**{graded_cell.id}: {points}.** {part['why']}"


@functools.cache
def exporter():
    """The writer of pages, made once. It sanitises: a page must not run in your browser."""
    from nbconvert import HTMLExporter

    writer = HTMLExporter(sanitize_html=True)
    writer.log = silent_log()
    return writer


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


def censor(output, secrets):
    """The output, or a note in its place if it holds a line of a hidden test."""
    from nbformat import v4

    written = "\n".join(strings(output))
    without_tags = html.unescape(re.sub(r"<[^>]*>", "", written))  # what a reader of HTML sees
    squeezed = [squeeze(written), squeeze(without_tags)]
    if any(secret in text for secret in secrets for text in squeezed):
        return v4.new_output("stream", text="[left out: this output held text of a hidden test]\n")
    return output


def short_number(number):
    """The number without zeros at its end: 2.0 as 2, 1.50 as 1.5."""
    rounded = round(float(number), 4)
    return int(rounded) if math.isfinite(rounded) and rounded == int(rounded) else rounded
