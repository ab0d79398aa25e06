"""Try the walls of the room on this machine: `python -m xcnn.grade --check`.

Each trial is a piece of code that runs in a room as a student's would, and tries to get through.
"""

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ..errors import InputError
from . import room, seccomp
from .limits import Limits

SECRET = "XCNN_CHECK_SECRET"

# Each sets `through`: what it got, which is false if the wall holds.
TRIALS = {
    "environment of the grader": f"""
through = [path for path in glob.glob("/proc/*/environ") if b"{SECRET}" in read(path)]""",
    "files of the grader": """
through = os.path.exists(bait)""",
    "writing outside": """
through = [path for path in places if try_to(lambda: open(path + "/made", "w"))]""",
    "settings of the system": """
through = try_to(lambda: open("/proc/sys/kernel/core_pattern", "w"))""",
    "network of this machine": """
through = try_to(lambda: socket.create_connection(("127.0.0.1", port), timeout=2))""",
    "virtual sockets": """
through = try_to(lambda: socket.socket(40, socket.SOCK_STREAM))""",
    "keys of the session": """
through = try_to(lambda: system_call("keyctl", 0, -3, 0))""",
    "memory that no process owns": """
through = try_to(lambda: os.memfd_create("x"))""",
    "other processes": """
through = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 50]""",
    "more rights": """
through = try_to(lambda: system_call("unshare", 0x10000000)) or os.geteuid() == 0""",
    "core dumps": """
through = resource.getrlimit(resource.RLIMIT_CORE)[1] > 1""",
    "space in the room": """
through = [path for path in own if os.statvfs(path).f_blocks * os.statvfs(path).f_frsize > most]""",
}
PRELUDE = """
import ctypes, glob, json, os, resource, socket, sys
values = json.loads(sys.argv[1])
bait, port, places, own, most, calls = values
def read(path):
    try:
        return open(path, "rb").read(100_000)
    except OSError:
        return b""
def try_to(act):
    try:
        return act() is not None
    except OSError:
        return False
def system_call(name, *arguments):
    code = ctypes.CDLL(None, use_errno=True).syscall(calls[name], *arguments)
    if code < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return code
"""
END = """
print(json.dumps(bool(through)))"""


def walls():
    """What each trial found: name -> "holds" or what is wrong. Raises InputError without a room."""
    room.check_room()
    os.environ[SECRET] = "a password"
    machine = seccomp.CALLS.get(os.uname().machine, {"keyctl": 250, "unshare": 272})
    with (
        tempfile.NamedTemporaryFile(dir=own_folder()) as bait,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        places = ["/usr", "/", f"{sys.prefix}/lib", str(Path(__file__).parent)]
        port = server.getsockname()[1]
        values = [bait.name, port, places, room.SCRATCH, room.MAX_SCRATCH_BYTES, machine]
        found = {name: attempt(code, json.dumps(values)) for name, code in TRIALS.items()}
        if select.select([server], [], [], 0)[0]:
            found["network of this machine"] = "a connection arrived"
    del os.environ[SECRET]
    return found


def own_folder():
    """The grader's home, or the folder of temporary files where it cannot be written."""
    home = Path.home()
    return home if os.access(home, os.W_OK) else None


def attempt(code, values):
    """Run one trial in a room: "holds" if it did not get through."""
    command = [sys.executable, "-c", PRELUDE + code + END, values]
    trial = room.open_room(command, output=subprocess.PIPE)
    said, errors = trial.communicate()
    if trial.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
        return f"could not be tried: {lines[-1]}"
    return "OPEN" if json.loads(said.splitlines()[-1]) else "holds"


def counting():
    """How memory and processes of a notebook are counted here."""
    if room.has_scopes():
        return "by a cgroup of the system's, and by the watch"
    return "by the watch, ten times a second: leave a gigabyte free"


def report():
    """Print a table of the walls; True if all hold."""
    try:
        found = walls()
    except InputError as error:
        print(f"xcnn: {error}", file=sys.stderr)
        return False
    if seccomp.program() is None:
        found["filter of calls"] = f"unknown processor {os.uname().machine}"
    width = max(map(len, found))
    for name, result in found.items():
        print(f"{name:{width}}  {result}")
    limits = Limits()
    print(f"{'limits':{width}}  {limits.memory:g} GB, {limits.processes} processes, counted")
    print(f"{'':{width}}  {counting()}")
    holds = all(result == "holds" for result in found.values())
    print("All walls hold." if holds else "Do not grade on this machine before all walls hold.")
    return holds
