"""A kernel for code that nobody has read: in a locked room (bubblewrap), watched, and one notebook long.

The room has its own processes, no network, an empty home that vanishes, and read-only Python and course. Solutions,
hidden tests and other submissions are not in it. A watch outside ends it when it passes a limit.
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
SCRATCH = 512 * 2**20  # bytes of each of the room's folders that can be written; they are memory
TICK = 0.1  # seconds between two looks of the watch


@dataclass
class Limits:
    """What one notebook may use: seconds in all and per cell, gigabytes, processes, bytes of output."""

    timeout: float = 600
    cell: float = 300
    memory: float = 4
    processes: int = 64
    output: float = 20e6
    start: float = 90


@dataclass
class Outcome:
    """What became of a run: '' or 'timeout' or 'crashed', why, and the reply to each cell that ran to its end."""

    status: str = ""
    detail: list = field(default_factory=list)
    replies: dict = field(default_factory=dict)
    cut: bool = False


def room(sockets, hide=()):
    """The bubblewrap command line, without what to run in it."""
    options = [
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--cap-drop",
        "ALL",
    ]
    options += ["--disable-userns", "--die-with-parent", "--new-session", "--hostname", "room"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp", HOME):
        options += ["--size", str(SCRATCH), "--tmpfs", folder]
    options += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            options += ["--symlink", os.readlink(name), name]
        else:
            options += ["--ro-bind-try", name, name]
    for name in ("ld.so.cache", "alternatives", "fonts", "localtime"):  # no passwords, no keys
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    shown = course()
    for path in shown:
        options += ["--ro-bind", path, path]
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    for file in glob.glob(f"{caches}/matplotlib/fontlist*.json"):  # seconds to make
        options += ["--ro-bind", file, f"{HOME}/.cache/matplotlib/{Path(file).name}"]
    weights = os.environ.get("TORCH_HOME", f"{caches}/torch")
    options += ["--ro-bind-try", weights, f"{HOME}/.cache/torch"]
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


def course():
    """Folders that the code needs to see: Python with its packages, this library, its data."""
    folders = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable).rsplit("/bin/", 1)[0]]
    own = site.getusersitepackages()
    folders += [own] if site.ENABLE_USER_SITE and os.path.isdir(own) else []
    folders += [str(Path(__file__).resolve().parents[1]), str(data_folder())]
    return [folder for folder in dict.fromkeys(folders) if not Path(folder).is_relative_to("/usr")]


def environment(home):
    """The few variables that the kernel gets."""
    kept = {
        name: os.environ[name]
        for name in ("OMP_NUM_THREADS", "XCNN_EXPLORER")
        if name in os.environ
    }
    return kept | {
        "HOME": home,
        "USER": "student",
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def check():
    """Raise InputError, in one line, where no room can be made."""
    advice = (
        "grade in a machine of its own, or add --unsandboxed to run the students' code unprotected"
    )
    if not shutil.which("bwrap"):
        raise InputError(
            f"bubblewrap is not installed (apt install bubblewrap); install it, {advice}"
        )
    trial = subprocess.run(
        [*room(""), sys.executable, "-c", "import ipykernel"], capture_output=True, text=True
    )
    if trial.returncode:
        why = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
        raise InputError(
            f"bubblewrap 0.8 or newer is needed and does not work here ({why}); mend it, {advice}"
        )


def run(cells, tests, limits, sandboxed=True, hide=()):
    """Run code cells one by one in a fresh kernel: an `Outcome`. Their outputs are put into the cells.

    The text of a cell reaches the kernel when its turn comes, not before. `tests` says which cells are tests:
    position -> position of the cell that must have passed before, its own where there is none. Errors and results of
    tests are kept however long the output is.
    """
    base = "/tmp" if os.path.isdir("/tmp") else None  # the names of sockets must be short
    with tempfile.TemporaryDirectory(
        prefix="xcnn-", dir=base, ignore_cleanup_errors=True
    ) as folder:
        return asyncio.run(execute(cells, tests, limits, sandboxed, hide, folder))


async def execute(cells, tests, limits, sandboxed, hide, folder):
    import psutil
    import zmq.asyncio
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbformat.v4 import new_notebook

    outcome, seen = Outcome(), {}
    sockets = f"{folder}/s"
    home = f"{folder}/home"
    os.mkdir(sockets)
    os.mkdir(home)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command = [*room(sockets, hide), *command] if sandboxed else command

    class Spec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            # SIGINT does not get through the walls; a message does.
            return KernelSpec(argv=command, language="python", interrupt_mode="message")

    context = zmq.asyncio.Context()
    context.setsockopt(zmq.MAXMSGSIZE, 2**28)
    manager = AsyncKernelManager(
        kernel_spec_manager=Spec(), connection_file=f"{sockets}/kernel.json", context=context,
        **({"transport": "ipc", "ip": f"{sockets}/k"} if os.name == "posix" else {}),
    )  # fmt: skip
    book = new_notebook(cells=cells)
    client = follower()(
        book, km=manager, allow_errors=True, timeout=None, startup_timeout=limits.start, iopub_timeout=60,
        raise_on_iopub_timeout=True, record_timing=False, log=quiet(),
        on_cell_executed=lambda cell, cell_index, execute_reply: outcome.replies.update(
            {cell_index: execute_reply["content"]}
        ),
    )  # fmt: skip
    client.room, client.tests = limits.output, tests
    guard = None
    try:
        try:
            here = {} if sandboxed else {"cwd": home, "env": environment(home)}
            await manager.start_kernel(**here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            await client.async_start_new_kernel_client()
        except Exception as error:
            outcome.status, outcome.detail = (
                "crashed",
                [f"the kernel did not start ({first_line(error)})"],
            )
            return outcome
        process = psutil.Process(manager.provisioner.pid)
        guard = asyncio.create_task(watch(process, manager, limits, sockets, seen))
        for index, cell in enumerate(cells):
            name = cell.metadata.get("name", f"code cell {index + 1}")
            if outcome.replies.get(tests.get(index), {"status": "ok"})["status"] != "ok":
                continue  # the visible part failed: the hidden part is not sent
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
                await asyncio.wait({guard}, timeout=2)  # it knows more
                if not guard.done():
                    outcome.status = "crashed"
                    outcome.detail.append(f"the kernel stopped answering in {name}")
                    return outcome
            if guard.done():
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                task.cancelled() or task.exception()  # asked for, so that nobody complains of it
                outcome.status, why = guard.result()
                outcome.detail.append(f"{why} in {name}")
                return outcome
        return outcome
    finally:
        if guard:
            guard.cancel()
            seen.update({one.pid: one for one in kin(process)})
        outcome.cut = client.room < 0
        if client.kc:
            client.kc.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        for child in seen.values():  # with no room around them they would go on
            try:
                child.kill()
            except psutil.Error:
                pass
        context.destroy(linger=0)


async def watch(process, manager, limits, sockets, seen):
    """Wait until a limit is passed or the kernel ends: (status, why). Ends everything in the room."""
    import psutil

    end = time.monotonic() + limits.timeout
    while True:
        await asyncio.sleep(TICK)
        code = await manager.provisioner.poll()
        if code is not None:
            return "crashed", f"the kernel died (exit code {code})"
        family, memory = kin(process), 0
        for one in family:
            try:
                memory += one.memory_info().rss
            except psutil.Error:
                pass
        seen.update({one.pid: one for one in family})
        verdict = None
        if time.monotonic() > end:
            verdict = "timeout", f"more than {limits.timeout:g} s for the notebook"
        elif memory > limits.memory * 2**30:
            verdict = "crashed", f"more than {limits.memory:g} GB of memory"
        elif len(family) > limits.processes:
            verdict = "crashed", f"more than {limits.processes} processes"
        elif size(sockets) > 2**20:
            verdict = "crashed", "files written among the kernel's sockets"
        if verdict:
            for one in family:
                try:
                    one.kill()
                except psutil.Error:
                    pass
            return verdict


def kin(process):
    """A process and everything below it."""
    import psutil

    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def size(folder):
    """Bytes in a folder; every entry counts at least a thousand."""
    total = 0
    for file in Path(folder).rglob("*"):
        try:
            total += 1000 + file.lstat().st_size
        except OSError:  # gone meanwhile
            pass
    return total


def follower():
    """NotebookClient that drops output past a limit."""
    from nbclient import NotebookClient

    class Follower(NotebookClient):
        def process_message(self, msg, cell, cell_index):
            kept = msg["msg_type"] == "status" or (
                cell_index in self.tests and msg["msg_type"] in ("error", "execute_result")
            )
            self.room -= len(json.dumps(msg["content"], default=str))
            return (
                super().process_message(msg, cell, cell_index) if kept or self.room >= 0 else None
            )

    return Follower


def quiet():
    """A log that nobody reads: what goes wrong in a kernel is told in the table."""
    log = logging.getLogger("xcnn.sandbox.quiet")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log


def first_line(error, length=160):
    """The first line of an error's text, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]
