"""A headless Chromium, and a folder behind an address, for the tests that look at pages as a reader does."""

import contextlib
import functools
import http.server
import os
import threading

import pytest

from tools.book import open_chromium as headless


@contextlib.contextmanager
def chromium():
    """Yield a Playwright Browser. Without Chromium the test is skipped, but fails where `CI` is set."""
    if headless.program() is None:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("no browser: install it with `apt-get install chromium`")
    with headless.chromium() as browser:
        yield browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
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
