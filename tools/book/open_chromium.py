"""Open a headless Chromium, which prints the book and shows its pages to the tests."""

import contextlib
import shutil
import sys

NAMES = ["chromium", "chromium-browser", "google-chrome"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    # Chromium must ask for nothing but the page.
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


def program():
    """The path of Chromium, or None where it is not installed."""
    paths = (shutil.which(name) for name in NAMES)
    return next((path for path in paths if path), None)


@contextlib.contextmanager
def chromium():
    """Yield a Playwright Browser. Without Chromium the program ends with one line that says so."""
    path = program()
    if path is None:
        sys.exit("no browser: install Chromium, on Debian with `apt-get install chromium`")
    # The import is here because tests are skipped where Playwright is not installed.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
