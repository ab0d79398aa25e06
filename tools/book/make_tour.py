"""Record a tour of the built book: `make video` writes _build/static/tour.webm.

Chromium shows the pages; each paragraph of book/tour.md is spoken while they are shown, by the
voice of flite where it is installed, and is a caption. Without a voice the captions stand alone.
`show` puts the film on the front page, with its captions; the words stand there always.
"""

import base64
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

from tools import ROOT
from tools.book.check_book import HTML
from tools.book.open_chromium import chromium
from tools.book.serve import served

TEXT = ROOT / "book" / "tour.md"
FILM = ROOT / "_build" / "static" / "tour.webm"
CAPTIONS = FILM.with_suffix(".vtt")
PLAYER = ROOT / "_build" / "tour.html"  # what book/tour.md includes
SIZE = {"width": 1280, "height": 720}
ENLARGED = 1.3  # so that text can be read in a small film
VOICE = ("flite", "-voice", "slt", "--setf", "duration_stretch=1.15")
PAUSE = 0.7  # seconds after each paragraph
WORDS_PER_SECOND = 2.3  # without a voice
# Pages stand still for seconds: five pictures a second are enough, at a quality that text needs.
ENCODING = "-vf fps=5,format=yuv420p -c:v libvpx-vp9 -crf 36 -b:v 0".split()
ENCODING += "-deadline realtime -cpu-used 6 -c:a libopus -b:a 32k".split()
CAPTION_WORDS = 14  # at once: more could not be read
SHOWS_ANOTHER = "([img, src]) => img.getAttribute('src') !== src && img.complete"


@dataclass
class Scene:
    """A page of the book, and what happens on it: functions of the Playwright page."""

    page: str
    steps: list


def see(selector, number=0):
    """A step: bring the element into view."""

    def step(page):
        element = page.locator(selector).nth(number)
        element.evaluate("e => e.scrollIntoView({ block: 'start' })")
        page.evaluate("window.scrollBy(0, -90)")  # below the bar at the top

    return step


def choose(explorer, control, value):
    """A step: move a control of an explorer; its picture follows."""

    def step(page):
        figure = page.locator(".xcnn-explore").nth(explorer)
        box = figure.locator("input, select").nth(control)
        before = figure.locator("img").get_attribute("src")
        if box.get_attribute("type") == "range":
            box.fill(str(value))
        else:
            box.select_option(index=value)
        picture = figure.locator("img").element_handle()
        page.wait_for_function(SHOWS_ANOTHER, arg=[picture, before])

    return step


def unfold(text):
    """A step: open what is folded under this summary, and bring it into view."""

    def step(page):
        summary = page.locator("summary", has_text=text).first
        summary.click()
        summary.evaluate("e => e.scrollIntoView({ block: 'center' })")

    return step


def start(page):
    """A step: start the page of one's own picture, where it was built with its networks."""
    button = page.locator(".play-start button")
    if button.is_visible():
        button.click()
        page.wait_for_function("window.xcnnPlay?.settled")
        see(".play canvas")(page)


FIGURES = ".xcnn-explore"
SCENES = [
    Scene("book/intro", [see("h1"), see(FIGURES)]),
    Scene("book/intro", [see(FIGURES), choose(0, 0, 1), choose(0, 1, 1), choose(0, 1, 2)]),
    Scene("notebooks/08_grad_cam", [see("h1"), see("#the-idea h2"), see("#from-scratch h2")]),
    Scene(
        "notebooks/08_grad_cam",
        [see(FIGURES, 1), *(choose(1, control, 1) for control in (1, 0, 2))],
    ),
    Scene("notebooks/14_contest", [see("img[alt*='level with the grey controls']")]),
    Scene("notebooks/14_contest", [see("#what-a-map-keeps h2")]),
    Scene("book/play", [see("h1"), start]),
    Scene("notebooks/08_grad_cam", [see("#exercises h2"), unfold("Hint")]),
    Scene("book/how_to", [see("h1"), see("#a-network-of-your-own h2")]),
]


def paragraphs():
    """What is said, a text for each scene."""
    return re.findall(r"^\d+\. (.+)$", TEXT.read_text(), re.M)


def speak(text, path):
    """Write the spoken text as a WAV file, silence where there is no voice; its seconds."""
    if shutil.which(VOICE[0]):
        subprocess.run([*VOICE, "-t", text, "-o", path], check=True, capture_output=True)
    else:
        seconds = len(text.split()) / WORDS_PER_SECOND
        with wave.open(str(path), "wb") as silence:
            silence.setparams((1, 2, 16000, 0, "NONE", ""))
            silence.writeframes(bytes(2 * int(16000 * seconds)))
    with wave.open(str(path)) as sound:
        return sound.getnframes() / sound.getframerate()


