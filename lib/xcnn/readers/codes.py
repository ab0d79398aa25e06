"""The codes at the end of a test of readers: what one says, and what many say together.

A code is `key-answers-check`. The key names the test; two of its hexadecimal digits count the
questions. Each question has two bits, with the map and right, and two questions share one digit.
A code tells an honest reader's result; it is not a seal.
"""

import math
import re

import pandas as pd
from scipy import stats

from ..errors import InputError

FORM = re.compile(r"([0-9a-f]{6})-([0-9a-f]+)-([0-9a-f]{2})")
CHECK_BASE = 251
CONFIDENCE = 0.95


def read_codes(codes):
    """What readers' codes say, a row each: how many they got right, with the map and without.

    :param codes: reader -> code, or a list of codes, all of the same test; capitals and spaces do
        not matter
    :return: DataFrame, a row per reader: `map_right`, `map_asked`, `plain_right`, `plain_asked`,
        and `difference`, the share of right answers with the map minus that without
    :raises InputError: a damaged code, codes of two tests, not one code

    >>> xcnn.read_codes({"a reader": "0411ae-1f-c7"}).loc["a reader"].to_dict()["difference"]
    0.5
    """
    named = codes if isinstance(codes, dict) else dict(enumerate(codes, start=1))
    if not named:
        raise InputError("there is not a single code: give a list, or reader -> code")
    rows = {}
    keys = {}
    for reader, code in named.items():
        keys[reader], answers = _read(reader, code)
        rows[reader] = _row(answers)
    if len(set(keys.values())) > 1:
        raise InputError(f"the codes belong to different tests: {_by_test(keys)}; read each alone")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("reader")


def mean_difference(table):
    """What a map changed, on average over readers, with a 95 % interval (Student's t).

    :param table: of `read_codes`, two readers or more
    :return: dict: `mean`, `low` and `high` of the difference between the shares of right answers,
        and `readers`, their number
    :raises InputError: fewer than two readers

    >>> table = xcnn.read_codes(["0411ae-1f-c7", "0411ae-1f-c7"])
    >>> xcnn.readers.mean_difference(table)["mean"]
    0.5
    """
    count = len(table)
    if count < 2:
        raise InputError(f"{count} reader: an interval needs two or more")
    mean = table["difference"].mean()
    error = table["difference"].std() / math.sqrt(count)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    return {
        "mean": float(mean),
        "low": float(mean - reach),
        "high": float(mean + reach),
        "readers": count,
    }


def _read(reader, code):
    """The key of a code, and for each question (with the map?, right?)."""
    damaged = f"the code of reader {reader!r}, {code!r}, is damaged: ask for it again"
    match = FORM.fullmatch(re.sub(r"\s", "", str(code)).lower())
    if not match or match[3] != _check(f"{match[1]}-{match[2]}"):
        raise InputError(damaged)
    count = int(match[1][:2], 16)
    if len(match[2]) != (count + 1) // 2:
        raise InputError(damaged)
    bits = "".join(f"{int(digit, 16):04b}" for digit in match[2])
    return match[1], [(bits[2 * k] == "1", bits[2 * k + 1] == "1") for k in range(count)]


def _check(text):
    """Two hexadecimal digits that notice a wrong character, or two in the wrong order."""
    total = sum(place * ord(character) for place, character in enumerate(text, start=1))
    return f"{total % CHECK_BASE:02x}"


def _row(answers):
    """How many were right, with the map and without, and the difference of the shares."""
    right = {kind: [right for shown, right in answers if shown is kind] for kind in (True, False)}
    shares = {kind: sum(right[kind]) / max(1, len(right[kind])) for kind in right}
    return {
        "map_right": sum(right[True]),
        "map_asked": len(right[True]),
        "plain_right": sum(right[False]),
        "plain_asked": len(right[False]),
        "difference": shares[True] - shares[False],
    }


def _by_test(keys):
    """Which readers have which test, as a sentence."""
    tests = {key: [str(reader) for reader in keys if keys[reader] == key] for key in keys.values()}
    return "; ".join(f"{key}: {', '.join(readers)}" for key, readers in tests.items())
