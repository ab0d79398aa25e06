"""Addresses outside the book: they are collected here, and asked by `make links`."""

import http.server
import threading

import pytest

from tools.book import check_links


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        (
            "[arXiv 1](https://a.org/abs/1). · (https://b.org/x_(y)), <https://c.org/?q=1&r=2>",
            ["https://a.org/abs/1", "https://b.org/x_(y)", "https://c.org/?q=1&r=2"],
        ),
        (
            "**https://a.org/**, `https://b.org/c`; see https://a.org/.",
            ["https://a.org/", "https://b.org/c"],
        ),
        ("https://github.com/OWNER/xcnn/blob/main/a.py and https://github.com/YOU/xcnn", []),
        ("arXiv 1512.04150, as it stands in a chapter's text", []),
    ],
)
def test_addresses(text, addresses):
    assert check_links.addresses(text) == addresses


DOCSTRING = '"""arXiv 1512.04150, eq. 2; doi 10.1371/journal.pone.0130140; doi 10.1007/978-3_10."""'


def test_collects_pages_chapters_and_docstrings(tmp_path):
    for name, text in {
        "README.md": "[one](https://one.org)",
        "book/page.md": "<https://two.org/a>",
        "notebooks/coursework/ps9.md": "https://one.org.",
        "lib/xcnn/m.py": DOCSTRING,
        "notebooks/student/made.ipynb": "https://made.from/md",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check_links.collect(tmp_path) == {
        "https://one.org": ["README.md", "notebooks/coursework/ps9.md"],
        "https://two.org/a": ["book/page.md"],
        "https://arxiv.org/abs/1512.04150": ["lib/xcnn/m.py"],
        "https://doi.org/10.1371/journal.pone.0130140": ["lib/xcnn/m.py"],
        "https://doi.org/10.1007/978-3_10": ["lib/xcnn/m.py"],
    }


def test_collects_from_this_book():
    collected = check_links.collect()
    folders = {place.split("/")[0] for places in collected.values() for place in places}
    assert folders >= {"book", "data", "lib", "notebooks"}
    grad_cam = set(collected["https://arxiv.org/abs/1610.02391"])
    assert grad_cam >= {
        "book/references.md",
        "lib/xcnn/methods/grad_cam.py",
        "notebooks/08_grad_cam.md",
    }


@pytest.fixture
def server(monkeypatch):
    """A server on this machine whose paths say how to answer: /404, or HEAD/GET as in /405/200."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.reply(self.path.split("/")[1])

        def do_GET(self):
            self.reply(self.path.split("/")[-1])

        def reply(self, status):
            self.send_response(int(status))
            self.end_headers()

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("200", "ok"),
        ("405/200", "ok"),
        ("404", "404 Not Found"),
        ("403", "shut"),
        ("500/404", "404 Not Found"),
    ],
)
def test_answers(server, path, said):
    assert check_links.answer(f"{server}/{path}") == said


def test_no_server(server):
    taken = http.server.HTTPServer(("127.0.0.1", 0), None, bind_and_activate=False)
    taken.server_bind()  # a port of our own, at which nobody listens
    assert check_links.answer(f"http://127.0.0.1:{taken.server_port}/") == "unreachable"
    taken.server_close()


def asked(monkeypatch, capsys, answers):
    """The exit status of the tool, or its last words, and the lines that it prints.

    :param answers: address -> what it answers
    """
    places = {address: ["book/page.md"] for address in answers}
    monkeypatch.setattr(check_links, "collect", lambda: places)
    monkeypatch.setattr(check_links, "answer", answers.get)
    with pytest.raises(SystemExit) as end:
        check_links.main()
    return end.value.code, capsys.readouterr().out.splitlines()


def test_summary(monkeypatch, capsys):
    answers = {"https://a.org": "ok", "https://b.org": "shut"}
    code, lines = asked(monkeypatch, capsys, answers)
    assert not code and lines == ["2 addresses: 1 answer, 1 do not answer programs"]
    answers = {"https://a.org": "ok", "https://b.org": "404 Not Found"}
    code, lines = asked(monkeypatch, capsys, answers)
    assert code == 1 and lines[0] == "404 Not Found: https://b.org, in book/page.md"


def test_without_a_network_there_is_one_line(monkeypatch, capsys):
    answers = dict.fromkeys(["https://a.org", "https://b.org"], "unreachable")
    code, lines = asked(monkeypatch, capsys, answers)
    assert code == "no network: none of the 2 addresses could be reached" and lines == []
