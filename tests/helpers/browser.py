"""A headless Chromium for tests that look at pages."""

import contextlib
import os

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
