"""A headless Chromium, and a folder behind an address, for tests that look at pages."""

import contextlib
import os
import threading

import pytest

from tools.book import open_chromium, serve


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


@contextlib.contextmanager
def served(folder):
    """Yield the address on this machine at which the files of a folder can be read."""
    with serve.server(folder, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
