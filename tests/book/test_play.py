"""The page where readers try their own pictures, in a browser, beside the library."""

import io
import json
import os
import re

import numpy as np
import psutil
import pytest
import torch
import xcnn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from xcnn import loading, photos, scenes

from tests.helpers.browser import chromium
from tools.book import make_play
from tools.book.check_book import HTML
from tools.book.serve import served

TIMEOUT = 120_000  # milliseconds, because the machine may be busy
MAX_BYTES = 300_000  # of the page's own files, before the reader presses Start
CLOSE = 1e-4  # of a map's largest value
# A rounding may decide on which side of 0 a unit stands, and such a unit changes a map by more. So
# many of a network's maps may be further away, and none by more than this.
FEW = 0.15
FAR = 0.05
DONE = "version => window.xcnnPlay.settled > version"
GRID = 14  # squares along a side, which can be covered
LEAK = 80e6  # bytes after fifty changes


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def site():
    if not (HTML / "book" / "play.html").exists():
        pytest.fail("the book is not built; run `make book` first (`make test` does)")
    about = json.loads((HTML / "_static" / "play" / "about.json").read_text())
    if about["missing"]:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave(about["missing"])
    with served(HTML) as address:
        yield address


class Play:
    """The page, opened; `faults` are console errors and requests that leave the site."""

    def __init__(self, context, site, hash=""):
        self.page = context.new_page()
        self.faults = []
        self.bytes = 0
        self.site = site
        self.page.on("console", lambda m: m.type == "error" and self.faults.append(m.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._watch)
        self.page.on("response", self._weigh)
        self.page.goto(f"{site}/book/play.html{hash}", wait_until="networkidle")

    def _watch(self, request):
        if not request.url.startswith((self.site, "blob:", "data:")):
            self.faults.append(request.url)

    def _weigh(self, response):
        if "/_static/play/" in response.url:
            self.bytes += len(response.body())

    def start(self):
        self.page.click("#play button")
        self.settle(0)
        return self

    def version(self):
        """Of the last question after whose answer the page had nothing more to do."""
        return self.page.evaluate("window.xcnnPlay.settled ?? 0")

    def settle(self, before):
        """Wait until a later question than this one has been answered, and none is left."""
        self.page.wait_for_function(DONE, arg=before)

    def choose(self, label, value):
        before = self.version()
        self.page.get_by_label(label, exact=True).select_option(value)
        self.settle(before)

    def type(self, label, value):
        before = self.version()
        control = self.page.get_by_label(label, exact=True)
        control.fill(value)
        control.press("Enter")
        self.settle(before)

    def upload(self, content, name="picture.png"):
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        self.page.locator("input[type=file]").set_input_files(file)

    def computed(self):
        """What the page computed last: x and w as tensors, and the maps of both panels."""
        last = self.page.evaluate(
            """() => JSON.parse(JSON.stringify(window.xcnnPlay, (key, value) =>
                value instanceof Float32Array ? Array.from(value) : value))"""
        )
        return last

    def said(self):
        return self.page.locator(".play-said").inner_text()


def tensor(value):
    return torch.tensor(value["data"]).view(*value["dims"])


def as_png(image):
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def play(browser, site):
    """play(hash="", **context) opens the page."""
    contexts = []

    def open_page(hash="", **options):
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        return Play(context, site, hash)

    yield open_page
    for context in contexts:
        context.close()


def test_little_is_loaded_before_the_start(play):
    opened = play()
    assert 0 < opened.bytes < MAX_BYTES
    assert opened.faults == []


@pytest.mark.parametrize("name", loading.SMALL)
def test_the_page_computes_what_the_library_does(play, name):
    opened = play(f"#network={name}&picture=a+pizza+beside+a+clock").start()
    net = xcnn.load(name)
    opened.type("class", "pizza")
    opened.type("and not", "clock")
    before = opened.version()
    opened.upload(noisy_scene())
    opened.settle(before)
    gaps = []
    methods = opened.page.evaluate("[...document.querySelectorAll('select')].at(-1).options.length")
    assert methods >= 13
    for method in opened.page.evaluate(
        "[...[...document.querySelectorAll('select')].at(-1).options]"
        ".filter((one) => !one.disabled).map((one) => one.value)"
    ):
        if opened.page.get_by_label("beside it", exact=True).input_value() != method:
            opened.choose("beside it", method)
        last = opened.computed()
        assert last["beside"]["method"] == method
        x = tensor(last["x"])
        R = xcnn.METHODS[method](net, x, xcnn.versus("pizza", "clock"))
        own = tensor(last["beside"]["map"])
        gaps.append(((own - R).abs().max() / R.abs().max()).item())
    S = net.module(x)
    assert torch.allclose(tensor(last["scores"]), S, atol=1e-3)
    assert np.mean(np.array(gaps) > CLOSE) <= FEW and max(gaps) <= FAR
    assert opened.faults == []


def noisy_scene():
    """A scene with noise, as a file: in its even areas a rounding would decide between values."""
    pixels = np.array(scenes.render(15, count=2).image, float)
    noise = np.random.default_rng(0).uniform(0, 255, pixels.shape)
    return as_png(Image.fromarray((0.9 * pixels + 0.1 * noise).astype(np.uint8)))


def test_layers_and_the_address(play):
    opened = play("#network=resnet_s&method=hires_cam&layer=layer1&beside=grad_cam").start()
    last = opened.computed()
    assert last["method"]["file"] == "hires_cam.layer1.onnx"
    before = opened.version()
    opened.page.get_by_label("layer", exact=True).press("ArrowRight")
    opened.settle(before)
    assert opened.computed()["beside"]["file"] == "grad_cam.layer2.onnx"
    assert "layer=layer2" in opened.page.url and "method=hires_cam" in opened.page.url
    opened.choose("network", "allconv_s")
    assert "network=allconv_s" in opened.page.url
    assert opened.computed()["x"]["dims"] == [1, 3, 128, 128]
    assert opened.faults == []


def test_what_a_network_lacks(play):
    opened = play("#network=vgg_s&method=cam&class=horse").start()
    assert opened.computed()["method"]["method"] == "grad_cam"
    assert opened.page.get_by_label("method", exact=True).input_value() == "grad_cam"
    opened.type("class", "horse")
    assert opened.said() == 'vgg_s knows no class "horse".'
    opened.type("class", "clock")
    assert opened.said() == ""


def test_many_changes_at_once_end_with_the_last(play):
    opened = play().start()
    before = opened.version()
    box = opened.page.locator(".play-seen canvas").bounding_box()
    opened.page.mouse.move(box["x"] + 2, box["y"] + 2)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 2, steps=40)
    opened.page.mouse.up()
    opened.page.wait_for_function(
        "before => window.xcnnPlay.settled > before && window.xcnnPlay.x.data[127] === 0",
        arg=before,
    )
    assert not tensor(opened.computed()["x"])[0, :, 0].any()


