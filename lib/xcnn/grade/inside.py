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
BUFFER = 8192  # a longer text that is printed is sent at once
MAX_WAITING = 100  # printed texts that wait to be sent together
LARGE_BUFFER = 500_000  # characters of a stream in one message
SMALL_BUFFER = 500  # in a process that the notebook forked: a message of one part
MAX_WORDS = 500  # characters of an error that are told
MAX_TASKS = 1024  # processes and threads; counted for the room alone since Linux 5.14


def open_line(source, target):
    """Open the line to the grader: the functions (send, receive).

    They are closures, so that no object which the notebook meets leads to the line.
    """
    requests = os.fdopen(source, "rb")
    own_process = os.getpid()
    lock = threading.Lock()
    for descriptor in (source, target):
        os.set_inheritable(descriptor, False)

    def write(kind, content):
        """Write one part at once."""
        os.write(target, HEADER.pack(kind, len(content)) + content)

    def send(kind, message):
        """Write a message, in parts if it is long."""
        content = dumps(message, default=str).encode()
        if os.getpid() != own_process:  # after a fork another thread may have held the lock
            write(kind, content[:MAX_PART])
            return
        # An interrupt between two parts would spoil the next message.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with lock:
                last = max(len(content) - 1, 0) // MAX_PART * MAX_PART
                for start in range(0, last, MAX_PART):
                    write(b"P", content[start : start + MAX_PART])
                write(kind, content[last:])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def receive():
        """The next request; None at the end."""
        header = requests.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        return loads(requests.read(HEADER.unpack(header)[1]))

    return send, receive


def open_stream(name, send):
    """What the notebook prints to, in place of a standard stream."""
    waiting = []
    own_process = os.getpid()

    class Stream(io.TextIOBase):
        encoding = "utf-8"
        errors = "replace"

        def writable(self):
            return True

        def fileno(self):
            return 1 if name == "stdout" else 2

        def write(self, text):
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            waiting.append(text)
            if len(waiting) > MAX_WAITING or len(text) > BUFFER:
                self.flush()
            return len(text)

        def flush(self):
            text = "".join(waiting)
            waiting.clear()
            step = LARGE_BUFFER if os.getpid() == own_process else SMALL_BUFFER
            for start in range(0, len(text), step):
                part = text[start : start + step]
                send(b"O", {"output_type": "stream", "name": name, "text": part})

    return Stream()


def output_sender(send, streams):
    """The function that sends an output, after what was printed before it."""

    def send_output(output):
        for stream in streams:
            stream.flush()
        send(b"O", output)

    return send_output


def open_shell(send_output):
    """IPython without a terminal and without a kernel's five channels."""
    publisher, hook = display_classes(send_output)

    class Shell(InteractiveShell):
        def init_io(self):
            pass

        def enable_gui(self, gui=None):
            pass

        def ask_exit(self):
            print("A notebook does not end by exit() or quit().")

        def _showtraceback(self, etype, evalue, stb):
            send_output({"output_type": "error", **told(evalue), "traceback": list(stb)})

    settings = Config()
    settings.HistoryManager.enabled = False
    settings.InteractiveShell.autoindent = False
    return Shell.instance(config=settings, display_pub_class=publisher, displayhook_class=hook)


def display_classes(send_output):
    """The classes that send what the notebook displays, and the value of a cell's last line."""

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, *, transient=None, update=False, **others):
            send_output({"output_type": "display_data", "data": as_text(data)})

        def clear_output(self, wait=False):
            send_output({"output_type": "clear"})

    class Hook(DisplayHook):
        def start_displayhook(self):
            pass

        def write_output_prompt(self):
            pass

        def write_format_data(self, format_dict, md_dict=None):
            send_output({"output_type": "execute_result", "data": as_text(format_dict)})

        def finish_displayhook(self):
            pass

    return Publisher, Hook


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


def run(shell, request, streams):
    """Run one cell: its reply."""
    result = shell.run_cell(request["source"], store_history=request["store"])
    for stream in streams:
        stream.flush()
    error = result.error_before_exec or result.error_in_exec
    reply = {"token": request["token"], "status": "error" if error else "ok", "value": None}
    if error:
        return reply | told(error)
    if result.result is not None:
        reply["value"] = repr(result.result)[:MAX_WORDS]
    return reply


def main(source, target):
    """Run cells until no more come."""
    send, receive = open_line(source, target)
    set_tasks()
    sys.path.insert(0, "")
    streams = open_stream("stdout", send), open_stream("stderr", send)
    shell = open_shell(output_sender(send, streams))
    sys.stdout, sys.stderr = streams
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send(b"R", {"token": "ready"})
    while (request := receive()) is not None:
        # Set again for each cell: an interrupt ends the cell, and not this loop.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            reply = run(shell, request, streams)
        except BaseException as error:
            reply = {"token": request["token"], "status": "error", **told(error)}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        send(b"R", reply)


def set_tasks():
    """Bound the processes and threads of the room, where the system counts them for it alone."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if os.getpid() < 10 and release >= (5, 14):  # a low number: this is a room
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_TASKS, MAX_TASKS))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
