"""Keep of a notebook's outputs and replies what grading needs, as short and plain text."""

from dataclasses import dataclass
from itertools import islice

MAX_OUTPUTS = 1000  # of a cell
MAX_WORDS = 160  # characters of an error that are kept
MAX_LINES = 1000  # of a traceback
MAX_KINDS = 50  # of data in one output
MIN_TEXT_BYTES = 20  # that a text takes, also an empty one
OUTPUTS = ("stream", "error", "display_data", "execute_result")


@dataclass
class Reply:
    """How a cell ended. `value` is the text of its last line's value, or None."""

    status: str
    ename: str = ""
    evalue: str = ""
    value: str | None = None


class Outputs:
    """Adds outputs to a cell, as far as the notebook's output is kept."""

    def __init__(self, cell, outcome):
        self.cell = cell
        self.outcome = outcome

    def add(self, content):
        """Keep an output. Its metadata goes; only text is left."""
        kind = content.get("output_type")
        if kind == "clear":
            self.cell.outputs = []
        if kind not in OUTPUTS or len(self.cell.outputs) >= MAX_OUTPUTS:
            return
        output = plain_output(kind, content)
        self.outcome.bytes_left -= size_of(output)
        if self.outcome.bytes_left < 0:
            return
        last = self.cell.outputs[-1] if self.cell.outputs else None
        if kind == "stream" and last and last.output_type == kind and last.name == output.name:
            last.text += output.text  # lists: adding to a long text would copy it each time
        else:
            self.cell.outputs.append(output)


def plain_output(kind, content):
    """An output that holds text, and nothing else."""
    from nbformat import NotebookNode

    if kind == "stream":
        name = "stderr" if content.get("name") == "stderr" else "stdout"
        return NotebookNode(output_type=kind, name=name, text=[text(content.get("text"))])
    if kind == "error":
        lines = content.get("traceback")
        is_list = isinstance(lines, list)
        return NotebookNode(
            output_type=kind,
            ename=text(content.get("ename"))[:MAX_WORDS],
            evalue=text(content.get("evalue")),
            traceback=[text(line) for line in lines[:MAX_LINES]] if is_list else [],
        )
    data = content.get("data")
    data = dict(islice(data.items(), MAX_KINDS)) if isinstance(data, dict) else {}
    plain = {
        text(name)[:MAX_WORDS]: text(value)
        for name, value in data.items()
        if isinstance(value, str)
    }
    output = NotebookNode(output_type=kind, data=NotebookNode(plain), metadata=NotebookNode())
    if kind == "execute_result":
        output.execution_count = None
    return output


def size_of(output):
    """What an output takes, about: its texts, and something for each of them."""
    texts = [*output.get("text", []), *output.get("traceback", [])]
    texts += [output.get("evalue", ""), *output.get("data", {}).values()]
    return sum(len(part) + MIN_TEXT_BYTES for part in texts)


def text(value):
    """The value as text that can be written; empty if it is none."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def read_reply(content):
    """The `Reply` that a message holds, cut."""
    status = "ok" if content.get("status") == "ok" else "error"
    words = [first_line(text(content.get(key))) for key in ("ename", "evalue")]
    value = content.get("value")
    return Reply(status, *words, first_line(text(value)) if value is not None else None)


def first_line(words, length=MAX_WORDS):
    """The first line of a text, cut."""
    lines = words.strip().splitlines()
    return lines[0][:length] if lines else ""
