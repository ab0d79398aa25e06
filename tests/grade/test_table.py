"""The table of grades: safe in spreadsheets, whole at every moment, and read again."""

import csv
import os
import re
import resource
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from xcnn.errors import InputError
from xcnn.grade import table

COLUMNS = [*table.FIRST_COLUMNS, "step", *table.LAST_COLUMNS]


def row(student="Ann Lee", number="7", hash="0123456789abcdef", **others):
    values = {"status": "ok", "score": 1.5, "max": 5, "step": 1.5, "detail": ""}
    values |= {"file": "x.ipynb", "page": "x.html"}
    return values | {"student": student, "number": number, "hash": hash} | others


def cells(path, delimiter=",", quoting=csv.QUOTE_MINIMAL):
    """Every cell that a spreadsheet sees that parts the file in this way."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            value
            for line in csv.reader(file, delimiter=delimiter, quoting=quoting)
            for value in line
        ]


def leads(text):
    """Does a spreadsheet take this cell for a formula?"""
    folded = unicodedata.normalize("NFKC", text).strip(' \t"')
    return folded[:1] in ("=", "+", "-", "@", "\u2212")


def test_columns():
    cells = [
        SimpleNamespace(id="a", test=True, written=False),
        SimpleNamespace(id="b", test=False, written=False),
        SimpleNamespace(id="c", test=False, written=True),
    ]
    assert table.columns(cells) == [*table.FIRST_COLUMNS, "a", "c", *table.LAST_COLUMNS]


FORMULAS = [
    "=cmd()",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    '=HYPERLINK("http://x.example";"grade")',
    "  =1",
    "\t=1",
    "\u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    '"=1',
    '" =1',
    '"""\'=1',
    "“=1",
    "＝1",
    "＋1",
    "－1",
    "＠SUM(1)",
    "﹦1",
    "−1",
    ";=cmd|' /C calc'!A0;",
    "a;=1",
    "a\u037e=1",
    "a\t=1",
    "a\r\n=1",
    "a,=1",
    "a, =1,b",
    'a",=1,"',
    'a"",=1',
    ",,=1",
    "=1,=1;=1",
    "\ud800;=1",
    "x" * 996 + ";=1+1",
]


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("column", sorted(table.TEXT_COLUMNS))
def test_no_formulas_for_spreadsheets(text, column, tmp_path):
    """Wherever a spreadsheet parts the file, and whether it knows quotes or not."""
    out = tmp_path / "grades.csv"
    table.save_table(out, [row(**{column: text})], COLUMNS)
    for delimiter in ",;\t":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            found = cells(out, delimiter, quoting)
            assert found and not any(map(leads, found)), found


def test_safe():
    assert table.safe("=cmd()") == "'=cmd()" and table.safe("a\n b") == "a b"
    assert table.safe("a;b") == "a,b" and table.safe('a "b"') == "a 'b'"
    assert table.safe("x=1, y - 2 @ z") == "x=1, y - 2 @ z", "a sign within the text is harmless"
    assert table.safe("\ud800\x1b") == "?" and len(table.safe("x" * 5000)) == 1000
    assert table.safe("Nguyễn, Văn A") == "Nguyễn, Văn A"


def test_every_sign_that_a_spreadsheet_may_fold():
    for code in range(sys.maxunicode + 1):
        folded = unicodedata.normalize("NFKC", chr(code))
        if folded[:1] in ("=", "+", "-", "@"):
            assert table.safe(chr(code) + "1") == f"'{chr(code)}1", hex(code)


@given(st.text(st.sampled_from("=+-@,;\"' \t\nx＝−\ud800\u200b“"), max_size=60))
@example("x" * 37 + ",,,=1")
@example("," + "=," * 20)
def test_safe_is_done_after_once(text):
    once = table.safe(text, 40)
    assert table.safe(once, 40) == once and len(once) <= 40
    assert not any(map(leads, re.split("[,;\t]", once)))


# --- reading ---


