"""The page that a student gets back."""

import html
import math
import re

from .sandbox import quiet

SHORTEST = 12  # characters of a hidden line that betray it when they turn up in an output


def page(row, shown, graded):
    """A page for the student: the notebook as it ran, with points. No source of hidden tests, and no output of them."""
    from nbconvert import HTMLExporter
    from nbformat import v4

    points = [
        f"| {want.id} | {row[want.id]} | {tidy(want.points)} |" for want in graded if want.test
    ]
    first = row["detail"].split(" | ")[0] if row["status"] != "ok" else ""
    head = f"# {html.escape(row['student'])}: {row['score']} of {row['max']} points\n\n"
    head += f"Status: **{row['status']}**. {html.escape(first)}\n\n| test | points | of |\n|---|---|---|\n"
    cells = [v4.new_markdown_cell(head + "\n".join(points))]
    secrets = [squeeze(line) for want in graded for line in want.hidden.splitlines()]
    secrets = [line for line in secrets if len(line) >= SHORTEST]
    for part in shown:
        node = part["node"]
        if node.cell_type == "code":
            node.outputs = [censor(out, secrets) for out in node.outputs]
        cells.append(node)
        if "points" in part:
            said = f"**{part['want'].id}: {part['points']} of {tidy(part['want'].points)} points.** {part['why']}"
            cells.append(v4.new_markdown_cell(said))
    book = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    if not hasattr(page, "exporter"):
        page.exporter = HTMLExporter(
            sanitize_html=True
        )  # a student's page must not run in your browser
        page.exporter.log = quiet()
    return page.exporter.from_notebook_node(book, {"metadata": {"name": row["student"]}})[0]


def squeeze(value):
    """Text without colours, quotes, backslashes and blanks, so that it is the same however it is written."""
    return re.sub(r"\x1b\[[0-9;]*m|[\s\\'\"]", "", value)


def strings(value):
    """All text in an output."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def censor(output, secrets):
    """The output, or a word about it where it holds a line of a hidden test."""
    from nbformat import v4

    said = "\n".join(strings(output))
    bare = html.unescape(re.sub(r"<[^>]*>", "", said))  # of HTML, what a reader sees
    if any(secret in squeeze(text) for secret in secrets for text in (said, bare)):
        return v4.new_output("stream", text="[left out: this output held text of a hidden test]\n")
    return output


def tidy(number):
    """2.0 as 2, 1.50 as 1.5."""
    number = round(float(number), 4)
    return int(number) if math.isfinite(number) and number == int(number) else number
