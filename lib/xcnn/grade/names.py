"""What the names of handed-in files say: whose a file is, and which names are alike.

Every name may be hostile: it is up to 65,535 characters long in a zip, and a name on disk that is
not UTF-8 holds lone surrogates. Each pattern here takes time in proportion to the name.
"""

import hashlib
import itertools
import re
import unicodedata
from pathlib import PurePosixPath
from typing import NamedTuple

MAX_NAME_LENGTH = 120  # characters of a name that are shown
KEY_LENGTH = 10
NAMELESS = "(without a name)"

MOODLE = re.compile(r"_([0-9]{1,20})_assignsubmission_(?:file|onlinetext)")
CANVAS = re.compile(r"([^_]+)(?:_LATE)?_([0-9]{1,20})_([0-9]{1,20})_(.+)\.\w+", re.DOTALL)
AGAIN = re.compile(r"-([0-9]{1,9})\Z")  # Canvas numbers the uploads of one file

DROPPED = {"Cc", "Cf", "Co", "Cn"}  # control, format (also bidi marks), private, unassigned
# Four characters of a name become one at most when they are composed.
KEPT_FACTOR = 4


class Owner(NamedTuple):
    """Who handed a file in, in the raw letters of its name.

    `apart` is the whole name where a student may have forged a part of it, otherwise empty. Such
    a file is never merged with the files of the owner whom it names.
    """

    student: str
    number: str = ""
    apart: str = ""


def clean(text, length=MAX_NAME_LENGTH):
    """The text on one line, short, and safe to print, store and compare.

    Lone surrogates become "?". Control, format, private and unassigned characters are dropped.
    """
    text = str(text)
    if len(text) <= length and text.isascii() and text.isprintable():
        return " ".join(text.split())  # most names: the rest takes its time
    kept = []
    for letter in text:
        category = unicodedata.category(letter)
        if category == "Cs":
            kept.append("?")
        elif letter.isspace():
            # Runs of spaces count once, so that they do not use up what is kept.
            if kept and kept[-1] != " ":
                kept.append(" ")
        elif category not in DROPPED:
            kept.append(letter)
        # Composing takes quadratic time, so a long text is cut before.
        if len(kept) > KEPT_FACTOR * length:
            break
    line = " ".join(unicodedata.normalize("NFC", "".join(kept)).split())
    if len(line) <= length and len(kept) <= KEPT_FACTOR * length:
        return line
    return line[: length - 3].rstrip() + "..."


def shown_name(text, length=MAX_NAME_LENGTH):
    """The clean name of a student, which is never empty."""
    return clean(text, length) or NAMELESS


def plain(text):
    """Lower-case letters and digits only, without accents: how names are compared."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = unicodedata.normalize("NFKD", letters)
    return "".join(letter for letter in letters if letter.isalnum())


def spellings(values):
    """How platforms may write the student in this row of the list: names and numbers, plain.

    "Jan Novák", "Novák, Jan" and two columns mean the same student; Canvas writes novakjan.
    """
    names = [*values, *map(" ".join, itertools.pairwise(values))]
    turned = ["".join(reversed(name.split())) for name in names]
    return {plain(name) for name in (*names, *turned)} - {""}


def moodle_owner(name, in_folder):
    """The `Owner` by Moodle's pattern, or None.

    Moodle puts the pattern behind the display name. In the name of a folder nothing follows, so
    its last occurrence is Moodle's. In the name of a file the student's own file name follows, so
    the first one is.
    """
    found = list(MOODLE.finditer(name))
    if not found:
        return None
    match = found[-1] if in_folder else found[0]
    return Owner(name[: match.start()], match[1], name if len(found) > 1 else "")


def whose(parts, is_folder=False):
    """(`Owner`, rank among the owner's files) from the parts of the name of a file or folder."""
    first = parts[0]
    in_folder = is_folder or len(parts) > 1
    by_moodle = moodle_owner(first, in_folder)
    canvas = None if in_folder else CANVAS.fullmatch(first)
    if canvas:
        again = AGAIN.search(canvas[4])
        rank = int(again[1]) if again else 0, int(canvas[3])
        # A file of Canvas may hold Moodle's pattern only because the student wrote it.
        return Owner(canvas[1], canvas[2], first if by_moodle else ""), rank
    if by_moodle:
        return by_moodle, (0, 0)
    return Owner(first if in_folder else PurePosixPath(first).stem), (0, 0)


def is_hidden(parts):
    """Is it a file that systems leave behind, not one that a student handed in?"""
    hidden = [name.startswith((".", "__MACOSX")) for name in parts]
    # A student may be called ".ann": the pattern of a platform shows a file that counts.
    if hidden[0] and not parts[0].startswith("._"):
        hidden[0] = not whose(parts)[0].number
    return any(hidden)


def unique_key(identity, taken):
    """A short hash of the raw texts of an identity, which is put among the keys that are taken.

    It is the same in each run, except where somebody forged a name with the key of another.
    """
    content = "\0".join(identity)
    while True:
        encoded = content.encode("utf-8", "surrogatepass")
        key = hashlib.sha256(encoded).hexdigest()[:KEY_LENGTH]
        if key not in taken:
            taken.add(key)
            return key
        content += "\0"