def test_what_is_saved_is_loaded(tmp_path):
    out = tmp_path / "grades.csv"
    assert table.load_table(out, COLUMNS) == {}
    rows = [row("Bo", "2", "b" * 16), row("=Ann", "1", "a" * 16, detail='x; "y", =z\n\ud800')]
    table.save_table(out, rows, COLUMNS)
    whole = out.read_bytes()
    loaded = table.load_table(out, COLUMNS)
    assert list(loaded) == ["a" * 16, "b" * 16], "sorted by student"
    assert loaded["a" * 16]["student"] == "'=Ann" and loaded["b" * 16]["score"] == "1.5"
    assert loaded["a" * 16]["detail"] == "x, 'y', '=z ?"
    table.save_table(out, loaded.values(), COLUMNS)
    assert out.read_bytes() == whole
    assert table.load_table(out, [*COLUMNS, "new"]) == {}


def test_a_table_saved_by_excel(tmp_path):
    out = tmp_path / "grades.csv"
    table.save_table(out, [row()], COLUMNS)
    text = out.read_text()
    for changed in (
        text.replace("\n", "\r\n"),
        text.replace(",", ";"),
        text.replace(",", ";").replace("1.5", "1,5"),
    ):
        out.write_bytes(b"\xef\xbb\xbf" + changed.encode())
        (loaded,) = table.load_table(out, COLUMNS).values()
        assert loaded == {key: str(value) for key, value in row().items()}


@pytest.mark.parametrize(
    "changed",
    [
        row(hash=""),
        row(hash="1.23E+15"),
        row(hash="a b"),
        row(score="=1"),
        row(step="five"),
        row(max="01. Feb"),
    ],
)
def test_rows_that_a_program_has_changed_are_left_out(changed, tmp_path):
    out = tmp_path / "grades.csv"
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(changed)
        writer.writerow(row(hash="f" * 16))
        file.write("too,short\n\n" + "x," * 30 + "\n")
    assert list(table.load_table(out, COLUMNS)) == ["f" * 16]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a table of grades"),
        (b"\n", "not a table of grades"),
        (b"name,age\nx,3\n", "not a table of grades"),
        (b"student,hash\nx,3\n", "not a table of grades"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
        ("student;Müller".encode("cp1252"), "UTF-8"),
        ("student,hash".encode("utf-16"), "UTF-8"),
        (b"student,hash\nx\0,3\n", "NUL"),
        (b"student,hash\n" + b"x" * 200_000, "field larger"),
        (b'student,hash\n"' + b"x\n" * 100_000, "field larger"),
        (b"student,hash\n" + b"x,1\n" * 100_001, "more than 100,000 rows"),
        (b"x" * 20_000_001, "larger than 20 MB"),
    ],
)
def test_files_that_are_not_tables(content, message, tmp_path):
    out = tmp_path / "grades.csv"
    out.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        table.load_table(out, COLUMNS)
    assert "\n" not in str(raised.value)
    assert out.read_bytes() == content


def test_places_that_are_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    places = [tmp_path, tmp_path / "pipe", tmp_path / "file" / "x.csv", tmp_path / "loop"]
    places += [tmp_path / ("n" * 300), Path("/dev/null"), Path("/dev/full")]
    for out in places:
        with pytest.raises(InputError, match="cannot read the table"):
            table.load_table(out, COLUMNS)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    out = tmp_path / "grades\udcff.csv"
    table.save_table(out, [row()], COLUMNS)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"cannot read the table .*grades\?.csv: Permission"):
        table.load_table(out, COLUMNS)


# --- writing ---


