"""What the book says of which library is right: asked again."""

import json

import pytest

from tests.helpers.peers import WAYS
from tests.helpers.scoreboard import answers
from tools import ROOT

RECORDED = json.loads((ROOT / "data" / "results" / "bench.json").read_text())["scoreboard"]


def without_why(rows):
    """The rows without the messages of other libraries, which change."""
    return [{key: value for key, value in row.items() if key != "why"} for row in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["xcnn", "captum", "pytorch-grad-cam", "torch-cam", "zennit"])
def test_the_recorded_answers_come_out_again(library):
    recorded = [row for row in RECORDED if row["library"] == library]
    assert len(recorded) > 5
    assert without_why(answers(library)) == without_why(recorded)


def test_every_answer_of_ours_is_right():
    assert {row["answer"] for row in RECORDED if row["library"] == "xcnn"} == {"right"}
    libraries = {library for ways in WAYS.values() for library in ways}
    assert {row["library"] for row in RECORDED} < libraries
