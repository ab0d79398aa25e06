"""Find what students handed in: a folder or zip from Canvas or Moodle, and a list of students."""

import csv
import functools
import io
import itertools
import re
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import InputError

MOODLE = re.compile(r"(?P<student>.+)_(?P<number>\d+)_assignsubmission_(file|onlinetext)_?")
CANVAS = re.compile(
    r"(?P<student>[^_]+)(_LATE)?_(?P<number>\d+)_(?P<upload>\d+)"
    r"_(?P<name>.+?)(-(?P<again>\d+))?\.\w+"
)
# A notebook of this size holds mostly pictures, and the grader draws them again.
MAX_FILE_BYTES = 50e6


@dataclass
class Submission:
    """What one student handed in.

    `data` is None if there is no notebook to grade; `problem` then says why.
    """

    student: str
    number: str = ""
    file: str = ""
    data: bytes | None = None
    problem: str = ""


class HandedFile(NamedTuple):
    """A file of a student's. Among notebooks the highest rank counts."""

    is_notebook: bool
    rank: tuple
    name: str
    size: int
    read: object  # a function without arguments that returns the bytes


def entries(path, leave_out=()):
    """Every file and folder in a folder or zip: (parts of its name, time changed, size, read).

    `read` is a function that returns the bytes, or None for a folder.
    """
    if zipfile.is_zipfile(path):
        yield from zip_entries(zipfile.ZipFile(path))
        return
    if not Path(path).is_dir():
        raise InputError(f"{path} is neither a folder nor a zip of submissions")
    for file in sorted(Path(path).rglob("*")):
        if file.is_symlink() or any(file.resolve().is_relative_to(other) for other in leave_out):
            continue
        about = file.stat()
        read = file.read_bytes if file.is_file() else None
        yield file.relative_to(path).parts, about.st_mtime, about.st_size, read


def zip_entries(archive):
    """The entries of a zip. A single folder that holds everybody is left out of the names."""
    members = [(PurePosixPath(info.filename).parts, info) for info in archive.infolist()]
    top = {parts[0] for parts, _ in members if parts[0] != "__MACOSX"}
    below = {parts[1] for parts, _ in members if len(parts) > 1 and parts[0] in top}
    # A folder that holds one file is a student's own.
    if len(top) == 1 and not MOODLE.fullmatch(min(top)) and len(below) > 1:
        members = [(parts[1:], info) for parts, info in members if len(parts) > 1]
    for parts, info in members:
        read = None if info.is_dir() else functools.partial(archive.read, info)
        yield parts, info.date_time, info.file_size, read


def owner(parts):
    """(student, number, rank among the student's files) from the parts of a file's name."""
    moodle = MOODLE.match(parts[0])
    if moodle:
        return moodle["student"], moodle["number"], (0, 0)
    canvas = CANVAS.fullmatch(parts[0]) if len(parts) == 1 else None
    if canvas:
        rank = int(canvas["again"] or 0), int(canvas["upload"])
        return canvas["student"], canvas["number"], rank
    student = PurePosixPath(parts[0]).stem if len(parts) == 1 else parts[0]
    return student, "", (0, 0)


def find(path, stem="", leave_out=()):
    """The submissions in a folder or zip, sorted: a list of `Submission`.

    Of a student's notebooks the one with `stem` in its name counts, otherwise the latest.
    """
    files_by_owner = {}
    for parts, changed, size, read in entries(path, leave_out):
        is_file = read is not None
        is_notebook = parts[-1].endswith(".ipynb")
        if any(name.startswith((".", "__MACOSX")) for name in parts):
            continue
        if not is_file and len(parts) > 1:
            continue  # a folder inside a student's folder
        has_platform_name = MOODLE.match(parts[0]) or CANVAS.fullmatch(parts[0])
        if is_file and len(parts) == 1 and not is_notebook and not has_platform_name:
            continue  # a list or a note beside the submissions
        student, number, order = owner(parts if is_file else (*parts, ""))
        files = files_by_owner.setdefault((student, number), [])
        if is_file:
            has_stem = bool(stem) and stem in parts[-1]
            rank = (has_stem, *order, changed)
            files.append(HandedFile(is_notebook, rank, "/".join(parts), size, read))
    return [
        choose(student, number, files)
        for (student, number), files in sorted(files_by_owner.items())
    ]


def choose(student, number, files):
    """The submission of a student: the file that counts among these."""
    if not files:
        return Submission(student, number)
    files.sort(key=lambda file: (file.is_notebook, file.rank))
    latest = files[-1]
    if not latest.is_notebook:
        names = ", ".join(file.name.rsplit("/", 1)[-1] for file in files)
        problem = f"no .ipynb file, only: {names}"
        return Submission(student, number, latest.name, problem=problem)
    if latest.size > MAX_FILE_BYTES:
        problem = f"the file is larger than {MAX_FILE_BYTES / 1e6:.0f} MB"
        return Submission(student, number, latest.name, problem=problem)
    try:
        return Submission(student, number, latest.name, latest.read())
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        return Submission(student, number, latest.name, problem=f"cannot be read: {error}")


def plain(text):
    """Lower-case letters and digits only, without accents: how names are compared."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if letter.isalnum())


def spellings(values):
    """How platforms may write the student in this row of the list: names and numbers, plain.

    "Jan Novák", "Novák, Jan" and two columns mean the same student; Canvas writes novakjan.
    """
    names = [*values, *map(" ".join, itertools.pairwise(values))]
    turned = ["".join(reversed(name.split())) for name in names]
    return {plain(name) for name in (*names, *turned)}


def absent(roster, submissions):
    """A `Submission` without data for every student of a CSV list who handed in nothing."""
    try:
        rows = list(csv.reader(io.StringIO(Path(roster).read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of students {roster}: {error}") from error
    present = {plain(submission.student) for submission in submissions}
    present |= {submission.number for submission in submissions if submission.number}
    missing = []
    for row in rows[1:]:
        values = [value.strip() for value in row if value.strip()]
        if values and not spellings(values) & present:
            missing.append(Submission(values[0]))
    return missing
