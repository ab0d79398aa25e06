"""Long work says how long it will take; short work says nothing."""

import tempfile

import nbformat
import pytest
import torch
import xcnn
from nbclient import NotebookClient
from torch import nn
from traitlets.config import Config
from xcnn.engine.progress import progress, timed


def work(runs, seconds):
    with progress("LIME", runs, seconds) as done:
        for _ in range(runs):
            done(1)


def test_short_work_shows_nothing(capsys):
    work(10, 0.4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "says"), [(1, "about 10 s"), (60, "about 10 min")])
def test_long_work_says_how_long(capsys, seconds, says):
    work(10, seconds)
    shown = capsys.readouterr().err
    assert f"LIME, {says}" in shown


def test_the_seconds_of_a_call():
    value, seconds = timed(lambda: 3)
    assert value == 3 and 0 <= seconds < 60


class Slow(nn.Module):
    """A network whose every run takes what the test says it takes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1).square())


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("integrated_gradients", {"steps": 4}, "integrated gradients: 4 gradients, about"),
        ("smooth_grad", {"samples": 3}, "SmoothGrad: 3 gradients, about"),
        ("occlusion", {"side": 4}, "occlusion: 10 runs, about"),
        ("rise", {"masks": 5}, "RISE: 5 runs, about"),
        ("score_cam", {}, "Score-CAM: 4 runs, about"),
        ("ablation_cam", {}, "Ablation-CAM: 4 runs above the layer, about"),
        ("lime", {"samples": 12, "segments": 4}, "LIME: 12 runs, about"),
        ("shap_cam", {"samples": 3}, "Shap-CAM: 148 coalitions, about"),
    ],
)
def test_methods_that_run_the_network_many_times_say_so(monkeypatch, capsys, method, options, says):
    monkeypatch.setattr("xcnn.engine.progress.SHOWN_FROM", 0)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    getattr(xcnn, method)(Slow().eval(), x, 1, **options)
    assert says in capsys.readouterr().err


def test_fewer_orders_where_there_are_many_positions():
    from xcnn.methods.shap_cam import MAX_ORDERS, MAX_RUNS, MIN_ORDERS, _orders_without_table

    assert _orders_without_table(49) == MAX_ORDERS
    assert _orders_without_table(28**2) == MAX_RUNS // 785 == 20
    assert _orders_without_table(112**2) == MIN_ORDERS


def test_no_bars_on_the_pages_of_the_book(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = """
from xcnn.engine.progress import progress
with progress("LIME", runs=10, seconds_per_run=1) as done:
    done(10)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with tempfile.TemporaryDirectory() as folder:
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(notebook, config=sockets).execute()
    assert notebook.cells[0].outputs == []
    assert "widgets" not in notebook.metadata
