"""Grading: every kind of submission gets the right score and status, and none reaches out of its room."""

import ast
import copy
import csv
import html
import json
import re
import select
import shutil
import socket
import zipfile
from pathlib import Path

import nbformat
import psutil
import pytest
from xcnn import grade
from xcnn.errors import InputError
from xcnn.grade import feedback, mend, sandbox, submissions
from xcnn.grade.__main__ import main

from tools import ROOT
from tools.book import derive_coursework as coursework

TINY = ROOT / "tests" / "coursework" / "tiny.md"
SETS = sorted((ROOT / "notebooks" / "coursework").glob("*.md"))
STEP = "def step(z):\n    return (np.asarray(z) > 0).astype(int)"
NEARLY = (
    "def step(z):\n    return (np.asarray(z) >= 0) * 1"  # wrong at 0, which only a hidden test asks
)
PERCEPTRON = "def perceptron(x, w, b):\n    return step(np.dot(x, w) + b)"
STUB = "def step(z):\n    raise NotImplementedError"
MARK = "86399.0625"  # the sleep of this test's child processes


def room_works():
    try:
        sandbox.check()
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def locked_room():
    if why := room_works():
        pytest.skip(why)


@pytest.fixture
def tiny(tmp_path):
    """A course folder with the tiny problem set and its release."""
    folder = tmp_path / "course"
    folder.mkdir()
    path = Path(shutil.copy(TINY, folder))
    coursework.main([path])
    return path


def release(path=TINY):
    return nbformat.reads(coursework.student(path.read_text()), 4)


def answered(step=STEP, perceptron=PERCEPTRON):
    """The tiny release with these answers."""
    book = release()
    for cell in book.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = {"step": step, "perceptron": perceptron}.get(name, cell.source)
    return book


def found_then_solved(search):
    """An answer that is right only where the search finds something."""
    return f"{search}\nif found:\n    step = lambda z: (np.asarray(z) > 0).astype(int)\nelse:\n    {STUB!r}\n"


