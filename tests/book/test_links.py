"""Links: those within the book must lead somewhere; those outside are collected here, and asked by `make links`."""

import http.server
import threading

import pytest

from tools.book import check_book
from tools.book import check_links as links


@pytest.mark.parametrize(("text", "found"), [
    ("[arXiv 1](https://a.org/abs/1). · (https://b.org/x_(y)), <https://c.org/?q=1&r=2>", ["https://a.org/abs/1",
     "https://b.org/x_(y)", "https://c.org/?q=1&r=2"]),
    ("**https://a.org/**, `https://b.org/c`; see https://a.org/.", ["https://a.org/", "https://b.org/c"]),
    ("https://github.com/OWNER/xcnn/blob/main/a.py and https://github.com/YOU/xcnn", []),
    ("arXiv 1512.04150, as it stands in a chapter's text", []),
])  # fmt: skip
def test_addresses(text, found):
    assert links.addresses(text) == found


def test_collects_pages_chapters_and_docstrings(tmp_path):
    for name, text in {
        "README.md": "[one](https://one.org)",
        "book/page.md": "<https://two.org/a>",
        "notebooks/coursework/ps9.md": "https://one.org.",
        "lib/xcnn/m.py": '"""arXiv 1512.04150, eq. 2; doi 10.1371/journal.pone.0130140; doi 10.1007/978-3_10."""',
        "notebooks/student/made.ipynb": "https://made.from/md",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert links.collect(tmp_path) == {
        "https://one.org": ["README.md", "notebooks/coursework/ps9.md"],
        "https://two.org/a": ["book/page.md"],
        "https://arxiv.org/abs/1512.04150": ["lib/xcnn/m.py"],
        "https://doi.org/10.1371/journal.pone.0130140": ["lib/xcnn/m.py"],
        "https://doi.org/10.1007/978-3_10": ["lib/xcnn/m.py"],
    }


def test_collects_from_this_book():
    found = links.collect()
    places = {place.split("/")[0] for places in found.values() for place in places}
    assert places >= {"book", "data", "lib", "notebooks"}
    papers = found["https://arxiv.org/abs/1610.02391"]
    assert {"book/references.md", "lib/xcnn/grad_cam.py", "notebooks/06_grad_cam.md"} <= set(papers)


@pytest.fixture
def server(monkeypatch):
    """A server on this machine whose paths say how to answer: /404, or /405/200 for a HEAD and a GET."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self, which=0):
            self.send_response(int(self.path.split("/")[1:][which]))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD(-1)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.mark.parametrize(("path", "said"), [
    ("200", "ok"), ("405/200", "ok"), ("404", "404 Not Found"), ("403", "shut"), ("500/404", "404 Not Found"),
])  # fmt: skip
def test_answers(server, path, said):
    assert links.answer(f"{server}/{path}") == said


def test_no_server(server):
    taken = http.server.HTTPServer(("127.0.0.1", 0), None, bind_and_activate=False)
    taken.server_bind()  # a port of our own, at which nobody listens
    assert links.answer(f"http://127.0.0.1:{taken.server_port}/") == "unreachable"
    taken.server_close()


def asked(monkeypatch, capsys, answers):
    monkeypatch.setattr(
        links, "collect", lambda: {address: ["book/page.md"] for address in answers}
    )
    monkeypatch.setattr(links, "answer", answers.get)
    with pytest.raises(SystemExit) as end:
        links.main()
    return end.value.code, capsys.readouterr().out.splitlines()


def test_summary(monkeypatch, capsys):
    code, lines = asked(monkeypatch, capsys, {"https://a.org": "ok", "https://b.org": "shut"})
    assert not code and lines == ["2 addresses: 1 answer, 1 do not answer programs"]
    code, lines = asked(
        monkeypatch, capsys, {"https://a.org": "ok", "https://b.org": "404 Not Found"}
    )
    assert code == 1 and lines[0] == "404 Not Found: https://b.org, in book/page.md"


def test_without_a_network_there_is_one_line(monkeypatch, capsys):
    code, lines = asked(
        monkeypatch, capsys, dict.fromkeys(["https://a.org", "https://b.org"], "unreachable")
    )
    assert code == "no network: none of the 2 addresses could be reached" and lines == []


def test_links_within_the_book(tmp_path):
    page, other = tmp_path / "page.html", tmp_path / "a folder" / "other.html"
    other.parent.mkdir()
    other.write_text('<h2 id="here-ü">Here</h2> <a href="../page.html">back</a>')
    (tmp_path / "picture.svg").write_text("<svg/>")
    good = ["", "#", "#top", "a%20folder/other.html", "a%20folder/other.html#here-%C3%BC", "page.html?q=1#top",
            "picture.svg#part", "https://a.org/no.html", "mailto:a@b.org", "data:image/png;base64,AA"]  # fmt: skip
    bad = [
        "#gone",
        "a%20folder",
        "a%20folder/other.html#gone",
        "gone.html",
        "gone.svg",
        "page.html#also-gone",
    ]
    text = "".join(f'<a href="{link}">x</a>' for link in [*good, *bad[:-1]])
    page.write_text(
        f'<p id="top">{text}</p><img src="{bad[-1]}"><pre>&lt;a href="never.html"&gt;</pre>'
    )
    assert list(check_book.broken(page)) == bad
    assert list(check_book.broken(other)) == []


@pytest.mark.parametrize(("text", "fault"), [
    ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
    ('<img src="gone.png">', "gone.png leads nowhere"),
    ('<script type="application/json">{"frames": ["gone.webp"]}</script>', "frame gone.webp is missing"),
    ("<pre>Traceback (most recent call last)</pre>", "a cell failed"),
    ('<div class="output stderr">x</div>', "a cell writes warnings"),
    (f"<p>{check_book.ROOT}</p>", "names a folder of this machine"),
])  # fmt: skip
def test_what_is_wrong_with_a_page_is_a_fault(tmp_path, monkeypatch, text, fault):
    monkeypatch.setattr(check_book, "HTML", tmp_path)
    assert check_book.faults("page") == ["page: the page was not built"]
    (tmp_path / "page.html").write_text(text)
    assert check_book.faults("page") == [f"page: {fault}"]
