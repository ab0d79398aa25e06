"""The frame around an exercise's check: an open exercise is no error, a wrong answer is one that explains itself."""

import contextlib


@contextlib.contextmanager
def check(title):
    """Run a check. Prints "right" at its end, and "still open" where the answer raises NotImplementedError."""
    try:
        yield
    except NotImplementedError:
        print(
            f"{title} is still open: write your answer in the cell above, then run both cells again."
        )
    else:
        print(f"{title}: right.")