def refused(out, rows=None):
    """What is said when the table cannot be written; nothing is left behind."""
    with pytest.raises(table.TableNotWritten) as raised:
        table.save_table(out, rows or [row()], COLUMNS)
    message = str(raised.value)
    assert "--out" in message and "whole" in message and "\n" not in message
    assert message.encode("utf-8")
    return message


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    assert "folder or a device" in refused(tmp_path)
    assert "folder or a device" in refused(tmp_path / "pipe")
    assert "No such file" in refused(tmp_path / "nothing" / "x.csv")
    assert "Not a directory" in refused(tmp_path / "file" / "x.csv")
    assert "Too many levels" in refused(tmp_path / "loop")
    assert "too long" in refused(tmp_path / ("n" * 254))
    assert "No such file" in refused(tmp_path / "bad\udcff" / "x.csv")
    for device in ("/dev/full", "/dev/null", "/dev/zero"):
        assert "folder or a device" in refused(Path(device))
        assert not os.path.exists(device + ".part")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk(tmp_path):
    """The system itself refuses to write more than some bytes."""
    out = tmp_path / "grades.csv"
    table.save_table(out, [row()], COLUMNS)
    whole = out.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 500, hard))
    try:
        message = refused(out, [row(hash=f"{index:016}") for index in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "too large" in message
    assert out.read_bytes() == whole and os.listdir(tmp_path) == ["grades.csv"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_at_the_end(broken, error, tmp_path, monkeypatch):
    out = tmp_path / "grades.csv"
    table.save_table(out, [row()], COLUMNS)
    whole = out.read_bytes()

    def fail(*_args):
        raise error

    monkeypatch.setattr(os, broken, fail)
    expected = table.TableNotWritten if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        table.save_table(out, [row("Bo")], COLUMNS)
    assert out.read_bytes() == whole and os.listdir(tmp_path) == ["grades.csv"]


def test_the_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: calls.append(os.fstat(file).st_size) or sync(file)
    )
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    table.save_table(tmp_path / "grades.csv", [row()], COLUMNS)
    assert calls == [(tmp_path / "grades.csv").stat().st_size, "rename"]


def test_the_target_of_a_link_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "grades.csv"
    out = tmp_path / "link.csv"
    out.symlink_to(target)
    assert table.load_table(out, COLUMNS) == {}
    for student in ("Ann", "Bo"):
        table.save_table(out, [row(student)], COLUMNS)
        assert out.is_symlink() and student in target.read_text()
    assert os.listdir(target.parent) == ["grades.csv"]


def test_what_a_killed_run_left_is_written_over(tmp_path):
    out = tmp_path / "grades.csv"
    other = tmp_path / "other"
    other.write_text("keep")
    (tmp_path / "grades.csv.part").symlink_to(other)
    table.save_table(out, [row()], COLUMNS)
    assert sorted(os.listdir(tmp_path)) == ["grades.csv", "other"]
    assert other.read_text() == "keep" and not out.is_symlink()
    (tmp_path / "grades.csv.part").mkdir()
    refused(out)


def test_the_mode_of_a_private_table_is_kept(tmp_path):
    out = tmp_path / "grades.csv"
    table.save_table(out, [row()], COLUMNS)
    out.chmod(0o600)
    table.save_table(out, [row("Bo")], COLUMNS)
    assert out.stat().st_mode & 0o777 == 0o600 and "Bo" in out.read_text()


def test_hostile_values(tmp_path):
    """Whatever stands in a row, the file is one line a row and UTF-8."""
    out = tmp_path / "grades.csv"
    hostile = row("a\r\n\x00b", "\ud800", step="=1;\n", score=None, surplus="x")
    del hostile["page"]
    table.save_table(out, [hostile, row(max=float("nan"), step="-0.5")], COLUMNS)
    lines = out.read_bytes().decode("utf-8").split("\n")
    assert len(lines) == 4 and lines[-1] == "" and "\x00" not in "".join(lines)
    assert cells(out)[len(COLUMNS) :] == [
        *("Ann Lee", "7", "ok", "1.5", "nan", "-0.5", "", "x.ipynb", "x.html", "0123456789abcdef"),
        *("a b", "?", "ok", "", "5", "'=1,", "", "x.ipynb", "", "0123456789abcdef"),
    ]
