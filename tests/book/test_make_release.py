"""What is handed on works: the wheel without the repository, the book without a server."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml

from tools import ROOT
from tools.book import make_release, open_chromium
from tools.book.check_book import HTML, pages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return make_release.make_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_explains_a_photograph(wheel, tmp_path, monkeypatch):
    """Unpacked beside the packages that are here; `make release` takes an empty environment."""
    library = tmp_path / "library"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(library)
    monkeypatch.setenv("PYTHONPATH", str(library))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    where = [sys.executable, "-c", "import xcnn; print(xcnn.__file__)"]
    answer = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(str(library))
    work = tmp_path / "work"
    work.mkdir()
    said = make_release.try_wheel(sys.executable, work)
    assert re.search(r"\d%  \w+ \(\d\)", said) and "wrote map.png" in said


def test_the_wheel_holds_what_the_library_reads(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    for name in "page.js", "page.css":
        assert f"xcnn/readers/{name}" in names
    assert {f"xcnn/data/weights/{path.name}" for path in ROOT.glob("data/weights/*")} <= set(names)
    assert not [name for name in names if "tests" in name or "notebooks" in name]


def test_the_zip_of_the_book_opens_without_a_server(tmp_path):
    if open_chromium.program() is None and not os.environ.get("CI"):
        pytest.skip("no browser: install it with `apt-get install chromium`")
    book = make_release.make_zip(tmp_path)
    explorers = make_release.try_zip(book, tmp_path / "unpacked")
    built = [(HTML / f"{page}.html").read_text() for page in pages()]
    assert explorers == sum(html.count('class="xcnn-explore"') for html in built) > 40


def test_an_explorer_that_does_not_move_is_seen(tmp_path, monkeypatch):
    if open_chromium.program() is None and not os.environ.get("CI"):
        pytest.skip("no browser: install it with `apt-get install chromium`")
    few = tmp_path / "html"
    for name in "index", "book/intro":
        (few / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HTML / f"{name}.html", few / f"{name}.html")
    monkeypatch.setattr(make_release, "HTML", few)  # without the script that moves them
    monkeypatch.setattr(make_release, "pages", lambda: ["book/intro"])
    with pytest.raises(SystemExit, match="book/intro: these explorers do not move"):
        make_release.try_zip(make_release.make_zip(tmp_path), tmp_path / "unpacked")


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == make_release.VERSION
    assert citation["license"] == PROJECT["license"]
    needed = {"cff-version", "message", "title", "authors"}
    assert needed <= citation.keys() and all(a["name"] for a in citation["authors"])


def test_the_changelog_is_kept():
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.M)
    assert sections[0] == "Unreleased" and PROJECT["version"] in sections
