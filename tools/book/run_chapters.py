"""Run the chapters that changed, several at once, into the cache from which jupyter-book builds its pages."""

import logging
import os
import sys

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from tools import ROOT
from tools.book.check_book import pages


def main():
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the chapters share the processors
    cache = get_cache(ROOT / "_build" / ".jupyter_cache")
    chapters = [ROOT / f"{page}.ipynb" for page in pages() if page.startswith("notebooks/")]
    for path in reversed(
        chapters
    ):  # the longest are the last ones: none should be left to run alone
        cache.add_nb_to_project(str(path))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    executor = load_executor("local-parallel", cache, logging.getLogger("chapters"))
    result = executor.run_and_cache(filter_uris=[str(path) for path in chapters], timeout=900)
    broken = result.excepted + result.errored
    return f"these chapters do not run: {', '.join(map(str, broken))}" if broken else 0


if __name__ == "__main__":
    sys.exit(main())
