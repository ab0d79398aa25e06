"""What a study costs beside the peers called one by one, and CNN Fixations beside a gradient."""

import copy

import pytest
import torch
import torchvision.models as zoo
import xcnn
from xcnn.study import maps

from tests.bench.measure import UNIT, side_by_side, unit
from tests.helpers.peers import WAYS

PEERS = {"gradient": "captum", "deconvnet": "captum", "guided backprop": "captum", "Grad-CAM": "pytorch-grad-cam",
         "Guided Grad-CAM": "captum"}  # fmt: skip
METHODS = ("gradient", "deconvnet", "guided_backprop", "grad_cam", "guided_grad_cam")
FAMILIES = ("vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_records_per_second(name):
    """Eight pictures of 224 pixels by five methods are 40 records."""
    torch.manual_seed(0)
    module, x = zoo.get_model(name, weights=None).eval(), torch.randn(8, 3, 224, 224)
    net, mask, targets = xcnn.Network(module, size=224), torch.ones(224, 224) > 0, [0] * 8
    mask[:100] = False
    calls = [
        WAYS[method][library](copy.deepcopy(module), net.layer) for method, library in PEERS.items()
    ]
    ways = {
        "xcnn study": lambda: [
            xcnn.energy_concentration(R, mask) for _, R, _ in maps(net, x, targets, METHODS)
        ],
        "peers": lambda: [
            xcnn.energy_concentration(call(x, targets).detach(), mask) for call in calls
        ],
    }
    times = side_by_side(ways, 5)["peers"]["times"]
    print(f"\n{name}: {times:.2f} times as many records per second as captum and pytorch-grad-cam")
    assert times >= 1.5


@pytest.mark.parametrize("name", FAMILIES)
def test_cost_of_fixations(name):
    torch.manual_seed(0)
    more = {"init_weights": False} if name == "googlenet" else {}
    module, x = zoo.get_model(name, weights=None, **more).eval(), torch.randn(1, 3, 224, 224)
    net = xcnn.Network(module, size=224)
    taken = side_by_side(
        {UNIT: lambda: unit(module, x, [0]), "ours": lambda: xcnn.cnn_fixations(net, x, 0)}, 7
    )["ours"]
    print(
        f"\n{name}: CNN Fixations cost {taken['times']:.2f} ({taken['low']:.2f} to {taken['high']:.2f}) of the unit"
    )
    assert taken["times"] <= 3
