"""The table of grades: a CSV file that is whole at every moment and safe in a spreadsheet."""

import contextlib
import csv
import io
import itertools
import os
import re
import stat
from pathlib import Path

from ..errors import InputError
from .names import clean

FIRST_COLUMNS = ["student", "number", "status", "score", "max"]
LAST_COLUMNS = ["detail", "file", "page", "hash"]  # those of the tests are in between
TEXT_COLUMNS = {"student", "number", "status", "detail", "file", "page"}
MAX_CELL_LENGTH = 1000
MAX_PATH_LENGTH = 240  # characters of a path that a message quotes
MAX_ROWS = 100_000
MAX_BYTES = 20_000_000

NUMBER = re.compile(r"-?[0-9]{1,20}(?:[.,][0-9]{1,20})?(?:[eE][-+]?[0-9]{1,3})?")
# A formula begins with = + - @. A spreadsheet may fold the other signs to one of these.
SIGNS = (
    "=+\\-@"
    "\uff1d\uff0b\uff0d\uff20"  # full width
    "\ufe66\ufe62\ufe63\ufe6b"  # small
    "\u207a\u207b\u207c\u208a\u208b\u208c"  # raised and lowered
    "\u2212\u2a75\u2a76\ufb29"  # minus, double and triple equals, the Hebrew plus
)
QUOTES = "'`´\u2018-\u201f\u00ab\u00bb\uff07\uff02"
FORMULA = re.compile(rf"((?:^|,)[ {QUOTES}]*)([{SIGNS}])")


class TableNotWritten(InputError):
    """The table cannot be written; the one from before is whole."""


def columns(graded_cells):
    """The columns of the table: those of tests and written answers have their ids as names."""
    marked = [cell.id for cell in graded_cells if cell.test or cell.written]
    return [*FIRST_COLUMNS, *marked, *LAST_COLUMNS]


def safe(value, length=MAX_CELL_LENGTH):
    """The clean text of a cell that a spreadsheet does not take for a formula.

    A spreadsheet may part the table at tabs, semicolons and commas, and may not know quotes. So
    the text holds not a single tab, semicolon or double quote, and what follows a comma is treated
    like the beginning: an apostrophe comes before the sign that begins a formula.
    """
    text = clean(value, length).replace(";", ",").replace('"', "'")
    return clean(FORMULA.sub(defused, text), length)


def defused(match):
    """What replaces the beginning of a formula; one with an apostrophe stays as it is."""
    before, sign = match.groups()
    return match[0] if before.endswith("'") else f"{before}'{sign}"


# --- reading ---


def shown_path(path):
    return clean(path, MAX_PATH_LENGTH)


def read_rows(path, what):
    """The rows of a CSV file, lists of texts; parted by semicolons if its first line is.

    `what` the file is stands in the messages of the InputError.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise csv.Error("it is a folder or a device, not a file")
        if about.st_size > MAX_BYTES:
            raise csv.Error(f"it is larger than {MAX_BYTES / 1e6:.0f} MB")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return rows_of(file)
    except UnicodeDecodeError as error:
        problem = "it is not UTF-8; save it as 'CSV UTF-8'"
        raise InputError(f"cannot read {what} {shown_path(path)}: {problem}") from error
    except (OSError, csv.Error) as error:
        problem = clean(getattr(error, "strerror", None) or error)
        raise InputError(f"cannot read {what} {shown_path(path)}: {problem}") from error


def rows_of(file):
    """The rows of an open CSV file; csv.Error where it is not one."""
    header = file.readline()
    delimiter = ";" if header.count(";") > header.count(",") else ","
    lines = map(without_nul, itertools.chain([header], file))
    rows = list(itertools.islice(csv.reader(lines, delimiter=delimiter), MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise csv.Error(f"it has more than {MAX_ROWS:,} rows")
    return rows


def without_nul(line):
    """The line; csv.Error where it holds NUL, which some versions of Python would accept."""
    if "\0" in line:
        raise csv.Error("it holds NUL bytes, so it is not a CSV file")
    return line


def load_table(out, columns):
    """The rows of an earlier run by their hash; none if there is not a table yet.

    A row with other columns, or with points that are not numbers, is left out.
    """
    try:
        os.stat(out)
    except FileNotFoundError:
        return {}
    except OSError:
        pass  # the reader says what is wrong
    header, *lines = read_rows(out, "the table") or [[]]
    if not {*FIRST_COLUMNS, "hash"} <= set(header):
        raise InputError(
            f"{shown_path(out)} is not a table of grades; choose another name with --out"
        )
    if sorted(header) != sorted(columns):
        return {}
    rows = {}
    for line in lines:
        row = loaded_row(header, line) if len(line) == len(header) else None
        if row:
            rows[row["hash"]] = row
    return rows


def loaded_row(header, line):
    """The row in this line; None if a program changed it beyond use."""
    row = dict(zip(header, line, strict=True))
    for column, value in row.items():
        if column in TEXT_COLUMNS:
            row[column] = safe(value)
        elif column != "hash":
            if value and not NUMBER.fullmatch(value):
                return None
            # In some countries a spreadsheet writes 0,5.
            row[column] = value.replace(",", ".")
    return row if re.fullmatch(r"[0-9a-zA-Z]{1,64}", row["hash"]) else None


# --- writing ---


def save_table(out, rows, columns):
    """Write the table to another file and rename it, so that `out` is whole at every moment.

    The target of a link is written, and the link stays.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    written = [{column: cell(column, row.get(column)) for column in columns} for row in rows]
    writer.writerows(sorted(written, key=order))
    target = Path(os.path.realpath(out))
    try:
        replace_file(target, text.getvalue().encode("utf-8", "replace"))
    except OSError as error:
        raise TableNotWritten(
            f"cannot write the table {shown_path(out)}: {clean(error.strerror or error)}; "
            "a table from before is whole. Make room there, or choose another place with --out, "
            "and run the same again"
        ) from error


def order(row):
    """By what the rows are sorted: student, number, then what tells equal ones apart."""
    return tuple(str(row.get(column)) for column in ("student", "number", "hash"))


def cell(column, value):
    """What is written of a value: numbers as they are, and safe text of anything else."""
    if value is None:
        return ""
    is_number = isinstance(value, int | float) or NUMBER.fullmatch(str(value))
    return value if is_number and column not in TEXT_COLUMNS else safe(value)


def replace_file(target, content):
    """Put a file with this content in the place of the target, of which the mode is kept."""
    mode = None
    with contextlib.suppress(FileNotFoundError):
        about = os.stat(target)
        if not stat.S_ISREG(about.st_mode):
            raise OSError("it is a folder or a device, not a file")
        mode = stat.S_IMODE(about.st_mode)
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)  # an earlier run was killed
        with open(part, "xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            # Else a power cut could leave the new name with an empty file.
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
