"""A headless Chromium for the tests that look at pages as a reader does."""

import contextlib
import os
import shutil

import pytest

ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
ARGS += ["--disable-background-networking", "--disable-component-update"]  # it must ask for nothing but the page


@contextlib.contextmanager
def chromium():
    """Yield a Playwright Browser. Without Chromium the test is skipped, but fails where `CI` is set."""
    path = shutil.which("chromium")
    if path is None:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("no browser: install it with `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()
