"""The house rules that can be counted: air, the direction of imports, and where things stand."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import xcnn

from tools import ROOT

LIBRARY = ROOT / "lib" / "xcnn"
MAX_LINE = 100  # characters
MAX_FUNCTION = 40  # lines from `def` on, without the docstring
FIRST_OF_METHODS, LAST_OF_METHODS = 4, 13  # the chapters that teach a method


def files_in(*folders):
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in files if "__pycache__" not in file.parts]


GRADE = files_in("lib/xcnn/grade")
ROOMS = {
    "library": [file for file in files_in("lib") if file not in GRADE],
    "grade": GRADE,
    "tools": files_in("tools"),
    "tests": files_in("tests"),
}


# ---- air: each check takes the source of a file and gives the lines that break the rule


def long_lines(source):
    lines = enumerate(source.splitlines(), start=1)
    return [number for number, line in lines if len(line) > MAX_LINE]


def named_lambdas(source):
    kinds = (ast.Assign, ast.AnnAssign, ast.NamedExpr)
    nodes = ast.walk(ast.parse(source))
    return [
        node.lineno
        for node in nodes
        if isinstance(node, kinds) and isinstance(node.value, ast.Lambda)
    ]


def tuple_statements(source):
    nodes = ast.walk(ast.parse(source))
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple)
    ]


def long_functions(source):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [node.lineno for node in functions if _lines_of_code(node) > MAX_FUNCTION]


def _lines_of_code(function):
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


CHECKS = [long_lines, named_lambdas, tuple_statements, long_functions]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("check", CHECKS)
def test_there_is_air(check, room):
    assert len(ROOMS[room]) > 5
    places = [
        f"{file.relative_to(ROOT)}:{line}" for file in ROOMS[room] for line in check(read(file))
    ]
    assert not places, "\n".join(places)


def read(file):
    return file.read_text(encoding="utf-8")


BODY = "    x = 1\n"
DOCSTRING = '    """A long story.\n\n' + "    And so on.\n" * 60 + '    """\n'


@pytest.mark.parametrize(
    ("check", "source", "lines"),
    [
        (long_lines, "x = 1\n# " + 99 * "-", [2]),
        (long_lines, '"""' + 98 * "ä" + '"""', [1]),
        (long_lines, "# " + 98 * "ä", []),
        (named_lambdas, "f = lambda x: x\n", [1]),
        (named_lambdas, "def f():\n    self.g: object = lambda: 1\n", [2]),
        (named_lambdas, "if (f := lambda: 1)():\n    pass\n", [1]),
        (named_lambdas, "f = {'a': lambda x: x}\ng = sorted(f, key=lambda x: x)\n", []),
        (tuple_statements, "x = 1\nax.set(), ax.plot()\n", [2]),
        (tuple_statements, "def f():\n    (a.pop(), b.pop())\n", [2]),
        (tuple_statements, "x = 1, 2\ndef f():\n    return 1, 2\n", []),
        (long_functions, "def f():\n" + 40 * BODY, [1]),
        (long_functions, "class A:\n    async def f():\n" + 40 * ("    " + BODY), [2]),
        (long_functions, "def f():\n" + DOCSTRING + 40 * BODY, [1]),
        (long_functions, "def f():\n" + DOCSTRING + 39 * BODY, []),
    ],
)
def test_a_check_sees_what_lacks_air(check, source, lines):
    assert check(source) == lines


# ---- imports: what a module needs stands below it

# Everything else in the library stands between engine and methods.
RANKS = {
    "errors": 0,
    "packages": 0,
    "engine": 1,
    "methods": 3,
    "checkup": 4,
    "contestants": 4,
    "evaluate": 4,
    "exporter": 4,
    "report": 4,
    "graphs": 5,
    "similar": 4,
    "similar_sheet": 4,
    "study": 4,
    "study_measures": 4,
}
MIDDLE = 2
FACE = 5  # `xcnn` itself and the command line see all


def sources():
    """Name of each module of the library -> its source."""
    return {module_name(file): read(file) for file in files_in("lib/xcnn")}


def module_name(file):
    parts = file.relative_to(LIBRARY.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(module):
    parts = module.split(".")
    if parts[1:] in ([], ["__main__"]):
        return FACE
    return RANKS.get(parts[1], MIDDLE)


def imports(modules):
    """Module -> the modules of the library that it imports, in whatever function it does so.

    :param modules: name -> source
    """
    return {name: set(_imports_of(name, source, modules)) for name, source in modules.items()}


def _imports_of(name, source, modules):
    package = name if _is_package(name, modules) else name.rpartition(".")[0]
    for node in _executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif base in modules:
                    yield base


def _is_package(name, modules):
    return any(other.startswith(f"{name}.") for other in modules)


def _absolute(node, package):
    """The full name of the module that an import takes names from."""
    if not node.level:
        return node.module
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _executed(node):
    """All nodes but those under `if TYPE_CHECKING`, which only editors read."""
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    for child in children:
        yield from _executed(child)


def upward(graph):
    """Imports of a module that stands higher, as sentences."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if rank(other) > rank(name)
    ]


def circle(graph):
    """Modules that import each other in a circle, in order; [] where there is no circle."""
    finished = set()

    def visit(name, path):
        if name in path:
            return path[path.index(name) :]
        if name not in finished:
            for other in sorted(graph[name]):
                if modules := visit(other, [*path, name]):
                    return modules
            finished.add(name)
        return []

    for name in sorted(graph):
        if modules := visit(name, []):
            return modules
    return []


