"""The built book, as a reader meets it: in a browser, without a kernel and without a network."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

from tests.helpers.browser import chromium
from tools import ROOT
from tools.book.check_book import HTML, faults, pages
from tools.book.serve import served

PAGES = pages()
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
EXPLORERS = ["book/intro", "book/gallery", "book/bench", *CHAPTERS]
REDIRECTS = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())["sphinx"]["config"][
    "redirects"
]
WITH_ONE_EXPLORER = ("book/intro", "book/bench")  # the others have more
MAX_BYTES = 1_500_000  # that a page needs before it can be read
# Of cumulative layout shift. Up to 0.1 is called good; a picture without a size gives more.
MAX_SHIFT = 0.02
MAX_TABS = 80  # to an element of the page
TIMEOUT = 120_000  # milliseconds, because the machine may be busy
SCROLLS_LATE = 400  # milliseconds after which the theme has looked which boxes scroll
WIDTHS = (1280, 768, 360)  # pixels
FILE_NAME_OR_TAG = re.compile(r"/|\.(png|webp|svg|jpe?g)\b|<\w+ ")

# What sticks out of the column of text: only tables, code and formulas may be wider, each in a box
# that scrolls.
STICKS_OUT = """() => {
    const page = document.documentElement;
    const column = document.querySelector(".bd-article-container");
    const found = [];
    for (const box of [page, column])
        if (box.scrollWidth > box.clientWidth)
            found.push(`${box.className || "page"} scrolls sideways`);
    const edge = column.getBoundingClientRect().right + 1;
    for (const e of column.querySelectorAll("*"))
        if (e.getBoundingClientRect().right > edge && !e.closest("table, pre, .math-block"))
            found.push(e.outerHTML);
    for (const e of column.querySelectorAll("img, form, input, select, figure"))
        if (e.offsetWidth > e.parentElement.clientWidth + 1)
            found.push(e.outerHTML);
    return found.map((text) => text.slice(0, 160));
}"""

# Boxes that have to be scrolled to be read whole: code, formulas, tables.
SCROLLS_SIDEWAYS = """() =>
    [...document.querySelectorAll(".bd-article *")]
        .filter((box) => !/visible|hidden/.test(getComputedStyle(box).overflowX))
        .filter((box) => box.scrollWidth > box.clientWidth + 1)
        .map((box) => `${box.scrollWidth - box.clientWidth} pixels: ${box.textContent}`)
        .map((text) => text.slice(0, 99))
"""

# One token of each colour and one formula in each kind of place are enough for axe, and a chapter
# has thousands.
ONE_OF_EACH_KIND = """() => {
    const met = new Set();
    function thin(all, kind, plain) {
        for (const e of document.querySelectorAll(all))
            met.has(kind(e)) ? plain(e) : met.add(kind(e));
    }
    const place = (e) => `${e.parentElement.tagName} ${e.parentElement.className}`;
    thin(".highlight span", (e) => e.className, (e) => e.replaceWith(...e.childNodes));
    thin("math", place, (e) => (e.textContent = "x"));
}"""

# All layout shifts count, also those within half a second after a key, which browsers leave out of
# their own sum. Each picture is fetched when it is asked for, as for a reader who saves data.
PREPARE = """
    Object.defineProperty(navigator.connection, "saveData", { value: true });
    window.shift = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries())
            window.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