def batch(folder, course, port, gigabytes):
    """Write the submissions; return what each must get: name -> (score, status, a word of the detail)."""
    needle = (
        "at 0 the step is 0".split()
    )  # not in one piece: IPython keeps the student's own cells in a file
    search = f"""
import glob, os, sys
needle = " ".join({needle})
def look():
    yield {str(course)!r}
    yield {str(folder)!r}
    for top in os.listdir("/"):
        if top not in ("usr", "proc", "sys", "dev") and not os.path.islink("/" + top):
            yield "/" + top
    yield from glob.glob("/proc/[0-9]*/")
skip = (sys.prefix, sys.base_prefix)
found = []
for top in look():
    for here, inner, files in os.walk(top):
        inner[:] = [name for name in inner if os.path.join(here, name) not in skip] if "/proc/" not in here else []
        for name in files:
            path = os.path.join(here, name)
            try:
                if os.path.getsize(path) < 1e6 and name not in ("kmsg", "clear_refs") and not os.path.islink(path):
                    with open(path, errors="ignore") as file:
                        found += [path] if needle in file.read(1_000_000) else []
            except OSError:
                pass
    if found:
        break
print(found)"""
    connect = f"""
import socket
found = []
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2).close()
    found = [1]
except OSError as error:
    print(error)"""
    destroy = f"""
import importlib.util, os, shutil
folder = importlib.util.find_spec("xcnn").submodule_search_locations[0]
shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)
for path in (os.path.join(folder, "made_by_a_student.py"), {str(course / "made_by_a_student.py")!r}):
    try:
        open(path, "w").close()
    except OSError as error:
        print(error)
{STEP}"""
    children = f'import subprocess\nfor _ in range(10):\n    subprocess.Popen(["sleep", "{MARK}"], start_new_session=True)\n'
    books = {
        "perfect": (answered(), 5, "ok", ""),
        "stub": (release(), 0, "ok", "NotImplementedError"),
        "half": (answered(perceptron="def perceptron(x, w, b):\n    return 0"), 2, "ok", "perceptron-test: Assertion"),
        "public_only": (answered(step=NEARLY), 3, "ok", "hidden: Assertion"),
        "import_error": (answered(step="import no_such_library\n" + STEP), 0, "ok", "NameError"),
        "syntax_error": (answered(perceptron="def perceptron(x, w, b)\n    return 1"), 2, "ok", "NameError"),
        "os_exit": (answered(perceptron="import os\nos._exit(3)"), 2, "crashed", "exit code 3"),
        "sys_exit": (answered(perceptron="import sys\nsys.exit(0)"), 2, "ok", "NameError"),
        "quits": (answered(perceptron="quit()"), 2, "ok", "NameError"),
        "loop": (answered(step="def step(z):\n    while True:\n        pass"), 0, "timeout", "was stopped after"),
        "stubborn": (
            answered(perceptron="import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"),
            2, "timeout", "for the notebook",
        ),
        "memory": (
            answered(perceptron=f"import time\nx = np.ones(int({1.5 * gigabytes} * 2**27))\ntime.sleep(5)"),
            2, "crashed", f"more than {gigabytes} GB of memory",
        ),
        "output": (answered(step=STEP + "\nfor _ in range(50):\n    print('x' * 1_000_000)"), 5, "ok", "output cut"),
        "children": (answered(step=children + STEP), 5, "ok", ""),
        "bomb": (
            answered(perceptron=children.replace("10", "90") + "import time\ntime.sleep(5)"),
            2, "crashed", "more than 64 processes",
        ),
        "reads": (answered(step=found_then_solved(search)), 0, "ok", "NameError"),
        "connects": (answered(step=found_then_solved(connect)), 0, "ok", "NameError"),
        "deletes": (answered(step=destroy), 5, "ok", ""),
        # Errors that are not shown, output that looks like success, a forged result
        "pretends": (
            answered(step="get_ipython().showtraceback = lambda *a, **b: None\nprint('step-test: 2 of 2 points')\n"
                          "def step(z):\n    get_ipython().displayhook(2)\n    return None"),
            0, "ok", "Assertion",
        ),
    }  # fmt: skip
    books["leaks"] = answered(step=NEARLY), 3, "ok", "hidden"
    books["leaks"][0].cells += [
        nbformat.v4.new_code_cell("%tb"),
        nbformat.v4.new_code_cell(
            "import linecache\n[''.join(e[2]) for e in linecache.cache.values() if len(e) > 2]"
        ),
    ]
    twice = answered()
    twice.cells = [copy.deepcopy(cell) for cell in twice.cells for _ in range(2)]
    books["duplicated"] = twice, 5, "repaired", "more than once"
    stripped = answered()
    for position, cell in enumerate(stripped.cells):
        cell.metadata, cell.id = {}, f"new-{position}"
    books["stripped"] = stripped, 5, "repaired", "metadata put back: "
    lost = answered()
    lost.cells = [
        cell
        for cell in lost.cells
        if "test" not in cell.metadata.get("nbgrader", {}).get("grade_id", "")
    ]
    books["lost_tests"] = lost, 5, "repaired", "missing cells put back: step-test"
    easy = answered(step=STUB)
    for cell in easy.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "step-test":
            cell.source = "assert True"
    books["changed_test"] = easy, 0, "repaired", "changed cells put back: step-test"
    colab = json.loads(nbformat.writes(answered()))
    for cell in colab["cells"]:
        cell["metadata"]["id"] = cell.pop("id")
        if cell["cell_type"] == "code":
            view = {"application/vnd.jupyter.widget-view+json": {"model_id": "gone"}}
            cell["outputs"] = [
                {"output_type": "display_data", "data": view}
            ]  # no metadata: not valid
    colab["metadata"] = {
        "colab": {"provenance": []},
        "widgets": {mend.WIDGETS: {"gone": {"model_name": "X"}}},
    }
    expected = {name: want for name, (_, *want) in books.items()}
    for name, (book, *_) in books.items():
        (folder / f"{name}.ipynb").write_text(json.dumps(book))  # as it is: nbformat would mend it
    (folder / "colab.ipynb").write_text(json.dumps(colab))
    expected["colab"] = 5, "repaired", "broken widget state"
    (folder / "empty.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    expected["empty"] = 0, "repaired", "missing cells put back"
    (folder / "text.ipynb").write_text("My answer: the perceptron is a linear classifier.")
    expected["text"] = 0, "not a notebook", "not JSON"
    (folder / "nothing").mkdir()
    expected["nothing"] = 0, "missing", ""
    return expected


def rows(path):
    with path.open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def listing(folder):
    """The files in a folder and when they changed."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("*.*")}


def alive():
    return [p for p in psutil.process_iter(["cmdline"]) if MARK in (p.info["cmdline"] or [])]


def test_batch(locked_room, tiny, tmp_path, capsys):
    """One batch of everything that students hand in. Nothing stops it, and nothing gets out."""
    folder, out, pages = tmp_path / "handed_in", tmp_path / "grades.csv", tmp_path / "feedback"
    folder.mkdir()
    gigabytes = 4 if psutil.virtual_memory().available > 10e9 else 1
    bait = (
        ROOT / "lib" / "xcnn" / "__pycache__" / "bait.pyc"
    )  # if the walls fall, nothing else is lost
    bait.parent.mkdir(exist_ok=True)
    bait.touch()
    before = listing(bait.parents[1]), listing(tiny.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        expected = batch(folder, tiny.parent, server.getsockname()[1], gigabytes)
        assert len(expected) >= 16
        limits = ["--timeout", "20", "--cell-timeout", "6", "--memory", str(gigabytes)]
        where = ["--assignment", str(tiny), "--out", str(out), "--feedback", str(pages)]
        assert main([str(folder), *where, *limits]) == 0
        assert not select.select([server], [], [], 0)[0], (
            "a submission connected to a port of this machine"
        )
    table = rows(out)
    with capsys.disabled():
        print()
        for name, row in table.items():
            print(
                f"{name:13s}{row['score']:>4s} of {row['max']}  {row['status']:15s}{row['detail'][:110]}"
            )
    got = {name: (float(row["score"]), row["status"]) for name, row in table.items()}
    assert got == {name: (score, status) for name, (score, status, _) in expected.items()}
    for name, (_, _, said) in expected.items():
        assert said in table[name]["detail"], name
    assert not alive(), "a child process outlived its grading"
    assert (listing(bait.parents[1]), listing(tiny.parent)) == before
    bait.unlink()  # it is still there
    hidden = [line.strip() for want in mend.assignment(tiny) for line in want.hidden.splitlines()]
    assert len(hidden) == 3
    for name in expected:
        text = html.unescape(re.sub(r"<[^>]*>", "", (pages / f"{name}.html").read_text()))
        assert f"{name}: {table[name]['score']} of 5 points" in text
        assert not any(line in text for line in hidden), name
    leaks = html.unescape((pages / "leaks.html").read_text())
    assert leaks.count("this output held text of a hidden test") == 2


def test_unsandboxed(tiny, tmp_path, capsys):
    """Without a room the walls are gone, which also shows that the batch above could have failed."""
    folder, out = tmp_path / "handed_in", tmp_path / "grades.csv"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        batch(folder, tiny.parent, server.getsockname()[1], 1)
        for path in folder.iterdir():
            if path.stem not in ("perfect", "reads", "connects", "children", "os_exit"):
                path.rmdir() if path.is_dir() else path.unlink()
        assert (
            main([str(folder), "--assignment", str(tiny), "--out", str(out), "--unsandboxed"]) == 0
        )
        assert select.select([server], [], [], 0)[0]
    assert "WARNING" in capsys.readouterr().err
    got = {name: (row["score"], row["status"]) for name, row in rows(out).items()}
    assert got == dict.fromkeys(("perfect", "reads", "connects", "children"), ("5", "ok")) | {
        "os_exit": ("2", "crashed")
    }
    assert not alive()


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_problem_set(path, tmp_path, locked_room):
    """Solutions get every point, stubs none. (The stubs of the other sets are run in test_coursework.py, faster.)"""
    folder = tmp_path / "handed_in"
    folder.mkdir()
    if path == SETS[0]:
        (folder / "stub.ipynb").write_text(coursework.student(path.read_text()))
    solved = release(path)
    for cell, source in zip(
        solved.cells, nbformat.reads(coursework.notebook(path.read_text()), 4).cells, strict=True
    ):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = source.source
    (folder / "solved.ipynb").write_text(nbformat.writes(solved))
    table = {row["student"]: row for row in grade.batch(folder, tmp_path / "grades.csv", path)}
    assert table["solved"]["score"] == table["solved"]["max"] > 0, table["solved"]["detail"]
    if path == SETS[0]:
        assert (table["stub"]["score"], table["stub"]["status"]) == (0, "ok"), table["stub"][
            "detail"
        ]


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_release_is_in_step(path):
    derived = path.with_suffix(".ipynb").read_text()
    assert derived == coursework.student(path.read_text()), (
        "run `make coursework` and commit the result"
    )


@pytest.mark.parametrize("path", [TINY, *SETS], ids=lambda path: path.stem)
def test_release_keeps_secrets(path):
    given, source = release(path), nbformat.reads(coursework.notebook(path.read_text()), 4)
    assert not re.search("(BEGIN|END) (SOLUTION|HIDDEN)", nbformat.writes(given))
    for cell, whole in zip(given.cells, source.cells, strict=True):
        about = cell.metadata.get("nbgrader", {})
        if about.get("solution") and cell.cell_type == "code":
            assert "raise NotImplementedError" in cell.source and cell.metadata.deletable is False
            assert cell.source != whole.source
        elif about.get("locked"):
            assert cell.metadata.editable is False


# --- without running anything ----------------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    """Every cell runs without an error, at once; counts the runs."""
    runs = []

    def run(cells, tests, limits, sandboxed, hide):
        runs.append(len(cells))
        return sandbox.Outcome(replies={index: {"status": "ok"} for index in range(len(cells))})

    monkeypatch.setattr(sandbox, "run", run)
    monkeypatch.setattr(sandbox, "check", lambda: None)
    return runs


def test_goes_on_where_it_stopped(fake, tiny, tmp_path, monkeypatch):
    folder, out = tmp_path / "handed_in", tmp_path / "grades.csv"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.ipynb").write_text(nbformat.writes(answered()))
    going = sandbox.run

    def broken(*args):
        if len(fake) == 2:
            raise KeyboardInterrupt
        return going(*args)

    monkeypatch.setattr(sandbox, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        grade.batch(folder, out, tiny)
    assert sorted(rows(out)) == ["a", "b"]
    monkeypatch.setattr(sandbox, "run", going)
    grade.batch(folder, out, tiny)
    assert len(fake) == 4 and sorted(rows(out)) == list("abcd")
    whole = out.read_bytes()
    grade.batch(folder, out, tiny)
    assert len(fake) == 4 and out.read_bytes() == whole, "nothing changed, nothing runs"
    (folder / "b.ipynb").write_text(nbformat.writes(answered(step="def step(z):\n    return 1")))
    grade.batch(folder, out, tiny)
    assert len(fake) == 5, "only the changed one runs"
    tiny.write_text(tiny.read_text() + "\n")
    grade.batch(folder, out, tiny)
    assert len(fake) == 9, "another assignment, other grades"
    out.write_text("name,age\nx,3\n")
    with pytest.raises(InputError, match="not a table of grades"):
        grade.batch(folder, out, tiny)


def test_finds_the_assignment(fake, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    tiny.parent.rename(tmp_path / "notebooks" / "coursework")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(nbformat.writes(answered()))
    monkeypatch.chdir(tmp_path)
    assert main(["in", "--out", "g.csv"]) == 0
    assert "tiny.md" in capsys.readouterr().out and rows(tmp_path / "g.csv")["a"]["score"] == "5"
    (tmp_path / "in" / "a.ipynb").write_text("{}")
    assert main(["in", "--out", "g.csv"]) == 2
    assert "--assignment" in capsys.readouterr().err


def found(path, stem="ps1"):
    return {
        (one.student, one.number): one.data.decode() if one.data else one.problem
        for one in submissions.find(path, stem)
    }


def test_canvas_names(tmp_path):
    for name in (
        "doejane_4711_90001_ps1.ipynb",
        "doejane_4711_90007_ps1-1.ipynb",
        "doejane_4711_90009_ps1-2.ipynb",
        "doejane_4712_90002_ps1-3.ipynb",  # another Jane Doe
        "li_LATE_33_90003_ps_1_final.ipynb",
        "leejo_34_90004_essay.pdf",
    ):
        (tmp_path / name).write_text(name)
    assert found(tmp_path) == {
        ("doejane", "4711"): "doejane_4711_90009_ps1-2.ipynb",
        ("doejane", "4712"): "doejane_4712_90002_ps1-3.ipynb",
        ("li", "33"): "li_LATE_33_90003_ps_1_final.ipynb",
        ("leejo", "34"): "no .ipynb file, only: leejo_34_90004_essay.pdf",
    }


def test_moodle_folders_and_zip(tmp_path):
    names = (
        "Jana Nováková_101_assignsubmission_file_/ps1.ipynb",
        "Jana Nováková_101_assignsubmission_file_/old/scratch.ipynb",
        "Nguyễn Văn A_102_assignsubmission_file_/x.ipynb",
        "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ".ipynb_checkpoints/ps1.ipynb",
        "__MACOSX/ps1.ipynb",
        "notes.txt",
    )
    for name in names:
        path = tmp_path / "moodle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (tmp_path / "moodle" / "Empty One_104_assignsubmission_file_").mkdir()
    expected = {
        ("Jana Nováková", "101"): "ps1.ipynb",
        ("Nguyễn Văn A", "102"): "x.ipynb",
        ("Flat Name", "103"): "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ("Empty One", "104"): "",
    }
    assert found(tmp_path / "moodle") == expected
    for name, root in (("flat.zip", tmp_path / "moodle"), ("inside.zip", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted((tmp_path / "moodle").rglob("*")):
                archive.write(path, path.relative_to(root))
        assert found(tmp_path / name) == expected


def test_plain_names(tmp_path):
    (tmp_path / "anna.ipynb").write_text("1")
    for name in ("ben/ps1.ipynb", "ben/zz.ipynb", "cyd/work/any.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.ipynb").symlink_to("/etc/hostname")
    assert found(tmp_path) == {
        ("anna", ""): "1",
        ("ben", ""): "ben/ps1.ipynb",
        ("cyd", ""): "cyd/work/any.ipynb",
    }


def test_missing_students(tmp_path):
    (tmp_path / "r.csv").write_text(
        'Student,ID\n"Novák, Jan",1\nJane Doe,2\n"Li, Wei",33\nNobody There,9\n'
    )
    there = [
        submissions.Submission("novakjan"),
        submissions.Submission("doejane"),
        submissions.Submission("x", "33"),
    ]
    assert [one.student for one in submissions.absent(tmp_path / "r.csv", there)] == [
        "Nobody There"
    ]


def test_mending_leaves_a_good_notebook_alone(tiny):
    graded = mend.assignment(tiny)
    cells, notes = mend.parse(nbformat.writes(answered()).encode())
    pairs, more = mend.mend(cells, graded)
    assert notes + more == [] and [cell for cell, _ in pairs] == cells


def order(book, tiny):
    cells, _ = mend.parse(json.dumps(book).encode())
    pairs, notes = mend.mend(cells, mend.assignment(tiny))
    return [
        want.id if want else cell["source"][:20] for cell, want in pairs if cell["kind"] == "code"
    ], notes


RIGHT_ORDER = ["setup", "step", "step-test", "perceptron", "perceptron-test"]


def test_mending_moves_tests_below_answers(tiny):
    book = answered()
    book.cells.reverse()
    names, notes = order(book, tiny)
    for test in ("step", "perceptron"):
        assert names.index(test) < names.index(f"{test}-test")
    assert any("moved" in note for note in notes)


def test_mending_keeps_what_a_student_wrote_in_a_copy(tiny):
    book = answered()
    scratch = copy.deepcopy(book.cells[4])  # the test, copied and used for something else
    assert scratch.metadata.nbgrader.grade_id == "step-test"
    scratch.source = "mine = 3"
    book.cells.insert(4, scratch)
    names, notes = order(book, tiny)
    assert names == ["setup", "step", "mine = 3", "step-test", "perceptron", "perceptron-test"]
    assert notes == ["cells that were there more than once: step-test"]


def test_mending_drops_a_stub_beside_its_answer(tiny):
    book = answered()
    book.cells.append(copy.deepcopy(release().cells[3]))
    names, notes = order(book, tiny)
    assert names == RIGHT_ORDER and notes == ["cells that were there more than once: step"]


def test_mending_finds_stripped_cells_by_id(tiny):
    book = answered(step="step = np.sign")  # nothing but the id tells what this is
    for cell in book.cells:
        cell.metadata = {}
    book.cells = book.cells[:-1]
    names, notes = order(book, tiny)
    assert names == RIGHT_ORDER and "missing cells put back: perceptron-test" in notes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b"\xff\xfe\x00",
        b'{"cells": 3}',
        b"[" * 100_000,
        b'"\\ud800"',
        b"{}",
        b"PK\x03\x04",
    ],
)
def test_what_is_no_notebook(data):
    with pytest.raises(mend.NotANotebook):
        mend.parse(data)


def test_odd_notebooks_are_read():
    old = {
        "worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1\n", "metadata": None}, 3]}],
        "nbformat": 3,
    }
    cells, _ = mend.parse(json.dumps(old).encode())
    assert [cell["source"] for cell in cells] == ["x = 1\n"]
    half = {
        "cells": [{"cell_type": "code", "source": ["a = '\ud800'\r\n"]}],
        "metadata": {"widgets": 3},
    }
    cells, notes = mend.parse(json.dumps(half).encode())
    assert cells[0]["source"] == "a = '?'\n" and notes


def test_censor():
    line = 'assert f(x) == "a\\n" and 1 < 2, f"{x} > 3"'
    secrets = [feedback.squeeze(line)]
    coloured = re.sub(r"(\w+)", "\x1b[38;5;28m\\1\x1b[39m", line)
    html_code = "<pre>" + re.sub(r"\b(f)\b", r"<b>\1</b>", html.escape(line)) + "</pre>"
    for output in (
        nbformat.v4.new_output("stream", text=f"one\n{line}\n"),
        nbformat.v4.new_output("stream", text=repr([line])),
        nbformat.v4.new_output("stream", text=json.dumps(repr(line))),
        nbformat.v4.new_output(
            "error", ename="E", evalue="", traceback=["", f"----> 1 {coloured}"]
        ),
        nbformat.v4.new_output("display_data", data={"text/html": html_code}),
    ):
        assert "left out" in feedback.censor(output, secrets).text
    kept = nbformat.v4.new_output("stream", text="assert f(x) == 1")
    assert feedback.censor(kept, secrets) is kept


def one_test(outputs, status="ok", points=2):
    node = nbformat.v4.new_code_cell("", metadata={"nbgrader": {"grade": True, "solution": False, "grade_id": "t",
        "locked": True, "points": points, "schema_version": 3, "task": False}})  # fmt: skip
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    want = mend.Graded(node, "", "")
    return grade.score(want, {"visible": 0, "hidden": None}, [cell], {0: {"status": status}})[0]


def test_points():
    def result(value):
        return nbformat.v4.new_output("execute_result", data={"text/plain": value})

    warned = nbformat.v4.new_output("stream", name="stderr", text="RuntimeWarning: divide by zero")
    assert one_test([]) == 2 and one_test([warned]) == 2, "a warning is no failure"
    assert one_test([result("1.5")]) == 1.5 and one_test([result("0")]) == 0
    assert one_test([result("nan")]) == one_test([result("7")]) == one_test([result("-1")]) == 0
    assert one_test([], status="error") == one_test([result("2")], status="error") == 0


def test_refuses_without_a_room(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(nbformat.writes(answered()))
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert (
        main([str(tmp_path / "in"), "--assignment", str(tiny), "--out", str(tmp_path / "g.csv")])
        == 2
    )
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "bubblewrap" in said and "--unsandboxed" in said
    assert not (tmp_path / "g.csv").exists()


def test_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "nbgrader", None)
    assert main(["anything"]) == 2
    assert "pip install 'xcnn[coursework]'" in capsys.readouterr().err


def test_students_need_nothing_installed():
    """No module of the library imports the grader's tools when it is imported."""
    extra = {
        "nbgrader",
        "jupytext",
        "nbclient",
        "nbconvert",
        "nbformat",
        "psutil",
        "zmq",
        "jupyter_client",
    }
    for path in (ROOT / "lib" / "xcnn").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            assert not {name.split(".")[0] for name in names} & extra, path


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: text.replace("grade_id: perceptron,", "grade_id: step,"), "step"),
        (lambda text: text.replace("    ### END SOLUTION\n", "", 1), "solution"),
        (
            lambda text: text.replace("### END HIDDEN TESTS", "### END HIDDEN TESTS\nx = 1", 1),
            "last line",
        ),
        (
            lambda text: text.replace("grade: true", "grade: false"),
            "marked up wrongly|no test cells",
        ),
    ],
)
def test_wrong_markup_is_told(tmp_path, change, said):
    path = tmp_path / "set.md"
    text = change(TINY.read_text())
    assert text != TINY.read_text()
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        mend.assignment(path)


def test_no_formulas_for_spreadsheets():
    assert grade.safe("=cmd()") == "'=cmd()" and grade.safe("a\n b") == "a b"
