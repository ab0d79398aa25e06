"""The command line: which assignment it takes, and what it says where grading cannot start."""

import sys

import nbformat
from xcnn.grade.__main__ import main

from tests.grade.submitted import answered, read_table


def test_finds_the_assignment(fake, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    tiny.parent.rename(tmp_path / "notebooks" / "coursework")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(nbformat.writes(answered()))
    monkeypatch.chdir(tmp_path)
    assert main(["in", "--out", "g.csv"]) == 0
    assert "tiny.md" in capsys.readouterr().out
    assert read_table(tmp_path / "g.csv")["a"]["score"] == "5"
    (tmp_path / "in" / "a.ipynb").write_text("{}")
    assert main(["in", "--out", "g.csv"]) == 2
    assert "--assignment" in capsys.readouterr().err


def test_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    assert main(["anything"]) == 2
    assert "pip install 'xcnn[coursework]'" in capsys.readouterr().err
