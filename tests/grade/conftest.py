"""What the tests of the grader share: a problem set, a working room, and runs without a kernel."""

import shutil
from pathlib import Path

import pytest
from xcnn.errors import InputError
from xcnn.grade import sandbox

from tests.grade.submitted import TINY
from tools.book import derive_coursework


@pytest.fixture(scope="session")
def locked_room():
    """Skips the test where this machine cannot make a room."""
    try:
        sandbox.check_room()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(tmp_path):
    """A course folder with the tiny problem set and its release: the path of the problem set."""
    folder = tmp_path / "course"
    folder.mkdir()
    path = Path(shutil.copy(TINY, folder))
    derive_coursework.main([path])
    return path


@pytest.fixture
def fake(monkeypatch):
    """Every cell passes at once, and nothing runs. A list that grows by one with every run."""
    runs = []

    def run_cells(cells, tests, limits, sandboxed, hide):
        runs.append(len(cells))
        return sandbox.Outcome(replies={index: {"status": "ok"} for index in range(len(cells))})

    monkeypatch.setattr(sandbox, "run_cells", run_cells)
    monkeypatch.setattr(sandbox, "check_room", lambda: None)
    return runs
