"""Grading: every kind of submission gets its score and status, and none reaches out of its room."""

import ast
import contextlib
import html
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import pytest
from xcnn import grade
from xcnn.errors import InputError
from xcnn.grade import WORKPLACE, problem_set, table

from tests.grade import hostile
from tests.grade.ordinary_user import own
from tests.grade.submitted import (
    SETS,
    answered,
    batch,
    read_table,
    release,
    running_children,
    write,
)
from tests.helpers.browser import chromium
from tools import ROOT
from tools.book import derive_coursework

GIGABYTES = 1  # that a notebook has; the attacks on memory are twice as large
LIMITS = ["--memory", str(GIGABYTES), "--timeout", "20", "--cell-timeout", "6", "--clock", "100"]
MAX_PARENT_KILOBYTES = 300_000
SO_SNDBUFFORCE = 32  # of Linux; Python has no name for it
# Grades with a word in the environment and a key in the session that no notebook may read.
PROGRAM = """
import ctypes, os, resource, sys
os.environ["BAIT"] = "SECRET_WORD"
ctypes.CDLL(None).syscall(248, b"user", b"BAIT_KEY", b"x", 1, -3)
from xcnn.grade.__main__ import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def listing(folder):
    """The files in a folder and when they changed."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("*.*")}


@pytest.fixture
def bait():
    """A file in the library that a submission tries to delete: if it can, nothing else is lost."""
    path = ROOT / "lib" / "xcnn" / "__pycache__" / "bait.pyc"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    yield path
    path.unlink()  # it is still there


@pytest.fixture
def graded(ordinary_user, public, public_tiny):
    """graded(books, *options): hand in, grade as an ordinary user: (table by student, run)."""

    def hand_in_and_grade(books, *options):
        folder = public / "in"
        folder.mkdir(exist_ok=True)
        write(folder, books)
        own(public)
        where = ["--assignment", public_tiny, "--out", public / "g.csv"]
        where += ["--feedback", public / "pages"]
        run = ordinary_user("-c", PROGRAM, folder, *where, *LIMITS, *options)
        assert run.returncode == 0, run.stderr
        return read_table(public / "g.csv"), run

    return hand_in_and_grade


def check(table, name, least, most, statuses, said):
    """Raise AssertionError if a row is not what it must be."""
    row = table[name]
    told = f"{name}: {row['score']} {row['status']} {row['detail']}"
    assert least <= float(row["score"]) <= most, told
    assert row["status"] in statuses, told
    assert said in row["detail"], told


def some_attacks(values, every=3):
    """A part of the attacks of each kind."""
    found = {}
    for kind in hostile.KINDS:
        found |= dict(list(hostile.attacks(kind, **values).items())[::every])
    return found | hostile.for_pages()


def honest():
    """Right answers in different words: name -> notebook."""
    ends = ("astype(int)", "astype(float)", "astype('i8')", "astype(np.int32)")
    steps = [f"def step(z):\n    return (np.asarray(z) > 0).{end}" for end in ends]
    return {
        f"right_{number}": answered(step=f"limit = {number}\n{steps[number % len(steps)]}")
        for number in range(18)
    }


