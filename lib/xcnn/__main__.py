"""`python -m xcnn explain IMAGE`, `doctor`, `export`, `study`, `report`, `scenes`: commands."""

import argparse
import inspect
import re
import sys
from pathlib import Path

from PIL import Image

from . import exporter, graphs, photos, report, scenes, show, similar, study
from .checkup import doctor
from .contestants import contestants
from .engine.target import versus
from .errors import InputError, one_of
from .loading import SMALL, load
from .methods import METHODS

DASK_TIMEOUT = 20  # seconds to wait for a Dask scheduler
ALL_RIVALS = "all"
SHEET_DPI = 150
MAX_SIDE = 4096  # pixels: a batch of larger pictures would not fit into most memories
MIN_SHOWN_SIDE = 512  # pixels: maps of small pictures are enlarged to about this size
ANY_NUMBER = re.compile(r"-?\d{1,9}")


def explain(args):
    """Print the top classes of an image and write the map over it.

    :param args: the command line, parsed
    :raises InputError: a picture that cannot be opened, unknown names, a file that cannot be
        written

    >>> scene.image.save(folder / "scene.png")
    >>> picture, out = (str(folder / name) for name in ("scene.png", "map.png"))
    >>> xcnn.__main__.main(["explain", picture, "--target", "clock", "--out", out])
    4...%  broccoli (1)
    3...%  clock (3)
    ...
    wrote ...map.png
    0
    """
    method = METHODS[one_of("method", args.method, METHODS)]
    kind = "similar" if args.similar else args.method
    out = Path(args.out or f"{Path(args.image).stem}_{kind}_{args.network}.png")
    if not out.suffix:  # it decides the format of the picture
        raise InputError(f"cannot write {out}: name a file with an ending, such as map.png")
    image = photos.read(args.image)
    net = load(args.network)
    x = net.preprocess(image)
    for index, name, p in net.top(x)[0]:
        print(f"{p:6.1%}  {name} ({index})")
    target = _question(args, net)
    options = _options(args, method)
    if args.similar:
        _save_sheet(args, net, target, options, out)
    else:
        R = method(net, x, target, **options)
        _save(show.overlay(net.picture(x)[0], R[0]), out)
    print(f"wrote {out}")


def examine(args):
    """Print why a map may look wrong: the usual reasons, each tried.

    :param args: the command line, parsed
    :return: 1 where something is wrong, else 0
    :raises InputError: a picture that cannot be opened, unknown names

    >>> xcnn.__main__.main(["doctor", "--network", "resnet_s", "--layer", "layer1"])
    ok ...
    look       layer           layer1 puts out 24 maps of 32 x 32, and is not the last such layer
    ...
    0
    """
    image = photos.read(args.image) if args.image else scenes.render(0).image
    net = load(args.network)
    checkup = doctor(net, net.preprocess(image), _target(args.target), args.method, args.layer)
    print(checkup)
    count = len(checkup.problems)
    untried = sum(finding.verdict == "not tried" for finding in checkup)
    answer = f"{count} of {len(checkup)} to look at" if count else f"all {len(checkup)} are ok"
    print(f"{answer}, {untried} not tried" if untried else answer)
    return int(any(finding.verdict == "wrong" for finding in checkup))


def _question(args, net):
    """What is asked of the network: a class, or a class and not another."""
    target = _target(args.target)
    if args.versus is None:
        return target
    if args.unit is not None:
        raise InputError("--versus is for classes; leave it out, or --unit and --layer")
    rival = None if args.versus == ALL_RIVALS else _target(args.versus)
    return versus(target, rival)


