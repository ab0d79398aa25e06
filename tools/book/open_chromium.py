"""A headless Chromium: it prints the book, and the tests look at pages with it as a reader does."""

import contextlib
import shutil
import sys

NAMES = ["chromium", "chromium-browser", "google-chrome"]
ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
ARGS += [
    "--disable-background-networking",
    "--disable-component-update",
]  # it must ask for nothing but the page


def program():
    """The path of Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium():
    """Yield a Playwright Browser. Where there is no Chromium the program ends with one line that says so."""
    path = program()
    if path is None:
        sys.exit("no browser: install Chromium, on Debian with `apt-get install chromium`")
    from playwright.sync_api import sync_playwright  # here, so that tests can be skipped without it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()
