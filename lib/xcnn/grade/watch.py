"""Look at what a running notebook uses, and end it when it passes a limit.

The watch runs in the grader's parent process, which reads nothing that a notebook sends; so no
message can hold it up.
"""

import contextlib
import math
import os
import time
from pathlib import Path

import psutil

from . import seccomp
from .room import SCRATCH

MIN_FREE_BYTES = 400e6  # of the machine's memory: below it the notebook that runs is ended
MIN_FREE_DISK_BYTES = 200e6
SURE = 0.5  # share of the limit below which the quick count is enough
SLOW_LOOKS = 20  # every so many looks the slow count is taken all the same
SOCKET_BYTES = 64 * 2**20  # of the system's memory for each socket, at most
AREA_BYTES = 256  # of the system's memory for each mapped area
INODE_BYTES = 1000  # of the system's memory for each file, also for an empty one


def descendants(pid):
    """The processes below a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def processor_seconds(processes):
    """The processor time of these processes, and of those that they started and that ended."""
    total = 0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has ended meanwhile
            continue
        total += times.user + times.system
        total += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


def memory_bytes(processes):
    """The memory of these processes together; what they share counts once."""
    total = 0
    for process in processes:
        try:
            total += share_of_memory(process)
        except psutil.Error:  # it has ended meanwhile
            pass
    return total


def resident_bytes(processes):
    """The memory of these processes that is not swapped; what they share counts for each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            pass
    return total


def share_of_memory(process):
    """The memory of one process: its own pages, and its share of those that several hold."""
    try:
        memory = process.memory_full_info()
    except psutil.AccessDenied:
        return process.memory_info().rss
    return getattr(memory, "pss", memory.uss) + getattr(memory, "swap", 0)


def page_table_bytes(processes):
    """The memory of the tables that say where the pages of these processes lie."""
    lines = lines_of(processes, "status", "VmPTE:")
    return sum(1024 * int(line.split()[1]) for line in lines)


def scratch_bytes(processes):
    """The memory of the files in the room's own folders, seen through one of its processes."""
    for process in reversed(processes[1:]):  # the first one, bubblewrap, stands outside
        try:
            folders = [os.statvfs(f"/proc/{process.pid}/root{folder}") for folder in SCRATCH]
        except OSError:  # it has ended meanwhile
            continue
        return sum(
            (folder.f_blocks - folder.f_bfree) * folder.f_frsize
            + (folder.f_files - folder.f_ffree) * INODE_BYTES
            for folder in folders
        )
    return 0


def count_threads(processes):
    """The threads of these processes together."""
    total = 0
    for process in processes:
        try:
            total += process.num_threads()
        except psutil.Error:  # it has ended meanwhile
            pass
    return total


