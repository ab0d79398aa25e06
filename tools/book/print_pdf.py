"""Print the book on paper: `make pdf` joins the built pages, and Chromium prints them.

`prepare_page` makes a page ready for paper, `bind_pdf` joins the pages. Here the document is
printed, and the print is checked.
"""

import sys

import pikepdf
from bs4 import BeautifulSoup

from tools import ROOT
from tools.book.bind_pdf import bind
from tools.book.check_book import contents
from tools.book.open_chromium import chromium

TEXT_WIDTH = 658  # pixels between the margins that print.css sets: 174 mm
PRINT = {
    "prefer_css_page_size": True,
    "print_background": True,
    "outline": True,
    "tagged": True,
}

# Formulas and tables wider than the paper are drawn smaller, down to half: less could not be read.
SHRINK_WIDE_PARTS = """() => {
  for (const box of document.querySelectorAll("math, table")) {
    const part = box.matches("math") ? box.firstElementChild : box;
    const room = box.parentElement.closest("p, li, dd, td, th, div, section").clientWidth;
    const wide = () => part.getBoundingClientRect().width > room;
    for (let zoom = 1; wide() && zoom > 0.5; zoom -= 0.02) box.style.zoom = zoom;
  }
}"""

FILL_IN_PAGE_NUMBERS = """places => {
  for (const number of document.querySelectorAll("a .at")) {
    const place = decodeURIComponent(number.closest("a").hash.slice(1));
    number.textContent = places[place] ?? number.textContent;
  }
}"""

FIND_FAULTS = """() => {
  const page = document.documentElement.clientWidth;
  const over = tag => Math.round(tag.getBoundingClientRect().right - page);
  const wide = [...document.querySelectorAll("body *")]
    .filter(tag => over(tag) > 0 && over(tag.parentElement) <= 0)
    .map(tag => `this runs ${over(tag)} pixels off the page: ${tag.outerHTML.slice(0, 120)}`);
  const missing = [...document.images]
    .filter(image => !image.naturalWidth)
    .map(image => `${image.src} is missing`);
  return missing.concat(wide);
}"""


def print_document(source, target):
    """Print an HTML document into a PDF.

    The page numbers in the document are those of the print before. Printing is repeated until they
    agree with the new print.

    :param source: path of the document
    :param target: path of the PDF
    :return: what does not fit or is missing, as sentences
    """
    with chromium() as browser:
        page = _opened(browser, source)
        problems = page.evaluate(FIND_FAULTS)
        before = None
        places = {}
        while places != before:
            page.evaluate(FILL_IN_PAGE_NUMBERS, places)
            page.pdf(path=target, **PRINT)
            before = places
            with pikepdf.open(target) as pdf:
                places = page_numbers(pdf)
    _compress(target)
    return problems


def _opened(browser, source):
    """The document in the browser, laid out for paper."""
    page = browser.new_page(viewport={"width": TEXT_WIDTH, "height": 1000})
    page.emulate_media(media="print")
    page.goto(source.as_uri())
    page.evaluate("document.fonts.ready.then(() => null)")
    page.evaluate(SHRINK_WIDE_PARTS)
    return page


def _compress(target):
    """Compress the objects of a PDF: the accessibility tags alone are larger than all pictures."""
    with pikepdf.open(target, allow_overwriting_input=True) as pdf:
        pdf.save(target, object_stream_mode=pikepdf.ObjectStreamMode.generate)


def page_numbers(pdf):
    """Where the links of a PDF lead: name of a place -> number of its page, from 1."""
    numbers = {page.obj.objgen: number for number, page in enumerate(pdf.pages, 1)}
    return {
        name.removeprefix("/"): numbers[place[0].objgen]
        for name, place in pdf.Root.get("/Dests", {}).items()
    }


def faults(target, titles):
    """What is wrong with a printed book: links that lead nowhere, titles without a bookmark.

    :param target: path of the PDF
    :param titles: of its chapters
    :return: list of sentences
    """
    with pikepdf.open(target) as pdf, pdf.open_outline() as outline:
        problems = list(_dead_links(pdf))
        bookmarks = {bookmark.title for bookmark in outline.root}
    return problems + [f"no bookmark for {title}" for title in titles if title not in bookmarks]


def _dead_links(pdf):
    """Yield a sentence for each link that leads neither to a place in the PDF nor to the web."""
    places = page_numbers(pdf)
    for number, page in enumerate(pdf.pages, 1):
        for link in page.get("/Annots", []):
            place = str(link.get("/Dest", "")).removeprefix("/")
            address = str(link.A.get("/URI", "")) if "/A" in link else ""
            if place not in places and not address.startswith(("https:", "http:")):
                yield f"page {number}: a link leads nowhere: {place or address}"


def main():
    """Write _build/pdf/xcnn.pdf; returns what is wrong with it, a sentence a line, or 0."""
    folder = ROOT / "_build" / "pdf"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "book.html"
    target = folder / "xcnn.pdf"
    source.write_text(bind(contents()))
    document = BeautifulSoup(source.read_text(), "html.parser")
    titles = [heading.get_text() for heading in document.select("h1")]
    return "\n".join(print_document(source, target) + faults(target, titles)) or 0


if __name__ == "__main__":
    sys.exit(main())
