"""What can be handed on: a wheel of the library and a zip of the built book, both tried.

`make release` writes them to _build/release. The wheel is installed into an empty environment and
explains a photograph there; the zip is unpacked, and each explorer on its pages is moved, without
a server.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from tools import ROOT
from tools.book.check_book import HTML, pages
from tools.book.open_chromium import chromium

FOLDER = ROOT / "_build" / "release"
UV = str(ROOT / ".venv" / "bin" / "uv")
VERSION = version("xcnn")
BOOK = f"xcnn-book-{VERSION}"
NETWORK = "vgg_s"
TIMEOUT = 60_000  # milliseconds, because the machine may be busy
# Move the first control of each explorer; the pictures must change, and be there.
MOVE_ALL = """async () => {
  const still = [];
  for (const figure of document.querySelectorAll(".xcnn-explore")) {
    const img = figure.querySelector("img");
    const control = figure.querySelector("input, select");
    const before = img.src;
    control.value = 1;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    for (let k = 0; k < 200 && (img.src === before || !img.complete); k++)
      await new Promise((done) => setTimeout(done, 50));
    if (img.src === before || !img.naturalWidth) still.push(img.alt.slice(0, 80));
  }
  return still;
}"""


def make_wheel(folder):
    """Build the wheel into a folder; its path."""
    build = [UV, "build", "-q", "--wheel", "--out-dir", folder, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob(f"xcnn-{VERSION}-*.whl")
    return wheel


def try_wheel(python, folder):
    """Explain a photograph with a small network in some environment.

    :param python: of the environment
    :param folder: an empty one, to work in
    :return: what the command line printed
    """
    photograph = "import xcnn; xcnn.photos.load('coffee').save('photo.png')"
    subprocess.run([python, "-c", photograph], cwd=folder, check=True)
    explain = [python, "-m", "xcnn", "explain", "photo.png", "--network", NETWORK]
    explain += ["--out", "map.png"]
    said = subprocess.run(explain, cwd=folder, check=True, capture_output=True, text=True).stdout
    if not (folder / "map.png").exists():
        raise SystemExit(f"the wheel explains nothing: {said}")
    return said


def empty_environment(wheel, folder):
    """A new environment with nothing but the wheel and what it needs; its Python."""
    subprocess.run([UV, "venv", "-q", "-p", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([UV, "pip", "install", "-q", "-p", python, wheel], check=True)
    return python


def make_zip(folder):
    """Pack the built book into a zip, in a folder of its own; its path."""
    target = folder / f"{BOOK}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(HTML.rglob("*")):
            if path.is_file() and path.name != ".buildinfo":
                packed.write(path, f"{BOOK}/{path.relative_to(HTML)}")
    return target


def try_zip(path, folder):
    """Unpack the book, open its pages as files, and move each explorer.

    :param folder: an empty one, to unpack into
    :return: the number of explorers
    """
    with zipfile.ZipFile(path) as packed:
        packed.extractall(folder)
    count = 0
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto((folder / BOOK / "index.html").as_uri())
        page.wait_for_url(f"**/{pages()[0]}.html")  # the front page
        for name in pages():
            page.goto((folder / BOOK / f"{name}.html").as_uri())
            still = page.evaluate(MOVE_ALL)
            if still:
                raise SystemExit(f"{name}: these explorers do not move: {'; '.join(still)}")
            count += page.locator(".xcnn-explore").count()
    return count


def main():
    """Make and try both."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    wheel = make_wheel(FOLDER)
    book = make_zip(FOLDER)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        print("Trying the wheel in an empty environment: minutes where packages are fetched")
        work.joinpath("work").mkdir()
        print(try_wheel(empty_environment(wheel, work / "environment"), work / "work"), end="")
        print("Opening the book without a server")
        explorers = try_zip(book, work / "book")
    print(f"{explorers} explorers move")
    for path in wheel, book:
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
