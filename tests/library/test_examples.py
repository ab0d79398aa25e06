"""The examples in the docstrings are right, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xcnn

from tests.book.test_api import callables, text

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(xcnn.__path__, "xcnn.")
    if not name.startswith("xcnn.grade") and not name.endswith("__main__")
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def names(tmp_path):
    """What every example may use; the docstring of `xcnn` says so."""
    net = xcnn.load("resnet_s")
    scene = xcnn.scenes.render(10, count=2)
    return {
        "np": np,
        "torch": torch,
        "plt": plt,
        "Path": Path,
        "xcnn": xcnn,
        "net": net,
        "scene": scene,
        "x": net.preprocess(scene.image),
        "folder": tmp_path,
    }


def run_examples(module, names):
    """Run a module's examples: (how many there are, what is wrong with them)."""
    count = 0
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for number, test in enumerate(doctest.DocTestFinder().find(module, module.__name__)):
        folder = names["folder"] / str(number)
        folder.mkdir()
        test.globs = names | {"folder": folder}
        count += runner.run(test, out=report.append).attempted
    return count, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name, names):
    importlib.import_module(name)
    _, report = run_examples(sys.modules[name], names)  # a method hides its module of that name
    assert not report, report


WRONG = """
def double(x):
    '''
    >>> 2 * 2
    5
    '''
"""


def test_a_wrong_example_is_seen(names):
    module = types.ModuleType("module")
    exec(WRONG, vars(module))
    count, report = run_examples(module, names)
    assert count == 1
    assert "Expected" in report


@pytest.mark.parametrize("name", list(callables()))
def test_every_public_name_has_an_example(name):
    thing, own, _ = text(name)
    kind = "class" if inspect.isclass(thing) else "function"
    assert ">>> " in own, f"the {kind} {name} has no example"
    for example in doctest.DocTestParser().get_examples(own):
        assert example.source.count("\n") <= 3, (
            f"{name}: an example is a line or two, not a program"
        )
