"""What a map costs by each library that has the method, beside one pass and one input gradient.

`make bench` runs this and puts it into data/results/bench.json; a page of the book shows it.
"""

import copy
import functools
import warnings

import pytest
import torch
import torchvision.models as zoo
import xcnn

from tests.bench.measure import UNIT, peak_memory, record, show, side_by_side, unit
from tests.helpers.oracles import within
from tests.helpers.peers import WAYS
from tests.helpers.places import SMALL
from tests.helpers.scoreboard import answers

NETWORKS = ["resnet18", "squeezenet1_1", "vgg11", *SMALL]
SECONDS = 40  # for each table; more where one round takes longer
# They run a network dozens to hundreds of times, so they get few rounds, and one picture.
SLOW = ("SmoothGrad", "integrated", "Score-CAM", "Ablation-CAM", "occlusion", "RISE", "LIME")
TOO_SLOW = {("resnet18", "Score-CAM"), ("vgg11", "Score-CAM")}  # minutes by each library
MAX_LENGTH = 120  # characters of a library's message
OURS_OR_ALONE = ("", "xcnn", "lime")  # libraries whose maps are compared with no other's
MAX_GRAD_CAM = 0.75  # of the unit


def network(name):
    """A network, with random weights where no trained ones come with the book.

    What a map costs does not depend on the weights.
    """
    torch.manual_seed(0)
    if name in SMALL:
        return xcnn.load(name)
    return xcnn.Network(zoo.get_model(name, weights=None).eval(), name)


def refusal(call, *args):
    """Why a library has no map here, or None.

    captum's LRP refuses some networks, and CAM needs a global average.
    """
    try:
        call(*args)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"[:MAX_LENGTH]
    return None


def difference(R, other):
    """The largest difference, as a share of the largest value; None where the shapes differ.

    pytorch-grad-cam stretches each map to [0, 1]; then ours is stretched too.
    """
    if R.shape != other.shape:
        return None
    if other.min() >= 0 and 0.99 < other.max() <= 1:
        R = stretched(R)
        other = stretched(other)
    return ((R - other).abs().max() / R.abs().max()).item()


def stretched(R):
    """Each map moved and scaled to [0, 1]."""
    R = R - R.amin((1, 2, 3), keepdim=True)
    return R / R.amax((1, 2, 3), keepdim=True)


def ways_to_maps(net, x, targets):
    """(method, library) -> call without arguments; first the unit. Refusals are printed."""
    calls = {(UNIT, ""): lambda: unit(net.module, x, targets)}
    for method, libraries in WAYS.items():
        if (net.name, method) in TOO_SLOW:
            print(f"{net.name}: {method} is left out")
            continue
        for library, prepare in libraries.items():
            call = prepare(copy.deepcopy(net.module), net.layer)
            if why := refusal(call, x, targets):
                print(f"{net.name}: no {method} by {library}: {why}")
            else:
                calls[method, library] = functools.partial(call, x, targets)
    return calls


def costs(calls, batch):
    """What each call costs; the slow ones with one picture only."""
    slow = {way: call for way, call in calls.items() if way[0].startswith(SLOW)}
    quick = {way: call for way, call in calls.items() if way not in slow}
    taken = side_by_side(quick, SECONDS)
    if batch == 1:
        first = (UNIT, "")
        times = side_by_side({first: calls[first]} | slow, 0)
        taken |= {way: times[way] for way in slow}
    return taken


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_cost(name, batch):
    net = network(name)
    x = within(torch.randn(batch, 3, net.size, net.size))
    targets = net.predict(x).argmax(1).tolist()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hooks, mostly
        calls = ways_to_maps(net, x, targets)
        for (method, library), cost in costs(calls, batch).items():
            row = {"network": name, "batch": batch, "method": method, "library": library, **cost}
            row["difference"] = None
            row["MB"] = peak_memory(calls[method, library])
            if library not in OURS_OR_ALONE:
                ours = calls[method, "xcnn"]().detach()
                row["difference"] = difference(ours, calls[method, library]().detach())
            rows.append(row)
    show(rows)
    record("costs", rows, "network", "batch")
    times = {(row["method"], row["library"]): row["times"] for row in rows}
    # Few rounds of eight pictures fit into the time, and of a small network the fixed cost shows.
    assert batch > 1 or name in SMALL or times["Grad-CAM", "xcnn"] <= MAX_GRAD_CAM


def test_scoreboard():
    """Which library is right: recorded here, asked again by tests/library/test_scoreboard.py."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(answers())
    for row in rows:
        print(*row.values())
    record("scoreboard", rows)
