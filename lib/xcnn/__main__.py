"""`python -m xcnn explain IMAGE`, `study` and `scenes`: the library from the command line."""

import argparse
import inspect
import re
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from . import report, scenes, show, study
from .errors import InputError, nearest
from .loading import SMALL, load
from .methods import METHODS

PATIENCE = 20  # seconds to wait for a Dask scheduler
LARGEST = 4096  # pixels: a batch of larger pictures would not fit into most memories


def explain(args):
    """Print the top classes of an image and write the map over it."""
    if args.method not in METHODS:
        raise InputError(f"unknown method {args.method!r}; {nearest(args.method, METHODS)}")
    try:
        # without Pillow's notes on a broken file: what matters it raises
        with warnings.catch_warnings(action="ignore"), Image.open(args.image) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except OSError as error:
        reason = error.strerror or "not an image that Pillow can read"
        raise InputError(f"cannot open {args.image}: {reason}") from error
    except Exception as error:  # a decoder raises all sorts of things where a file is broken
        raise InputError(f"cannot open {args.image}: {error}") from error
    net = load(args.network)
    x = net.preprocess(image)
    for index, name, p in net.top(x)[0]:
        print(f"{p:6.1%}  {name} ({index})")
    target = args.target
    if target is not None and re.fullmatch(r"-?\d{1,9}", target):
        target = int(target)
    method = METHODS[args.method]
    options = {
        name: given for name in ("layer", "unit") if (given := getattr(args, name)) is not None
    }
    for name in options.keys() - inspect.signature(method).parameters:
        raise InputError(
            f"{args.method} has no option --{name}; leave it out or use another method"
        )
    R = method(net, x, target, **options)
    out = Path(args.out or f"{Path(args.image).stem}_{args.method}_{args.network}.png")
    factor = max(
        1, 512 // x.shape[-1]
    )  # small networks see small pictures; nobody wants to look at them
    picture = show.overlay(net.picture(x)[0], R[0])
    try:
        picture.resize([side * factor for side in picture.size], Image.Resampling.BICUBIC).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}") from error
    print(f"wrote {out}")


def unit(text):
    """'7' or '7,3,4' as a tuple of numbers."""
    return tuple(map(int, text.split(",")))


def run_study(args):
    """Make the records that are missing, then the table and the graphs."""
    cluster = None
    if args.dask:
        try:
            from dask.distributed import Client
        except ImportError as error:
            raise InputError("--dask needs dask.distributed: pip install 'xcnn[study]'") from error
        try:
            cluster = Client(args.dask, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {args.dask}: {error}") from error
    sizes = [size if size == study.ORIGINAL else int(size) for size in args.sizes]
    out = Path(args.out)
    cases = study.cases(args.source, args.classes, args.images, args.seed, args.largest)
    study.run(out / "records.jsonl", cases, args.networks, sizes, args.methods, cluster=cluster)
    frame = report.read(out / "records.jsonl")
    table = report.table(frame)
    table.to_csv(out / "table.csv")
    print(table.to_string(float_format="{:.3f}".format))
    if len(left := report.left_out(frame)):
        print(f"\nwithout a result:\n{left.to_string(index=False)}")
    print("wrote", *report.graphs(frame, out), out / "table.csv", out / "records.jsonl")


def at_least(least):
    """Whole numbers from there on."""

    def number(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {text}")
        return int(text)

    return number


def names(text):
    """'a,b' as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def sides(text):
    """'original,224' as a list; each a word or a number."""
    if not all(
        size == study.ORIGINAL or (size.isdecimal() and 0 < int(size) <= LARGEST)
        for size in names(text)
    ):
        raise argparse.ArgumentTypeError(
            f"sizes are 'original' or sides in pixels, 1 to {LARGEST}, not {text!r}"
        )
    return names(text)


def make_scenes(args):
    """Write scenes as a COCO folder."""
    try:
        path = scenes.write(args.folder, args.n, args.seed, progress=True)
    except OSError as error:
        raise InputError(f"cannot write scenes to {args.folder}: {error}") from error
    print(f"wrote {path}")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m xcnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("explain", help="explain what a network sees in an image")
    one.add_argument("image", help="a picture file")
    one.add_argument("--method", default="grad_cam", help=", ".join(METHODS))
    one.add_argument(
        "--network",
        default="resnet_s",
        help="vgg_s, resnet_s, googlenet_s, allconv_s, resnet18, vgg16, ...",
    )
    one.add_argument("--target", help="class index or name; default: the top class")
    one.add_argument("--layer", help="default: the last spatial layer")
    one.add_argument(
        "--unit", type=unit, help="an inner unit instead of a class: CHANNEL or CHANNEL,Y,X"
    )
    one.add_argument("--out", help="picture file to write; default: IMAGE_METHOD_NETWORK.png here")
    one.set_defaults(run=explain)
    many = commands.add_parser(
        "study", help="measure where the energy of all methods lies; goes on where it stopped"
    )
    many.add_argument(
        "source", nargs="?", default="scenes", help="'scenes' (default) or a COCO folder"
    )
    many.add_argument(
        "--classes", type=names, help="A,B,...; default: six of the scenes', all of a folder's"
    )
    many.add_argument(
        "--images", type=at_least(1), default=30, help="at most so many of each class (default 30)"
    )
    many.add_argument(
        "--largest",
        action="store_true",
        help="ask each image of a folder for its largest object only",
    )
    many.add_argument(
        "--networks", type=names, default=list(SMALL), help="A,B,...; default: the four small ones"
    )
    many.add_argument(
        "--sizes", type=sides, default=["original", "224"], help="default: original,224"
    )
    many.add_argument("--methods", type=names, help="A,B,...; default: all: " + ", ".join(METHODS))
    many.add_argument("--seed", type=at_least(0), default=0, help="of the first scene")
    many.add_argument(
        "--out", default="study", help="folder for records, table and graphs (default: study)"
    )
    many.add_argument(
        "--dask", metavar="ADDRESS", help="share the work with the workers of this Dask scheduler"
    )
    many.set_defaults(run=run_study)
    two = commands.add_parser("scenes", help="write scenes with exact masks as a COCO folder")
    two.add_argument("folder")
    two.add_argument("-n", type=at_least(1), default=100, help="how many (default 100)")
    two.add_argument("--seed", type=int, default=0, help="seed of the first")
    two.set_defaults(run=make_scenes)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except InputError as error:
        print(f"xcnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    sys.exit(main())