def _save_sheet(args, net, target, options, out):
    """Write one sheet: the image, its map, and the pictures of a folder that are most like it.

    The index of the folder is kept beside the sheet, not in the folder.
    """
    folder = Path(args.similar)
    kept = out.with_name(f"{folder.resolve().name}_{args.network}.similar")
    index = similar.folder_index(net, folder, kept)
    skipped = f", {len(index.skipped)} skipped" if index.skipped else ""
    print(f"{len(index)} pictures in {folder}{skipped}; their features are kept in {kept}")
    neighbours = index.search(args.image, itself=False)
    for path, similarity in neighbours:
        print(f"{similarity:6.3f}  {path}")
    sheet = similar.sheet(net, args.image, neighbours, target, args.method, **options)
    try:
        sheet.savefig(out, dpi=SHEET_DPI)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}") from error


def _target(text):
    """A class as methods take it: an index, where the text is a number."""
    return int(text) if text is not None and ANY_NUMBER.fullmatch(text) else text


def _options(args, method):
    """The options of a method that the command line gives.

    :raises InputError: an option that the method lacks
    """
    options = {name: getattr(args, name) for name in ("layer", "unit")}
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() - inspect.signature(method).parameters:
        raise InputError(
            f"{args.method} has no option --{name}; leave it out or use another method"
        )
    return options


def _save(picture, out):
    """Write a picture, enlarged where it is small.

    :raises InputError: a file that cannot be written
    """
    factor = max(1, MIN_SHOWN_SIDE // picture.width)
    larger = picture.resize([side * factor for side in picture.size], Image.Resampling.BICUBIC)
    try:
        larger.save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}") from error


def export_methods(args):
    """Write methods as ONNX files, and print what was written and how well it agrees.

    :param args: the command line, parsed
    :raises InputError: unknown names, a method that cannot be exported, a file that cannot be
        written

    >>> out = str(folder / "clock.onnx")
    >>> xcnn.__main__.main(["export", "--network", "resnet_s", "--method", "lrp", "--out", out])
    ...clock.onnx: lrp, ... operators, 1...MB; on 3 fresh pictures within ... of the maximum
    0
    """
    out = Path(args.out)
    several = len(args.method) > 1
    if bool(out.suffix) == several:
        wanted = "a folder, such as maps" if several else "a file, such as map.onnx"
        raise InputError(f"--out is {wanted}, and not {out}")
    options = {} if args.layer is None else {"layer": args.layer}
    methods = args.method if several else args.method[0]
    net = load(args.network)
    made = exporter.export(net, methods, out, size=args.size, **options)
    print(*(made if several else [made]), sep="\n")


def run_study(args):
    """Make the records that are missing, then the table and the plots.

    :param args: the command line, parsed
    :raises InputError: unknown names, folders and files that cannot be used

    >>> options = "--classes clock --images 1 --networks resnet_s --sizes 64 --methods gradient"
    >>> xcnn.__main__.main(["study", *options.split(), "--out", str(folder)])
    the class that was asked for is the network's first in 1 of 1 questions
              pictures  records ...
    method
    gradient         1        1 ...
    wrote ...methods.png ...
    0
    """
    cluster = _cluster(args.dask) if args.dask else None
    sizes = [size if size == study.ORIGINAL else int(size) for size in args.sizes]
    out = Path(args.out)
    cases = study.cases(
        args.source, args.classes, args.images, args.seed, args.largest, args.annotations
    )
    study.run(out / "records.jsonl", cases, args.networks, sizes, args.methods, cluster=cluster)
    frame = report.read(out / "records.jsonl")
    _print_summary(frame)
    print("wrote", *graphs.write(frame, out), *report.write(frame, out), out / "records.jsonl")


def _print_summary(frame):
    """How sure the networks were, the table, and what was left out."""
    summary = report.summary(frame)
    asked = frame[frame["rank"].notna()].drop_duplicates([*report.QUESTION, "network", "size"])
    print(
        "the class that was asked for is the network's first in "
        f"{(asked['rank'] == 1).sum()} of {len(asked)} questions"
    )
    print(summary.to_string(float_format="{:.3f}".format))
    left_out = report.left_out(frame)
    if len(left_out):
        print(f"\nwithout a result:\n{left_out.to_string(index=False)}")


