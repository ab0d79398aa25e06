"""The files in a folder or zip of submissions, of which all may be hostile.

Only names are read here. An `Entry` reads its bytes when it is asked, so that one file at a time
is in memory.
"""

import functools
import io
import itertools
import os
import stat
import zipfile
from typing import NamedTuple

from ..errors import InputError
from .names import MAX_NAME_LENGTH, clean, is_hidden, whose

# A notebook of this size holds mostly pictures, and the grader draws them again.
MAX_FILE_BYTES = 50_000_000
MAX_ENTRIES = 50_000  # files and folders that are looked at
MAX_PARTS = 40  # of a name in a zip
CHUNK_BYTES = 1_000_000


class Unreadable(Exception):
    """A notebook cannot be read; the message is short and clean."""


class Entry(NamedTuple):
    """A file or folder; `read` is None for a folder and for what cannot be read."""

    parts: tuple
    changed: object = 0
    size: int = 0
    read: object = None
    is_folder: bool = False
    problem: str = ""


# --- reading, when a submission is asked ---


def reason(error):
    """What an error says, short and clean, without the path."""
    return clean(getattr(error, "strerror", None) or error) or type(error).__name__


def read_or_say_why(read, *where):
    """The bytes that this function reads there; any error becomes an `Unreadable`."""
    try:
        return read(*where)
    except Unreadable:
        raise
    except Exception as error:  # a broken zip raises errors of many kinds
        raise Unreadable(f"the file cannot be read: {reason(error)}") from error


def too_large():
    return f"the file is larger than {MAX_FILE_BYTES / 1e6:.0f} MB"


def read_at_most(stream):
    """The bytes of a stream; its length is counted, because the headers of a zip may lie."""
    content = io.BytesIO()
    while chunk := stream.read(min(CHUNK_BYTES, MAX_FILE_BYTES + 1 - content.tell())):
        content.write(chunk)
        if content.tell() > MAX_FILE_BYTES:
            raise Unreadable(too_large())
    return content.getvalue()


def read_file(root, folders, name):
    """The bytes of a file below the root.

    Each folder is opened from the one above, so that not one of them can be a link.
    """
    folder_flags = os.O_RDONLY | os.O_DIRECTORY
    opened = os.open(root, folder_flags)
    try:
        for folder in folders:
            inner = os.open(folder, folder_flags | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
        file = os.open(name, flags, dir_fd=opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Unreadable("the file cannot be read: it is not a regular file")
    with open(file, "rb") as stream:
        return read_at_most(stream)


def read_member(path, info):
    """The bytes of a file in a zip, which is opened anew."""
    if info.flag_bits & 1:
        raise Unreadable("the file cannot be read: it is locked with a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Python unpacks the others without a limit: 40 bytes can become 46 MB.
        raise Unreadable("the file cannot be read: its kind of compression is not supported")
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        return read_at_most(stream)


# --- looking around ---


def entries(path, leave_out=()):
    """Every `Entry` of a folder or zip, except links."""
    shown = clean(path, 2 * MAX_NAME_LENGTH)
    root = os.path.realpath(path)
    if os.path.isdir(root):
        return folder_entries(root, shown, leave_out)
    if not os.path.isfile(root):
        raise InputError(f"{shown} is neither a folder nor a zip of submissions")
    try:
        with zipfile.ZipFile(root) as archive:
            members = archive.infolist()
    except Exception as error:  # a broken zip raises errors of many kinds
        raise InputError(
            f"{shown} is neither a folder nor a zip that can be read ({reason(error)}); "
            "unpack it, or download it again"
        ) from error
    check_count(len(members), shown)
    return zip_entries(root, members)


def check_count(count, shown):
    if count > MAX_ENTRIES:
        raise InputError(
            f"{shown} holds more than {MAX_ENTRIES:,} files and folders; "
            "take out what is not a submission"
        )


def folder_entries(root, shown, leave_out):
    """The entries below a folder. Links are not followed, and what vanishes is skipped."""
    left_out = {os.path.realpath(other) for other in leave_out}
    waiting = [()]
    count = 0
    while waiting:
        folders = waiting.pop()
        try:
            with os.scandir(os.path.join(root, *folders)) as listing:
                found = list(itertools.islice(listing, MAX_ENTRIES + 1))
        except OSError as error:
            if not folders:
                raise InputError(f"{shown} cannot be read: {reason(error)}") from error
            problem = f"a folder cannot be read: {reason(error)}"
            yield Entry(folders, is_folder=True, problem=problem)
            continue
        count += len(found)
        check_count(count, shown)
        for item in sorted(found, key=lambda item: item.name):
            if item.path in left_out or is_hidden((*folders[:1], item.name)):
                continue
            entry = folder_entry(root, folders, item)
            if entry:
                yield entry
            if entry and entry.is_folder:
                waiting.append(entry.parts)


def folder_entry(root, folders, item):
    """The `Entry` of what a folder lists; None for a link and for what has vanished."""
    parts = (*folders, item.name)
    try:
        about = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:  # below a very deep folder a name is too long
        return Entry(parts, problem=f"{clean(item.name)} cannot be read: {reason(error)}")
    if stat.S_ISLNK(about.st_mode):
        return None
    if stat.S_ISDIR(about.st_mode):
        return Entry(parts, is_folder=True)
    if not stat.S_ISREG(about.st_mode):
        return Entry(parts, problem=f"{clean(item.name)} is not a regular file")
    # Files share the parts of their folder: a deep tree would fill the memory with copies.
    read = functools.partial(read_or_say_why, read_file, root, folders, item.name)
    return Entry(parts, about.st_mtime, about.st_size, read)


def zip_entries(path, members):
    """The entries of a zip. A single folder that holds everybody is left out of the names."""
    top = set()
    below = set()
    for parts in map(member_parts, members):
        if parts and not is_hidden(parts):
            top.add(parts[0])
            below.update(parts[1:2])
    # A folder that holds one file is a student's own.
    is_wrapped = len(top) == 1 and len(below) > 1 and not whose((*top, ""))[0].number
    for info in members:
        parts = member_parts(info)
        # The upper half of the attributes is the mode that Unix gave the file.
        if not parts or is_hidden(parts[:1]) or stat.S_ISLNK(info.external_attr >> 16):
            continue
        if is_wrapped:
            parts = parts[1:]
        if not parts:
            continue
        if info.filename.endswith("/"):
            yield Entry(parts, is_folder=True)
        else:
            read = functools.partial(read_or_say_why, read_member, path, info)
            yield Entry(parts, info.date_time, info.file_size, read)


def member_parts(info):
    """The parts of a name in a zip; of a very deep one both ends."""
    parts = tuple(part for part in info.filename.split("/") if part not in ("", "."))
    half = MAX_PARTS // 2
    return parts if len(parts) <= MAX_PARTS else parts[:half] + parts[-half:]
