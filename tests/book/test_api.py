"""The page of names holds all of them, and each docstring says what a caller must know."""

import functools
import importlib
import inspect
import re
from html import unescape

import pytest
import xcnn
from xcnn.__main__ import main

from tools import ROOT
from tools.book.check_book import HTML, anchors

PAGE = (ROOT / "book" / "api.md").read_text()
NAMED = re.findall(
    r"^(?:\.\. auto(?:function|class|exception)::|```\{py:data\}) xcnn\.([\w.]+)$", PAGE, re.M
)
NAMES = NAMED + [name for name in xcnn.METHODS if name not in NAMED]  # by the directive `methods`
WHOLE = "coco contestants evaluate explorer graphs knobs mlp perceptron photos report".split()
WHOLE += ["exporter", "methods.shapley", "readers", "sanity", "scenes", "show", "similar", "study"]
WHOLE += ["study_measures"]
INNER = {"mlp.fitting", "study.Log"}  # what only their own modules call
METHODS = pytest.mark.parametrize("method", xcnn.METHODS)
# The formula stands in the docstring; its number could not be looked up: the paper was not at hand.
WITHOUT_NUMBER = {"hires_cam", "layer_cam", "ablation_cam"}


@functools.cache
def find(name):
    """What a reader gets who types the name."""
    return functools.reduce(getattr, name.split("."), xcnn)


def callables():
    """Names of functions and classes on the page, and of the methods of these classes."""
    for name in NAMES:
        if name not in ("METHODS", "InputError"):
            yield name
            members = vars(find(name)).items() if inspect.isclass(find(name)) else ()
            yield from (
                f"{name}.{key}"
                for key, v in members
                if inspect.isfunction(v) and not key.startswith("_")
            )


def text(name):
    """A name's object, its docstring, and the same with what it sends the reader to.

    A rule of LRP sends the reader to its module.
    """
    owner, _, member = name.rpartition(".")
    of_a_class = owner in NAMES and inspect.isclass(find(owner))
    thing = getattr(find(owner), member) if of_a_class else find(name)
    doc = inspect.getdoc(thing) or ""
    other = re.search(r"as in\s`(\w+)`", doc)
    near = [full for full in NAMES if other and full.split(".")[-1] == other[1]]
    rest = [text(full)[2] for full in near]
    if name.startswith("methods.lrp_rules."):
        rest.append(xcnn.methods.lrp_rules.__doc__)
    return thing, doc, "\n".join([doc, *rest])


def prose(doc):
    """A docstring without its example."""
    return doc.partition(">>> ")[0].rstrip()


def test_every_public_name_is_on_the_page():
    assert sorted(set(xcnn.__all__) - set(NAMES)) == []
    assert len(set(NAMES)) == len(NAMES)
    for module in WHOLE:
        own = importlib.import_module(f"xcnn.{module}")
        here = [
            name
            for name, thing in vars(own).items()
            if getattr(thing, "__module__", "") == own.__name__
        ]
        here += getattr(own, "__all__", [])  # also what stands in another module
        public = {
            f"{module}.{name}"
            for name in here
            if not name.startswith("_") and callable(getattr(own, name))
        }
        public -= INNER | {f"{module}.{name}" for name in xcnn.__all__}
        assert sorted(public - set(NAMES)) == [], "add them to book/api.md"


def test_methods_are_listed(built):
    listed = re.search(r"<p>\d+ methods: (.*?)</p>", built.read_text(), re.S)[1]
    assert re.findall(r'href="#xcnn\.(\w+)"', listed) == list(xcnn.METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_typed(name):
    assert find(name).__doc__


def test_sections_follow_the_chapters():
    chapters = [path.stem for path in sorted(ROOT.glob("notebooks/*.md"))]
    assert re.findall(r"\(\.\./notebooks/(\w+)\.ipynb\)", PAGE) == chapters
    titles = [
        re.search(r"^# (.+)", (ROOT / f"notebooks/{one}.md").read_text(), re.M)[1]
        for one in chapters
    ]
    assert [title for title in re.findall(r"^## (\d+ · .+)", PAGE, re.M)] == titles


@pytest.mark.parametrize("name", list(callables()))
def test_docstring_names_its_parameters_and_what_comes_back(name):
    thing, own, doc = text(name)
    assert own, f"{name} has no docstring"
    for parameter in inspect.signature(thing).parameters.keys() - {"self"}:
        assert re.search(rf"(?<!\w){parameter}(?!\w)", doc), f"{name} does not explain {parameter}"
    if inspect.isfunction(thing) and "\n" in prose(own):  # one line says what comes back
        assert re.search(":return:|A generator|and returns", doc), (
            f"{name} does not say what it returns"
        )
    for field in re.findall(r":param ([^:]+):", own):
        unknown = set(field.split(", ")) - inspect.signature(thing).parameters.keys()
        assert not unknown, f"{name} explains {unknown}, which it does not have"


@METHODS
def test_docstring_of_a_method(method):
    _, own, doc = text(method)
    assert re.search(r"Source: .* \d{4}, (arXiv \d{4}\.\d{5}|arXiv \d{4}\.\d{4}|doi 10\.)", own)
    if method not in WITHOUT_NUMBER:
        place = r"\beq\. \d|\bsection \d|\b(algorithm|table) \d|-rule|chapter \d"
        assert re.search(place, own), "where in the paper?"
    assert re.search(r":return: \(N, [1C], H, W\)", doc)
    assert ":raises InputError: see `ready`" in doc
    for parameter in inspect.signature(xcnn.METHODS[method]).parameters:
        assert re.search(rf":param [^:]*\b{parameter}\b[^:]*:", doc), parameter


@pytest.fixture(scope="module")
def built():
    if not HTML.exists():
        pytest.fail("the book is not built; run `make book` first (`make test` does)")
    return HTML / "book" / "api.html"


def test_page_is_made_from_the_docstrings(built):
    assert {f"xcnn.{name}" for name in callables()} <= anchors(built).ids
    html = built.read_text()
    for part in (
        "<table",  # of LRP's rules
        "(N, C, H, W), same dtype as x, signed",
        'href="#xcnn.gradient"',  # "as in `gradient`"
        'href="https://arxiv.org/abs/1512.04150"',
    ):
        assert part in html
    assert ":param" not in html and ":return" not in html and "object at 0x" not in html


def test_every_command_is_on_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M)
    assert re.findall(r"^\.\. help::(?: (\w+))?$", PAGE, re.M) == ["", *commands]


@pytest.mark.parametrize("command", ["", "explain", "doctor", "study", "report", "scenes"])
def test_command_line_is_on_the_page(built, command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert capsys.readouterr().out.strip() in unescape(re.sub("<[^>]+>", "", built.read_text()))