"""

OPEN_ALL = "document.querySelectorAll('details').forEach((e) => (e.open = true))"
THEME_IS = "scheme => document.documentElement.dataset.theme === scheme"
SHOWS_ANOTHER = """([img, src, alt]) => {
    const loaded = img.complete && img.naturalWidth > 0;
    return loaded && img.getAttribute("src") !== src && img.alt !== alt;
}"""


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
    """visit(page, **context) opens a page; `page.faults` and `page.bytes` say what it did."""
    contexts = []

    def open_page(name, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        watch(page, site)
        if options.get("java_script_enabled", True):
            page.add_init_script(PREPARE)
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


def watch(page, site):
    """Note on a page its size, and its faults: console errors and requests that leave the site."""
    page.faults = []
    page.bytes = 0

    def on_console(message):
        if message.type == "error":
            page.faults.append(message.text)

    def on_error(error):
        page.faults.append(str(error))

    def on_request(request):
        if not request.url.startswith((site, "data:")):
            page.faults.append(request.url)

    def on_response(response):
        page.bytes += int(response.headers["content-length"])

    page.on("console", on_console)
    page.on("pageerror", on_error)
    page.on("request", on_request)
    page.on("response", on_response)


def grave(page, **options):
    """What axe finds serious or critical on the whole page, the theme's own parts included."""
    options["resultTypes"] = ["violations"]
    options["preload"] = False  # axe would ask for style sheets at wrong addresses
    violations = Axe().run(page, options=options).response["violations"]
    return [
        (violation["id"], node["html"][:160])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def turn(page, scheme):
    """Switch between the light and the dark colours."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(THEME_IS, arg=scheme)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(name):
    assert faults(name) == []


class Pictures(HTMLParser):
    """The pictures of a page, as dicts of attributes, and the data of its explorers."""

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
    on_page = Pictures(name)
    # The style sheet gives the logo its size.
    pictures = [img for img in on_page.all if "logo__image" not in img.get("class", "")]
    for img in pictures:
        assert int(img["width"]) > 0 and int(img["height"]) > 0, (
            f"{img['src']}: the text below it would jump"
        )
    alts = [img["alt"] for img in pictures]
    for explorer in on_page.explorers:
        alts += explorer["alts"]
        frames = list(zip(explorer["alts"], explorer["frames"], strict=True))
        last = dict(frames)
        twice = {alt for alt, frame in frames if last[alt] != frame}
        assert not twice, "frames that differ are told apart"
    for alt in alts:
        assert len(alt.split()) >= 4 and not FILE_NAME_OR_TAG.search(alt), alt


@pytest.mark.parametrize("name", PAGES)
def test_page_is_quiet_small_and_readable(visit, name):
    desktop = {"width": 1280, "height": 800}
    page = visit(name, viewport=desktop, color_scheme="light", reduced_motion="reduce")
    assert page.bytes <= MAX_BYTES
    page.evaluate(OPEN_ALL)
    for scheme in "light", "dark":
        turn(page, scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(STICKS_OUT) == [], (scheme, width)
    page.evaluate(ONE_OF_EACH_KIND)
    page.wait_for_timeout(SCROLLS_LATE)
    # on a phone, which has other buttons
    assert grave(page, rules={"color-contrast": {"enabled": False}}) == []
    page.set_viewport_size(desktop)
    assert grave(page, runOnly=["color-contrast"]) == []  # in the dark
    turn(page, "light")
    assert grave(page) == []
    assert page.faults == []


def tab_to(page, wanted, most=MAX_TABS):
    """Press Tab until an element that matches `wanted` has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    pytest.fail(f"{most} times Tab do not lead to {wanted}")


def move(page, explorer, control):
    """Choose the next option of a control that has the focus, by a key; another picture appears."""
    picture = explorer.locator("img")
    before = [picture.element_handle(), picture.get_attribute("src"), picture.get_attribute("alt")]
    is_slider = control.get_attribute("type") == "range"
    page.keyboard.press("ArrowRight" if is_slider else "ArrowDown")
    page.wait_for_function(SHOWS_ANOTHER, arg=before)
    if is_slider:
        value = explorer.locator(f"output[for={control.get_attribute('id')}]").inner_text()
        assert value == control.get_attribute("aria-valuetext") != ""


def assert_has_focus(control):
    """The control has the focus, and a ring shows it."""
    assert control.evaluate("e => e === document.activeElement")
    ring = control.evaluate("e => getComputedStyle(e).outline")
    assert "solid" in ring and "3px" in ring, ring


@pytest.mark.parametrize("name", EXPLORERS)
def test_explorers_need_only_a_keyboard(visit, name):
    page = visit(name)
    tab_to(page, ".skip-link a", most=1)
    assert page.locator(".skip-link").bounding_box()["height"] > 20
    page.keyboard.press("Enter")
    tab_to(page, ".xcnn-explore *")  # past the sidebars

    explorers = page.locator(".xcnn-explore").all()
    assert len(explorers) >= (1 if name in WITH_ONE_EXPLORER else 2)
    first, *others = explorers
    for number, control in enumerate(first.locator("input, select").all()):
        if number > 0:
            page.keyboard.press("Tab")
        assert_has_focus(control)
        move(page, first, control)
    alt = first.locator("img").get_attribute("alt")
    # A screen reader is told after a while, once.
    first.get_by_role("status").filter(has_text=alt).wait_for(state="attached")
    for explorer in others:
        for control in explorer.locator("input, select").all():
            control.focus()
            assert_has_focus(control)
            move(page, explorer, control)
    assert page.evaluate("shift") <= MAX_SHIFT
    hint_and_solution = page.locator(".bd-article details").all()[:2] if name in CHAPTERS else []
    for folded in hint_and_solution:
        folded.locator("summary").focus()
        page.keyboard.press("Enter")
        assert folded.evaluate("e => e.open")
    assert page.faults == []


@pytest.mark.parametrize("name", ["book/intro", "book/gallery", "notebooks/08_grad_cam"])
def test_without_javascript_there_is_a_picture(visit, name):
    page = visit(name, java_script_enabled=False)
    for picture in page.locator(".xcnn-explore img").all():
        assert picture.evaluate("img => img.naturalWidth") > 200
        assert picture.bounding_box()["width"] > 200
    for control in page.locator(".xcnn-explore input, .xcnn-explore select").all():
        assert not control.is_visible()


def test_front_page_leads_on(visit):
    page = visit("book/intro")
    text = page.inner_text(".bd-article")
    assert "make lab" in text and "Why explain?" in text
    page.locator(".bd-article a", has_text=re.compile("^CAM$")).first.click()
    page.wait_for_url("**/07_cam.html")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize(
    "wish, link, page_name",
    [
        ("understand", "Chapter 1, Perceptron", "01_perceptron.html"),
        ("use it on my model", "A network of your own", "how_to.html#a-network-of-your-own"),
        ("teach", "For instructors", "instructor.html"),
        ("check somebody’s map", "My map looks wrong", "wrong_map.html"),
    ],
)
def test_four_wishes_lead_to_four_pages(visit, wish, link, page_name, width):
    page = visit("book/intro", viewport={"width": width, "height": 800})
    page.locator("tr", has_text=wish).get_by_role("link", name=link).click()
    page.wait_for_url(f"**/{page_name}")
    assert page.locator(".bd-article h1").count() == 1


def test_what_is_asked_for_most_is_one_click_away(visit):
    page = visit("book/intro")
    for name in "play", "which_method", "wrong_map", "report", "gallery", "instructor":
        assert page.locator(f".bd-article a[href^='{name}.html']").count() >= 1, name
    best = page.locator(".bd-article .xcnn-explore img").first
    assert best.bounding_box()["y"] < 500  # the picture is seen without scrolling


def test_formulas_need_no_script(visit):
    page = visit("notebooks/08_grad_cam", java_script_enabled=False)
    assert page.locator("math").count() > 20


@pytest.mark.parametrize("name", PAGES)
def test_formulas_hold_no_commands(name):
    """A command that the converter does not know stands there as text."""
    formulas = re.findall(r"<math.*?</math>", (HTML / f"{name}.html").read_text(), re.S)
    assert [formula for formula in formulas if "\\" in formula] == []


def test_real_networks_with_weights_or_without(visit):
    """Where weights are found the explorers offer them; where not, recorded pictures stand."""
    text = visit("notebooks/07_cam").content()
    networks = (HTML.parents[1] / ".venv" / "weights.txt").read_text().split()
    recorded = ["squeezenet1_1", "mobilenet_v2", "resnet18"]
    assert all(name in text for name in networks or recorded)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_scrolls_sideways_at_1200_pixels(visit, name):
    page = visit(name, viewport={"width": 1200, "height": 800})
    page.evaluate(OPEN_ALL)
    assert page.evaluate(SCROLLS_SIDEWAYS) == []
    assert page.evaluate(STICKS_OUT) == []


@pytest.mark.parametrize("old, new", REDIRECTS.items())
def test_an_old_address_leads_to_the_new_page(visit, old, new):
    page = visit(old)
    page.wait_for_url(f"**/{new}")
    assert page.locator(".bd-article h1").count() == 1
