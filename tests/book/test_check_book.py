"""Links within the book must lead somewhere, and a page that is not whole must be named."""

import pytest

from tools.book import check_book

GOOD = [
    "",
    "#",
    "#top",
    "a%20folder/other.html",
    "a%20folder/other.html#here-%C3%BC",
    "page.html?q=1#top",
    "picture.svg#part",
    "https://a.org/no.html",
    "mailto:a@b.org",
    "data:image/png;base64,AA",
]
BAD = ["#gone", "a%20folder", "a%20folder/other.html#gone", "gone.html", "gone.svg"]
BAD_SOURCE = "page.html#also-gone"  # of a picture


def test_links_within_the_book(tmp_path):
    page = tmp_path / "page.html"
    other = tmp_path / "a folder" / "other.html"
    other.parent.mkdir()
    other.write_text('<h2 id="here-ü">Here</h2> <a href="../page.html">back</a>')
    (tmp_path / "picture.svg").write_text("<svg/>")
    links = "".join(f'<a href="{link}">x</a>' for link in [*GOOD, *BAD])
    page.write_text(
        f'<p id="top">{links}</p><img src="{BAD_SOURCE}"><pre>&lt;a href="never.html"&gt;</pre>'
    )
    assert list(check_book.broken(page)) == [*BAD, BAD_SOURCE]
    assert list(check_book.broken(other)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
        ('<img src="gone.png">', "gone.png leads nowhere"),
        (
            '<script type="application/json">{"frames": ["gone.webp"]}</script>',
            "frame gone.webp is missing",
        ),
        ("<pre>Traceback (most recent call last)</pre>", "a cell failed"),
        ('<div class="output stderr">x</div>', "a cell writes warnings"),
        (f"<p>{check_book.ROOT}</p>", "names a folder of this machine"),
    ],
)
def test_what_is_wrong_with_a_page_is_a_fault(tmp_path, monkeypatch, text, fault):
    monkeypatch.setattr(check_book, "HTML", tmp_path)
    assert check_book.faults("page") == ["page: the page was not built"]
    (tmp_path / "page.html").write_text(text)
    assert check_book.faults("page") == [f"page: {fault}"]
