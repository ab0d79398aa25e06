"""The built book, as a reader meets it: in a browser, without a kernel and without a network."""

import http.server
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium
from check_book import HTML, faults, pages

PAGES = pages()
EXPLORERS = ["book/intro", "book/gallery", *(page for page in PAGES if page.startswith("notebooks/"))]
START = 1_500_000  # bytes a page may need before it can be read


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def site():
    """The built book behind an address on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(HTML), **kwargs)

        def log_message(self, *args):
            pass

    if not HTML.exists():
        pytest.fail("the book is not built; run `make book` first (`make test` does)")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def visit(browser, site):
    """visit(page, **context) opens a page and notes its faults: console errors, requests that leave the site."""
    contexts = []

    def open_page(name, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.faults, page.bytes = [], 0
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.faults.append(str(e)))
        page.on("request", lambda r: page.faults.append(r.url) if not r.url.startswith((site, "data:")) else None)

        def weigh(response):
            page.bytes += len(response.body())

        page.on("response", weigh)
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(name):
    assert faults(name) == []


@pytest.mark.parametrize("name", PAGES)
def test_page_is_quiet_small_and_accessible(visit, name):
    page = visit(name)
    assert page.faults == []
    assert page.bytes <= START
    found = Axe().run(page, context=".bd-article").response["violations"]
    grave = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
    assert grave == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(visit, name, scheme):
    page = visit(name, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_changes_the_picture(visit, name):
    page = visit(name)
    explorers = page.locator(".xcnn-explore")
    assert explorers.count() >= (1 if name in ("book/intro", "notebooks/06_grad_cam") else 2)
    for k in range(explorers.count()):
        explorer = explorers.nth(k)
        picture = explorer.locator("img").first
        assert picture.get_attribute("alt")
        for control in explorer.locator("input[type=range], select").all():
            before = picture.get_attribute("src")
            if control.evaluate("e => e.tagName") == "SELECT":
                control.select_option(index=1)
            else:
                control.focus()
                control.press("ArrowRight")
            page.wait_for_function(
                "([i, s]) => i.getAttribute('src') !== s && i.complete && i.naturalWidth > 0",
                arg=[picture.element_handle(), before],
            )
    assert page.faults == []


@pytest.mark.parametrize("name", EXPLORERS)
def test_without_javascript_there_is_a_picture(visit, name):
    page = visit(name, java_script_enabled=False)
    for picture in page.locator(".xcnn-explore img").all():
        assert picture.evaluate("img => img.naturalWidth") > 200 and picture.bounding_box()["width"] > 200
    for control in page.locator(".xcnn-explore input, .xcnn-explore select").all():
        assert not control.is_visible()


def test_front_page_leads_on(visit):
    page = visit("book/intro")
    text = page.inner_text(".bd-article")
    assert "make lab" in text and "Why explain?" in text
    page.locator(".bd-article a", has_text="CAM").first.click()
    assert page.title()


def test_formulas_need_no_script(visit):
    page = visit("notebooks/06_grad_cam", java_script_enabled=False)
    assert page.locator("math").count() > 20
    assert page.locator(".bd-article >> text=/\\\\(sum|frac|alpha)/").count() == 0


def test_real_networks_or_one_line_that_says_so(visit):
    """Where weights are found the explorers offer them; where not, the chapter says it."""
    text = visit("notebooks/05_cam").content()
    found = (HTML.parents[1] / ".venv" / "weights.txt").read_text().split()
    assert all(name in text for name in found) if found else "No ImageNet weights were found" in text
