"""Submissions for the tests of the grader: right, wrong and hostile answers to the tiny set."""

import copy
import csv
import json

import nbformat
import psutil
from xcnn.grade import mend

from tools import ROOT
from tools.book import derive_coursework

TINY = ROOT / "tests" / "coursework" / "tiny.md"
SETS = sorted((ROOT / "notebooks" / "coursework").glob("*.md"))
STEP = "def step(z):\n    return (np.asarray(z) > 0).astype(int)"
NEARLY = "def step(z):\n    return (np.asarray(z) >= 0) * 1"  # wrong at 0: only a hidden test asks
PERCEPTRON = "def perceptron(x, w, b):\n    return step(np.dot(x, w) + b)"
STUB = "def step(z):\n    raise NotImplementedError"
MARK = "86399.0625"  # seconds that the children of a submission sleep; the tests know them by it


def release(path=TINY):
    """What students get of a problem set."""
    return nbformat.reads(derive_coursework.student(path.read_text()), 4)


def name_of(cell):
    """The grade_id of a cell; an empty name where it has none."""
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def answered(step=STEP, perceptron=PERCEPTRON):
    """The tiny release with these answers."""
    book = release()
    answers = {"step": step, "perceptron": perceptron}
    for cell in book.cells:
        cell.source = answers.get(name_of(cell), cell.source)
    return book


def read_table(path):
    """The rows of a table of grades, by student."""
    with path.open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def running_children():
    """The processes of submissions that still run."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if MARK in (process.info["cmdline"] or [])]


# --- a batch of everything that students hand in ---


def batch(folder, course, port, gigabytes):
    """Submissions and what each must get: name -> (notebook, score, status, word of the detail).

    :param folder: where they will be handed in
    :param course: the folder of the problem set, which no submission may read or change
    :param port: a port of this machine, to which none may connect
    :param gigabytes: the memory that a submission has
    """
    text = "My answer: the perceptron is a linear classifier."
    return {
        **ordinary(),
        **stopped(gigabytes),
        **hostile(folder, course, port),
        **damaged(),
        **foreign(),
        "text": (text, 0, "not a notebook", "not JSON"),
    }


def write(folder, books):
    """Write notebooks, or texts, into a folder, by their names."""
    for name, book in books.items():
        # Not by nbformat, which would repair a notebook.
        content = book if isinstance(book, str) else json.dumps(book)
        (folder / f"{name}.ipynb").write_text(content)


def ordinary():
    """Right, wrong and broken answers. All run to their end."""
    constant = "def perceptron(x, w, b):\n    return 0"
    no_colon = "def perceptron(x, w, b)\n    return 1"
    sys_exit = "import sys\nsys.exit(0)"
    no_library = f"import no_such_library\n{STEP}"
    print_much = f"{STEP}\nfor _ in range(50):\n    print('x' * 1_000_000)"
    return {
        "perfect": (answered(), 5, "ok", ""),
        "stub": (release(), 0, "ok", "NotImplementedError"),
        "half": (answered(perceptron=constant), 2, "ok", "perceptron-test: Assertion"),
        "public_only": (answered(step=NEARLY), 3, "ok", "hidden: Assertion"),
        "import_error": (answered(step=no_library), 0, "ok", "NameError"),
        "syntax_error": (answered(perceptron=no_colon), 2, "ok", "NameError"),
        "sys_exit": (answered(perceptron=sys_exit), 2, "ok", "NameError"),
        "quits": (answered(perceptron="quit()"), 2, "ok", "NameError"),
        "output": (answered(step=print_much), 5, "ok", "output cut"),
        "children": (answered(step=start_children(10) + STEP), 5, "ok", ""),
    }


def stopped(gigabytes):
    """Answers that end their kernel or pass a limit."""
    os_exit = "import os\nos._exit(3)"
    loop = "def step(z):\n    while True:\n        pass"
    deaf_loop = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"
    fill_memory = f"import time\nx = np.ones(int({1.5 * gigabytes} * 2**27))\ntime.sleep(5)"
    bomb = start_children(90) + "import time\ntime.sleep(5)"
    memory = f"more than {gigabytes} GB of memory"
    return {
        "os_exit": (answered(perceptron=os_exit), 2, "crashed", "exit code 3"),
        "loop": (answered(step=loop), 0, "timeout", "was stopped after"),
        "stubborn": (answered(perceptron=deaf_loop), 2, "timeout", "for the notebook"),
        "memory": (answered(perceptron=fill_memory), 2, "crashed", memory),
        "bomb": (answered(perceptron=bomb), 2, "crashed", "more than 64 processes"),
    }


def start_children(count):
    """Code that starts processes that would outlive the kernel."""
    return (
        "import subprocess\n"
        f"for _ in range({count}):\n"
        f'    subprocess.Popen(["sleep", "{MARK}"], start_new_session=True)\n'
    )


def hostile(folder, course, port):
    """Answers that reach for solutions, the network and files, or that pretend."""
    search = found_then_solved(search_for_tests(folder, course))
    connection = found_then_solved(connect(port))
    pretence = (
        "get_ipython().showtraceback = lambda *a, **b: None\n"  # an error that is not shown
        "print('step-test: 2 of 2 points')\n"  # output that looks like success
        "def step(z):\n"
        "    get_ipython().displayhook(2)\n"  # a forged result
        "    return None"
    )
    leaks = answered(step=NEARLY)
    cached_lines = "[''.join(e[2]) for e in linecache.cache.values() if len(e) > 2]"
    leaks.cells += [
        nbformat.v4.new_code_cell("%tb"),
        nbformat.v4.new_code_cell(f"import linecache\n{cached_lines}"),
    ]
    return {
        "reads": (answered(step=search), 0, "ok", "NameError"),
        "connects": (answered(step=connection), 0, "ok", "NameError"),
        "deletes": (answered(step=destroy(course)), 5, "ok", ""),
        "pretends": (answered(step=pretence), 0, "look", "Assertion"),
        "leaks": (leaks, 3, "look", "hidden"),
    }


def found_then_solved(search):
    """An answer that is right only where the search finds something."""
    return f"""{search}