def test_batch(graded, bait, public, public_tiny, capsys):
    """One batch of everything that students hand in. Nothing stops it, and nothing gets out."""
    secret = public / "secret.txt"
    secret.write_text("the grader's own")
    before = listing(bait.parents[1]), listing(public_tiny.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        expected = batch(public / "in", public_tiny.parent, port, GIGABYTES)
        attacks = some_attacks({"BAIT_FILE": secret, "BAIT_FOLDER": public, "PORT": port})
        books = {name: book for name, (book, *_) in expected.items()} | honest()
        books |= {name: attack.content for name, attack in attacks.items()}
        assert len(books) >= 60
        rows, run = graded(books)
        assert not select.select([server], [], [], 0)[0], "a submission connected to a port"
    with capsys.disabled():
        show(rows)
    for name, (_, score, status, said) in expected.items():
        check(rows, name, score, score, (status,), said)
    for name in honest():
        check(rows, name, 5, 5, ("ok",), "")
    for name, attack in attacks.items():
        check(rows, name, *attack[1:])
    assert int(run.stdout.split()[-1]) < MAX_PARENT_KILOBYTES
    assert not running_children(), "a child process outlived its grading"
    assert (listing(bait.parents[1]), listing(public_tiny.parent)) == before
    check_pages(public / "pages", rows, public_tiny)
    whole = (public / "g.csv").read_bytes(), listing(public / "pages")
    graded({})
    assert ((public / "g.csv").read_bytes(), listing(public / "pages")) == whole, "a rerun"


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_attacks(kind, graded, public):
    """Each attack costs its own student's points at most."""
    secret = public / "secret.txt"
    secret.write_text("the grader's own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        values = {"BAIT_FILE": secret, "BAIT_FOLDER": public, "PORT": port}
        attacks = hostile.attacks(kind, **values)
        books = {name: attack.content for name, attack in attacks.items()}
        rows, _ = graded(books | {"zz_honest": answered()})
        assert not select.select([server], [], [], 0)[0], "a submission connected to a port"
    for name, attack in attacks.items():
        check(rows, name, *attack[1:])
    check(rows, "zz_honest", 5, 5, ("ok",), "")
    assert secret.read_text() == "the grader's own"


@contextlib.contextmanager
def on_and_off(take):
    """While we are inside, another thread takes memory (as a context manager) and gives it back."""
    over = threading.Event()

    def go_on():
        while not over.wait(1):
            with take():
                over.wait(2)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    over.set()
    thread.join()


@contextlib.contextmanager
def memory_file():
    """More memory than a notebook has, in a file that belongs to no process."""
    number = os.memfd_create("of another program")
    os.posix_fallocate(number, 0, 3 * GIGABYTES * 2**29)
    yield
    os.close(number)


@contextlib.contextmanager
def buffers_of_sockets():
    """The same in the buffers of sockets. Only root may have such large ones."""
    size = 32 * 2**20
    pairs = [socket.socketpair() for _ in range(3 * GIGABYTES * 2**29 // size)]
    for sender, _ in pairs:
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(2**20))
    yield
    for ends in pairs:
        for end in ends:
            end.close()


@pytest.mark.parametrize("take", [memory_file, buffers_of_sockets])
def test_the_memory_of_another_program_costs_no_points(graded, take):
    """A machine has other users. Two graders at a time took each other's attacks for theirs."""
    if take is buffers_of_sockets and os.geteuid() != 0:
        pytest.skip("only root may have such large buffers")
    patient = answered(step="import time\ntime.sleep(8)\n\n\ndef step(z):\n    return z > 0")
    with on_and_off(take):
        rows, _ = graded({"a": patient, "b": patient})
    for name in ("a", "b"):
        check(rows, name, 5, 5, ("ok",), "")


def test_broken_files(graded):
    files = hostile.broken_files()
    books = {name: attack.content for name, attack in files.items()}
    rows, _ = graded(books | {"zz_honest": answered()})
    for name, attack in files.items():
        check(rows, name, *attack[1:])
    check(rows, "zz_honest", 5, 5, ("ok",), "")


def show(rows):
    """Print a table of grades."""
    print()
    for name, row in rows.items():
        points = f"{row['score']:>4s} of {row['max']}"
        print(f"{name:20s}{points}  {row['status']:15s}{row['detail'][:100]}")


def check_pages(pages, rows, tiny):
    """Each page says the score, has not a line of a hidden test, and runs and fetches nothing."""
    graded_cells = problem_set.read_assignment(tiny)
    hidden = [line.strip() for cell in graded_cells for line in cell.hidden.splitlines()]
    assert len(hidden) == 3
    for name, row in rows.items():
        text = html.unescape(re.sub(r"<[^>]*>", "", (pages / row["page"]).read_text()))
        assert f"{name}: {row['score']} of 5 points" in text
        assert not any(line in text for line in hidden), name
    leaks = html.unescape((pages / rows["leaks"]["page"]).read_text())
    assert leaks.count("this output held text of a hidden test") >= 1
    happened = []
    with chromium() as browser:
        opened = browser.new_page()
        opened.on("dialog", lambda dialog: (happened.append(dialog.message), dialog.dismiss()))
        opened.on("request", lambda request: happened.append(request.url))
        opened.on("pageerror", lambda error: happened.append(str(error)))
        for row in rows.values():
            address = (pages / row["page"]).as_uri()
            opened.goto(address)
            assert [what for what in happened if what != address and "data:" not in what] == []
            happened.clear()


def test_root_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InputError, match=r"does not run as root.*setpriv"):
        grade.grade_all(tmp_path, tmp_path / "g.csv", tiny)
    assert not (tmp_path / "g.csv").exists()


def test_unsandboxed(graded, public, public_tiny):
    """Without a room there are no walls, which shows that the batch above could have failed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        books = batch(public / "in", public_tiny.parent, server.getsockname()[1], 1)
        names = ("perfect", "reads", "connects", "children", "os_exit")
        rows, run = graded({name: books[name][0] for name in names}, "--unsandboxed")
        assert select.select([server], [], [], 0)[0]
    assert "WARNING" in run.stderr
    got = {name: (row["score"], row["status"]) for name, row in rows.items()}
    assert got == dict.fromkeys(names[:4], ("5", "ok")) | {"os_exit": ("2", "crashed")}
    assert not running_children()


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_problem_set(path, ordinary_user, public):
    """Solutions get every point, stubs none.

    The stubs of the other sets are run in test_coursework.py, which is faster.
    """
    (public / "in").mkdir()
    books = {"solved": solved(path)}
    if path == SETS[0]:
        books["stub"] = release(path)
    write(public / "in", books)
    own(public)
    out = public / "g.csv"
    run = ordinary_user("-m", "xcnn.grade", public / "in", "--out", out, "--assignment", path)
    assert run.returncode == 0, run.stderr
    rows = read_table(out)
    assert rows["solved"]["status"] == "ok", rows["solved"]["detail"]
    assert rows["solved"]["score"] == rows["solved"]["max"] != "0"
    if path == SETS[0]:
        assert (rows["stub"]["score"], rows["stub"]["status"]) == ("0", "ok")


def solved(path):
    """The release of a problem set, with the solutions as answers."""
    book = release(path)
    source = nbformat.reads(derive_coursework.notebook(path.read_text()), 4)
    for cell, whole in zip(book.cells, source.cells, strict=True):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = whole.source
    return book


def test_written_answers_are_read_by_hand(ordinary_user, public):
    """They stand on the page; marks that are put into the table stay there."""
    path = next(path for path in SETS if path.stem.startswith("ps5"))
    folder = public / "in"
    folder.mkdir()
    words = "I would **cover the mark** & a <b>control</b>: $G > 0$."
    text_only = release(path)
    for cell in text_only.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "ps5-review-text":
            assert cell.source == "YOUR ANSWER HERE"
            cell.source = words
    write(folder, {"solved": solved(path), "text only": text_only, "stub": release(path)})
    own(public)
    out = public / "g.csv"
    run_of = ["-m", "xcnn.grade", folder, "--out", out, "--assignment", path]
    run_of += ["--feedback", public / "pages"]
    run = ordinary_user(*run_of)
    assert run.returncode == 0, run.stderr
    rows = read_table(out)
    assert [rows[name]["score"] for name in ("solved", "text only", "stub")] == ["14", "0", "0"]
    for row in rows.values():
        assert row["max"] == "14" and row["ps5-review-text"] == row["ps5-readers-text"] == ""
        assert "to be read by hand: ps5-review-text" in row["detail"]
    page = (public / "pages" / rows["text only"]["page"]).read_text()
    assert "<strong>cover the mark</strong>" in page
    assert "ps5-review-text: read by hand, up to 3 points." in page
    assert "<td>ps5-readers-text</td><td>read by hand</td><td>3</td>" in page

    with_marks = re.sub(r"(solved,.*?,1),,1,,", r"\1,2.5,1,3,", out.read_text())
    assert read_table(out)["solved"]["ps5-review-text"] == ""
    out.write_text(with_marks)
    assert read_table(out)["solved"]["ps5-review-text"] == "2.5"
    run = ordinary_user(*run_of)
    assert run.returncode == 0, run.stderr
    assert out.read_text() == with_marks


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_ended_in_the_middle(sent, ordinary_user, public, public_tiny):
    """What was graded before is in the table, the next run goes on, and nothing runs on."""
    (public / "in").mkdir()
    sleeper = answered(step=f"import time\ntime.sleep(3)\n{answered().cells[3].source}")
    write(public / "in", dict.fromkeys("abcde", sleeper))
    own(public)
    out = public / "g.csv"
    where = ["--assignment", public_tiny, "--out", out, "--feedback", public / "pages"]
    call = ["-m", "xcnn.grade", public / "in", *where]
    starter = (
        "import pathlib, subprocess, sys, time\n"
        f"run = subprocess.Popen([sys.executable, *{[*map(str, call)]!r}])\n"
        f"out = pathlib.Path({str(out)!r})\n"
        "while not out.exists() or len(out.read_text().splitlines()) < 3:\n"
        "    assert run.poll() is None, 'ended before it was stopped'\n"
        "    time.sleep(0.1)\n"
        f"run.send_signal({int(sent)})\n"
        "print(run.pid, run.wait())"
    )
    ended = ordinary_user("-c", starter)
    assert ended.returncode == 0, ended.stderr
    number, code = ended.stdout.splitlines()[-1].split()
    assert int(code) == (-sent if sent == signal.SIGKILL else 128 + sent)
    assert wait_until_gone(str(public)), "a process outlived the grader"
    left = list(Path(tempfile.gettempdir()).glob(f"{WORKPLACE}{number}-*"))
    assert len(left) == (1 if sent == signal.SIGKILL else 0)
    first = out.read_text().splitlines()[1:3]
    assert ordinary_user(*call).returncode == 0
    assert not any(folder.exists() for folder in left), "the next run leaves it there"
    assert set(first) <= set(out.read_text().splitlines())
    assert sorted(read_table(out)) == list("abcde")
    assert len(list((public / "pages").iterdir())) == 5


def wait_until_gone(word, seconds=30):
    """Do all processes end that have the word in their command line?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        if not any(word in line and "pytest" not in line for line in listed.splitlines()):
            return True
        time.sleep(0.2)
    return False


# --- without a room ---


def hand_in(folder, names):
    folder.mkdir()
    write(folder, dict.fromkeys(names, answered()))
    return folder


def test_goes_on_where_it_stopped(fake, tiny, tmp_path, monkeypatch):
    folder = hand_in(tmp_path / "handed_in", "abcd")
    out = tmp_path / "grades.csv"
    unbroken = grade.student.grade_apart

    def broken(*args):
        if len(fake) == 2:
            raise KeyboardInterrupt
        return unbroken(*args)

    monkeypatch.setattr(grade.student, "grade_apart", broken)
    with pytest.raises(KeyboardInterrupt):
        grade.grade_all(folder, out, tiny)
    assert sorted(read_table(out)) == ["a", "b"]
    monkeypatch.setattr(grade.student, "grade_apart", unbroken)
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 4 and sorted(read_table(out)) == list("abcd")
    whole = out.read_bytes()
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 4 and out.read_bytes() == whole, "nothing changed, nothing runs"
    write(folder, {"b": answered(step="def step(z):\n    return 1")})
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 5, "only the changed one runs"
    tiny.write_text(tiny.read_text() + "\n")
    grade.grade_all(folder, out, tiny)
    assert len(fake) == 9, "another assignment, other grades"
    out.write_text("name,age\nx,3\n")
    with pytest.raises(InputError, match="not a table of grades"):
        grade.grade_all(folder, out, tiny)


def test_a_row_without_its_page_gets_it(fake, tiny, tmp_path):
    folder = hand_in(tmp_path / "in", "ab")
    pages = tmp_path / "pages"
    grade.grade_all(folder, tmp_path / "g.csv", tiny)
    grade.grade_all(folder, tmp_path / "g.csv", tiny, pages=pages)
    assert len(fake) == 4 and len(list(pages.iterdir())) == 2
    lost = sorted(pages.iterdir())[0]
    lost.unlink()
    grade.grade_all(folder, tmp_path / "g.csv", tiny, pages=pages)
    assert len(fake) == 5 and lost.exists()


def test_names_that_collide_or_are_long(fake, tiny, tmp_path):
    """Each submission has a row and a page of its own, whatever its name."""
    folder = tmp_path / "in"
    folder.mkdir()
    moodle = "_101_assignsubmission_file_"
    names = [
        "Ann Lee",
        "Ann  Lee",
        "Ann_Lee",
        "ann lee",
        "x" * 200,
        "x" * 201,
        "=1+1",
        "\udc80",
        "a\nb",
    ]
    names += [f"Mallory{moodle}Victim_102_assignsubmission_file_x", f"Victim{moodle}y"]
    for name in names:
        (folder / f"{name}.ipynb").write_text("{}")
    (folder / ("y" * 255)).mkdir()
    (folder / ("y" * 255) / "a.ipynb").write_text("{}")
    pages = tmp_path / "pages"
    rows = grade.grade_all(folder, tmp_path / "g.csv", tiny, pages=pages)
    assert len(rows) == len(names) + 1 == len(list(pages.iterdir()))
    assert len({(row["student"], row["number"]) for row in rows}) == len(rows)
    assert all(row["student"][:1] not in "=+-@" for row in rows)
    assert "102" not in {row["number"] for row in rows}
    again = grade.grade_all(folder, tmp_path / "g.csv", tiny, pages=pages)
    assert len(fake) == len(rows) == len(again)


def test_a_table_that_cannot_be_written(fake, tiny, tmp_path, monkeypatch, capsys):
    """Grading goes on, says so once, and ends with an error: nothing is silent."""
    folder = hand_in(tmp_path / "in", "abc")
    failing = {"now": True}
    unbroken = table.save_table

    def full(out, rows, columns):
        if failing["now"]:
            raise table.TableNotWritten("there is no space left on the disk")
        unbroken(out, rows, columns)

    monkeypatch.setattr(table, "save_table", full)
    with pytest.raises(InputError, match="no space left"):
        grade.grade_all(folder, tmp_path / "g.csv", tiny)
    assert len(fake) == 3
    assert capsys.readouterr().err.count("no space left") == 1
    failing["now"] = False
    assert len(grade.grade_all(folder, tmp_path / "g.csv", tiny)) == 3


def test_needs_an_assignment_or_a_folder_of_them(fake, tiny, tmp_path):
    folder = hand_in(tmp_path / "handed_in", "a")
    out = tmp_path / "grades.csv"
    with pytest.raises(InputError, match="name the assignment"):
        grade.grade_all(folder, out)
    (row,) = grade.grade_all(folder, out, problem_sets=tiny.parent)
    assert row["score"] == 5


def test_students_need_nothing_installed():
    """No module of the library imports the grader's tools when it is imported."""
    extra = {"nbgrader", "jupytext", "nbconvert", "nbformat", "psutil", "mistune", "latex2mathml"}
    library = ROOT / "lib" / "xcnn"
    for path in library.rglob("*.py"):
        if path.is_relative_to(library / "grade"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            assert not {name.split(".")[0] for name in names} & extra, path


def test_the_grader_needs_no_network_library():
    """The parent process stays small: it imports neither PyTorch nor what draws pages."""
    code = "import sys, xcnn.grade.__main__; print([n for n in sys.argv[1:] if n in sys.modules])"
    heavy = ["torch", "nbconvert", "mistune", "PIL", "IPython"]
    run = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
