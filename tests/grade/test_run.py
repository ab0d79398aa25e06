"""What comes back from a notebook: messages are bounded, cut, and never trusted."""

import json
import os
import select
from types import SimpleNamespace

import pytest
from xcnn.grade import run
from xcnn.grade.inside import HEADER, MAX_PART, open_line
from xcnn.grade.run import RoomEnded, Runner


@pytest.fixture
def line():
    """(runner, descriptor): what is written to the descriptor reaches the runner."""
    replies, target = os.pipe()
    runner = Runner.__new__(Runner)
    runner.replies = replies
    runner.buffer = bytearray()
    runner.begun = []
    runner.begun_bytes = runner.bytes = runner.messages = 0
    runner.process = SimpleNamespace(wait=lambda timeout: 7)
    yield runner, target
    os.close(replies)


def part(kind, content):
    return HEADER.pack(kind, len(content)) + content


def test_a_message_in_parts(line):
    runner, target = line
    os.write(target, part(b"P", b'{"a"') + part(b"P", b": ") + part(b"O", b"1}")[:3])
    assert runner.next_message(0) is None and runner.next_message(0) is None
    os.write(target, part(b"O", b"1}")[3:])
    assert runner.next_message(0) == (b"O", {"a": 1})
    os.close(target)
    with pytest.raises(RoomEnded, match="exit code 7"):
        runner.next_message(0)


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 10,
        part(b"R", b"3"),
        part(b"R", b"[" * 1000),
        part(b"R", b""),
        part(b"Z", b"{}"),
        HEADER.pack(b"O", select.PIPE_BUF + 1),
        HEADER.pack(b"P", 2**32 - 1),
        b"".join([part(b"P", b" " * 4000)] * 10) + part(b"R", b"{}"),  # a long reply
    ],
)
def test_nonsense_ends_the_run(line, data):
    runner, target = line
    os.write(target, data)
    os.close(target)
    with pytest.raises(RoomEnded, match="nonsense"):
        while True:
            runner.next_message(0)


def test_an_output_that_is_not_json_is_dropped(line):
    runner, target = line
    for content in (b"{", b"[" * 3000, b"[1]", b"NaN", b"\xff", b"9" * 4000):
        os.write(target, part(b"O", content))
        assert runner.next_message(0) == (b"O", {})
    os.close(target)


def test_a_large_output_is_dropped(line, monkeypatch):
    monkeypatch.setattr(run, "MAX_MESSAGE_BYTES", 10_000)
    runner, target = line
    content = json.dumps({"a": "x" * 20_000}).encode()
    parts = [content[start : start + MAX_PART] for start in range(0, len(content), MAX_PART)]
    sent = b"".join(part(b"P", piece) for piece in parts[:-1]) + part(b"O", parts[-1])
    os.write(target, sent)
    os.close(target)
    assert runner.next_message(0) == (b"O", {})
    assert runner.begun == [] and runner.begun_bytes == 0


@pytest.mark.parametrize(("name", "most"), [("MAX_BYTES", 5000), ("MAX_MESSAGES", 50)])
def test_a_flood_ends_the_run(line, monkeypatch, name, most):
    monkeypatch.setattr(run, name, most)
    runner, target = line
    os.write(target, part(b"O", b"{}") * 3000)
    os.close(target)
    with pytest.raises(RoomEnded, match="flood"):
        while True:
            runner.next_message(0)


def test_the_other_end_writes_parts_that_are_read_again(line):
    runner, target = line
    source, nothing = os.pipe()
    send, _ = open_line(source, target)
    text = "é\ud800" * 5000
    send(b"O", {"text": text})
    os.close(target)
    os.close(nothing)
    while (message := runner.next_message(0)) is None:
        pass
    assert message == (b"O", {"text": text})
