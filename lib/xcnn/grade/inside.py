"""Run a student's cells inside the room. `run.py` is the other end.

It is started as a program with two descriptors: one to read requests from, one to write to. A
message is its kind (one letter), its length, and JSON. Requests are R; what comes back is O for an
output and R for the reply, which repeats the request's token; P is a part of a longer message, and
belongs before the next. Nothing that comes from here is trusted: the student's code shares this
process.
"""

import base64
import io
import os
import resource
import select
import signal
import struct
import sys
import threading
from json import dumps, loads  # by name: the notebook may change the module

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

HEADER = struct.Struct(">cI")
MAX_PART = select.PIPE_BUF - HEADER.size  # the system never mixes writes of this size
BUFFER = 8192  # characters of a stream that are sent together
SMALL_BUFFER = 500  # in a process that the notebook forked: a message of one part
MAX_WORDS = 500  # characters of an error that are told
MAX_TASKS = 1024  # processes and threads; counted for the room alone since Linux 5.14


class Line:
    """The line to the grader."""

    def __init__(self, source, target):
        self.source = os.fdopen(source, "rb")
        self.target = target
        self.process = os.getpid()
        self.lock = threading.Lock()
        for descriptor in (source, target):
            os.set_inheritable(descriptor, False)

    def send(self, kind, message):
        """Write a message, in parts if it is long."""
        content = dumps(message, default=str).encode()
        if os.getpid() != self.process:  # after a fork another thread may have held the lock
            self.write(kind, content[:MAX_PART])
            return
        # An interrupt between two parts would spoil the next message.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self.lock:
                last = max(len(content) - 1, 0) // MAX_PART * MAX_PART
                for start in range(0, last, MAX_PART):
                    self.write(b"P", content[start : start + MAX_PART])
                self.write(kind, content[last:])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def write(self, kind, content):
        """Write one part at once."""
        os.write(self.target, HEADER.pack(kind, len(content)) + content)

    def receive(self):
        """The next request; None at the end."""
        header = self.source.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        return loads(self.source.read(HEADER.unpack(header)[1]))


class Stream(io.TextIOBase):
    """What the notebook prints to, in place of the standard streams."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name, line):
        super().__init__()
        self.name = name
        self.line = line
        self.waiting = []
        self.size = 0

    def writable(self):
        return True

    def fileno(self):
        return 1 if self.name == "stdout" else 2

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.waiting.append(text)
        self.size += len(text)
        if self.size > BUFFER:
            self.flush()
        return len(text)

    def flush(self):
        text = "".join(self.waiting)
        self.waiting.clear()
        self.size = 0
        step = BUFFER * 100 if os.getpid() == self.line.process else SMALL_BUFFER
        for start in range(0, len(text), step):
            part = text[start : start + step]
            self.line.send(b"O", {"output_type": "stream", "name": self.name, "text": part})


class Publisher(DisplayPublisher):
    """Sends what the notebook displays."""

    def publish(self, data, metadata=None, *, transient=None, update=False, **others):
        self.shell.send_output({"output_type": "display_data", "data": as_text(data)})

    def clear_output(self, wait=False):
        self.shell.send_output({"output_type": "clear"})


class Hook(DisplayHook):
    """Sends the value of a cell's last line."""

    def start_displayhook(self):
        pass

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.send_output({"output_type": "execute_result", "data": as_text(format_dict)})

    def finish_displayhook(self):
        pass


class Shell(InteractiveShell):
    """IPython without a terminal and without a kernel's five channels."""

    line = None
    streams = ()

    def init_io(self):
        pass

    def enable_gui(self, gui=None):
        pass

    def ask_exit(self):
        print("A notebook does not end by exit() or quit().")

    def send_output(self, output):
        """Send an output, after what was printed before it."""
        self.send_printed()
        self.line.send(b"O", output)

    def send_printed(self):
        """Send what was printed and waits."""
        for stream in self.streams:
            stream.flush()

    def _showtraceback(self, etype, evalue, stb):
        self.send_output({"output_type": "error", **told(evalue), "traceback": list(stb)})


def as_text(data):
    """A dictionary of displayed data, in which bytes (of pictures) are written in base64."""
    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for kind, value in data.items()
    }


def told(error):
    """The name and the words of an error, cut; both survive an error that cannot be printed."""
    try:
        words = str(error)
    except BaseException:
        words = "<an error whose text cannot be had>"
    return {"ename": type(error).__name__[:MAX_WORDS], "evalue": words[:MAX_WORDS]}


def run(shell, request):
    """Run one cell: its reply."""
    result = shell.run_cell(request["source"], store_history=request["store"])
    shell.send_printed()
    error = result.error_before_exec or result.error_in_exec
    reply = {"token": request["token"], "status": "error" if error else "ok", "value": None}
    if error:
        return reply | told(error)
    if result.result is not None:
        reply["value"] = repr(result.result)[:MAX_WORDS]
    return reply


def main(source, target):
    """Run cells until no more come."""
    line = Line(source, target)
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if hard == resource.RLIM_INFINITY or hard > MAX_TASKS:
        set_tasks()
    sys.path.insert(0, "")
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.InteractiveShell.autoindent = False
    Shell.line = line
    shell = Shell.instance(config=settings, display_pub_class=Publisher, displayhook_class=Hook)
    shell.streams = Stream("stdout", line), Stream("stderr", line)
    sys.stdout, sys.stderr = shell.streams
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line.send(b"R", {"token": "ready"})
    while (request := line.receive()) is not None:
        # Set again for each cell: an interrupt ends the cell, and not this loop.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            reply = run(shell, request)
        except BaseException as error:
            reply = {"token": request["token"], "status": "error", **told(error)}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        line.send(b"R", reply)


def set_tasks():
    """Bound the processes and threads of the room, where the system counts them for it alone."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if os.getpid() < 10 and release >= (5, 14):  # a low number: this is a room
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_TASKS, MAX_TASKS))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
