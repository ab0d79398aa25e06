"""Grade one student in a process of its own.

Everything that touches what the student sent happens here: reading, mending, running, judging,
drawing the page. The process has limits, and its death costs this student's points only. It hands
two files to the parent process: the row of the table, and the page.
"""

import contextlib
import json
import mmap
import os
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import forgery, judge, mend, page, watch
from .find import Unreadable, clean
from .limits import CLOCK_FACTOR, Limits
from .outputs import first_line
from .room import DIE_WITH_PARENT, change_process, set_limit
from .run import Runner, run_cells
from .table import safe

READ, RUN, PAGE = b"read", b"run ", b"page"  # what the process is doing
WORDS = {READ: "reading and mending the file", RUN: "running it", PAGE: "drawing the page"}
ROW = "row.json"
PAGE_FILE = "page.html"
SLACK = 60  # seconds by the clock that each of them has besides its limit
MAX_BYTES = 2 * 2**30  # of the address space of the process; its memory is far less
MAX_FILE_BYTES = 2**28  # of a file that it writes
MAX_OPEN_FILES = 1024
MAX_ROW_BYTES = 200_000
MAX_DETAIL = 1000  # characters of the table's column
WAIT = 0.1  # seconds between two looks of the parent process
BECOME_REAPER = 36  # prctl(PR_SET_CHILD_SUBREAPER)


@dataclass
class Options:
    """How students are graded."""

    limits: Limits = field(default_factory=Limits)
    sandboxed: bool = True
    hide: tuple = ()  # folders that stay out of the room
    pages: bool = False  # is a page of feedback wanted?


def empty_row(submission, problem_set):
    """The row of a submission before it is scored: 0 points, no status.

    The points of written answers are left to those who read them.
    """
    tests = [graded_cell for graded_cell in problem_set if graded_cell.test]
    written = {graded_cell.id: "" for graded_cell in problem_set if graded_cell.written}
    return (
        {test.id: 0 for test in tests}
        | written
        | {
            "student": submission.student,
            "number": submission.number,
            "status": "",
            "score": 0,
            "max": page.short_number(sum(test.points for test in tests)),
            "detail": "",
            "file": submission.file,
        }
    )


# --- in the process of the student ---


def live_apart(parent, work, row, folder):
    """What the forked process does: it works, or says why it cannot, and ends."""
    status = 1
    try:
        os.setsid()  # Ctrl+C reaches the parent process, which cleans up
        change_process(DIE_WITH_PARENT, signal.SIGKILL)
        change_process(BECOME_REAPER, 1)  # what a notebook leaves behind stays below this process
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        if os.getppid() == parent:
            work()
            status = 0
    except BaseException as error:  # also MemoryError and RecursionError: one student's, only
        words = first_line(clean(str(error))) or type(error).__name__
        failed = row | {"status": "crashed", "detail": f"the grader failed: {safe(words)}"}
        if not Path(folder, ROW).exists():
            Path(folder, ROW).write_text(json.dumps(failed))
    finally:
        os._exit(status)


def work(submission, problem_set, options, folder, verdicts, progress):
    """Grade the submission and leave its row and its page in the folder."""
    progress[:4] = READ
    set_own_limits(options.limits.own)
    row, shown = grade(submission, problem_set, options, folder, verdicts, progress)
    Path(folder, ROW).write_text(json.dumps(row))
    if options.pages:
        progress[:4] = PAGE
        allow_processor_time(options.limits.own)
        text = page.page(row, shown, problem_set)
        Path(folder, PAGE_FILE).write_text(text, encoding="utf-8", errors="replace")


def set_own_limits(seconds):
    """Bound what this process may use, so that a hostile file harms nobody else."""
    soft = {resource.RLIMIT_AS: MAX_BYTES, resource.RLIMIT_FSIZE: MAX_FILE_BYTES}
    for kind, most in soft.items():
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, hard))  # the room gets back what was allowed before
    set_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    set_limit(resource.RLIMIT_CORE, 1)
    allow_processor_time(seconds)


