"""What the tests of the grader share: a problem set, an ordinary user, and runs without a room."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from xcnn.grade import room, student

from tests.grade.ordinary_user import as_user, can_change_user, own
from tests.grade.submitted import TINY
from tools import ROOT
from tools.book import derive_coursework


@pytest.fixture
def public():
    """A folder that the ordinary user owns; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory(prefix="xcnn-test-", ignore_cleanup_errors=True) as folder:
        yield own(Path(folder))


@pytest.fixture(scope="session")
def ordinary_user():
    """Runs a command as an ordinary user, from the repository: a `CompletedProcess`.

    Skips the test where this machine cannot make one, or cannot make a room.
    """
    if not can_change_user():
        pytest.skip("tests run as root, and bubblewrap or setpriv is missing")
    home = tempfile.mkdtemp(prefix="xcnn-home-")
    own(home)

    def run(*command, **options):
        settings = ["env", f"HOME={home}", f"PYTHONPATH={ROOT}"]
        words = as_user(*settings, sys.executable, *command)
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, **options)

    trial = run("-c", "from xcnn.grade import room; room.check_room()")
    if trial.returncode:
        pytest.skip(trial.stderr.strip().splitlines()[-1])
    yield run
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def tiny(tmp_path):
    """A course folder with the tiny problem set and its release: the path of the problem set."""
    return make_course(tmp_path / "course")


@pytest.fixture
def public_tiny(public):
    """`tiny`, in a folder that the ordinary user owns."""
    path = make_course(public / "course")
    own(public)
    return path


def make_course(folder):
    folder.mkdir()
    path = Path(shutil.copy(TINY, folder))
    derive_coursework.main([path])
    return path


@pytest.fixture
def fake(monkeypatch):
    """Every submission gets 5 points at once, and nothing runs. A list that grows with each."""
    runs = []

    def grade_apart(submission, problem_set, options, folder):
        runs.append(submission.student)
        row = student.empty_row(submission, problem_set)
        return row | {"step-test": 2, "perceptron-test": 3, "score": 5, "status": "ok"}

    monkeypatch.setattr(student, "grade_apart", grade_apart)
    monkeypatch.setattr(room, "check_room", lambda: None)
    return runs


@pytest.fixture
def processor_time():
    """processor_time(most): a `with` block that fails if it takes more seconds of the processor."""

    @contextlib.contextmanager
    def at_most(most):
        before = time.process_time()
        yield
        assert time.process_time() - before < most

    return at_most
