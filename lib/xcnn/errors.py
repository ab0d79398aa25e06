"""The errors of this library: each says what to do."""

import difflib

MAX_LISTED = 12  # names that a message lists; more would hide its point


class InputError(ValueError):
    """Something that the caller can put right; the message says how.

    >>> try:
    ...     xcnn.load("resnet_x")
    ... except xcnn.InputError as error:
    ...     print(error)
    unknown network 'resnet_x'; did you mean 'resnet_s' or ...?
    """


def nearest(name, names):
    """The names that are most like a mistaken one, as the end of a message.

    :param name: what the caller wrote
    :param names: those there are
    :return: "did you mean ...?"; where nothing is close, "choose one of: ..." with the first names

    >>> xcnn.errors.nearest("pizzza", ["banana", "pizza"])
    "did you mean 'pizza'?"
    """
    names = [str(known) for known in names]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if not close:
        close = [known for known in names if str(name).lower() in known.lower()][:3]
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return "choose one of: " + ", ".join(names[:MAX_LISTED]) + (", ..." * (len(names) > MAX_LISTED))


def one_of(what, value, names):
    """The value, where it is one of these names.

    :param what: what kind of name it is, for the message
    :param value: what the caller wrote
    :param names: those there are
    :return: value
    :raises InputError: for any other value, with the nearest names

    >>> xcnn.errors.one_of("score", "logit", ("logit", "probability"))
    'logit'
    """
    if not isinstance(value, str) or value not in names:
        raise InputError(f"unknown {what} {value!r}; {nearest(value, names)}")
    return value


def whole_number(name, value, least, most=None):
    """The value, where it is a whole number in this range.

    :param name: of the argument, for the message
    :param value: what the caller wrote
    :param least, most: the range; None: without an upper end
    :return: int
    :raises InputError: for any other value

    >>> xcnn.errors.whole_number("samples", 25, least=1)
    25
    """
    is_whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        end = "" if most is None else f", at most {most}"
        raise InputError(f"{name} must be a whole number, {least} or more{end}, not {value!r}")
    return value.__index__()
