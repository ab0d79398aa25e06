"""Finding submissions under the names that Canvas, Moodle and a folder of one's own give them.

Names, zips and folders here are also hostile: each must be found, refused or skipped, and none may
stop the others.
"""

import ast
import os
import stat
import struct
import subprocess
import sys
import time
import unicodedata
import zipfile
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xcnn.errors import InputError
from xcnn.grade import entries, find, names

from tests.helpers.places import ROOT

FILE = "_assignsubmission_file_"


def find_all(path, stem="ps1"):
    """What each student handed in, as text, or what is wrong with it."""
    return {
        (found.student, found.number): found.read().decode() if found.read else found.problem
        for found in find.find(path, stem)
    }


def write(folder, *paths):
    """Write files that hold their own names; a path that ends with / is an empty folder."""
    for path in paths:
        file = folder / path
        if path.endswith("/"):
            file.mkdir(parents=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    return folder


def zipped(path, *members, content=None):
    """A zip of members with these names, each of which holds its name or the content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # also what ZipInfo would mend
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, name if content is None else content)
    return path


def only(path):
    """The single submission there."""
    (found,) = find.find(path)
    return found


# --- the platforms ---


def test_canvas_names(tmp_path):
    names_of_files = (
        "doejane_4711_90001_ps1.ipynb",
        "doejane_4711_90007_ps1-1.ipynb",
        "doejane_4711_90009_ps1-2.ipynb",
        "doejane_4712_90002_ps1-3.ipynb",  # another Jane Doe
        "li_LATE_33_90003_ps_1_final.ipynb",
        "leejo_34_90004_essay.pdf",
    )
    assert find_all(write(tmp_path, *names_of_files)) == {
        ("doejane", "4711"): "doejane_4711_90009_ps1-2.ipynb",
        ("doejane", "4712"): "doejane_4712_90002_ps1-3.ipynb",
        ("li", "33"): "li_LATE_33_90003_ps_1_final.ipynb",
        ("leejo", "34"): "no .ipynb file, only: leejo_34_90004_essay.pdf",
    }
    assert not any(found.doubt for found in find.find(tmp_path))


def test_moodle_folders_and_zip(tmp_path):
    write(
        tmp_path / "moodle",
        "Jana Nováková_101_assignsubmission_file_/ps1.ipynb",
        "Jana Nováková_101_assignsubmission_file_/old/scratch.ipynb",
        "Nguyễn Văn A_102_assignsubmission_file_/x.ipynb",
        "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ".ipynb_checkpoints/ps1.ipynb",
        "__MACOSX/ps1.ipynb",
        "notes.txt",
        "Empty One_104_assignsubmission_file_/",
    )
    expected = {
        ("Jana Nováková", "101"): "ps1.ipynb",
        ("Nguyễn Văn A", "102"): "x.ipynb",
        ("Flat Name", "103"): "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ("Empty One", "104"): "",
    }
    assert find_all(tmp_path / "moodle") == expected
    in_folder = [(found.student, found.key) for found in find.find(tmp_path / "moodle")]
    for name, root in (("flat.zip", tmp_path / "moodle"), ("inside.zip", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted((tmp_path / "moodle").rglob("*")):
                archive.write(path, path.relative_to(root))
            archive.writestr("__MACOSX/moodle/._ps1.ipynb", "x")
            archive.writestr(".DS_Store", "x")
        assert find_all(tmp_path / name) == expected
        in_zip = [(found.student, found.key) for found in find.find(tmp_path / name)]
        assert in_zip == in_folder, "a key belongs to the owner"


def test_plain_names(tmp_path):
    write(tmp_path, "ben/ps1.ipynb", "ben/zz.ipynb", "cyd/work/any.ipynb", "ANNA.IPYNB")
    (tmp_path / "link.ipynb").symlink_to("/etc/hostname")
    (tmp_path / "linked").symlink_to("/etc")
    assert find_all(tmp_path) == {
        ("ANNA", ""): "ANNA.IPYNB",
        ("ben", ""): "ps1.ipynb",
        ("cyd", ""): "any.ipynb",
    }


def test_a_notebook_and_a_folder_of_one_name_are_one_students(tmp_path):
    write(tmp_path, "ben.ipynb", "ben/ps1.ipynb")
    assert find_all(tmp_path) == {("ben", ""): "ps1.ipynb"}


def test_without_directory_entries_hidden_files_still_show_their_owner(tmp_path):
    path = zipped(tmp_path / "a.zip", f"Ann_1{FILE}/.ps1.ipynb", f"Ben_2{FILE}/ps1.ipynb")
    assert [(found.student, bool(found.read)) for found in find.find(path)] == [
        ("Ann", False),
        ("Ben", True),
    ]


def test_a_student_whose_name_begins_with_a_dot(tmp_path):
    write(
        tmp_path, f".ann_1{FILE}/x.ipynb", f"._Ben_2{FILE}x.ipynb", ".cyd.ipynb", ".d_3_4_x.ipynb"
    )
    assert [found.student for found in find.find(tmp_path)] == [".ann", ".d"]


def test_the_key_is_the_owners(tmp_path):
    file = write(tmp_path, "ann.ipynb", "ben.ipynb") / "ann.ipynb"
    before = [found.key for found in find.find(tmp_path)]
    file.write_text("other content")
    write(tmp_path, "cyd.ipynb")
    assert [found.key for found in find.find(tmp_path)][:2] == before
    assert all(len(key) == 10 and int(key, 16) >= 0 for key in before)
    assert before[0] != before[1]


def test_owners_whose_keys_collide_have_different_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "KEY_LENGTH", 1)
    write(tmp_path, *(f"s{index}.ipynb" for index in range(15)))
    assert len({found.key for found in find.find(tmp_path)}) == 15


def test_left_out(tmp_path):
    write(tmp_path, "ann.ipynb", "pages/ann.ipynb", "out.ipynb")
    leave_out = [tmp_path / "pages", tmp_path / "pages" / ".." / "out.ipynb"]
    assert [found.student for found in find.find(tmp_path, "", leave_out)] == ["ann"]


# --- forged names ---

TWICE = {
    f"Mallory_101{FILE}Victim Name_102{FILE}x.ipynb": ("Mallory", "101"),
    f"Mallory_101{FILE}_102{FILE}x.ipynb": ("Mallory", "101"),
    f"Mallory_101_assignsubmission_file_102{FILE}x.ipynb": ("Mallory", "101"),
    f"Mallory_101_assignsubmission_onlinetext_Victim Name_102{FILE}.ipynb": ("Mallory", "101"),
    f"Mallory_101{FILE}Victim Name_102{FILE}/x.ipynb": (f"Mallory_101{FILE}Victim Name", "102"),
    f"Victim Name_102{FILE} _101{FILE}/x.ipynb": (f"Victim Name_102{FILE}", "101"),
    f"doe_4711_90001_Victim Name_102{FILE}x.ipynb": ("doe", "4711"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_platforms_pattern_twice(name, tmp_path):
    """The file is not merged with those of either owner whom it names."""
    write(tmp_path, name)
    write(tmp_path, f"Mallory_101{FILE}a.ipynb", f"Victim Name_102{FILE}/y.ipynb")
    write(tmp_path, "doe_4711_90002_z.ipynb")
    found = {found.file: found for found in find.find(tmp_path)}
    assert len(found) == 4
    forged = found.pop(name)
    assert (forged.name, forged.number) == TWICE[name]
    assert forged.doubt.startswith(find.FORGED)
    assert not any(find.FORGED in other.doubt for other in found.values())
    assert forged.key not in {other.key for other in found.values()}


@pytest.mark.parametrize("turned", [False, True])
def test_names_that_are_nearly_the_same(tmp_path, turned):
    alike = ["Ann Lee", "Ann  Lee", "Ann_Lee", "ann lee", "Ánn Lee", "Ann\u200bLee", "𝐀nn-Lee"]
    write(tmp_path, *(f"{name}/x.ipynb" for name in (alike[::-1] if turned else alike)))
    write(tmp_path, "Bo.ipynb", f"Ann Lee_5{FILE}x.ipynb")
    found = find.find(tmp_path)
    doubted = [submission for submission in found if submission.doubt]
    assert {submission.doubt for submission in doubted} == {find.ALIKE}
    assert len(doubted) == len(alike), "another number tells the other Ann Lee apart"
    for submission in doubted:
        assert submission.student == f"{submission.name} [{submission.key[:4]}]"
    assert len({names.plain(submission.student) for submission in doubted}) == len(alike)
    assert {submission.student for submission in found} >= {"Bo", "Ann Lee"}


@pytest.mark.parametrize("whole", [False, True])
def test_a_student_named_like_a_suffix(tmp_path, whole):
    """Names are told apart even where a student foresees them."""
    write(tmp_path, "Ann Lee.ipynb", "Ann_Lee.ipynb")
    key = find.find(tmp_path)[0].key
    forged = [f"Ann Lee [{key[:4]}]"] + [f"Ann_Lee {key}"] * whole
    write(tmp_path, *(f"{name}.ipynb" for name in forged), "Bo.ipynb")
    found = find.find(tmp_path)
    shown = {names.plain(submission.student) for submission in found}
    assert len(shown) == len(found) == 4 + whole
    for submission in found:
        assert bool(submission.doubt) == (submission.name != "Bo")
    assert ("bo" in shown) != whole, "every name has its key only where nothing less helps"


def test_one_forged_four_letter_suffix(tmp_path):
    write(tmp_path, "Ann Lee.ipynb", "Ann_Lee.ipynb", "Bo.ipynb")
    key = next(found.key for found in find.find(tmp_path) if found.file == "Ann Lee.ipynb")
    write(tmp_path, f"Ann Lee {key[:4]}.ipynb")
    shown = {found.file: found.student for found in find.find(tmp_path)}
    assert shown["Ann Lee.ipynb"] == f"Ann Lee [{key}]" and shown["Bo.ipynb"] == "Bo"


def test_names_without_letters(tmp_path):
    write(tmp_path, "🙂.ipynb", "🙃.ipynb")
    assert {(found.student, found.doubt) for found in find.find(tmp_path)} == {
        ("🙂", ""),
        ("🙃", ""),
    }


def test_names_equal_after_cutting(tmp_path):
    write(tmp_path, *("a" * 130 + end + "/x.ipynb" for end in ("b", "c")), "a" * 117 + "/y.ipynb")
    found = find.find(tmp_path)
    assert len({names.plain(submission.student) for submission in found}) == 3
    assert all(submission.doubt and len(submission.student) <= 120 for submission in found)


def test_names_that_are_not_text(tmp_path):
    for raw in (b"\xe9.ipynb", b"\xe8.ipynb", b"\xff\xfe/\xf0.ipynb", b"\xe2\x80\x8b.ipynb"):
        path = os.path.join(os.fsencode(tmp_path), raw)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"held")
    found = find.find(tmp_path)
    assert [submission.name for submission in found] == [names.NAMELESS, "?", "?", "??"]
    assert len({(submission.student, submission.key) for submission in found}) == 4
    for submission in found:
        assert submission.read() == b"held"
        assert (submission.student + submission.file + submission.doubt).encode("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "\x1b]0;pwned\x07\x1b[31mann.ipynb",
        "a\r\nb\tc.ipynb",
        "=HYPERLINK(1).ipynb",
        "\u202egnp.ipynb",
        "\u2066x\u2069.ipynb",
        "\ue000\ufffe\U000e0041.ipynb",
        "n" * 248 + ".ipynb",
        '?*:|<>".ipynb',
        "' --flag.ipynb",
        "-rf.ipynb",
    ],
)
def test_hostile_names_are_clean(name, tmp_path):
    write(tmp_path, name)
    found = only(tmp_path)
    assert found.read().decode() == name
    for text in (found.student, found.file, found.name):
        assert 0 < len(text) <= 120 and text == names.clean(text)
        assert not any(unicodedata.category(letter).startswith("C") for letter in text)


def test_clean():
    assert names.clean(" a\r\n\tb\u2028c\x00\u200d ") == "a b c"
    assert names.clean("\ud800x\udcff") == "?x?"
    assert names.clean("e\u0301") == "\xe9" and names.clean("e\u200d\u0301") == "\xe9"
    assert names.clean("a" * 121) == "a" * 117 + "..." and names.clean("a" * 120) == "a" * 120
    assert names.clean(" " * 70_000 + "x") == "x" and names.clean("\u200b" * 70_000 + "x") == "x"
    assert names.clean(None) == "None"


@given(st.text(st.characters(), max_size=300))
def test_clean_is_done_after_once(text):
    once = names.clean(text, 40)
    assert names.clean(once, 40) == once and len(once) <= 40
    assert once.encode("utf-8").decode() == once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    "name",
    [
        "_1" * 32_000,
        "_" * 65_000,
        "_1_assignsubmission_" * 3200,
        "_1_assignsubmission_file" * 2500,
        "9" * 65_000 + FILE,
        "_" + "9" * 65_000,
        "a_1_2_" + "-1" * 32_000,
        "a_1_2_" + "-" + "1" * 65_000 + ".",
        "a_1_2_" + ".a" * 32_000 + ".",
        "a_1_2_" + "a" * 65_000 + "." + "a" * 60_000 + "!",
        "a_LATE" * 10_000,
        "a\u0316\u0301" + "\u0301\u0316" * 32_000,  # marks in an order that is slow to sort
    ],
)
def test_patterns_are_quick(name):
    started = time.process_time()
    for parts in ((name,), (name, "x")):
        names.whose(parts)
        names.is_hidden(parts)
    names.plain(names.clean(name))
    assert time.process_time() - started < 0.5


def test_numbers_are_short_and_ascii(tmp_path):
    write(
        tmp_path, f"Ann_{'1' * 60}{FILE}/x.ipynb", f"Bo_١٢{FILE}/x.ipynb", f"C_{'2' * 20}{FILE}/x"
    )
    assert [found.number for found in find.find(tmp_path)] == ["", "", "2" * 20]


# --- folders ---


def test_not_regular_files(tmp_path):
    write(tmp_path, "ann/notes.txt", "ben/ps1.ipynb")
    os.mkfifo(tmp_path / "ann" / "ps1.ipynb")
    os.mkfifo(tmp_path / "ben" / "zz.ipynb")
    os.mkfifo(tmp_path / "cyd.ipynb")
    assert find_all(tmp_path) == {
        ("ann", ""): "ps1.ipynb is not a regular file; no .ipynb file, only: notes.txt",
        ("ben", ""): "ps1.ipynb",
        ("cyd", ""): "cyd.ipynb is not a regular file",
    }


def test_files_that_change_between_finding_and_reading(tmp_path):
    """What becomes a pipe, a device, a folder or a link is refused, and nothing waits."""
    secret = tmp_path / "secret"
    write(secret, "x.ipynb")
    folder = write(tmp_path / "in", *(f"{name}/x.ipynb" for name in "abcdefg"))
    found = {submission.student: submission for submission in find.find(folder)}
    for name in "abcde":
        (folder / name / "x.ipynb").unlink()
    os.mkfifo(folder / "a" / "x.ipynb")
    (folder / "b" / "x.ipynb").symlink_to(secret / "x.ipynb")
    (folder / "c" / "x.ipynb").mkdir()
    (folder / "d" / "x.ipynb").symlink_to("/dev/zero")
    (folder / "f").rename(tmp_path / "moved")
    (folder / "f").symlink_to(secret)
    for name in "abcdef":
        with pytest.raises(find.Unreadable, match="cannot be read") as raised:
            found[name].read()
        assert str(tmp_path) not in str(raised.value)
    assert found["g"].read() == b"x.ipynb"


def test_unreadable_folders_and_files_that_vanish(tmp_path, monkeypatch):
    write(tmp_path, "ann/deep/x.ipynb", "ben/x.ipynb", "ben/deep/y.ipynb", "cyd/x.ipynb")
    listing = os.scandir

    def scandir(path):
        if str(path).endswith(("ann", "ben/deep")):
            raise PermissionError(13, "Permission denied", str(path))
        if str(path).endswith("cyd"):
            (tmp_path / "cyd" / "x.ipynb").unlink(missing_ok=True)
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_all(tmp_path) == {
        ("ann", ""): "a folder cannot be read: Permission denied",
        ("ben", ""): "x.ipynb",
        ("cyd", ""): "",
    }


@pytest.mark.parametrize(("error", "found"), [(FileNotFoundError, False), (PermissionError, True)])
def test_an_entry_that_cannot_be_looked_at(error, found):
    """One that has vanished is skipped; any other is a problem of its owner's."""

    class Item:
        name = "x.ipynb"

        def stat(self, follow_symlinks):
            raise error(1, "Broken")

    entry = entries.folder_entry("/", ("ann",), Item())
    assert bool(entry) == found
    assert not found or (entry.read, entry.problem) == (None, "x.ipynb cannot be read: Broken")


def test_a_very_deep_tree(tmp_path):
    """A path can be longer than the system takes at once."""
    write(tmp_path, "ann/x.ipynb", "ben.ipynb")
    start = os.getcwd()
    try:
        os.chdir(tmp_path / "ann")
        for _ in range(60):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        with open("y.ipynb", "w") as file:
            file.write("deep")
    finally:
        os.chdir(start)
    assert find_all(tmp_path, "x") == {("ann", ""): "x.ipynb", ("ben", ""): "ben.ipynb"}
    (tmp_path / "ann" / "x.ipynb").unlink()
    assert "cannot be read" in find_all(tmp_path)["ann", ""]
    inner = tmp_path / "cyd" / "/".join("d" * 150)
    inner.mkdir(parents=True)
    (inner / "z.ipynb").write_text("at the bottom")
    assert find_all(tmp_path)["cyd", ""] == "at the bottom"


def test_too_large_files(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 10)
    (tmp_path / "ann.ipynb").write_bytes(b"x" * 10)
    (tmp_path / "ben.ipynb").write_bytes(b"x" * 11)
    ann, ben = find.find(tmp_path)
    assert ann.read() == b"x" * 10
    assert ben.read is None and "larger" in ben.problem
    (tmp_path / "ann.ipynb").write_bytes(b"x" * 11)
    with pytest.raises(find.Unreadable, match="larger"):
        ann.read()
    with pytest.raises(find.Unreadable, match="larger"):
        entries.read_or_say_why(entries.read_file, "/dev/..", ("etc",), "passwd")


def test_the_limit_is_50_mb(tmp_path):
    with open(tmp_path / "ann.ipynb", "wb") as file:
        file.truncate(50_000_001)
    assert only(tmp_path).problem == "the file is larger than 50 MB"


# --- zips ---


@pytest.mark.parametrize(
    "name",
    [
        "./",
        "",
        "/",
        "//",
        ".",
        "..",
        "../x.ipynb",
        "../../etc/x.ipynb",
        "/etc/x.ipynb",
        "C:\\Users\\x.ipynb",
        "C:/x.ipynb",
        "..\\x.ipynb",
        "a\\b\\x.ipynb",
        "a\r\nb.ipynb",
        "\x1b[2Jx.ipynb",
        "\x00",
        "x\x00.ipynb",
        "con.ipynb",
        "x" * 65_000 + ".ipynb",
        "a/" * 30_000 + "x.ipynb",
        "x.ipynb/",
        "._x.ipynb",
        ".ipynb",
        "inner.zip",
        "__MACOSX/",
        f"_1{FILE}x.ipynb",
        f"Ann_1{FILE}/../../x.ipynb",
    ],
)
def test_hostile_names_in_a_zip(name, tmp_path):
    """Whatever the zip holds, the honest student beside it is found."""
    path = zipped(tmp_path / "a.zip", name, f"Honest_7{FILE}/x.ipynb", content="held")
    found = find.find(path)
    for submission in found:
        assert submission.student == names.clean(submission.student) != ""
        assert len(submission.file) <= 120
        if submission.read:
            assert submission.read() == b"held"
    honest = [submission for submission in found if submission.number == "7"]
    assert [submission.student for submission in honest] == ["Honest"] and honest[0].read
    assert find.find(zipped(tmp_path / "b.zip", name)) is not None


def test_names_with_a_backslash_keep_moodles_owner(tmp_path):
    path = zipped(tmp_path / "a.zip", f"Ann_1{FILE}\\x.ipynb", f"Bo_2{FILE}\\x.ipynb")
    found = find.find(path)
    assert [(submission.student, submission.number) for submission in found] == [
        ("Ann", "1"),
        ("Bo", "2"),
    ]


def test_the_same_name_twice_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for content in (b"first", b"second"):
            with pytest.warns(UserWarning) if content == b"second" else nullcontext():
                archive.writestr("ann.ipynb", content)
    assert only(tmp_path / "a.zip").read() == b"second"


def test_a_link_in_a_zip_is_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("ann.ipynb", "x")
    assert only(tmp_path / "a.zip").student == "ann"


def test_a_nested_zip_is_not_a_notebook(tmp_path):
    inner = zipped(tmp_path / "inner.zip", "x.ipynb").read_bytes()
    path = zipped(tmp_path / "a.zip", f"Ann_1{FILE}/work.zip", content=inner)
    assert only(path).problem == "no .ipynb file, only: work.zip"


def patched(path, offset_in_header, offset_in_directory, packed):
    """Overwrite a field of the first local header and of its entry in the central directory."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", offset_in_header), (b"PK\1\2", offset_in_directory)):
        start = data.index(signature) + offset
        data[start : start + len(packed)] = packed
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((6, 8, struct.pack("<H", 1)), "password"),
        ((6, 8, struct.pack("<H", 1 << 5)), "patched"),
        ((6, 8, struct.pack("<H", 1 << 6)), "encryption"),
        ((8, 10, struct.pack("<H", 12)), "compression"),
        ((8, 10, struct.pack("<H", 14)), "compression"),
        ((8, 10, struct.pack("<H", 99)), "compression"),
        ((14, 16, b"\0\0\0\0"), "CRC"),
        ((30, 42, struct.pack("<L", 9)), "magic"),
        ((30, 42, struct.pack("<L", 2**31)), "header|seek|argument"),
        ((30, 46, b"A"), "differ"),
    ],
)
def test_a_member_that_cannot_be_read(fields, message, tmp_path):
    path = patched(zipped(tmp_path / "a.zip", "ann.ipynb", "ben.ipynb"), *fields)
    if fields[1] == 46:  # the names of the directory and of the header differ
        data = path.read_bytes().replace(b"Ann.ipynb", b"ann.ipynb", 1)
        path.write_bytes(data)
        assert data.count(b"Ann.ipynb") == 1
    broken, whole = find.find(path)
    with pytest.raises(find.Unreadable, match=message) as raised:
        broken.read()
    assert len(str(raised.value)) < 200 and "\n" not in str(raised.value)
    assert whole.read() == b"ben.ipynb"


def test_broken_deflated_bytes(tmp_path):
    path = zipped(tmp_path / "a.zip", "ann.ipynb", content="x" * 5000)
    data = bytearray(path.read_bytes())
    data[39:44] = b"\xff\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(find.Unreadable, match="cannot be read"):
        only(path).read()


def test_bombs_and_lying_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 100_000)
    honest = zipped(tmp_path / "a.zip", "ann.ipynb", content=b"x" * 100_001)
    assert "larger" in only(honest).problem
    lying = patched(honest, 22, 24, struct.pack("<L", 10))
    with pytest.raises(find.Unreadable):
        only(lying).read()
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 1_000_000)
    real = only(zipped(tmp_path / "b.zip", "ann.ipynb", content=b"x" * 900_000))
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(find.Unreadable, match="larger"):
        real.read()


def test_a_bzip2_bomb_is_not_unpacked(tmp_path):
    """40 bytes of bzip2 become 46 MB at once, whatever is asked for."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("ann.ipynb", b"\0" * 1_000_000)
    with pytest.raises(find.Unreadable, match="compression"):
        only(tmp_path / "a.zip").read()


def test_a_zip_that_vanishes_or_changes(tmp_path):
    path = zipped(tmp_path / "a.zip", "ann.ipynb")
    found = only(path)
    path.write_bytes(b"something else")
    with pytest.raises(find.Unreadable, match="cannot be read"):
        found.read()
    path.unlink()
    with pytest.raises(find.Unreadable, match="No such file"):
        found.read()


def broken_zips(path):
    """Zips of which the directory is broken in one byte or at one place."""
    data = zipped(path, "ann.ipynb", "ben.ipynb").read_bytes()
    for length in range(0, len(data), 7):
        yield data[:length]
        yield data[length:]
    for place in range(data.index(b"PK\1\2"), len(data)):
        for value in (0, 0x80, 0xFF):
            yield data[:place] + bytes([value]) + data[place + 1 :]


def test_broken_zips_raise_input_errors_only(tmp_path):
    refused = 0
    for data in broken_zips(tmp_path / "a.zip"):
        (tmp_path / "b.zip").write_bytes(data)
        try:
            found = find.find(tmp_path / "b.zip")
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and "\r" not in str(error)
            continue
        for submission in found:
            try:
                submission.read and submission.read()
            except find.Unreadable as error:
                assert str(error) == names.clean(error, 200)
    assert refused > 100


def test_what_is_not_a_folder_or_zip(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for name in ("a.txt", "pipe", "nothing", "bad\udcff\n"):
        with pytest.raises(InputError, match="neither a folder nor a zip") as raised:
            find.find(tmp_path / name)
        assert str(raised.value).encode("utf-8") and "\n" not in str(raised.value)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MAX_ENTRIES", 4)
    write(tmp_path / "in", "a.ipynb", "b.ipynb", "c/x.ipynb")
    path = zipped(tmp_path / "a.zip", *(f"{index}.ipynb" for index in range(4)))
    assert len(find.find(tmp_path / "in")) == 3 and len(find.find(path)) == 4
    write(tmp_path / "in", "c/y.ipynb")
    zipped(path, *(f"{index}.ipynb" for index in range(5)))
    for place in (tmp_path / "in", path):
        with pytest.raises(InputError, match="more than 4 files and folders"):
            find.find(place)


MEASURED = """
import sys
sys.path.insert(0, "lib")
import resource
from xcnn.grade import find
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find.find(sys.argv[1])
sizes = {len(submission.read()) for submission in found}
print(len(found), sizes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000)
"""


def test_one_notebook_at_a_time_is_in_memory(tmp_path):
    path = zipped(
        tmp_path / "a.zip", *(f"{index}.ipynb" for index in range(4)), content=bytes(49 * 10**6)
    )
    run = [sys.executable, "-c", MEASURED, str(path)]
    count, size, megabytes = subprocess.check_output(run, cwd=ROOT, text=True).split()
    assert (count, size) == ("4", "{49000000}")
    assert int(megabytes) < 150


# --- the list of students, and the rest ---


def test_missing_students(tmp_path):
    roster = tmp_path / "r.csv"
    roster.write_text('Student,ID\n"Novák, Jan",1\nJane Doe,2\n"Li, Wei",33\nNobody There,9\n')
    present = [
        find.Submission("novakjan"),
        find.Submission("Jane Doe [3f9c]", name="Jane Doe"),
        find.Submission("x", "33"),
        find.Submission("??"),
    ]
    (absent,) = find.absent(roster, present)
    assert (absent.student, absent.read, absent.problem) == ("Nobody There", None, "")
    roster.write_text(
        roster.read_text().replace(",", ";").replace("n; ", "n, ").replace("i; ", "i, ")
    )
    assert [found.student for found in find.absent(roster, present)] == ["Nobody There"]


def test_the_list_holds_first_names_first(tmp_path):
    roster = tmp_path / "r.csv"
    roster.write_text("first,last,mark\nJan,Novák,-\nJan,Smith,-\nEva,Li,-\nEva,Li,-\n\n,,\n")
    found = find.absent(roster, [find.Submission("?", key="0")])
    assert [submission.student for submission in found] == ["Jan, Novák, -", "Jan, Smith, -", "Eva"]
    assert len({submission.key for submission in found}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\nc\0d,1\n", "NUL"),
        (b"a,b\n\xff\xfe,1\n", "UTF-8"),
        (b"a,b\n" + b"x" * 200_000 + b"\n", "field larger"),
        (b"a\n" + b"x\n" * 100_001, "more than 100,000 rows"),
    ],
)
def test_a_list_that_cannot_be_read(content, message, tmp_path):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        find.absent(tmp_path / "r.csv", [])
    assert "\n" not in str(raised.value)


def test_a_list_that_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "\udcff", "/dev/zero"):
        with pytest.raises(InputError, match="cannot read the list of students") as raised:
            find.absent(path, [])
        assert str(raised.value).encode("utf-8")


def test_hostile_cells_of_the_list(tmp_path):
    (tmp_path / "r.csv").write_text('name\n"a\nb\x1b[31m"\n"' + "\u0301\u0316" * 40_000 + '"\n')
    assert find.absent(tmp_path / "r.csv", [])[0].student == "a b[31m"


def test_held_ids():
    data = b'{"grade_id": "step"}, {"grade_id":"loss"}, other' + b"\xff" * 10
    assert find.held_ids(data, {"step", "loss", "other", "ste", "\ud800"}) == {"step", "loss"}
    assert find.held_ids(b"", {"step"}) == set() == find.held_ids(data, set())


def test_held_ids_takes_linear_time():
    started = time.process_time()
    assert not find.held_ids(b'"' * 10**7 + b'"aaaa' * 10**6, {"a" * 40 + "b", '"' * 50 + "b"})
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", ["names", "entries", "find", "table"])
def test_only_the_standard_library_is_imported(name):
    tree = ast.parse((ROOT / "lib" / "xcnn" / "grade" / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in sys.stdlib_module_names
        if isinstance(node, ast.ImportFrom) and node.level:
            local = {node.module} if node.module else {alias.name for alias in node.names}
            assert local <= {"errors", "names", "entries", "table"}
