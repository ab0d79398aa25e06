"""What the book says of which library is right: asked again."""

import json

import pytest

from tests.helpers.peers import WAYS
from tests.helpers.scoreboard import answers
from tools import ROOT

RECORDED = json.loads((ROOT / "data" / "results" / "bench.json").read_text())["scoreboard"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["xcnn", "captum", "pytorch-grad-cam", "zennit"])
def test_the_recorded_answers_come_out_again(library):
    recorded = [row for row in RECORDED if row["library"] == library]
    assert len(recorded) > 5
    without_why = lambda rows: [{key: v for key, v in row.items() if key != "why"} for row in rows]  # noqa: E731
    assert without_why(answers(library)) == without_why(recorded)


def test_every_answer_of_ours_is_right():
    assert {row["answer"] for row in RECORDED if row["library"] == "xcnn"} == {"right"}
    assert {row["library"] for row in RECORDED} < {
        library for ways in WAYS.values() for library in ways
    }
