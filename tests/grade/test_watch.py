"""The watch: it counts what a notebook's processes use, and says which limit is passed."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from xcnn.grade import watch
from xcnn.grade.limits import Limits


@pytest.fixture
def child():
    """child(code): a process that runs the code, says that it is ready, and waits."""
    started = []

    def start(code=""):
        words = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        process.stdout.readline()
        return psutil.Process(process.pid)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def look(running, **limits):
    guard = watch.Watch(Limits(**limits), os.getcwd(), sandboxed=True)
    return guard.look(running)


def test_within_the_limits(child):
    assert look([child()]) is None


def test_memory_that_is_shared_counts_once(child):
    """Two forks that share 200 MB hold little more than one, although each has it resident."""
    forked = "import os\nx = b'x' * 200_000_000\nif os.fork() == 0:\n    os.read(0, 1)"
    parent = child(forked)
    both = [parent, *parent.children()]
    assert watch.resident_bytes(both) > 400e6
    assert 200e6 < watch.memory_bytes(both) < 300e6
    assert look(both, memory=0.35) is None
    assert look(both, memory=0.1) == ("crashed", "more than 0.1 GB of memory")


def test_processes_and_threads(child):
    sleeping = "import threading, time\nfor _ in range(30):\n    "
    sleeping += "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    process = child(sleeping)
    assert watch.count_threads([process]) >= 31
    assert look([process], processes=3) == ("crashed", "more than 24 threads")
    assert look([process] * 5, processes=4)[1] == "more than 4 processes"


def test_processor_time_of_children_that_ended(child):
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    process = child(code)
    assert watch.processor_seconds([process]) > process.cpu_times().user
    assert look([process], timeout=0.001)[0] == "timeout"


def test_the_clock_comes_last(child):
    guard = watch.Watch(Limits(clock=0.1), os.getcwd(), sandboxed=True)
    time.sleep(0.2)
    assert guard.look([child()]) == ("timeout", "more than 0.1 s by the clock for the notebook")
    assert Limits(timeout=600).notebook_clock == 3000 and Limits(timeout=1).notebook_clock == 120


def test_a_machine_without_memory_ends_the_notebook(child, monkeypatch):
    monkeypatch.setattr(watch, "MIN_FREE_BYTES", 1e18)
    assert look([child()]) == ("crashed", "the machine had no memory left")


def test_processes_that_are_gone_are_passed_over(child):
    process = child()
    process.kill()
    process.wait()
    assert look([process]) is None
    watch.kill([process])


def test_page_tables_count(child):
    """A page of 4,096 bytes says where 2 MiB of memory lie, also where that is not there."""
    code = """
import mmap
area = mmap.mmap(-1, 100 * 2**30, mmap.MAP_PRIVATE | 0x4000, mmap.PROT_READ)
area.madvise(mmap.MADV_NOHUGEPAGE)
for place in range(0, 100 * 2**30, 2**21):
    area[place]
"""
    quiet, busy = child(), child(code)
    assert watch.page_table_bytes([quiet, quiet]) < 2e6
    assert 2e8 < watch.page_table_bytes([quiet, busy]) < 3e8
    guard = watch.Watch(Limits(memory=0.15), os.getcwd(), sandboxed=False)
    looks = [guard.look([quiet, busy]) for _ in range(watch.SLOW_LOOKS)]
    assert looks[-1] == ("crashed", "more than 0.15 GB of memory")
