"""Long work says how long it will take, and shows a bar."""

import contextlib
import os
import time

SHOWN_FROM = 5  # seconds: shorter work needs no bar


@contextlib.contextmanager
def progress(what, runs, seconds_per_run):
    """A bar on stderr for work that will take longer than a few seconds.

    :param what: what is done, for the bar
    :param runs: how many runs of the network, or of its head, there will be
    :param seconds_per_run: what one takes
    :return: context manager, which gives a function that counts the runs done
        Where the work is short, or the environment variable TQDM_DISABLE is 1, nothing is shown

    >>> with xcnn.engine.progress.progress("LIME", runs=10, seconds_per_run=0.1) as done:
    ...     done(10)
    """
    seconds = runs * seconds_per_run
    # In a notebook, tqdm does not look at its own variable.
    if seconds < SHOWN_FROM or os.environ.get("TQDM_DISABLE") == "1":
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    about = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    with tqdm(total=runs, desc=f"{what}, about {about}", unit="run", leave=False) as bar:
        yield bar.update


def timed(work):
    """What a function returns, and the seconds it took.

    >>> value, seconds = xcnn.engine.progress.timed(lambda: 3)
    >>> value, seconds >= 0
    (3, True)
    """
    start = time.perf_counter()
    value = work()
    return value, time.perf_counter() - start
