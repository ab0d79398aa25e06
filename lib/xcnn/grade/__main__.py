"""Grade a folder or zip of submissions into a table."""

import argparse
import sys
from collections import Counter

from ..errors import InputError
from . import batch, sandbox


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m xcnn.grade", description=__doc__)
    parser.add_argument(
        "submissions",
        help="folder or zip, as Canvas or Moodle give it, or NAME.ipynb, NAME/x.ipynb",
    )
    parser.add_argument(
        "--assignment",
        help="source of the problem set, .md; default: the one that the cells belong to",
    )
    parser.add_argument(
        "--out",
        default="grades.csv",
        help="table to write; students that it holds are not run again",
    )
    parser.add_argument(
        "--roster",
        help="CSV list of students, with a header; who handed nothing in becomes 'missing'",
    )
    parser.add_argument(
        "--feedback", metavar="FOLDER", help="write a page for each student into this folder"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds for one notebook (default 600)"
    )
    parser.add_argument(
        "--cell-timeout",
        type=float,
        help="seconds for one of its cells (default: half of --timeout)",
    )
    parser.add_argument(
        "--memory", type=float, default=4, help="gigabytes for one notebook (default 4)"
    )
    parser.add_argument(
        "--processes", type=int, default=64, help="processes of one notebook (default 64)"
    )
    parser.add_argument(
        "--output", type=float, default=20, help="megabytes of output that are kept (default 20)"
    )
    parser.add_argument("--retry", action="store_true", help="run again what timed out or crashed")
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument(
        "--unsandboxed", action="store_true", help="run the students' code unprotected, as yourself"
    )
    args = parser.parse_args(argv)
    limits = sandbox.Limits(
        args.timeout,
        args.cell_timeout or args.timeout / 2,
        args.memory,
        args.processes,
        args.output * 1e6,
    )
    try:
        try:
            import jupytext  # noqa: F401
            import nbconvert  # noqa: F401
            import nbgrader.utils  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"grading needs {error.name}: pip install 'xcnn[coursework]'"
            ) from error
        if args.unsandboxed:
            print(
                "xcnn: WARNING: the students' code runs unprotected, with your rights, files and network",
                file=sys.stderr,
            )
        rows = batch(
            args.submissions, args.out, args.assignment, limits, not args.unsandboxed, args.roster, args.feedback,
            args.fresh, args.retry,
        )  # fmt: skip
    except InputError as error:
        print(f"xcnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    counts = ", ".join(
        f"{count} {status}"
        for status, count in Counter(row["status"] for row in rows).most_common()
    )
    print(f"wrote {args.out}: {len(rows)} students: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
