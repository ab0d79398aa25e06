"""The versions of the Colab tests are compared with the list that Colab publishes."""

import json

import pytest
import requests

from tools.book import compare_colab

OURS = [{"numpy": "2.0.2", "torch": "2.11.0"}, {"numpy": "2.1.3", "torch": "2.11.0"}]
MANY = "".join(f"package{k}==1.{k}\n" for k in range(200))


class Answer:
    def __init__(self, text, status=200):
        self.text = text
        self.status = status

    def raise_for_status(self):
        if self.status != 200:
            raise requests.HTTPError


@pytest.fixture
def colab(monkeypatch):
    """colab(text): what Colab publishes; returns the commands that `gh` would get."""
    monkeypatch.delenv("REPORT", raising=False)

    def publish(text, status=200, open_issues=()):
        commands = []

        class Done:
            stdout = json.dumps([{"title": title} for title in open_issues])

        def run(command, **options):
            commands.append(command)
            return Done

        monkeypatch.setattr(requests, "get", lambda address, timeout: Answer(text, status))
        monkeypatch.setattr(compare_colab.subprocess, "run", run)
        return commands

    return publish


def test_versions():
    text = "# a list\nNumPy==2.1.3\ntorch==2.11.0+cu128\nlazy_loader==0.5\nx @ file:///y\n\n"
    wanted = {"numpy": "2.1.3", "torch": "2.11.0", "lazy-loader": "0.5"}
    assert compare_colab.versions(text) == wanted


def test_a_package_differs_where_none_of_the_lists_has_its_version():
    published = {"numpy": "2.1.3", "torch": "2.12.0", "pandas": "3.0"}
    assert compare_colab.differences(OURS, published) == [("torch", "2.11.0", "2.12.0")]
    assert compare_colab.differences(OURS, {"numpy": "2.0.2"}) == []
    assert compare_colab.differences(OURS, {"numpy": "1.0"}) == [("numpy", "2.0.2, 2.1.3", "1.0")]


def own_list():
    return "\n".join(path.read_text() for path in compare_colab.LISTS)


def test_the_same_versions_are_fine(colab, capsys):
    commands = colab(own_list() + MANY)
    assert len(compare_colab.LISTS) == 2
    assert compare_colab.main() == 0 and not commands
    assert "are Colab's" in capsys.readouterr().out


def test_other_versions_are_told_and_reported_once(colab, monkeypatch):
    other = own_list().replace("torch==2.11.0", "torch==9.9.9") + MANY
    commands = colab(other)
    said = compare_colab.main()
    assert "| torch | 2.11.0 | 9.9.9 |" in said and "make test-colab" in said and not commands
    monkeypatch.setenv("REPORT", "yes")
    commands = colab(other)
    assert compare_colab.main() == said
    assert [command[2] for command in commands] == ["list", "create"] and said in commands[1]
    commands = colab(other, open_issues=[compare_colab.TITLE])
    assert compare_colab.main() == said
    assert [command[2] for command in commands] == ["list"]


def test_a_list_that_cannot_be_read_is_no_difference(colab, monkeypatch):
    monkeypatch.setenv("REPORT", "yes")
    commands = colab("", status=404)
    assert "cannot read Colab's list" in compare_colab.main() and not commands
    commands = colab("<html>moved</html>")
    assert "names 0 packages" in compare_colab.main() and not commands
