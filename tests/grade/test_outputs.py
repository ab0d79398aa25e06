"""What is kept of a notebook's outputs and replies: text only, cut, and counted."""

from nbformat.v4 import new_code_cell
from xcnn.grade import outputs
from xcnn.grade.outputs import Outputs, read_reply
from xcnn.grade.run import Outcome


def kept(*contents, output=1e6):
    """What a cell keeps of these outputs, and how much more it may keep."""
    cell = new_code_cell("")
    outcome = Outcome(bytes_left=output)
    keeper = Outputs(cell, outcome)
    for content in contents:
        keeper.add(content)
    return cell.outputs, outcome.bytes_left


def test_outputs_are_text_only():
    odd = {"image/png": ["x"], "text/plain": 3, "text/html": {"a": "b"}, "x": "y\ud800"}
    (shown,), _ = kept({"output_type": "display_data", "data": odd, "metadata": {"a": "b"}})
    assert shown.data == {"x": "y?"} and shown.metadata == {}
    error = {"output_type": "error", "ename": 3, "evalue": None, "traceback": ["a", 3, None]}
    (shown,), _ = kept(error)
    assert (shown.ename, shown.evalue, shown.traceback) == ("", "", ["a", "", ""])
    assert kept({"output_type": "update"}, {}, {"output_type": ["stream"]})[0] == []


def test_streams_are_joined_and_cleared_and_cut():
    def say(text, name="stdout"):
        return {"output_type": "stream", "name": name, "text": text}

    shown, left = kept(say("a"), say("b"), say("c", "stderr"), say(3))
    assert ["".join(output.text) for output in shown] == ["ab", "c", ""]
    assert left == 1e6 - 3 - 4 * 2 * outputs.MIN_TEXT_BYTES
    assert kept(say("a"), {"output_type": "clear"})[0] == []
    shown, left = kept(say("a" * 60), say("b" * 60), say("c"), output=100)
    assert ["".join(output.text) for output in shown] == ["a" * 60] and left < 0
    many = [{"output_type": "display_data", "data": {"text/plain": "x"}}] * 3000
    assert len(kept(*many)[0]) == outputs.MAX_OUTPUTS


def test_empty_texts_and_names_count_and_are_bounded():
    error = {"output_type": "error", "traceback": [""] * 50_000}
    (shown,), left = kept(error)
    assert len(shown.traceback) == outputs.MAX_LINES and left <= 1e6 - 20 * outputs.MAX_LINES
    data = {"x" * 1000 + str(number): "" for number in range(5000)}
    (shown,), left = kept({"output_type": "display_data", "data": data})
    assert len(shown.data) <= outputs.MAX_KINDS and left < 1e6


def test_replies_are_cut():
    reply = read_reply({"status": "fine", "ename": "E" * 10_000, "evalue": "a\nb", "value": None})
    assert reply.status == "error" and len(reply.ename) == outputs.MAX_WORDS
    assert reply.evalue == "a" and reply.value is None
    assert read_reply({"status": "ok", "value": ["1"]}).value == ""
    assert read_reply({"status": "ok", "value": "1.5"}).value == "1.5"
