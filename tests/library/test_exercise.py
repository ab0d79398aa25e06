"""The frame around an exercise's check: open, right or wrong, each in its own way."""

import pytest
from xcnn.exercise import check


def test_a_right_answer_is_called_right(capsys):
    with check("Exercise 1"):
        assert 1 + 1 == 2
    assert capsys.readouterr().out == "Exercise 1: right.\n"


def test_an_open_exercise_is_not_an_error(capsys):
    def answer():
        raise NotImplementedError

    with check("Exercise 2"):
        answer()
        pytest.fail("what comes after the answer must not run")
    said = capsys.readouterr().out
    assert said.startswith("Exercise 2 is still open: write your answer") and "right" not in said


@pytest.mark.parametrize("error", [AssertionError("the sum of 1 and 1 is 2"), ZeroDivisionError()])
def test_a_wrong_answer_explains_itself(error, capsys):
    with pytest.raises(type(error)) as raised, check("Exercise 3"):
        raise error
    assert raised.value is error and capsys.readouterr().out == ""
