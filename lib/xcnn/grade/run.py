"""Run a notebook's cells in a room, one by one, and keep what grading needs of what comes back.

Everything that comes back is hostile. A message is read in small parts, bounded in size and number;
a flood ends the run; replies are cut to a few short lines.
"""

import json
import os
import secrets
import select
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from . import room, watch
from .outputs import Outputs, read_reply

HEADER = struct.Struct(">cI")
PROGRAM = str(Path(__file__).with_name("inside.py"))
MAX_MESSAGE_BYTES = 8 * 2**20  # a larger output is dropped
MAX_REPLY_BYTES = 20_000
MAX_BYTES = 2**30  # of all messages of a notebook; more is a flood
MAX_MESSAGES = 500_000
PART_BYTES = 2**16
PATIENCE = 0.5  # seconds between two looks at the limits of a cell
FLOOD = "a flood of output"
NONSENSE = "the notebook's Python wrote nonsense to the grader"
CLEANING_ROUNDS = 50
VERDICT_TIMEOUT = 3  # seconds for the watch to say why it ended the room


@dataclass
class Outcome:
    """How a run ended."""

    status: str = ""  # "", "timeout" or "crashed"
    detail: list = field(default_factory=list)  # why
    replies: dict = field(default_factory=dict)  # position of a cell that ended -> `Reply`
    bytes_left: float = 0  # of output that is still kept; negative when some was dropped


class RoomEnded(Exception):
    """The notebook's process is gone, or has to go; the message says why."""


def run_cells(cells, tests, limits, runner):
    """Run code cells one by one and put their outputs into them: an `Outcome`.

    The text of a cell reaches the room when its turn comes, not before. `tests` maps the position
    of each test to that of the cell that must have passed before it; where there is none, to its
    own. `runner` is an open `Runner`.
    """
    outcome = Outcome(bytes_left=limits.output)
    name = "the start"
    try:
        runner.wait_until_ready()
        for position, cell in enumerate(cells):
            before = outcome.replies.get(tests.get(position))
            if before and before.status != "ok":
                continue  # the visible part failed: the room does not get the hidden part
            name = cell.metadata.get("name", f"code cell {position + 1}")
            store = position not in tests
            reply, was_stopped = runner.ask(cell, store, outcome)
            outcome.replies[position] = reply
            if was_stopped:
                outcome.status = "timeout"
                outcome.detail.append(f"{name} was stopped after {was_stopped}")
    except RoomEnded as error:
        status, reason = runner.verdict() or ("crashed", str(error))
        outcome.status = status
        outcome.detail.append(f"{reason} in {name}")
    return outcome


