"""The frame around an exercise's check: it tells an open exercise from a wrong answer."""

import contextlib


@contextlib.contextmanager
def check(title):
    """Run a check. An open exercise is not an error; a wrong answer is one that explains itself.

    Prints "right" at the end of the check, and "still open" where the answer raises
    NotImplementedError. Any other error passes through.

    :param title: of the exercise, for what is printed
    :return: a context manager

    >>> with xcnn.exercise.check("Exercise 1"):
    ...     assert 1 + 1 == 2, "the sum of 1 and 1 is 2"
    Exercise 1: right.
    """
    try:
        yield
    except NotImplementedError:
        print(
            f"{title} is still open: "
            "write your answer in the cell above, then run both cells again."
        )
    else:
        print(f"{title}: right.")