def photograph(scenes, folder):
    """The pictures of each scene, one after each of its steps."""
    taken = []
    with served(HTML) as address, chromium() as browser:
        viewport = {side: round(pixels / ENLARGED) for side, pixels in SIZE.items()}
        options = {"reduced_motion": "reduce", "color_scheme": "light"}
        page = browser.new_page(viewport=viewport, device_scale_factor=ENLARGED, **options)
        for number, scene in enumerate(scenes):
            page.goto(f"{address}/{scene.page}.html", wait_until="networkidle")
            page.add_style_tag(content="#pst-back-to-top { visibility: hidden }")
            taken.append([])
            for place, step in enumerate(scene.steps):
                step(page)
                page.wait_for_timeout(300)
                path = folder / f"{number:02}_{place:02}.png"
                page.screenshot(path=path)
                taken[-1].append(path)
    return taken


def captions(texts, lengths):
    """The texts as WebVTT: each is cut into lines that are shown in turn."""
    cues = ["WEBVTT"]
    start = 0
    for text, seconds in zip(texts, lengths, strict=True):
        words = text.split()
        parts = -(-len(words) // CAPTION_WORDS)
        size = -(-len(words) // parts)
        at = start
        for first in range(0, len(words), size):
            line = words[first : first + size]
            end = at + seconds * len(line) / len(words)
            cues.append(f"{_time(at)} --> {_time(end)}\n{' '.join(line)}")
            at = end
        start += seconds + PAUSE
    return "\n\n".join(cues) + "\n"


def _time(seconds):
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes):02}:{rest:06.3f}"


def film(pictures, sounds, lengths, target):
    """Join pictures and sounds into a WebM file."""
    import imageio_ffmpeg  # here, because only this command needs it

    folder = sounds[0].parent
    shown = []
    for scene, seconds in zip(pictures, lengths, strict=True):
        each = (seconds + PAUSE) / len(scene)
        shown += [f"file '{path}'\nduration {each:.3f}" for path in scene]
    (folder / "shown.txt").write_text("\n".join([*shown, f"file '{pictures[-1][-1]}'"]) + "\n")
    padded = ";".join(f"[{k + 1}]apad=pad_dur={PAUSE}[s{k}]" for k in range(len(sounds)))
    joined = "".join(f"[s{k}]" for k in range(len(sounds)))
    run = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    run += ["-f", "concat", "-safe", "0", "-i", folder / "shown.txt"]
    for path in sounds:
        run += ["-i", path]
    run += ["-filter_complex", f"{padded};{joined}concat=n={len(sounds)}:v=0:a=1[a]"]
    seconds = sum(lengths) + PAUSE * len(lengths)
    run += ["-map", "0:v", "-map", "[a]", *ENCODING, "-t", f"{seconds:.3f}", target]
    subprocess.run(run, check=True)


def show():
    """Write what the front page includes: the film and its captions where they are there."""
    PLAYER.parent.mkdir(parents=True, exist_ok=True)
    if not FILM.exists():
        PLAYER.write_text("<!-- `make video` records the tour -->\n")
        return
    # In the address itself: a page opened as a file may not load captions from another file.
    text = base64.b64encode(CAPTIONS.read_bytes()).decode()
    PLAYER.write_text(
        f'<video class="tour" controls preload="none" width="{SIZE["width"]}" '
        f'height="{SIZE["height"]}" src="../_static/{FILM.name}">'
        f'<track kind="captions" srclang="en" label="English" default '
        f'src="data:text/vtt;base64,{text}"></video>\n'
    )


def main():
    """Record the tour."""
    texts = paragraphs()
    if not shutil.which(VOICE[0]):
        print(f"There is no {VOICE[0]}, which would speak: the captions stand alone")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Recording the tour: about a minute", flush=True)
        pictures = photograph(SCENES, folder)
        sounds = [folder / f"{k:02}.wav" for k in range(len(texts))]
        lengths = [speak(text, path) for text, path in zip(texts, sounds, strict=True)]
        FILM.parent.mkdir(parents=True, exist_ok=True)
        film(pictures, sounds, lengths, FILM)
        CAPTIONS.write_text(captions(texts, lengths))
    minutes, seconds = divmod(round(sum(lengths) + PAUSE * len(lengths)), 60)
    print(f"The tour is at {FILM.relative_to(ROOT)}: {minutes}:{seconds:02} minutes")


if __name__ == "__main__":
    show() if sys.argv[1:] == ["show"] else main()
