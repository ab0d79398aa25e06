"""The page of feedback: no output on it holds a line of a hidden test."""

import html
import json
import re

from nbformat.v4 import new_output
from xcnn.grade import feedback


def test_censor():
    line = 'assert f(x) == "a\\n" and 1 < 2, f"{x} > 3"'
    secrets = [feedback.squeeze(line)]
    coloured = re.sub(r"(\w+)", "\x1b[38;5;28m\\1\x1b[39m", line)
    html_code = "<pre>" + re.sub(r"\b(f)\b", r"<b>\1</b>", html.escape(line)) + "</pre>"
    for output in (
        new_output("stream", text=f"one\n{line}\n"),
        new_output("stream", text=repr([line])),
        new_output("stream", text=json.dumps(repr(line))),
        new_output("error", ename="E", evalue="", traceback=["", f"----> 1 {coloured}"]),
        new_output("display_data", data={"text/html": html_code}),
    ):
        assert "left out" in feedback.censor(output, secrets).text
    kept = new_output("stream", text="assert f(x) == 1")
    assert feedback.censor(kept, secrets) is kept
