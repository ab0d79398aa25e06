"""The built book, as a reader meets it: in a browser, without a kernel and without a network."""

import json
import re
from html.parser import HTMLParser

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.helpers.browser import chromium, served
from tools.book.check_book import HTML, faults, pages

PAGES = pages()
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
EXPLORERS = ["book/intro", "book/gallery", "book/bench", *CHAPTERS]
START = 1_500_000  # bytes a page may need before it can be read
SHIFT = 0.02  # of cumulative layout shift; up to 0.1 is called good, and a picture without a size gives more than that

# What sticks out of the column of text: only tables, code and formulas may be wider, each in a box that scrolls.
STICKS_OUT = """() => {
    const found = [], page = document.documentElement, column = document.querySelector(".bd-article-container");
    for (const box of [page, column])
        if (box.scrollWidth > box.clientWidth) found.push(`${box.className || "page"} scrolls sideways`);
    const edge = column.getBoundingClientRect().right + 1;
    for (const e of column.querySelectorAll("*"))
        if (e.getBoundingClientRect().right > edge && !e.closest("table, pre, .math-block")) found.push(e.outerHTML);
    for (const e of column.querySelectorAll("img, form, input, select, figure"))
        if (e.offsetWidth > e.parentElement.clientWidth + 1) found.push(e.outerHTML);
    return found.map((text) => text.slice(0, 160));
}"""

# One token of each colour and one formula in each kind of place are enough for axe, and a chapter has thousands.
ONE_OF_EACH_KIND = """() => {
    const met = new Set();
    function thin(all, kind, plain) {
        for (const e of document.querySelectorAll(all)) met.has(kind(e)) ? plain(e) : met.add(kind(e));
    }
    thin(".highlight span", (e) => e.className, (e) => e.replaceWith(...e.childNodes));
    thin("math", (e) => `${e.parentElement.tagName} ${e.parentElement.className}`, (e) => (e.textContent = "x"));
}"""

# Shifts: all of them, also what follows a key within half a second, which browsers leave out of their own sum.
# Pictures: each when it is asked for, as for a reader who saves data.
PREPARE = """
    Object.defineProperty(navigator.connection, "saveData", { value: true });
    window.shift = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.shift += entry.value)))
        .observe({ type: "layout-shift", buffered: true });
"""

SHOWS_ANOTHER = """([img, src, alt]) =>
    img.getAttribute("src") !== src && img.alt !== alt && img.complete && img.naturalWidth > 0"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def site():
    """The built book behind an address on this machine."""
    if not HTML.exists():
        pytest.fail("the book is not built; run `make book` first (`make test` does)")
    with served(HTML) as address:
        yield address


@pytest.fixture
def visit(browser, site):
    """visit(page, **context) opens a page and notes its faults: console errors, requests that leave the site."""
    contexts = []

    def open_page(name, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(120_000)  # the machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.faults, page.bytes = [], 0
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.faults.append(str(e)))
        page.on(
            "request",
            lambda r: page.faults.append(r.url) if not r.url.startswith((site, "data:")) else None,
        )

        def weigh(response):
            page.bytes += int(response.headers["content-length"])

        page.on("response", weigh)
        if options.get("java_script_enabled", True):
            page.add_init_script(PREPARE)
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


def grave(page, **options):
    """What axe finds serious or critical on the whole page, the theme's own parts included."""
    options |= {
        "resultTypes": ["violations"],
        "preload": False,
    }  # it would ask for style sheets at wrong addresses
    found = Axe().run(page, options=options).response["violations"]
    found = [violation for violation in found if violation["impact"] in ("serious", "critical")]
    return [
        (violation["id"], node["html"][:160]) for violation in found for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(name):
    assert faults(name) == []


class Pictures(HTMLParser):
    """The pictures of a page, as dicts of attributes, and what its explorers say."""

    def __init__(self, name):
        super().__init__()
        text = (HTML / f"{name}.html").read_text()
        self.all = []
        self.feed(text)
        listings = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
        self.explorers = [json.loads(listing) for listing in listings]

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.all.append(dict(attributes))


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_a_size_and_words(name):
    found = Pictures(name)
    pictures = [
        img for img in found.all if "logo__image" not in img.get("class", "")
    ]  # the style sheet sizes the logo
    for img in pictures:
        assert int(img["width"]) > 0 and int(img["height"]) > 0, (
            f"{img['src']}: the text below it would jump"
        )
    alts = [img["alt"] for img in pictures]
    for explorer in found.explorers:
        alts += explorer["alts"]
        named = dict(zip(explorer["alts"], explorer["frames"], strict=True))
        twice = {
            alt
            for alt, frame in zip(explorer["alts"], explorer["frames"], strict=True)
            if named[alt] != frame
        }
        assert not twice, "frames that differ are told apart"
    for alt in alts:
        assert len(alt.split()) >= 4 and not re.search(r"/|\.(png|webp|svg|jpe?g)\b|<\w+ ", alt), (
            alt
        )


@pytest.mark.parametrize("name", PAGES)
def test_page_is_quiet_small_and_readable(visit, name):
    page = visit(
        name, viewport={"width": 1280, "height": 800}, color_scheme="light", reduced_motion="reduce"
    )
    assert page.bytes <= START
    page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    for scheme in "light", "dark":
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
        )
        for width in 1280, 768, 360:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(STICKS_OUT) == [], (scheme, width)
    page.evaluate(ONE_OF_EACH_KIND)
    page.wait_for_timeout(
        400
    )  # the theme looks after a while which boxes scroll now, and lets the keyboard in
    assert (
        grave(page, rules={"color-contrast": {"enabled": False}}) == []
    )  # a phone has other buttons
    page.set_viewport_size({"width": 1280, "height": 800})
    assert grave(page, runOnly=["color-contrast"]) == []  # in the dark
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")
    assert grave(page) == []
    assert page.faults == []