def kill(processes):
    """End these processes, those that still run."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:  # it has ended meanwhile
            pass


def most_shared_bytes(processes):
    """The most memory that processes in a room may share: 0, or without bound.

    It is kept by shared mappings, also by a small rest of one. The other ways, memory files and
    System V's, are refused in a room.
    """
    for line in lines_of(processes, "maps"):
        _, rights, *_, name = [*line.split(maxsplit=5), ""][:6]
        if rights[3] == "s" and (name.startswith("/dev/") or "(deleted)" in name):
            return math.inf
    return 0


def most_system_bytes(processes):
    """The most memory that the system may hold for processes in a room, page tables aside.

    For sockets, mapped areas and what watches files. Pipes and other lists have limits of their
    own, far below.
    """
    if any("notify" in link for link in open_files(processes)):
        return math.inf
    sockets = [int(line.split()[2]) for line in lines_of(processes, "net/sockstat", "sockets:")]
    areas = sum(1 for _ in lines_of(processes, "maps"))
    return max(sockets, default=0) * SOCKET_BYTES + areas * AREA_BYTES


def lines_of(processes, name, start=""):
    """The lines with this start of a file in the /proc folders of these processes."""
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            lines = Path(f"/proc/{process.pid}/{name}").read_text().splitlines()
            yield from (line for line in lines if line.startswith(start))


def open_files(processes):
    """What the open descriptors of these processes stand for."""
    for process in processes:
        folder = f"/proc/{process.pid}/fd"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for descriptor in os.listdir(folder):
                yield os.readlink(f"{folder}/{descriptor}")


# kind of memory that belongs to no process -> the most of it that processes in a room may have
MOST_OF = {"that is shared": most_shared_bytes, "of the system": most_system_bytes}


class Watch:
    """The limits of one notebook. `is_told` says that it knows which one it passed."""

    def __init__(self, limits, folder, sandboxed):
        self.limits = limits
        self.folder = folder
        self.sandboxed = sandboxed
        self.begun = time.monotonic()
        self.ownerless = ownerless_bytes()
        self.filtered = sandboxed and seccomp.program() is not None
        self.processor = 0
        self.looks = 0
        self.is_told = False

    def look(self, processes):
        """Which limit is passed: (status, reason), or None."""
        # Those of a process that ended, and that nobody waited for, are not forgotten.
        self.processor = max(self.processor, processor_seconds(processes))
        return self.time_passed() or self.size_passed(processes) or self.machine_full()

    def time_passed(self):
        """The limits of time."""
        most = self.limits.timeout
        if self.processor > most:
            return "timeout", f"more than {most:g} s of processor time for the notebook"
        clock = self.limits.notebook_clock
        if time.monotonic() - self.begun > clock:
            return "timeout", f"more than {clock:g} s by the clock for the notebook"
        return None

    def size_passed(self, processes):
        """The limits of memory, processes and threads."""
        limits = self.limits
        if len(processes) > limits.processes:
            return "crashed", f"more than {limits.processes} processes"
        if count_threads(processes) > limits.threads:
            return "crashed", f"more than {limits.threads} threads"
        most = limits.memory * 2**30
        if self.memory(processes) > most:
            return "crashed", f"more than {limits.memory:g} GB of memory"
        # Some memory belongs to no process. The machine's other programs have some, too, so it
        # counts only when it alone passes the limit, and these processes may have it.
        for kind, before in self.ownerless.items():
            grown = ownerless_bytes()[kind] - before > most
            if grown and self.most_ownerless(kind, processes) > most:
                return "crashed", f"more than {limits.memory:g} GB of memory {kind}"
        return None

    def most_ownerless(self, kind, processes):
        """The most memory of a kind that belongs to no process which these processes may have.

        Only the filter of a room leaves so few ways to such memory that it has a bound.
        """
        if not self.filtered:
            return math.inf
        try:
            # The first process, bubblewrap, stands outside the room.
            return MOST_OF[kind](processes[1:])
        except PermissionError:  # a program that may not be read hides what it has
            return math.inf

    def memory(self, processes):
        """The memory of the notebook, its files in the room included."""
        self.looks += 1
        # The resident memory is quick to read. It counts shared pages twice and leaves out what was
        # swapped, so the slow count decides near the limit, and from time to time.
        total = resident_bytes(processes)
        if total > SURE * self.limits.memory * 2**30 or self.looks % SLOW_LOOKS == 0:
            total = memory_bytes(processes) + page_table_bytes(processes)
        if self.sandboxed and len(processes) > 2:  # the room is made, and its Python runs
            total += scratch_bytes(processes)
        return total

    def machine_full(self):
        """What the machine needs for itself."""
        if psutil.virtual_memory().available < MIN_FREE_BYTES:
            return "crashed", "the machine had no memory left"
        if self.sandboxed:
            return None  # a room cannot write on the disk
        if psutil.disk_usage(self.folder).free < MIN_FREE_DISK_BYTES:
            return "crashed", f"the disk was full at {self.folder}"
        return None


def ownerless_bytes():
    """The machine's memory that is no process's own: shared, or held by the system for them.

    In the second are the buffers of sockets and pipes, page tables, and the system's lists.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return {}
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    known = ("MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable")
    system = kilobytes["MemTotal"] - sum(kilobytes[name] for name in known)
    return {"that is shared": 1024 * kilobytes["Shmem"], "of the system": 1024 * system}
