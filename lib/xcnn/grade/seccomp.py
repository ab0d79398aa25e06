"""Which calls to the system are refused in the room: a filter for `bwrap --seccomp`.

Namespaces do not cover everything. Memory files and System V shared memory belong to no process
that a watch could count, keyrings and virtual sockets have no namespace of their own, and the
others here are ways into the system that a notebook has no use for.
"""

import platform
import struct

# The numbers of the calls, from the kernel's tables for each kind of processor.
CALLS = {
    "x86_64": {
        "add_key": 248,
        "bpf": 321,
        "io_uring_setup": 425,
        "keyctl": 250,
        "memfd_create": 319,
        "memfd_secret": 447,
        "mount": 165,
        "msgget": 68,
        "open_by_handle_at": 304,
        "perf_event_open": 298,
        "ptrace": 101,
        "request_key": 249,
        "semget": 64,
        "setns": 308,
        "shmget": 29,
        "unshare": 272,
        "userfaultfd": 323,
    },
    "aarch64": {
        "add_key": 217,
        "bpf": 280,
        "io_uring_setup": 425,
        "keyctl": 219,
        "memfd_create": 279,
        "memfd_secret": 447,
        "mount": 40,
        "msgget": 186,
        "open_by_handle_at": 265,
        "perf_event_open": 241,
        "ptrace": 117,
        "request_key": 218,
        "semget": 190,
        "setns": 268,
        "shmget": 194,
        "unshare": 97,
        "userfaultfd": 282,
    },
}
SOCKET = {"x86_64": 41, "aarch64": 198}
PRCTL = {"x86_64": 157, "aarch64": 167}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FAMILIES = (1, 2, 10, 16)  # of sockets: unix, IPv4, IPv6, netlink
SET_DUMPABLE = 4  # of prctl: would hide a process's memory from the watch
FOREIGN = 0x40000000  # calls from here on are those of x32, under other numbers

# Where the filter finds what it looks at, and its instructions.
NUMBER, KIND, FIRST_ARGUMENT = 0, 4, 16
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # REFUSE: "operation not permitted"


def program():
    """The filter as bytes; None on a processor that is not in the tables."""
    machine = platform.machine()
    if machine not in CALLS:
        return None
    lines = [
        (LOAD, 0, 0, KIND),
        (EQUAL, 1, 0, ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, FOREIGN),
        (RETURN, 0, 0, REFUSE),
    ]
    for number in CALLS[machine].values():
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    lines += when_called(PRCTL[machine], (SET_DUMPABLE,), REFUSE, ALLOW)
    lines += when_called(SOCKET[machine], FAMILIES, ALLOW, REFUSE)
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def when_called(number, values, listed, otherwise):
    """Lines that decide one call by its first argument: `listed` if it is among the values."""
    tests = []
    for value in values:
        tests += [(EQUAL, 0, 1, value), (RETURN, 0, 0, listed)]
    lines = [(LOAD, 0, 0, FIRST_ARGUMENT), *tests, (RETURN, 0, 0, otherwise)]
    return [(EQUAL, 0, len(lines), number), *lines]