def test_covered_squares_are_the_mean_colour(play):
    opened = play().start()
    before = opened.version()
    canvas = opened.page.locator(".play-seen canvas")
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", " "):
        canvas.press(key)
    opened.settle(before)
    x = tensor(opened.computed()["x"])[0]
    second = [k for k in range(128) if k * GRID // 128 == 1]
    covered = (x == 0).all(0).nonzero().tolist()
    assert covered == [[row, column] for row in second for column in second]
    before = opened.version()
    opened.page.get_by_text("Cover all", exact=True).click()
    opened.settle(before)
    assert not tensor(opened.computed()["x"]).any()


def test_from_the_front_page_to_a_map_of_ones_own_picture_in_three_actions(browser, site):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.goto(f"{site}/book/intro.html", wait_until="networkidle")
    page.get_by_role("link", name="Try your own picture").last.click()  # 1
    page.locator("#play button").click()  # 2
    page.wait_for_function(DONE, arg=0)
    before = page.evaluate("window.xcnnPlay.settled")
    photo = {"name": "cat.png", "mimeType": "image/png", "buffer": as_png(photos.load("cat"))}
    page.locator("input[type=file]").set_input_files(photo)  # 3
    page.wait_for_function(DONE, arg=before)
    assert page.locator("figure canvas").count() == 3
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_everywhere(play, scheme):
    opened = play(color_scheme=scheme, viewport={"width": 1280, "height": 900}).start()
    page = opened.page
    for width in (1280, 768, 360):
        page.set_viewport_size({"width": width, "height": 900})
        sticks_out = page.evaluate(
            "() => [...document.querySelectorAll('#play *')].filter((e) => "
            "e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
        )
        assert sticks_out == 0, width
    violations = Axe().run(page, context="#play").response["violations"]
    assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []


def test_a_keyboard_is_enough(play):
    opened = play()
    page = opened.page
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Start":
            break
    page.keyboard.press("Enter")
    opened.settle(0)
    reached = set()
    page.locator("input[type=file]").focus()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"BUTTON", "SELECT", "INPUT", "CANVAS"} <= reached


