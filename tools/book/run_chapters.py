"""Run the chapters that changed, several at once, and put what they show into the book's cache.

jupyter-book then builds its pages from the cache and runs nothing itself: the front page and the
bench page, which have cells too, are run here as well. A bar shows how many are done. The error of
a chapter that fails is printed, and the program ends with a status that is not 0.

A kernel listens on socket files in a folder of its own. By default it would listen on TCP ports
without encryption, and print a warning that it does.
"""

import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from tqdm import tqdm
from traitlets.config import Config

from tools import ROOT
from tools.book.check_book import pages

CACHE = ROOT / "_build" / ".jupyter_cache"
CELL_TIMEOUT = 3600  # seconds, as in book/_config.yml; a busy machine must not fail a chapter


def chapters():
    """The paths of the pages that have cells, longest first: none should be left to run alone."""
    names = pages()
    notebooks = [ROOT / f"{name}.ipynb" for name in names if name.startswith("notebooks/")]
    texts = [ROOT / f"{name}.md" for name in names if not name.startswith("notebooks/")]
    with_cells = [path for path in texts if is_myst_markdown_notebook(path.read_text())]
    return notebooks[::-1] + with_cells  # later chapters are longer than earlier ones


def read(path):
    """A page with cells as a notebook, as jupyter-book reads it."""
    text = path.read_text()
    if path.suffix == ".md":
        return read_myst_markdown_notebook(text, path=path)
    return nbformat.reads(text, 4)


def is_cached(notebook, cache):
    """True if these cells have been run, as they are now."""
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute(path, notebook):
    """Run a notebook in the folder of its page, in a process of its own.

    :return: the notebook with outputs, seconds, and the error as text or None
    """
    start = time.perf_counter()
    error = None
    with tempfile.TemporaryDirectory(prefix="xcnn-") as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        try:
            result = single_nb_execution(
                notebook,
                cwd=str(path.parent),
                timeout=CELL_TIMEOUT,
                allow_errors=False,
                config=Config({"KernelManager": sockets}),
            )
            notebook = result.nb
            error = result.err and f"{type(result.err).__name__}: {result.err}"
        except Exception:  # the kernel could not be started, or died
            error = traceback.format_exc()
    return notebook, time.perf_counter() - start, error


def run(paths, cache_folder=CACHE):
    """Run the pages that changed and put their outputs into the cache.

    :param paths: of notebooks (.ipynb), or of pages of the book with cells (.md)
    :param cache_folder: the execution cache of jupyter-book
    :return: the paths of the pages that failed; their errors are printed
    """
    cache = get_cache(cache_folder)
    notebooks = {path: read(path) for path in paths}
    changed = [path for path in paths if not is_cached(notebooks[path], cache)]
    if not changed:
        return []
    failed = []
    with ProcessPoolExecutor() as pool:
        jobs = {pool.submit(execute, path, notebooks[path]): path for path in changed}
        # `disable=None` means: no bar where the output is not a terminal.
        with tqdm(total=len(jobs), unit="chapter", disable=None) as bar:
            for job in as_completed(jobs):
                path = jobs[job]
                notebook, seconds, error = job.result()
                if error:
                    failed.append(path)
                    tqdm.write(f"{path}: {error}", file=sys.stderr)
                else:
                    bundle = CacheBundleIn(notebook, path, data={"execution_seconds": seconds})
                    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                advance(bar, f"{path.stem} {'failed' if error else 'ran'}")
    return failed


def advance(bar, what):
    """Count one more chapter and say what happened to it; without a bar, print a line."""
    if bar.disable:
        print(what, file=sys.stderr, flush=True)
    bar.set_postfix_str(what, refresh=False)
    bar.update()


def main():
    """Run what changed; returns a sentence that names the chapters that do not run, or 0."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the chapters share the processors
    failed = run(chapters())
    return f"these chapters do not run: {', '.join(map(str, failed))}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