def allow_processor_time(seconds):
    """Let this process go on for so many seconds of processor time, and no longer."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def grade(submission, problem_set, options, folder, verdicts, progress):
    """Read, mend, run and judge: (row of the table, parts of the page)."""
    row = empty_row(submission, problem_set)
    try:
        cells, notes = mend.parse(submission.read())
    except (Unreadable, mend.NotANotebook) as error:
        row["status"] = "not a notebook"
        row["detail"] = safe(clean(str(error), MAX_DETAIL))
        return row, []
    pairs, repairs = mend.mend(cells, problem_set)
    notes += repairs
    code, parents, shown = judge.lay_out(pairs)
    progress[:4] = RUN
    outcome, suspicions = run(code, parents, shown, options, folder, verdicts)
    progress[:4] = READ
    allow_processor_time(options.limits.own)
    failures = judge.judge(shown, outcome.replies, row)
    suspicions += [f"its code names {what}" for what in forgery.traces(pairs)]
    if submission.doubt:
        suspicions.insert(0, submission.doubt)
    details = describe(outcome, notes, suspicions, problem_set) + failures
    row["status"] = status(outcome, notes, suspicions)
    row["detail"] = safe(clean(" | ".join(details), MAX_DETAIL))
    return row, shown


def run(code, parents, shown, options, folder, verdicts):
    """Run the cells and then the canaries: (`Outcome` of the cells, suspicions)."""
    home = None
    if not options.sandboxed:
        home = Path(folder, "home")
        home.mkdir()
    with Runner(options.limits, home, options.hide, verdicts) as runner:
        outcome = run_cells(code, parents, options.limits, runner)
        if outcome.status == "crashed" or runner.process.poll() is not None:
            return outcome, []
        canaries = forgery.canaries(shown, outcome.replies)
        traps = [judge.new_cell("code", source) for source in canaries]
        own = {position: position for position in range(len(traps))}
        caught = run_cells(traps, own, options.limits, runner)
    passed = sum(reply.status == "ok" for reply in caught.replies.values())
    suspicions = [f"{passed} tests passed that must fail"] if passed else []
    if len(caught.replies) < len(traps):
        suspicions.append(f"among the tests that must fail: {caught.detail[0]}")
    return outcome, suspicions


def describe(outcome, notes, suspicions, problem_set):
    """What the table says about a run, in the order of weight."""
    details = [*suspicions, *outcome.detail]
    if notes:
        details.append("repaired: " + ", ".join(notes))
    if outcome.bytes_left < 0:
        details.append("output cut")
    details += [
        f"to be read by hand: {graded_cell.id}"
        for graded_cell in problem_set
        if graded_cell.written
    ]
    return details


def status(outcome, notes, suspicions):
    """The status of a notebook that ran; the gravest one counts."""
    if suspicions:
        return "look"
    return outcome.status or ("repaired" if notes else "ok")


# --- in the parent process ---


def grade_apart(submission, problem_set, options, folder):
    """Grade a submission in a process of its own: its row. Its page, if any, is in the folder."""
    row = empty_row(submission, problem_set)
    progress = mmap.mmap(-1, len(READ))
    verdicts, verdict_writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(verdict_writer)
        task = partial(work, submission, problem_set, options, folder, verdicts, progress)
        live_apart(parent, task, row, folder)
    os.close(verdicts)
    try:
        reason = stand_watch(pid, options, folder, verdict_writer, progress)
    finally:
        end_family(pid)
        os.close(verdict_writer)
    result = read_row(folder, row)
    if result is None:
        row["status"] = "crashed"
        row["detail"] = f"the grader gave up {reason}"
        return row
    return result


def stand_watch(pid, options, folder, verdict_writer, progress):
    """Wait for the student's process and keep its notebook within the limits: why it ended."""
    guard = None
    verdict = None
    stage = b""
    while True:
        ended, code = os.waitpid(pid, os.WNOHANG)
        if bytes(progress[:]) != stage:
            stage = bytes(progress[:])
            end = time.monotonic() + clock_of(stage, options.limits)
        if ended:
            return f"{WORDS.get(stage, 'at the start')} ({why_it_ended(code, options.limits)})"
        if time.monotonic() > end:
            return f"{WORDS.get(stage, 'at the start')} (it took too long by the clock)"
        processes = watch.descendants(pid) if stage == RUN else []
        if processes:
            guard = guard or watch.Watch(options.limits, folder, options.sandboxed)
            verdict = verdict or guard.look(processes)
        if processes and verdict:
            if not guard.is_told:
                with contextlib.suppress(BrokenPipeError):  # the process may have ended
                    os.write(verdict_writer, "|".join(verdict).encode())
                guard.is_told = True
            watch.kill(processes)
        time.sleep(WAIT)


def clock_of(stage, limits):
    """Seconds by the clock that a stage may take: a generous limit, because machines are busy."""
    if stage == RUN:
        return limits.start + 2 * limits.notebook_clock + SLACK
    return CLOCK_FACTOR * limits.own + SLACK


def why_it_ended(code, limits):
    """The end of a process in words."""
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU:
            return f"more than {limits.own:g} s of processor time"
        return f"ended by signal {number}"
    return f"exit code {os.waitstatus_to_exitcode(code)}"


def end_family(pid):
    """End a process with everything below it, and wait until it is gone."""
    watch.kill(watch.descendants(pid))
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):  # it has ended before
        pass


def read_row(folder, empty):
    """The row that the student's process wrote; None if there is not one."""
    path = Path(folder, ROW)
    try:
        if path.stat().st_size > MAX_ROW_BYTES:
            return None
        written = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(written, dict) or not written.get("status"):
        return None
    points = {
        name: written[name]
        for name, value in empty.items()
        if not isinstance(value, str) and isinstance(written.get(name), int | float)
    }
    texts = {name: safe(written.get(name, "")) for name in ("status", "detail")}
    return empty | points | texts


def remove(folder):
    """Delete a folder that a notebook may have written to, without following a link."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):  # it holds folders that cannot be entered
        system = ["chmod", "-R", "u+rwX", folder]
        subprocess.run(system, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
