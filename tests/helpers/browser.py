"""A headless Chromium, and a folder behind an address, for tests that look at pages."""

import contextlib
import functools
import http.server
import os
import threading

import pytest

from tools.book import open_chromium


@contextlib.contextmanager
def chromium():
    """Yield a Playwright Browser.

    Without Chromium the test is skipped; where `CI` is set, it fails.
    """
    if open_chromium.program() is None:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("no browser: install it with `apt-get install chromium`")
    with open_chromium.chromium() as browser:
        yield browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """Yield the address on this machine at which the files of a folder can be read."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
