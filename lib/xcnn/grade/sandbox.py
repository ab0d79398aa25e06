"""Run a student's notebook in a kernel of its own, inside a locked room that bubblewrap makes.

The room has its own processes, no network, an empty home that vanishes, and Python and the course
to read only. Solutions, hidden tests and other submissions are not in it. A watch outside the room
ends everything in it when a limit is passed.
"""

import asyncio
import glob
import json
import logging
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..loading import data_folder

HOME = "/home/student"
MAX_SCRATCH_BYTES = 512 * 2**20  # in each folder of the room that can be written; it is memory
MAX_SOCKET_BYTES = 2**20  # in the folder of the kernel's sockets, which is on the disk
MAX_MESSAGE_BYTES = 2**28  # of one message from the kernel
MAX_ERROR_LENGTH = 160  # characters of an error's first line
MIN_ENTRY_BYTES = 1000  # added to the size of each file, because an empty file takes space, too
WATCH_INTERVAL = 0.1  # seconds between two looks of the watch
WATCH_TIMEOUT = 2  # seconds for the watch to notice why the kernel does not answer
CANCEL_TIMEOUT = 5  # seconds for a cancelled cell to end
IOPUB_TIMEOUT = 60  # seconds for the outputs of a cell that has ended


@dataclass
class Limits:
    """What one notebook may use."""

    timeout: float = 600  # seconds for the notebook
    cell: float = 300  # seconds for one cell
    memory: float = 4  # gigabytes
    processes: int = 64
    output: float = 20e6  # bytes
    start: float = 90  # seconds for the kernel to start


@dataclass
class Outcome:
    """How a run ended."""

    status: str = ""  # "", "timeout" or "crashed"
    detail: list = field(default_factory=list)  # why
    replies: dict = field(default_factory=dict)  # position of a cell that ended -> kernel's reply
    cut: bool = False  # was some output dropped?


# --- the room ---


def room_command(sockets, hide=()):
    """The bubblewrap command line, without the command to run in the room.

    `sockets` is the folder that the room shares with the outside, `hide` folders to keep out of it.
    """
    shown = visible_folders()
    options = ["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000"]
    options += ["--cap-drop", "ALL", "--disable-userns", "--die-with-parent", "--new-session"]
    options += ["--hostname", "room", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp", HOME):
        options += ["--size", str(MAX_SCRATCH_BYTES), "--tmpfs", folder]
    options += system_mounts()
    for path in shown:
        options += ["--ro-bind", path, path]
    options += cache_mounts()
    for path in map(str, hide):
        if any(Path(path).is_relative_to(above) for above in ("/usr", *shown)):
            options += ["--tmpfs", path]
    options += ["--remount-ro", "/", "--remount-ro", "/dev"]
    if sockets:
        options += ["--bind", sockets, sockets]
    options += ["--chdir", HOME, "--clearenv"]
    for name, value in environment(HOME).items():
        options += ["--setenv", name, value]
    return ["bwrap", *options]


def system_mounts():
    """Options that show the system's programs and libraries."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            options += ["--symlink", os.readlink(name), name]
        else:
            options += ["--ro-bind-try", name, name]
    for name in ("ld.so.cache", "alternatives", "fonts", "localtime"):  # no passwords, no keys
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return options


def cache_mounts():
    """Options that show matplotlib's list of fonts, which takes seconds to make, and weights."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    options = []
    for file in glob.glob(f"{caches}/matplotlib/fontlist*.json"):
        options += ["--ro-bind", file, f"{HOME}/.cache/matplotlib/{Path(file).name}"]
    weights = os.environ.get("TORCH_HOME", f"{caches}/torch")
    return [*options, "--ro-bind-try", weights, f"{HOME}/.cache/torch"]


def visible_folders():
    """Folders that the code needs to see: Python with its packages, this library, its data."""
    folders = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable).rsplit("/bin/", 1)[0]]
    user_packages = site.getusersitepackages()
    if site.ENABLE_USER_SITE and os.path.isdir(user_packages):
        folders.append(user_packages)
    folders += [str(Path(__file__).resolve().parents[1]), str(data_folder())]
    return [folder for folder in dict.fromkeys(folders) if not Path(folder).is_relative_to("/usr")]


