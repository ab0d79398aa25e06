"""What a move of a control costs a reader: `pytest tests/bench/test_explore_cost.py -s`. Printed, not asserted.

In the book: from the move until Chromium has painted the picture. Live: the time in which the kernel answers, by the
clock and of the processor; the second is the one to compare where a machine is busy.
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
from tests.helpers.browser import chromium, served
from tools import ROOT
from tools.book.check_book import HTML

MOVE_ALL = """async (figure) => {
    const img = figure.querySelector("img"), times = [];
    for (const control of figure.querySelectorAll("input, select")) {
        const last = control.options ? control.options.length - 1 : Number(control.max);
        for (const value of [...Array(last).keys()].map((k) => k + 1).concat(0)) {
            const before = img.getAttribute("src"), start = performance.now();
            const painted = new Promise((done) => new MutationObserver((_, observer) => {
                observer.disconnect();  // the alt text changes with each picture, also where two pictures are equal
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
    const here = new Set(performance.getEntriesByType("resource").map((entry) => entry.name.split("/").at(-1)));
    return data.frames.every((frame) => here.has(frame));
}"""


def quantiles(times):
    return f"median {statistics.median(times):6.1f} ms, 95 % {statistics.quantiles(times, n=20)[-1]:7.1f} ms"


def test_moves_and_starts_in_the_book():
    """Every explorer of the book, each option of each control once; and what a page needs before it can be read."""
    assert HTML.exists(), "the book is not built; run `make book` first"
    everything = []
    with chromium() as browser, served(HTML) as site:
        for name in PAGES:
            page, sizes = browser.new_page(), []
            page.add_init_script(
                "performance.setResourceTimingBufferSize(5000)"
            )  # a page has more than 250 pictures
            page.on(
                "response",
                lambda response, sizes=sizes: sizes.append(int(response.headers["content-length"])),
            )
            page.goto(f"{site}/{name}.html", wait_until="networkidle")
            print(f"\n{name:32} starts with {sum(sizes) / 1000:6.0f} kB", end="")
            for explorer in page.locator(".xcnn-explore").all() if name in EXPLORERS else []:
                explorer.scroll_into_view_if_needed()
                explorer.hover()
                page.wait_for_function(ALL_FETCHED, arg=explorer.element_handle(), timeout=60_000)
                times = explorer.evaluate(MOVE_ALL)
                everything += times
                print(f"\n    {len(times):3} moves: {quantiles(times)}", end="")
            page.close()
    print(f"\nall {len(everything)} moves: {quantiles(everything)}")


def moves(explorer):
    """Milliseconds by the clock and of the processor, for each option of each control, moved one at a time."""
    *controls, _ = explorer.children
    clock, processor = [], []
    for control in controls:
        for _, option in control.options[1:]:
            start, worked = time.perf_counter(), time.process_time()
            control.value = option
            clock.append(1000 * (time.perf_counter() - start))
            processor.append(1000 * (time.process_time() - worked))
        control.value = control.options[0][1]
    return clock, processor


@pytest.mark.parametrize("name", CHAPTERS)
def test_moves_live(name, monkeypatch):
    """Every explorer of a chapter as in JupyterLab, with the small networks: no ImageNet weights are found."""
    monkeypatch.setenv("XCNN_EXPLORER", "live")
    monkeypatch.setenv("XCNN_STUDY", str(ROOT / "_build" / "study"))
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    monkeypatch.chdir(ROOT / "notebooks")
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in jupytext.read(f"{ROOT / name}.md").cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()):
                result = shell.run_cell(cell.source)
            result.raise_error()
            if isinstance(result.result, VBox):
                (clock, processor), (remembered, _) = moves(result.result), moves(result.result)
                print(
                    f"\n{name} by {', '.join(control.description for control in result.result.children[:-1])}"
                )
                print(
                    f"    the first time {quantiles(clock)}; of the processor {quantiles(processor)}"
                )
                print(f"    remembered     {quantiles(remembered)}", end="")
