"""Find what students handed in: a folder or zip from Canvas or Moodle, and a list of students.

Only names are read here, and they are cleaned. A `Submission` reads its notebook when it is asked,
so that one notebook at a time is in memory.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from . import entries
from .entries import Unreadable
from .names import (
    KEY_LENGTH,
    MAX_NAME_LENGTH,
    clean,
    is_hidden,
    plain,
    shown_name,
    spellings,
    unique_key,
    whose,
)
from .table import read_rows

__all__ = ["Submission", "Unreadable", "absent", "clean", "find", "held_ids", "plain"]

MAX_LISTED = 6  # file names that a problem quotes
FORGED = "the name holds the platform's pattern twice: check whose it is"
ALIKE = "another submission has nearly the same name"


@dataclass(slots=True)
class Submission:
    """What one student handed in. All texts are clean.

    `student` and `number` differ from those of any other submission, and `name` is the student's
    name without what tells it apart. `key` belongs to the owner, whatever the content. `read` is a
    function without arguments that returns the bytes of the notebook or raises `Unreadable`; it is
    None if there is nothing to grade, and `problem` then says why, or is empty if nothing was
    handed in. `doubt` says why a person must look at whose this is.
    """

    student: str
    number: str = ""
    file: str = ""
    key: str = ""
    read: object = None
    problem: str = ""
    doubt: str = ""
    name: str = ""


class HandedFile(NamedTuple):
    """A file of an owner's. Among notebooks the highest rank counts."""

    is_notebook: bool
    rank: tuple
    name: str
    size: int
    read: object


def find(path, stem="", leave_out=()):
    """The submissions in a folder or zip, sorted: a list of `Submission`.

    Of a student's notebooks the one with `stem` in its name counts, otherwise the latest.
    """
    handed_in = {}
    for entry in entries.entries(path, leave_out):
        gather(handed_in, entry, stem)
    taken = set()
    found = []
    # An honest owner comes first, and so keeps the key that a forged name was made for.
    for owner in sorted(handed_in, key=lambda owner: (bool(owner.apart), owner)):
        name = shown_name(owner.student)
        submission = Submission(name, owner.number, key=unique_key(owner, taken), name=name)
        submission.doubt = FORGED if owner.apart else ""
        choose(submission, *handed_in.pop(owner))
        found.append(submission)
    tell_apart(found)
    return sorted(found, key=lambda found: (found.student, found.number, found.key))


def gather(handed_in, entry, stem):
    """Put an entry among the files or the problems of its owner."""
    owner, order = whose(entry.parts, entry.is_folder)
    name = entry.parts[-1]
    is_notebook = name.lower().endswith(".ipynb")
    is_beside = len(entry.parts) == 1 and not entry.is_folder
    if is_beside and not is_notebook and not owner.number:
        return  # a list or a note beside the submissions
    if is_hidden(entry.parts[:1]):
        return
    files, problems = handed_in.setdefault(owner, ([], []))
    if is_hidden(entry.parts):
        return  # the owner handed in something, but this does not count
    if entry.problem:
        problems.append(entry.problem)
    elif not entry.is_folder:
        rank = (bool(stem) and stem in name, *order, entry.changed, name)
        shown = clean("/".join(entry.parts))
        files.append(HandedFile(is_notebook, rank, shown, entry.size, entry.read))


def choose(submission, files, problems):
    """Complete the submission with the file that counts among these, or with what is wrong."""
    if not files:
        submission.problem = problems[0] if problems else ""
        return
    files.sort(key=lambda file: (file.is_notebook, file.rank))
    latest = files[-1]
    submission.file = latest.name
    if not latest.is_notebook:
        names = [file.name.rsplit("/", 1)[-1] for file in files[:MAX_LISTED]]
        names += ["..."] * (len(files) > MAX_LISTED)
        submission.problem = "; ".join([*problems[:1], f"no .ipynb file, only: {', '.join(names)}"])
    elif latest.size > entries.MAX_FILE_BYTES:
        submission.problem = entries.too_large()
    else:
        submission.read = latest.read


def tell_apart(found):
    """Write a part of the key behind each name that another submission has, or nearly has.

    Somebody may be named like a student with the whole key. Then every name gets its key, and all
    keys differ.
    """
    for length, for_all in ((4, False), (KEY_LENGTH, False), (KEY_LENGTH, True)):
        alike = Counter(map(likeness, found))
        crowded = [submission for submission in found if alike[likeness(submission)] > 1]
        if not crowded:
            return
        for submission in crowded:
            if ALIKE not in submission.doubt:
                submission.doubt = "; ".join(filter(None, [submission.doubt, ALIKE]))
        for submission in found if for_all else crowded:
            add_suffix(submission, length)


def likeness(submission):
    """What is equal for names that are nearly the same."""
    return plain(submission.student) or submission.student, submission.number


def add_suffix(submission, length):
    suffix = f" [{submission.key[:length]}]"
    submission.student = shown_name(submission.name, MAX_NAME_LENGTH - len(suffix)) + suffix


def absent(roster, submissions):
    """A `Submission` without a notebook for every student of a CSV list who handed in nothing."""
    present = {plain(submission.name or submission.student) for submission in submissions}
    present |= {submission.number for submission in submissions}
    rows = read_rows(roster, "the list of students")
    students = {tuple(filter(None, map(clean, row))): None for row in rows[1:]}
    missing = [row for row in students if row and not spellings(row) & present]
    first_values = Counter(row[0] for row in missing)
    taken = {submission.key for submission in submissions}
    found = []
    for row in missing:
        # The first column may hold first names only.
        student = row[0] if first_values[row[0]] == 1 else clean(", ".join(row))
        key = unique_key(("absent", *row), taken)
        found.append(Submission(student, key=key, name=student))
    return found


def held_ids(data, ids):
    """Those of the known ids that stand in quotes in these bytes, which are not parsed."""
    return {known for known in ids if b'"%s"' % known.encode("utf-8", "replace") in data}
