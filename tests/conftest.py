"""What the tests share: where things are, and real networks and photographs where there are any."""

import os

import matplotlib
import pytest
import torch
import xcnn
from hypothesis import settings

from tests.helpers.places import REAL

matplotlib.use("Agg")
# for `pytest --hypothesis-profile long`, see oracles.examples
settings.register_profile("long", max_examples=15_000)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, with one processor each
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_ignore_collect(collection_path, config):
    """Timings run only where they are asked for: `pytest tests/bench -s`."""
    asked_for = any("bench" in arg for arg in config.invocation_params.args)
    return True if collection_path.name == "bench" and not asked_for else None


@pytest.fixture
def real(monkeypatch):
    """The folder of real material, its networks loadable without a download."""
    if not (REAL / "torch_home").exists():
        pytest.skip(
            f"no real networks and photographs in {REAL}; set XCNN_REAL to a folder that has them"
        )
    monkeypatch.setenv("TORCH_HOME", str(REAL / "torch_home"))
    xcnn.load.cache_clear()
    yield REAL
    xcnn.load.cache_clear()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and no weights on disk: the empty TORCH_HOME."""

    def refuse(*_args, **_kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    xcnn.load.cache_clear()
    yield tmp_path
    xcnn.load.cache_clear()