def tab_to(page, wanted, most=80):
    """Press Tab until an element that matches `wanted` has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    pytest.fail(f"{most} times Tab do not lead to {wanted}")


@pytest.mark.parametrize("name", EXPLORERS)
def test_explorers_need_only_a_keyboard(visit, name):
    page = visit(name)
    tab_to(page, ".skip-link a", most=1)
    assert page.locator(".skip-link").bounding_box()["height"] > 20
    page.keyboard.press("Enter")
    tab_to(page, ".xcnn-explore *")  # past the sidebars

    explorers = page.locator(".xcnn-explore").all()
    assert len(explorers) >= (
        1 if name in ("book/intro", "book/bench", "notebooks/06_grad_cam") else 2
    )
    for explorer in explorers:
        picture, said = explorer.locator("img"), explorer.get_by_role("status")
        controls = explorer.locator("input, select").all()
        for k, control in enumerate(controls):
            if explorer is explorers[0]:
                page.keyboard.press("Tab") if k else None
            else:
                control.focus()
            assert control.evaluate("e => e === document.activeElement")
            ring = control.evaluate("e => getComputedStyle(e).outline")
            assert "solid" in ring and "3px" in ring, ring
            before = [
                picture.element_handle(),
                picture.get_attribute("src"),
                picture.get_attribute("alt"),
            ]
            slides = control.get_attribute("type") == "range"
            page.keyboard.press("ArrowRight" if slides else "ArrowDown")
            page.wait_for_function(SHOWS_ANOTHER, arg=before)
            if slides:
                value = explorer.locator(f"output[for={control.get_attribute('id')}]").inner_text()
                assert value == control.get_attribute("aria-valuetext") != ""
        if explorer is explorers[0]:  # after a while, once
            said.filter(has_text=picture.get_attribute("alt")).wait_for(state="attached")
    assert page.evaluate("shift") <= SHIFT
    for folded in (
        page.locator(".bd-article details").all()[:2] if name in CHAPTERS else []
    ):  # a hint and its solution
        folded.locator("summary").focus()
        page.keyboard.press("Enter")
        assert folded.evaluate("e => e.open")
    assert page.faults == []


@pytest.mark.parametrize("name", ["book/intro", "book/gallery", "notebooks/06_grad_cam"])
def test_without_javascript_there_is_a_picture(visit, name):
    page = visit(name, java_script_enabled=False)
    for picture in page.locator(".xcnn-explore img").all():
        assert (
            picture.evaluate("img => img.naturalWidth") > 200
            and picture.bounding_box()["width"] > 200
        )
    for control in page.locator(".xcnn-explore input, .xcnn-explore select").all():
        assert not control.is_visible()


def test_front_page_leads_on(visit):
    page = visit("book/intro")
    text = page.inner_text(".bd-article")
    assert "make lab" in text and "Why explain?" in text
    page.locator(".bd-article a", has_text=re.compile("^CAM$")).first.click()
    page.wait_for_url("**/05_cam.html")


def test_formulas_need_no_script(visit):
    page = visit("notebooks/06_grad_cam", java_script_enabled=False)
    assert page.locator("math").count() > 20


@pytest.mark.parametrize("name", PAGES)
def test_formulas_hold_no_commands(name):
    """A command that the converter does not know stands there as text."""
    found = re.findall(r"<math.*?</math>", (HTML / f"{name}.html").read_text(), re.S)
    assert [formula for formula in found if "\\" in formula] == []


def test_real_networks_or_one_line_that_says_so(visit):
    """Where weights are found the explorers offer them; where not, the chapter says it."""
    text = visit("notebooks/05_cam").content()
    found = (HTML.parents[1] / ".venv" / "weights.txt").read_text().split()
    assert (
        all(name in text for name in found) if found else "No ImageNet weights were found" in text
    )
