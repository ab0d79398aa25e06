"""What a move of a control costs a reader: `pytest tests/bench/test_explore_cost.py -s`.

The costs are printed, not asserted. In the book: from the move until Chromium has painted the
picture. Live: the time in which the kernel answers, by the clock and of the processor; where a
machine is busy, the second is the one to compare.
"""

import contextlib
import io
import statistics
import time

import jupytext
import pytest
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import VBox
from traitlets.config import Config

from tests.book.test_book import CHAPTERS, EXPLORERS, PAGES
from tests.helpers.browser import chromium
from tools import ROOT
from tools.book.check_book import HTML
from tools.book.serve import served

# The alt text changes with each picture, also where two pictures are equal.
MOVE_ALL = """async (figure) => {
    const img = figure.querySelector("img");
    const times = [];
    for (const control of figure.querySelectorAll("input, select")) {
        const last = control.options ? control.options.length - 1 : Number(control.max);
        for (const value of [...Array(last).keys()].map((k) => k + 1).concat(0)) {
            const start = performance.now();
            const painted = new Promise((done) => new MutationObserver((_, observer) => {
                observer.disconnect();
                requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
            }).observe(img, { attributes: true, attributeFilter: ["alt"] }));
            control.value = value;
            control.dispatchEvent(new Event("input", { bubbles: true }));
            times.push(await painted);
        }
    }
    return times;
}"""

ALL_FETCHED = """(figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const entries = performance.getEntriesByType("resource");
    const here = new Set(entries.map((entry) => entry.name.split("/").at(-1)));
    return data.frames.every((frame) => here.has(frame));
}"""

# A page has more pictures than the 250 that a browser notes.
NOTE_ALL_RESOURCES = "performance.setResourceTimingBufferSize(5000)"
FETCH_TIMEOUT = 60_000  # milliseconds


def quantiles(times):
    """The median and the 95th percentile of milliseconds, as text."""
    last = statistics.quantiles(times, n=20)[-1]
    return f"median {statistics.median(times):6.1f} ms, 95 % {last:7.1f} ms"


def test_moves_and_starts_in_the_book():
    """Every explorer of the book, each option once; and what a page needs before it can be read."""
    assert HTML.exists(), "the book is not built; run `make book` first"
    everything = []
    with chromium() as browser, served(HTML) as site:
        for name in PAGES:
            page = browser.new_page()
            size = open_and_weigh(page, f"{site}/{name}.html")
            print(f"\n{name:32} starts with {size / 1000:6.0f} kB", end="")
            for explorer in page.locator(".xcnn-explore").all() if name in EXPLORERS else []:
                explorer.scroll_into_view_if_needed()
                explorer.hover()
                handle = explorer.element_handle()
                page.wait_for_function(ALL_FETCHED, arg=handle, timeout=FETCH_TIMEOUT)
                times = explorer.evaluate(MOVE_ALL)
                everything += times
                print(f"\n    {len(times):3} moves: {quantiles(times)}", end="")
            page.close()
    print(f"\nall {len(everything)} moves: {quantiles(everything)}")


def open_and_weigh(page, address):
    """Open an address; returns the bytes that were fetched for it."""
    sizes = []

    def on_response(response):
        sizes.append(int(response.headers["content-length"]))

    page.add_init_script(NOTE_ALL_RESOURCES)
    page.on("response", on_response)
    page.goto(address, wait_until="networkidle")
    return sum(sizes)


def moves(explorer):
    """Milliseconds for each option of each control of a live explorer, moved one at a time.

    :return: by the clock, of the processor
    """
    *controls, _ = explorer.children
    clock = []
    processor = []
    for control in controls:
        for _, option in control.options[1:]:
            start = time.perf_counter()
            worked = time.process_time()
            control.value = option
            clock.append(1000 * (time.perf_counter() - start))
            processor.append(1000 * (time.process_time() - worked))
        control.value = control.options[0][1]
    return clock, processor


@pytest.mark.parametrize("name", CHAPTERS)
def test_moves_live(name, monkeypatch):
    """Every explorer of a chapter as in JupyterLab, with the small networks alone."""
    monkeypatch.setenv("XCNN_EXPLORER", "live")
    monkeypatch.setenv("XCNN_STUDY", str(ROOT / "_build" / "study"))
    monkeypatch.setenv("TORCH_HOME", "/nowhere")  # no ImageNet weights are found
    monkeypatch.chdir(ROOT / "notebooks")
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in jupytext.read(f"{ROOT / name}.md").cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()):
                result = shell.run_cell(cell.source)
            result.raise_error()
            if isinstance(result.result, VBox):
                print_moves(name, result.result)


def print_moves(name, explorer):
    """Move all controls of an explorer twice, and print what that costs."""
    clock, processor = moves(explorer)
    remembered, _ = moves(explorer)
    controls = ", ".join(control.description for control in explorer.children[:-1])
    print(f"\n{name} by {controls}")
    print(f"    the first time {quantiles(clock)}; of the processor {quantiles(processor)}")
    print(f"    remembered     {quantiles(remembered)}", end="")