def print_report(args):
    """Print two tables of records that were made before: means, and who is ahead of whom.

    :param args: the command line, parsed
    :raises InputError: a file without such records, an unknown score

    >>> records = xcnn.paths.data_folder() / "results" / "contest_scenes.jsonl.gz"
    >>> xcnn.__main__.main(["report", str(records), "--size", "224", "--score", "G"])
                          records ...
    method
    guided_grad_cam           720 ...
                   first               second  pictures  difference ...
         guided_grad_cam                  lrp       180 ...
    ...
    0
    """
    frame = report.read(args.records)
    if args.seen:
        frame = frame[frame["rank"] == 1]
    if args.size:
        frame = frame[frame["size"].astype(str) == args.size]
    for rows, index in (
        (report.table(frame, score=args.score), True),
        (report.pairs(frame, args.score), False),
    ):
        print(rows.to_string(index=index, float_format="{:.3f}".format))


def _cluster(address):
    """A client of the Dask scheduler at this address.

    :raises InputError: where dask.distributed is not installed, or nothing answers
    """
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise InputError("--dask needs dask.distributed: pip install 'xcnn[study]'") from error
    try:
        return Client(address, timeout=DASK_TIMEOUT)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}") from error


def make_scenes(args):
    """Write scenes as a COCO folder.

    :param args: the command line, parsed
    :raises InputError: a folder that cannot be written

    >>> xcnn.__main__.main(["scenes", str(folder / "made"), "-n", "2"])
    wrote ...instances.json
    0
    """
    try:
        path = scenes.write(args.folder, args.n, args.seed, progress=True)
    except OSError as error:
        raise InputError(f"cannot write scenes to {args.folder}: {error}") from error
    print(f"wrote {path}")


def unit(text):
    """'7' or '7,3,4' as a tuple of numbers.

    >>> xcnn.__main__.unit("7,3,4")
    (7, 3, 4)
    """
    return tuple(map(int, text.split(",")))


