"""conda's environment names the packages that the library needs, with their ranges."""

import tomllib

import yaml
from packaging.requirements import Requirement

from tools import ROOT

CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name is another than pip's
BESIDES = {"jupyterlab", "jupytext"}  # of the book: they open the chapters
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def ranges(lines):
    """Name -> range of versions, of requirements one per line."""
    requirements = map(Requirement, lines)
    return {requirement.name: requirement.specifier for requirement in requirements}


def test_conda_installs_what_the_project_needs_at_run_time_and_nothing_else():
    book = ranges(PROJECT["optional-dependencies"]["book"])
    needed = ranges(PROJECT["dependencies"]) | {name: book[name] for name in BESIDES}
    wanted = {CONDA_NAMES.get(name, name): versions for name, versions in needed.items()}
    wanted |= ranges([f"python{PROJECT['requires-python']}", "pip"])
    named = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    assert ranges(named) == wanted and len(named) == len(wanted)


def test_pip_adds_the_project_with_the_tools_of_the_book_and_the_tests():
    (with_pip,) = (entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    assert with_pip == {"pip": ["-e .[book,test]"]}


def test_conda_takes_all_from_conda_forge():
    assert ENVIRONMENT["name"] == PROJECT["name"] and ENVIRONMENT["channels"] == ["conda-forge"]
