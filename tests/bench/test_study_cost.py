"""What a study costs beside the peers called one by one, and CNN Fixations beside a gradient."""

import copy

import pytest
import torch
import torchvision.models as zoo
import xcnn
from xcnn.methods import explain_all

from tests.bench.measure import UNIT, side_by_side, unit
from tests.helpers.peers import WAYS

PEERS = {
    "gradient": "captum",
    "deconvnet": "captum",
    "guided backprop": "captum",
    "Grad-CAM": "pytorch-grad-cam",
    "Guided Grad-CAM": "captum",
}
METHODS = ("gradient", "deconvnet", "guided_backprop", "grad_cam", "guided_grad_cam")
FAMILIES = ("vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121")
MAX_FIXATIONS = 3  # times the unit


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_records_per_second(name):
    """Eight pictures of 224 pixels by five methods are 40 records."""
    torch.manual_seed(0)
    module = zoo.get_model(name, weights=None).eval()
    x = torch.randn(8, 3, 224, 224)
    net = xcnn.Network(module, size=224)
    mask = torch.ones(224, 224) > 0
    mask[:100] = False
    targets = [0] * 8
    peers = [
        WAYS[method][library](copy.deepcopy(module), net.layer) for method, library in PEERS.items()
    ]

    def study():
        maps = explain_all(net, x, targets, METHODS)
        return [xcnn.energy_concentration(R, mask) for _, R, _ in maps]

    def one_by_one():
        return [xcnn.energy_concentration(peer(x, targets).detach(), mask) for peer in peers]

    times = side_by_side({"xcnn study": study, "peers": one_by_one}, 5)["peers"]["times"]
    print(f"\n{name}: {times:.2f} times as many records per second as captum and pytorch-grad-cam")
    assert times >= 1.5


@pytest.mark.parametrize("name", FAMILIES)
def test_cost_of_fixations(name):
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    module = zoo.get_model(name, weights=None, **options).eval()
    x = torch.randn(1, 3, 224, 224)
    net = xcnn.Network(module, size=224)
    calls = {UNIT: lambda: unit(module, x, [0]), "ours": lambda: xcnn.cnn_fixations(net, x, 0)}
    cost = side_by_side(calls, 7)["ours"]
    print(
        f"\n{name}: CNN Fixations cost {cost['times']:.2f} "
        f"({cost['low']:.2f} to {cost['high']:.2f}) of the unit"
    )
    assert cost["times"] <= MAX_FIXATIONS