if found:
    step = lambda z: (np.asarray(z) > 0).astype(int)
else:
    {STUB!r}
"""


def search_for_tests(folder, course):
    """Code that looks for the hidden test of the tiny set in every file that it can read."""
    # Not in one piece: IPython keeps the student's own cells in a file, which would be found.
    needle = "at 0 the step is 0".split()
    return f"""
import glob, os, sys
needle = " ".join({needle})
def look():
    yield {str(course)!r}
    yield {str(folder)!r}
    for top in os.listdir("/"):
        if top not in ("usr", "proc", "sys", "dev") and not os.path.islink("/" + top):
            yield "/" + top
    yield from glob.glob("/proc/[0-9]*/")
def readable(path):
    small = os.path.getsize(path) < 1e6
    endless = os.path.basename(path) in ("kmsg", "clear_refs")
    return small and not endless and not os.path.islink(path)
skip = (sys.prefix, sys.base_prefix)
found = []
for top in look():
    for here, inner, files in os.walk(top):
        inner[:] = [name for name in inner if os.path.join(here, name) not in skip]
        inner[:] = [] if "/proc/" in here else inner
        for name in files:
            path = os.path.join(here, name)
            try:
                if readable(path):
                    with open(path, errors="ignore") as file:
                        found += [path] if needle in file.read(1_000_000) else []
            except OSError:
                pass
    if found:
        break
print(found)"""


def connect(port):
    """Code that finds something where it gets through to the port."""
    return f"""
import socket
found = []
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2).close()
    found = [1]
except OSError as error:
    print(error)"""


def destroy(course):
    """Code that deletes and writes in the library and the course, and then answers."""
    return f"""
import importlib.util, os, shutil
folder = importlib.util.find_spec("xcnn").submodule_search_locations[0]
shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)
in_library = os.path.join(folder, "made_by_a_student.py")
for path in (in_library, {str(course / "made_by_a_student.py")!r}):
    try:
        open(path, "w").close()
    except OSError as error:
        print(error)
{STEP}"""


def damaged():
    """Notebooks whose cells were copied, stripped, deleted or changed."""
    duplicated = answered()
    duplicated.cells = [copy.deepcopy(cell) for cell in duplicated.cells for _ in range(2)]
    stripped = answered()
    for position, cell in enumerate(stripped.cells):
        cell.metadata = {}
        cell.id = f"new-{position}"
    lost_tests = answered()
    lost_tests.cells = [cell for cell in lost_tests.cells if "test" not in name_of(cell)]
    changed_test = answered(step=STUB)
    for cell in changed_test.cells:
        if name_of(cell) == "step-test":
            cell.source = "assert True"
    lost = "missing cells put back: step-test"
    changed = "changed cells put back: step-test"
    return {
        "duplicated": (duplicated, 5, "repaired", "more than once"),
        "stripped": (stripped, 5, "repaired", "metadata put back: "),
        "lost_tests": (lost_tests, 5, "repaired", lost),
        "changed_test": (changed_test, 0, "repaired", changed),
    }


def foreign():
    """A notebook as Colab writes it, with widgets that are broken, and one without cells."""
    colab = json.loads(nbformat.writes(answered()))
    for cell in colab["cells"]:
        cell["metadata"]["id"] = cell.pop("id")
        if cell["cell_type"] == "code":
            view = {"application/vnd.jupyter.widget-view+json": {"model_id": "gone"}}
            # Not valid: it has no metadata.
            cell["outputs"] = [{"output_type": "display_data", "data": view}]
    colab["metadata"] = {
        "colab": {"provenance": []},
        "widgets": {mend.WIDGETS: {"gone": {"model_name": "X"}}},
    }
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return {
        "colab": (colab, 5, "repaired", "broken widget state"),
        "empty": (empty, 0, "repaired", "missing cells put back"),
    }
