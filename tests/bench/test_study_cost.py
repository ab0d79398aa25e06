"""What a study costs beside the peers called one by one, and CNN Fixations beside a gradient."""

import copy

import captum.attr
import pytest
import torch
import torchvision.models as zoo
import xcnn
from measure import side_by_side, table
from test_cost import UNIT, unit
from xcnn.study import maps

METHODS = ("gradient", "deconvnet", "guided_backprop", "grad_cam", "guided_grad_cam")
FAMILIES = ("vgg11", "resnet18", "squeezenet1_1", "googlenet", "densenet121")


def by_peers(module, layer, x, targets):
    """The same maps, each from the library that has it, for the whole batch at once."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    of = module.get_submodule(layer)
    yield captum.attr.Saliency(module).attribute(x.clone(), targets, abs=False)
    yield captum.attr.Deconvolution(module).attribute(x.clone(), targets)
    yield captum.attr.GuidedBackprop(module).attribute(x.clone(), targets)
    with GradCAM(model=module, target_layers=[of]) as cam:
        yield torch.from_numpy(cam(x, [ClassifierOutputTarget(c) for c in targets]))[:, None]
    yield captum.attr.GuidedGradCam(module, of).attribute(x.clone(), targets)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_records_per_second(name):
    """Eight pictures of 224 pixels by five methods are 40 records."""
    torch.manual_seed(0)
    module, x = zoo.get_model(name, weights=None).eval(), torch.randn(8, 3, 224, 224)
    net, peer, mask, targets = xcnn.Network(module, size=224), copy.deepcopy(module), torch.ones(224, 224) > 0, [0] * 8
    mask[:100] = False
    ways = {
        "xcnn study": lambda: [xcnn.energy_concentration(R, mask) for _, R, _ in maps(net, x, targets, METHODS)],
        "captum and pytorch-grad-cam": lambda: [
            xcnn.energy_concentration(R.detach(), mask) for R in by_peers(peer, net.layer, x, targets)
        ],
    }
    seconds = side_by_side(ways, 5)
    ours, theirs = (len(METHODS) * len(x) / seconds[way] for way in ways)
    print(f"\n{name}: {ours:.1f} records per second, by peers {theirs:.1f}: {ours / theirs:.2f} times as many")
    assert ours >= 1.5 * theirs


@pytest.mark.parametrize("name", FAMILIES)
def test_cost_of_fixations(name):
    torch.manual_seed(0)
    more = {"init_weights": False} if name == "googlenet" else {}
    module, x = zoo.get_model(name, weights=None, **more).eval(), torch.randn(1, 3, 224, 224)
    net = xcnn.Network(module, size=224)
    seconds = side_by_side({UNIT: unit(module, x), "xcnn cnn_fixations": lambda: xcnn.cnn_fixations(net, x, 0)}, 7)
    table(name, seconds, UNIT)
    assert seconds["xcnn cnn_fixations"] <= 3 * seconds[UNIT]