@pytest.mark.parametrize("side", [1, 3500])
def test_pictures_of_any_size(play, side):
    opened = play().start()
    before = opened.version()
    opened.upload(as_png(Image.new("RGB", (side, side), (200, 30, 60))))
    opened.settle(before)
    assert opened.said() == ""


@pytest.mark.parametrize("content", [b"", b"not a picture", as_png(scenes.render(1).image)[:99]])
def test_a_file_that_is_not_a_picture_is_one_clear_line(play, content):
    opened = play().start()
    opened.upload(content, "notes.txt")
    opened.page.wait_for_function("document.querySelector('.play-said').textContent !== ''")
    assert re.search(r'"notes.txt" is not a picture .* try JPEG or PNG', opened.said())


def test_a_denied_camera_is_one_clear_line(play):
    opened = play(permissions=[]).start()
    opened.page.get_by_text("Camera", exact=True).click()
    opened.page.wait_for_function("document.querySelector('.play-said').textContent !== ''")
    assert "choose a file" in opened.said()


def test_fifty_changes_leave_no_memory_behind(play):
    def memory():
        children = psutil.Process().children(recursive=True)
        return max((one.memory_info().rss for one in children if one.is_running()), default=0)

    opened = play().start()
    names = ["googlenet_s", "allconv_s", "resnet_s", "vgg_s"]
    for name in names * 2:  # all that is kept is there now
        opened.choose("network", name)
    before = memory()
    for k in range(50):
        opened.choose("beside it", ["gradient", "lrp"][k % 2])
    assert memory() - before < LEAK
    assert opened.faults == []


# ---- what is made for the page


def test_without_npm_the_page_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_play, "FOLDER", tmp_path / "play")
    monkeypatch.setattr(make_play, "npm_command", lambda: None)
    make_play.main()
    assert "there is no npm" in capsys.readouterr().out
    about = json.loads((tmp_path / "play" / "about.json").read_text())
    assert not about["runtime"] and "there is no npm" in about["missing"]
    assert about["networks"] == []
    make_play.main()  # as when the book is built again
    assert "there is no npm" in capsys.readouterr().out


def test_where_npm_cannot_be_reached_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(make_play, "NPM", tmp_path / "npm")
    monkeypatch.setattr(make_play, "FOLDER", tmp_path / "play")
    monkeypatch.setattr(make_play, "npm_command", lambda: ["false"])
    assert "could not bring onnxruntime-web" in make_play.fetch_runtime()


def test_without_onnx_the_page_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_play, "FOLDER", tmp_path / "play")
    monkeypatch.setattr(make_play, "fetch_runtime", lambda: None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    make_play.main()
    assert "pip install onnx" in capsys.readouterr().out


def test_the_lock_names_versions_and_hashes_and_no_address():
    text = (make_play.LOCKED[1]).read_text()
    packages = json.loads(text)["packages"]
    assert all(one.get("integrity") for name, one in packages.items() if name)
    assert "http" not in re.sub(r'"url": "https://[^"]*"', "", text)
