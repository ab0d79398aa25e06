"""What students hand in, found under the names that Canvas and Moodle give it: folders, zips, a list of students."""

import csv
import io
import re
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError

MOODLE = re.compile(r"(?P<student>.+)_(?P<number>\d+)_assignsubmission_(file|onlinetext)_?")
CANVAS = re.compile(
    r"(?P<student>[^_]+)(_LATE)?_(?P<number>\d+)_(?P<upload>\d+)_(?P<name>.+?)(-(?P<again>\d+))?\.\w+"
)
LARGEST = (
    50e6  # bytes of one file; a notebook of this size is mostly pictures, and they are made again
)


@dataclass
class Submission:
    """What one student handed in; `data` is None where there is no notebook, and `problem` says why."""

    student: str
    number: str = ""
    file: str = ""
    data: bytes | None = None
    problem: str = ""


def entries(path, leave_out=()):
    """Every file under a folder or in a zip: (parts of its name, when changed, size, a function that reads it)."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        members = [(PurePosixPath(info.filename).parts, info) for info in archive.infolist()]
        shared = {parts[0] for parts, _ in members if parts[0] != "__MACOSX"}
        inner = {parts[1] for parts, _ in members if len(parts) > 1 and parts[0] in shared}
        # A zip of one folder that holds everybody; a student's own folder holds one notebook.
        if len(shared) == 1 and not MOODLE.fullmatch(min(shared)) and len(inner) > 1:
            members = [(parts[1:], info) for parts, info in members if len(parts) > 1]
        for parts, info in members:
            read = None if info.is_dir() else lambda info=info: archive.read(info)
            yield parts, info.date_time, info.file_size, read
        return
    if not Path(path).is_dir():
        raise InputError(f"{path} is neither a folder nor a zip of submissions")
    for file in sorted(Path(path).rglob("*")):
        if file.is_symlink() or any(file.resolve().is_relative_to(other) for other in leave_out):
            continue
        about = file.stat()
        yield (
            file.relative_to(path).parts,
            about.st_mtime,
            about.st_size,
            file.read_bytes if file.is_file() else None,
        )


def owner(parts):
    """(student, number, rank among the student's files) from the parts of a file's name."""
    if found := MOODLE.match(parts[0]):
        return found["student"], found["number"], (0, 0)
    if len(parts) == 1 and (found := CANVAS.fullmatch(parts[0])):
        return found["student"], found["number"], (int(found["again"] or 0), int(found["upload"]))
    return (PurePosixPath(parts[0]).stem if len(parts) == 1 else parts[0]), "", (0, 0)


def find(path, stem="", leave_out=()):
    """The submissions in a folder or zip, sorted: of several notebooks the one named like `stem`, else the latest."""
    found = {}
    for parts, when, size, read in entries(path, leave_out):
        if any(name.startswith((".", "__MACOSX")) for name in parts):
            continue
        notebook = parts[-1].endswith(".ipynb")
        if read is None and len(parts) > 1:
            continue  # a folder inside a student's folder
        named = MOODLE.match(parts[0]) or CANVAS.fullmatch(parts[0])
        if read is not None and len(parts) == 1 and not notebook and not named:
            continue  # a list or a note beside the submissions
        student, number, rank = owner(parts if read else (*parts, ""))
        files = found.setdefault((student, number), [])
        if read is not None:
            files.append(
                (
                    (notebook, bool(stem) and stem in parts[-1], *rank, when),
                    "/".join(parts),
                    size,
                    read,
                )
            )
    return [choose(*who, files) for who, files in sorted(found.items())]


def choose(student, number, files):
    """The one file of a student's that counts."""
    if not files:
        return Submission(student, number)
    files.sort(key=lambda file: file[0])
    (notebook, *_), name, size, read = files[-1]
    if not notebook:
        names = ", ".join(file[1].rsplit("/", 1)[-1] for file in files)
        return Submission(student, number, name, problem=f"no .ipynb file, only: {names}")
    if size > LARGEST:
        return Submission(
            student, number, name, problem=f"the file is larger than {LARGEST / 1e6:.0f} MB"
        )
    try:
        return Submission(student, number, name, read())
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        return Submission(student, number, name, problem=f"cannot be read: {error}")


def plain(text):
    """Lower-case letters and digits only, without accents: how names are compared."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if letter.isalnum())


def absent(roster, submissions):
    """A `Submission` without data for every student of a CSV list who handed nothing in."""
    try:
        rows = list(csv.reader(io.StringIO(Path(roster).read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of students {roster}: {error}") from error
    there = {plain(one.student) for one in submissions} | {
        one.number for one in submissions if one.number
    }
    missing = []
    for row in rows[1:]:
        row = [value.strip() for value in row if value.strip()]
        if not row:
            continue
        # 'Jan Novák', 'Novák, Jan' or two columns; Canvas writes novakjan.
        pairs = [*row, *map(" ".join, zip(row[:-1], row[1:], strict=True))]
        known = {plain(value) for value in pairs} | {
            plain("".join(reversed(value.split()))) for value in pairs
        }
        if not known & there:
            missing.append(Submission(row[0]))
    return missing