def at_least(least):
    """A parser of whole numbers from this one on.

    >>> xcnn.__main__.at_least(1)("30")
    30
    """

    def number(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {text}")
        return int(text)

    return number


def names(text):
    """'a,b' as a list.

    >>> xcnn.__main__.names("clock, pizza,")
    ['clock', 'pizza']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def sides(text):
    """'original,224' as a list; each part is that word or a number of pixels.

    >>> xcnn.__main__.sides("original,224")
    ['original', '224']
    """
    sizes = names(text)
    if not all(size == study.ORIGINAL or _is_side(size) for size in sizes):
        raise argparse.ArgumentTypeError(
            f"sizes are 'original' or sides in pixels, 1 to {MAX_SIDE}, not {text!r}"
        )
    return sizes


def _is_side(text):
    return text.isdecimal() and 0 < int(text) <= MAX_SIDE


def _add_explain_parser(commands):
    parser = commands.add_parser("explain", help="explain what a network sees in an image")
    parser.add_argument("image", help="a picture file")
    parser.add_argument("--method", default="grad_cam", help=", ".join(METHODS))
    parser.add_argument(
        "--network",
        default="resnet_s",
        help="vgg_s, resnet_s, googlenet_s, allconv_s, resnet18, vgg16, ...",
    )
    parser.add_argument("--target", help="class index or name; default: the top class")
    parser.add_argument(
        "--versus",
        metavar="CLASS",
        help=f"why --target (or the top class), and not this class; {ALL_RIVALS!r}: all others",
    )
    parser.add_argument(
        "--similar",
        metavar="FOLDER",
        help="write one sheet with the five most similar pictures of this folder; their features "
        "are kept beside it, in FOLDER_NETWORK.similar",
    )
    parser.add_argument("--layer", help="default: the last spatial layer")
    parser.add_argument(
        "--unit", type=unit, help="an inner unit instead of a class: CHANNEL or CHANNEL,Y,X"
    )
    parser.add_argument(
        "--out", help="picture file to write; default: IMAGE_METHOD_NETWORK.png here"
    )
    parser.set_defaults(run=explain)


def _add_doctor_parser(commands):
    parser = commands.add_parser(
        "doctor", help="why does a map look wrong? the usual reasons, each tried"
    )
    parser.add_argument("image", nargs="?", help="a picture file; default: a drawn scene")
    parser.add_argument("--method", default="grad_cam", help=", ".join(METHODS))
    parser.add_argument("--network", default="resnet_s", help="as for explain")
    parser.add_argument("--target", help="class index or name; default: the top class")
    parser.add_argument("--layer", help="default: the last spatial layer")
    parser.set_defaults(run=examine)


def _add_export_parser(commands):
    parser = commands.add_parser(
        "export", help="write methods as ONNX files, which run without PyTorch"
    )
    parser.add_argument("--network", default="resnet_s", help="as for explain")
    parser.add_argument(
        "--method",
        type=names,
        default=["grad_cam"],
        help="A,B,...: methods, or 'scores' for what the network says; several go into a folder "
        "and share their weights",
    )
    parser.add_argument("--layer", help="default: the last spatial layer")
    parser.add_argument(
        "--size", type=at_least(1), help="side of the pictures; default: the network's own"
    )
    parser.add_argument("--out", required=True, help="file to write; of several methods a folder")
    parser.set_defaults(run=export_methods)


def _add_report_parser(commands):
    parser = commands.add_parser(
        "report", help="tables of a study's records: means with intervals, and pairs of methods"
    )
    parser.add_argument("records", help="the file, which may be packed (.gz)")
    parser.add_argument(
        "--score", default="G", help="a column of the records; default: G, the gain"
    )
    parser.add_argument("--size", help="only records of this size, such as 224 or original")
    parser.add_argument(
        "--seen", action="store_true", help="only questions whose class is the network's first"
    )
    parser.set_defaults(run=print_report)


def _add_study_parser(commands):
    parser = commands.add_parser(
        "study", help="measure where the energy of all methods lies; goes on where it stopped"
    )
    parser.add_argument(
        "source", nargs="?", default="scenes", help="'scenes' (default) or a COCO folder"
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="of a folder: its annotation file; default: the only instances*.json in annotations/",
    )
    parser.add_argument(
        "--classes", type=names, help="A,B,...; default: six of the scenes', all of a folder's"
    )
    parser.add_argument(
        "--images", type=at_least(1), default=30, help="at most so many of each class (default 30)"
    )
    parser.add_argument(
        "--largest",
        action="store_true",
        help="ask each image of a folder for its largest object only",
    )
    parser.add_argument(
        "--networks", type=names, default=list(SMALL), help="A,B,...; default: the four small ones"
    )
    parser.add_argument(
        "--sizes", type=sides, default=["original", "224"], help="default: original,224"
    )
    parser.add_argument(
        "--methods", type=names, help="A,B,...; default: all: " + ", ".join(contestants())
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the first scene")
    parser.add_argument(
        "--out", default="study", help="folder for records, table and plots (default: study)"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="share the work with the workers of this Dask scheduler"
    )
    parser.set_defaults(run=run_study)


def _add_scenes_parser(commands):
    parser = commands.add_parser("scenes", help="write scenes with exact masks as a COCO folder")
    parser.add_argument("folder")
    parser.add_argument("-n", type=at_least(1), default=100, help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first")
    parser.set_defaults(run=make_scenes)


def main(argv=None):
    """Run a command. What the caller can put right is said in one line on stderr.

    :param argv: the words after `python -m xcnn`; None: those of this process
    :return: exit code: 0; 1 where the doctor finds something wrong; 2 where the command cannot run

    >>> xcnn.__main__.main(["explain", "nowhere.png"])  # xcnn: cannot open nowhere.png: ...
    2
    """
    parser = argparse.ArgumentParser(prog="python -m xcnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_explain_parser(commands)
    _add_doctor_parser(commands)
    _add_export_parser(commands)
    _add_study_parser(commands)
    _add_report_parser(commands)
    _add_scenes_parser(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"xcnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # A file's name may hold bytes that are not text.
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