class Runner:
    """One room, open for one notebook: use it in a `with` statement.

    :param limits: `Limits`
    :param home: a folder for the notebook, where it runs without a room; else None
    :param hide: folders that stay out of the room
    :param verdicts: descriptor from which to read why the watch ended the room; None without one
    """

    def __init__(self, limits, home=None, hide=(), verdicts=None):
        self.limits = limits
        self.verdicts = verdicts
        self.buffer = bytearray()
        self.begun = []  # the parts of a message whose end has not come yet
        self.begun_bytes = 0
        self.bytes = 0
        self.messages = 0
        self.is_ready = False
        request_file, self.requests = os.pipe()
        self.replies, reply_file = os.pipe()
        command = [sys.executable, "-P", PROGRAM, str(request_file), str(reply_file)]
        files = (request_file, reply_file)
        if home is None:
            self.process = room.open_room(command, files, hide, limits)
        else:
            self.process = room.open_unprotected(command, home, files)
        for file in files:
            os.close(file)
        self.in_room = home is None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in (self.requests, self.replies):
            os.close(file)
        # In a room all processes end with it; without one, they may start others meanwhile.
        for _ in range(CLEANING_ROUNDS):
            remaining = watch.descendants(os.getpid())
            watch.kill(remaining)
            psutil.wait_procs(remaining, timeout=1)
            if not remaining:
                break
        self.process.wait()

    def wait_until_ready(self):
        """Wait until the notebook's Python runs, if it does not run already."""
        end = time.monotonic() + self.limits.start
        while not self.is_ready:
            message = self.next_message(PATIENCE)
            self.is_ready = bool(message) and message[0] == b"R"
            if time.monotonic() > end:
                raise RoomEnded(f"the room did not open within {self.limits.start:g} s")

    def ask(self, cell, store, outcome):
        """Run a cell: (`Reply`, what it was stopped after or an empty text)."""
        token = secrets.token_hex(8)
        content = {"token": token, "source": cell.source, "store": store}
        self.send(json.dumps(content).encode())
        limit = CellLimit(self.limits)
        outputs = Outputs(cell, outcome)
        while True:
            message = self.next_message(PATIENCE)
            if message:
                kind, content = message
                if kind == b"R" and content.get("token") == token:
                    return read_reply(content), limit.passed
                if kind == b"O":
                    outputs.add(content)
            if not limit.passed and limit.look():
                self.interrupt()

    def send(self, content):
        """Write a request, without waiting for ever for a room that does not read."""
        data = HEADER.pack(b"R", len(content)) + content
        os.set_blocking(self.requests, False)
        end = time.monotonic() + self.limits.start
        while data:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RoomEnded(self.how_it_ended())
            _, ready, _ = select.select([], [self.requests], [], PATIENCE)
            try:
                data = data[os.write(self.requests, data) :] if ready else data
            except (BrokenPipeError, BlockingIOError):
                time.sleep(PATIENCE / 10)

    def interrupt(self):
        """Ask the notebook's Python to stop the cell, as Ctrl+C does."""
        family = [psutil.Process(self.process.pid), *watch.descendants(self.process.pid)]
        # Bubblewrap stands twice before it: outside the room, and as the room's first process.
        for process in family[2 if self.in_room else 0 :][:1]:
            try:
                process.send_signal(signal.SIGINT)
            except psutil.Error:  # it has ended meanwhile
                pass

    def next_message(self, patience):
        """The next message: (kind, content as a dictionary); None if none comes in time."""
        message = self.cut_message()
        if message:
            return message
        ready, _, _ = select.select([self.replies], [], [], patience)
        if not ready:
            return None
        data = os.read(self.replies, PART_BYTES)
        if not data:
            raise RoomEnded(self.how_it_ended())
        self.bytes += len(data)
        if self.bytes > MAX_BYTES:
            raise RoomEnded(FLOOD)
        self.buffer += data
        return self.cut_message()

    def cut_message(self):
        """Cut the first whole message out of what has arrived; None if there is none."""
        while len(self.buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.buffer)
            if kind not in (b"P", b"O", b"R") or length > select.PIPE_BUF:
                raise RoomEnded(NONSENSE)
            end = HEADER.size + length
            if len(self.buffer) < end:
                return None
            part = bytes(self.buffer[HEADER.size : end])
            del self.buffer[:end]
            self.messages += 1
            if self.messages > MAX_MESSAGES:
                raise RoomEnded(FLOOD)
            most = MAX_REPLY_BYTES if kind == b"R" else MAX_MESSAGE_BYTES
            self.begun_bytes += length
            if self.begun_bytes <= most:
                self.begun.append(part)
            if kind != b"P":
                return self.whole_message(kind, most)
        return None

    def whole_message(self, kind, most):
        """The message whose last part has come; an output that is too large comes as None."""
        content = b"".join(self.begun)
        fits = self.begun_bytes <= most
        self.begun.clear()
        self.begun_bytes = 0
        try:
            message = json.loads(content) if fits else None
        except (ValueError, RecursionError):
            message = None
        if isinstance(message, dict):
            return kind, message
        if kind == b"R":
            raise RoomEnded(NONSENSE)
        return kind, {}

    def how_it_ended(self):
        """Why nothing more comes."""
        try:
            code = self.process.wait(timeout=VERDICT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return "the notebook closed its line to the grader"
        return f"the notebook's Python ended (exit code {code})"

    def verdict(self):
        """Why the watch ended the room: (status, reason), or None."""
        if self.verdicts is None:
            return None
        ready, _, _ = select.select([self.verdicts], [], [], 0)
        text = os.read(self.verdicts, 1000).decode() if ready else ""
        status, _, reason = text.partition("|")
        return (status, reason) if reason else None


class CellLimit:
    """The limits of one cell. `passed` says which one was passed; it is empty before."""

    def __init__(self, limits):
        self.limits = limits
        self.passed = ""
        self.begun = time.monotonic()
        self.before = watch.processor_seconds(watch.descendants(os.getpid()))
        self.next_look = self.begun + PATIENCE

    def look(self):
        """Is a limit passed now?"""
        now = time.monotonic()
        if now < self.next_look:
            return False
        self.next_look = now + PATIENCE
        used = watch.processor_seconds(watch.descendants(os.getpid())) - self.before
        if used > self.limits.cell:
            self.passed = f"{self.limits.cell:g} s of processor time"
        elif now - self.begun > self.limits.cell_clock:
            self.passed = f"{self.limits.cell_clock:g} s by the clock"
        return bool(self.passed)
