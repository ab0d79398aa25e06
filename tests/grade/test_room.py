"""The locked room: what makes it, and what it refuses. What it keeps in is tested by attacks."""

import json
import os
import struct
import subprocess

import pytest
from xcnn.errors import InputError
from xcnn.grade import room, seccomp
from xcnn.grade.__main__ import main
from xcnn.grade.limits import Limits

from tests.grade.submitted import answered, write


def test_refuses_without_bubblewrap(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", {"a": answered()})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    where = ["--assignment", str(tiny), "--out", str(tmp_path / "g.csv")]
    assert main([str(tmp_path / "in"), *where]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "bubblewrap" in said and "--unsandboxed" in said
    assert not (tmp_path / "g.csv").exists()


def test_refuses_a_bubblewrap_that_fails(tmp_path, monkeypatch):
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(room.shutil, "which", lambda name: str(broken))
    with pytest.raises(InputError, match="uid map: Permission denied"):
        room.check_room()


def run_filter(number, argument=0, kind=None):
    """What the filter of calls decides, by an interpreter of its instructions."""
    machine = os.uname().machine
    kind = seccomp.ARCHITECTURE[machine] if kind is None else kind
    memory = {seccomp.NUMBER: number, seccomp.KIND: kind, seccomp.FIRST_ARGUMENT: argument}
    lines = list(struct.iter_unpack("<HBBI", seccomp.program()))
    value = 0
    position = 0
    while True:
        code, yes, no, operand = lines[position]
        position += 1
        if code == seccomp.LOAD:
            value = memory[operand]
        elif code == seccomp.RETURN:
            return operand
        else:
            holds = value == operand if code == seccomp.EQUAL else value >= operand
            position += yes if holds else no


@pytest.mark.skipif(os.uname().machine not in seccomp.CALLS, reason="another kind of processor")
def test_filter_of_calls():
    machine = os.uname().machine
    for name, number in seccomp.CALLS[machine].items():
        assert run_filter(number) == seccomp.REFUSE, name
    for family in range(50):
        allowed = family in seccomp.FAMILIES
        wanted = seccomp.ALLOW if allowed else seccomp.REFUSE
        assert run_filter(seccomp.SOCKET[machine], family) == wanted
    assert run_filter(seccomp.PRCTL[machine], seccomp.SET_DUMPABLE) == seccomp.REFUSE
    assert run_filter(seccomp.PRCTL[machine], 15) == seccomp.ALLOW
    assert run_filter(0) == run_filter(63) == seccomp.ALLOW
    assert run_filter(seccomp.FOREIGN + 1) == seccomp.REFUSE
    assert run_filter(0, kind=0x40000003) == seccomp.KILL, "the calls of another kind of processor"


def test_the_check_holds_here(ordinary_user):
    """`--check` tries each wall, prints a line for each, and says so if one does not hold."""
    run = ordinary_user("-m", "xcnn.grade", "--check")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("holds") >= 12 and "All walls hold" in run.stdout


OPEN = """
import json
from xcnn.grade import check, room
plain = room.room_options
def weak(hide=(), filter_file=None):
    return [*plain(hide), "--share-net"]
room.room_options = weak
room.leave_grader = lambda: None
print(json.dumps(check.walls()))
"""


def test_the_check_finds_open_walls(ordinary_user):
    """A room with the network of the machine and without the filter is not a room."""
    run = ordinary_user("-c", OPEN)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    open_walls = {name for name, result in found.items() if result != "holds"}
    assert {"network of this machine", "memory that no process owns"} <= open_walls, found
    assert found["files of the grader"] == "holds"


def test_a_cgroup_is_asked_for_where_there_is_one(monkeypatch, tmp_path):
    """The command line that systemd gets; a cgroup itself cannot be made on every machine."""
    monkeypatch.setattr(room, "has_scopes", lambda: True)
    words = room.scope(Limits(memory=2))
    assert "MemoryMax=2684354560" in words and "MemorySwapMax=0" in words
    assert words[words.index("--") + 1 :][:2] == ["env", "-i"], "the room's environment is clean"
    monkeypatch.setattr(room, "has_scopes", lambda: False)
    assert room.scope(Limits()) == []


def test_folders_that_are_hidden(tmp_path):
    """A folder of the grader's inside one that the room shows is covered."""
    inside = room.visible_folders()[0] + "/share"
    words = room.room_options(hide=[inside, tmp_path])
    assert words[words.index(inside) - 1] == "--tmpfs"
    assert str(tmp_path) not in words
    assert subprocess.list2cmdline(words).count("--remount-ro") >= 4