def environment(home):
    """The environment variables that the kernel gets, and no others."""
    passed_on = ("OMP_NUM_THREADS", "XCNN_EXPLORER")
    return {name: os.environ[name] for name in passed_on if name in os.environ} | {
        "HOME": home,
        "USER": "student",
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def check_room():
    """Raise InputError, in one line, if this machine cannot make a room."""
    advice = (
        "grade in a machine of its own, or add --unsandboxed to run the students' code unprotected"
    )
    if not shutil.which("bwrap"):
        raise InputError(
            f"bubblewrap is not installed (apt install bubblewrap); install it, {advice}"
        )
    trial = subprocess.run(
        [*room_command(""), sys.executable, "-c", "import ipykernel"],
        capture_output=True,
        text=True,
    )
    if trial.returncode:
        messages = trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"]
        raise InputError(
            "bubblewrap 0.8 or newer is needed and does not work here "
            f"({messages[-1]}); repair it, {advice}"
        )


# --- a run ---


def run_cells(cells, tests, limits, sandboxed=True, hide=()):
    """Run code cells one by one in a fresh kernel and put their outputs into them: an `Outcome`.

    The text of a cell reaches the kernel when its turn comes, not before. `tests` maps the position
    of each test to that of the cell that must have passed before it; where there is none, to its
    own. Errors and results of tests are kept, however long the output is.
    """
    # The names of sockets must be short: the system limits their length.
    base = "/tmp" if os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(
        prefix="xcnn-", dir=base, ignore_cleanup_errors=True
    ) as folder:
        return asyncio.run(execute(cells, tests, limits, sandboxed, hide, folder))


async def execute(cells, tests, limits, sandboxed, hide, folder):
    """`run_cells`, with the kernel's sockets and home in this folder."""
    import psutil

    outcome = Outcome()
    family = {}  # every process of the notebook that was seen: pid -> process
    sockets = f"{folder}/s"
    home = f"{folder}/home"
    os.mkdir(sockets)
    os.mkdir(home)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    surroundings = {}
    if sandboxed:
        command = [*room_command(sockets, hide), *command]
    else:
        surroundings = {"cwd": home, "env": environment(home)}
    manager, context = kernel_manager(command, sockets)
    client = limited_client(cells, tests, limits, manager, outcome)
    guard = None
    try:
        try:
            await manager.start_kernel(
                **surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            await client.async_start_new_kernel_client()
        except Exception as error:
            outcome.status = "crashed"
            outcome.detail = [f"the kernel did not start ({first_line(error)})"]
            return outcome
        process = psutil.Process(manager.provisioner.pid)
        guard = asyncio.create_task(watch(process, manager, limits, sockets, family))
        for index, cell in enumerate(cells):
            name = cell.metadata.get("name", f"code cell {index + 1}")
            reply = outcome.replies.get(tests.get(index), {"status": "ok"})
            if reply["status"] != "ok":
                continue  # the visible part failed: the kernel does not get the hidden part
            task = asyncio.create_task(
                client.async_execute_cell(cell, index, store_history=index not in tests)
            )
            await asyncio.wait(
                {task, guard}, timeout=limits.cell, return_when=asyncio.FIRST_COMPLETED
            )
            if not task.done() and not guard.done():
                outcome.status = "timeout"
                outcome.detail.append(f"{name} was stopped after {limits.cell:g} s")
                await manager.interrupt_kernel()
                await asyncio.wait({task, guard}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception():
                # The watch may know why the kernel does not answer.
                await asyncio.wait({guard}, timeout=WATCH_TIMEOUT)
                if not guard.done():
                    outcome.status = "crashed"
                    outcome.detail.append(f"the kernel stopped answering in {name}")
                    return outcome
            if guard.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CANCEL_TIMEOUT)
                if not task.cancelled():
                    task.exception()  # retrieved, or asyncio would report it as never retrieved
                outcome.status, reason = guard.result()
                outcome.detail.append(f"{reason} in {name}")
                return outcome
        return outcome
    finally:
        if guard:
            guard.cancel()
            family.update({member.pid: member for member in with_children(process)})
        outcome.cut = client.bytes_left < 0
        if client.kc:
            client.kc.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        kill(family.values())  # without a room, children outlive the kernel
        context.destroy(linger=0)


def kernel_manager(command, sockets):
    """The manager of a kernel that this command starts, and the context of its sockets."""
    import zmq.asyncio
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class OneSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            # The signal SIGINT does not reach a kernel in the room; a message does.
            return KernelSpec(argv=command, language="python", interrupt_mode="message")

    context = zmq.asyncio.Context()
    context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    transport = {"transport": "ipc", "ip": f"{sockets}/k"} if os.name == "posix" else {}
    manager = AsyncKernelManager(
        kernel_spec_manager=OneSpec(),
        connection_file=f"{sockets}/kernel.json",
        context=context,
        **transport,
    )
    return manager, context


def limited_client(cells, tests, limits, manager, outcome):
    """A client that sends cells to the kernel, keeps its replies, and drops output past the limit.

    `bytes_left` says how much output is still kept; it is negative when some was dropped.
    """
    from nbclient import NotebookClient
    from nbformat.v4 import new_notebook

    class LimitedClient(NotebookClient):
        bytes_left = limits.output

        def process_message(self, msg, cell, cell_index):
            self.bytes_left -= len(json.dumps(msg["content"], default=str))
            is_verdict = cell_index in tests and msg["msg_type"] in ("error", "execute_result")
            if msg["msg_type"] == "status" or is_verdict or self.bytes_left >= 0:
                return super().process_message(msg, cell, cell_index)
            return None

    def keep_reply(cell, cell_index, execute_reply):
        outcome.replies[cell_index] = execute_reply["content"]

    return LimitedClient(
        new_notebook(cells=cells),
        km=manager,
        allow_errors=True,
        timeout=None,
        startup_timeout=limits.start,
        iopub_timeout=IOPUB_TIMEOUT,
        raise_on_iopub_timeout=True,
        record_timing=False,
        log=silent_log(),
        on_cell_executed=keep_reply,
    )


async def watch(process, manager, limits, sockets, family):
    """Wait until a limit is passed or the kernel ends: (status, why).

    Ends the notebook's processes when a limit is passed. Adds every process that it sees to
    `family`, by its pid.
    """
    end = time.monotonic() + limits.timeout
    while True:
        await asyncio.sleep(WATCH_INTERVAL)
        code = await manager.provisioner.poll()
        if code is not None:
            return "crashed", f"the kernel died (exit code {code})"
        running = with_children(process)
        memory = resident_bytes(running)
        family.update({member.pid: member for member in running})
        verdict = None
        if time.monotonic() > end:
            verdict = "timeout", f"more than {limits.timeout:g} s for the notebook"
        elif memory > limits.memory * 2**30:
            verdict = "crashed", f"more than {limits.memory:g} GB of memory"
        elif len(running) > limits.processes:
            verdict = "crashed", f"more than {limits.processes} processes"
        elif folder_bytes(sockets) > MAX_SOCKET_BYTES:
            verdict = "crashed", "files written among the kernel's sockets"
        if verdict:
            kill(running)
            return verdict


# --- processes, files, messages ---


def with_children(process):
    """A process and everything below it."""
    import psutil

    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def resident_bytes(processes):
    """The memory that these processes hold together."""
    import psutil

    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            pass
    return total


def kill(processes):
    """End these processes, those that still run."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.Error:  # it has ended meanwhile
            pass


def folder_bytes(folder):
    """Bytes in a folder, MIN_ENTRY_BYTES for each entry included."""
    total = 0
    for file in Path(folder).rglob("*"):
        try:
            total += MIN_ENTRY_BYTES + file.lstat().st_size
        except OSError:  # it was deleted meanwhile
            pass
    return total


def silent_log():
    """A log that is not shown: the table says what went wrong in a kernel."""
    log = logging.getLogger("xcnn.sandbox.quiet")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log


def first_line(error, length=MAX_ERROR_LENGTH):
    """The first line of an error's text, or its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:length]
