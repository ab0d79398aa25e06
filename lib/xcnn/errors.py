"""Errors that say what to do."""

import difflib


class InputError(ValueError):
    """Something the caller can put right; the message says how."""


def nearest(name, names):
    """'did you mean ...?' for a name that is not among names; the first of them where nothing is close."""
    names = [str(n) for n in names]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    close = close or [n for n in names if str(name).lower() in n.lower()][:3]
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return "choose one of: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
