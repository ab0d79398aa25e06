"""Grade a folder or zip of submissions into a table."""

import argparse
import sys
from collections import Counter

from ..errors import InputError
from . import check, grade_all
from .limits import Limits

PROBLEM_SETS = "notebooks/coursework"  # where to look for the assignment that a batch belongs to


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        if args.check:
            return 0 if check.report() else 1
        if not args.submissions:
            raise InputError("name the folder or zip with the submissions")
        check_extras()
        if args.unsandboxed:
            print(
                "xcnn: WARNING: the students' code runs unprotected, "
                "with your rights, files and network",
                file=sys.stderr,
            )
        rows = grade_all(
            args.submissions,
            args.out,
            args.assignment,
            limits_of(args),
            sandboxed=not args.unsandboxed,
            roster=args.roster,
            pages=args.feedback,
            fresh=args.fresh,
            retry=args.retry,
            problem_sets=PROBLEM_SETS,
        )
    except InputError as error:
        print(f"xcnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    statuses = Counter(row["status"] for row in rows)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    print(f"wrote {args.out}: {len(rows)} students: {counts}")
    return 0


def limits_of(args):
    """The limits that the command line names."""
    return Limits(
        timeout=args.timeout,
        cell=args.cell_timeout or args.timeout / 2,
        memory=args.memory,
        processes=args.processes,
        output=args.output * 1e6,
        clock=args.clock,
    )


def parser():
    """The parser of the command line."""
    options = argparse.ArgumentParser(prog="python -m xcnn.grade", description=__doc__)
    add_files(options)
    add_limits(options)
    options.add_argument("--check", action="store_true", help="try the walls on this machine")
    options.add_argument("--retry", action="store_true", help="run again what timed out or crashed")
    options.add_argument("--fresh", action="store_true", help="run everything again")
    options.add_argument(
        "--unsandboxed", action="store_true", help="run the students' code unprotected, as yourself"
    )
    return options


def add_files(options):
    """What is read and what is written."""
    options.add_argument(
        "submissions",
        nargs="?",
        help="folder or zip from Canvas or Moodle, or with NAME.ipynb or NAME/x.ipynb in it",
    )
    options.add_argument(
        "--assignment",
        help="source of the problem set, .md; default: the one that the cells belong to",
    )
    options.add_argument(
        "--out",
        default="grades.csv",
        help="table to write; students that it holds are not run again",
    )
    options.add_argument(
        "--roster",
        help="CSV list of students, with a header; a student who handed in nothing is 'missing'",
    )
    options.add_argument(
        "--feedback", metavar="FOLDER", help="write a page for each student into this folder"
    )


def add_limits(options):
    """What a notebook may use."""
    options.add_argument(
        "--timeout",
        type=float,
        default=600,
        help="seconds of processor time for one notebook (default 600)",
    )
    options.add_argument(
        "--cell-timeout",
        type=float,
        help="seconds of processor time for one of its cells (default: half of --timeout)",
    )
    options.add_argument(
        "--clock",
        type=float,
        help="seconds by the clock for one notebook, also if it only waits "
        "(default: five times --timeout, at least two minutes)",
    )
    options.add_argument(
        "--memory", type=float, default=4, help="gigabytes for one notebook (default 4)"
    )
    options.add_argument(
        "--processes", type=int, default=64, help="processes of one notebook (default 64)"
    )
    options.add_argument(
        "--output", type=float, default=20, help="megabytes of output that are kept (default 20)"
    )


def check_extras():
    """Raise InputError if a package is missing that only grading needs."""
    try:
        import jupytext  # noqa: F401
        import nbconvert  # noqa: F401
        import nbgrader  # noqa: F401
        import psutil  # noqa: F401
    except ImportError as error:
        message = f"grading needs {error.name}: pip install 'xcnn[coursework]'"
        raise InputError(message) from error


if __name__ == "__main__":
    sys.exit(main())
