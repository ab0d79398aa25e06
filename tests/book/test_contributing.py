"""CONTRIBUTING.md is true: its example is a method of this house, and what it names is there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tools import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = dict(re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", TEXT, re.S))
NAME = "saliency"
# the tests that all methods share, and what they need
SHARED = [
    "tools/__init__.py",
    "tests/__init__.py",
    "tests/conftest.py",
    "tests/helpers/__init__.py",
    "tests/helpers/oracles.py",
    "tests/helpers/places.py",
    "tests/engine/__init__.py",
    "tests/engine/test_contract.py",
    "tests/library/__init__.py",
    "tests/library/test_main.py",
    "tests/methods/__init__.py",
]
# step 8: where the name goes
ENTRIES = {
    "lib/xcnn/methods/__init__.py": {
        "from .shap_cam import": f"from .{NAME} import {NAME}\nfrom .shap_cam import",
        "_TABLE = (\n": f'_TABLE = (\n    ({NAME}, "saliency", POSITIONS, CHANGE),\n',
    },
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the library and of the tests that all methods share, with the example added."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "lib", house / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHARED:
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, house / name)
    shutil.copy(ROOT / "pyproject.toml", house)
    (house / "data").symlink_to(ROOT / "data")
    for name, code in EXAMPLE.items():
        assert not (house / name).exists()
        (house / name).write_text(code)
    for name, entries in ENTRIES.items():
        text = (house / name).read_text()
        for old, new in entries.items():
            assert text.count(old) == 1, f"{name} no longer holds {old!r}"
            text = text.replace(old, new)
        (house / name).write_text(text)
    return house


def run(house, *command):
    env = os.environ | {"PYTHONPATH": str(house / "lib"), "OMP_NUM_THREADS": "1"}
    env = {key: value for key, value in env.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=house, env=env, capture_output=True, text=True
    )


def test_example_is_one_method_and_its_test():
    assert list(EXAMPLE) == [f"lib/xcnn/methods/{NAME}.py", f"tests/methods/test_{NAME}.py"]


def test_example_keeps_the_contract(house):
    tests = run(house, "pytest", "-k", NAME, "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout
    passed = int(re.search(r"(\d+) passed", tests.stdout)[1])
    assert passed > 40 and "skipped" not in tests.stdout, tests.stdout


def test_example_is_clean(house):
    for command in (["check"], ["format", "--check"]):
        ruff = run(house, "ruff", *command, *EXAMPLE)
        assert ruff.returncode == 0, ruff.stdout


def test_what_the_page_names_is_there():
    plain = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    folders = [ROOT, ROOT / "lib/xcnn", ROOT / "notebooks", *(ROOT / "lib/xcnn").iterdir()]
    for name in re.findall(r"`([\w./]+\.(?:py|md|toml|css|js|yml))`", plain):
        if name not in EXAMPLE and not re.search("NAME|NN_name", name):
            assert any((folder / name).exists() for folder in folders), name
    for folder in re.findall(r"`([\w./]+/)`", plain):
        assert (ROOT / folder).is_dir(), folder
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert [name for name in re.findall(r"`make ([\w-]+)`", plain) if name not in targets] == []