def test_no_import_goes_upwards():
    graph = imports(sources())
    assert len(graph["xcnn.methods"]) > 8 and graph["xcnn.errors"] == set()
    assert not upward(graph)


def test_no_imports_go_round_in_a_circle():
    assert circle(imports(sources())) == []


@pytest.mark.parametrize(
    ("planted", "sentences"),
    [
        ({"xcnn.errors": "from .engine import tape"}, ["xcnn.errors imports xcnn.engine.tape"]),
        (
            {"xcnn.engine.tape": "def f():\n    from ..networks import Network"},
            ["xcnn.engine.tape imports xcnn.networks"],
        ),
        (
            {"xcnn.networks": "def f():\n    def g():\n        from .methods import METHODS"},
            ["xcnn.networks imports xcnn.methods"],
        ),
        ({"xcnn.methods.cam": "from .. import study"}, ["xcnn.methods.cam imports xcnn.study"]),
        ({"xcnn.study": "from xcnn import METHODS"}, ["xcnn.study imports xcnn"]),
        ({"xcnn.networks": "import xcnn.methods.cam"}, ["xcnn.networks imports xcnn.methods.cam"]),
        (
            {"xcnn.networks": "if TYPE_CHECKING:\n    pass\nelse:\n    from .study import run"},
            ["xcnn.networks imports xcnn.study"],
        ),
        ({"xcnn.networks": "if TYPE_CHECKING:\n    from .study import run"}, []),
        ({"xcnn.methods.cam": "from ..engine.tape import Tape\nimport torch"}, []),
    ],
)
def test_an_import_upwards_is_seen(planted, sentences):
    names = ["", ".errors", ".engine", ".engine.tape", ".networks", ".methods", ".methods.cam"]
    house = {f"xcnn{name}": "" for name in [*names, ".study"]}
    assert upward(imports(house | planted)) == sentences


@pytest.mark.parametrize(
    ("modules", "wanted"),
    [
        ({"xcnn.a": "from .b import x", "xcnn.b": "from . import a"}, ["xcnn.a", "xcnn.b"]),
        (
            {
                "xcnn.a": "from .b import x",
                "xcnn.b": "def f():\n    from .c import y",
                "xcnn.c": "class A:\n    from xcnn.b import x",
            },
            ["xcnn.b", "xcnn.c"],
        ),
        (
            {"xcnn.a": "from .b import x", "xcnn.b": "if TYPE_CHECKING:\n    from .a import y"},
            [],
        ),
        ({"xcnn.a": "from .b import x\nfrom .c import x", "xcnn.b": "import xcnn.c"}, []),
    ],
)
def test_a_circle_is_seen(modules, wanted):
    assert circle(imports({"xcnn": "", "xcnn.c": ""} | modules)) == wanted


# ---- chapters 1 and 2 need NumPy only

ASK_FOR_TORCH = "\nimport sys\nprint('torch' in sys.modules)"
IMPORT_TORCH = "import sys\nsys.modules['torch'] = sys"  # a stand-in: torch is slow to import


@pytest.mark.parametrize(
    ("statement", "has_torch"),
    [("import xcnn.perceptron, xcnn.mlp", "False"), (IMPORT_TORCH, "True")],
)
def test_the_first_chapters_do_without_torch(statement, has_torch):
    run = [sys.executable, "-c", statement + ASK_FOR_TORCH]
    answer = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == has_torch


# ---- where things stand


def chapter_files(readme):
    """Number of a chapter -> the files of `methods/` that the table of the README names for it."""
    rows = re.findall(r"^\| (\d+) \|(.*)$", readme, re.M)
    return {int(n): re.findall(r"\(lib/xcnn/methods/(\w+)\.py\)", row) for n, row in rows}


def homeless(methods, folder):
    """Methods that are not defined in a file of this folder."""
    homes = {name: Path(inspect.getsourcefile(method)) for name, method in methods.items()}
    return [name for name, home in homes.items() if home.parent != folder]


def test_every_method_stands_in_the_room_of_methods():
    folder = LIBRARY / "methods"
    assert homeless(xcnn.METHODS, folder) == []
    assert homeless({"load": xcnn.load}, folder) == ["load"]


def test_the_chapters_of_methods_are_the_listing():
    files = chapter_files(read(ROOT / "README.md"))
    taught = {}
    for n in range(FIRST_OF_METHODS, LAST_OF_METHODS + 1):
        assert files[n], f"the README names no file of methods/ for chapter {n}"
        assert all((LIBRARY / "methods" / f"{name}.py").exists() for name in files[n]), n
        taught |= dict.fromkeys(files[n], n)
    homes = {Path(inspect.getsourcefile(method)).stem for method in xcnn.METHODS.values()}
    assert homes <= set(taught), "a method that the README does not name"


def test_a_chapter_without_a_file_is_seen():
    rows = ["| 3 | [A](a.md) | [`a.py`](lib/xcnn/a.py) |", "| 4 | [`b`](lib/xcnn/methods/b.py) |"]
    assert chapter_files("\n".join(rows)) == {3: [], 4: ["b"]}


@pytest.mark.parametrize("room", ["methods", "engine"])
def test_every_module_of_a_room_has_a_test_of_its_name(room):
    modules = {file.stem for file in files_in(f"lib/xcnn/{room}")} - {"__init__"}
    tests = {file.stem.removeprefix("test_") for file in files_in(f"tests/{room}")}
    assert len(modules) > 5 and modules - tests == set()
