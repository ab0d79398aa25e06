"""The locked room. What it keeps in and out is tested by the batch in test_grade.py."""

import nbformat
from xcnn.grade import sandbox
from xcnn.grade.__main__ import main

from tests.grade.submitted import answered


def test_refuses_without_a_room(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(nbformat.writes(answered()))
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    where = ["--assignment", str(tiny), "--out", str(tmp_path / "g.csv")]
    assert main([str(tmp_path / "in"), *where]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "bubblewrap" in said and "--unsandboxed" in said
    assert not (tmp_path / "g.csv").exists()
