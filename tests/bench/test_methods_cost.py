"""What a map costs by each library that has the method, all beside one forward pass and one input gradient.

`make bench` runs this and puts it into data/results/bench.json; a page of the book shows it.
"""

import copy
import warnings

import pytest
import torch
import torchvision.models as zoo
import xcnn

from tests.bench.measure import UNIT, peak_memory, record, show, side_by_side, unit
from tests.helpers.peers import WAYS
from tests.helpers.places import SMALL
from tests.helpers.scoreboard import answers

NETWORKS = ["resnet18", "squeezenet1_1", "vgg11", *SMALL]
SECONDS = 40  # for each table; more where one round takes longer


def network(name):
    """Random weights where no trained ones come with the book: what a map costs does not depend on them."""
    torch.manual_seed(0)
    return (
        xcnn.load(name)
        if name in SMALL
        else xcnn.Network(zoo.get_model(name, weights=None).eval(), name)
    )


def refusal(call, *args):
    """Why a library has no map here, or None: captum's LRP refuses some networks, CAM needs a global average."""
    try:
        call(*args)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"[:120]


def difference(R, other):
    """The largest difference, as a share of the largest value; pytorch-grad-cam stretches each map to [0, 1]."""
    if R.shape != other.shape:
        return None
    if other.min() >= 0 and 0.99 < other.max() <= 1:
        R, other = (v - v.amin((1, 2, 3), keepdim=True) for v in (R, other))
        R, other = (v / v.amax((1, 2, 3), keepdim=True) for v in (R, other))
    return ((R - other).abs().max() / R.abs().max()).item()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_cost(name, batch):
    net = network(name)
    x = torch.randn(batch, 3, net.size, net.size)
    targets = net.predict(x).argmax(1).tolist()
    calls, rows = {(UNIT, ""): lambda: unit(net.module, x, targets)}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hooks, mostly
        for method, libraries in WAYS.items():
            for library, prepare in libraries.items():
                call = prepare(copy.deepcopy(net.module), net.layer)
                if why := refusal(call, x, targets):
                    print(f"{name}: no {method} by {library}: {why}")
                else:
                    calls[method, library] = lambda call=call: call(x, targets)
        seconds = side_by_side({k: v for k, v in calls.items() if "LIME" not in k[0]}, SECONDS)
        if batch == 1:
            first = {k: v for k, v in calls.items() if k[0] == UNIT or "LIME" in k[0]}
            seconds |= {k: v for k, v in side_by_side(first, 0).items() if k[0] != UNIT}
        for (method, library), taken in seconds.items():
            more = {"difference": None, "MB": peak_memory(calls[method, library])}
            if library not in ("", "xcnn", "lime"):
                more["difference"] = difference(
                    *(calls[method, of]().detach() for of in ("xcnn", library))
                )
            rows.append(
                {"network": name, "batch": batch, "method": method, "library": library}
                | taken
                | more
            )
    show(rows)
    record("costs", rows, "network", "batch")
    costs = {(row["method"], row["library"]): row["times"] for row in rows}
    assert (
        batch > 1 or costs["Grad-CAM", "xcnn"] <= 0.75
    )  # few rounds of eight pictures fit into the time


def test_scoreboard():
    """Which library is right: recorded here, asked again by tests/test_scoreboard.py."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(answers())
    for row in rows:
        print(*row.values())
    record("scoreboard", rows)
