"""What the tests of gradient, deconvnet and guided backprop share: captum's maps, and one ReLU."""

import copy

import captum.attr
import torch
import torch.nn.functional as F
import xcnn
from torch import nn

from tests.helpers.oracles import TARGETS, assert_near, differs, images, network
from tests.helpers.places import SMALL
from tests.helpers.rewritten import by_autograd, rewritten

PEERS = {
    "gradient": captum.attr.Saliency,
    "deconvnet": captum.attr.Deconvolution,
    "guided_backprop": captum.attr.GuidedBackprop,
}
RULES = ["deconvnet", "guided_backprop"]  # that change the backward pass of a ReLU
WITH_MODULES = ["vgg_s", "resnet_s", "allconv_s", "vgg11", "resnet18", "squeezenet1_1"]
# Every ReLU here is a function or a ReLU6, and captum changes neither.
NOT_SEEN_THROUGH = ["googlenet", "inception_v3", "mobilenet_v2"]


def by_captum(method, module, x, target=TARGETS):
    """captum's map, from a copy of the network."""
    options = {"abs": False} if method == "gradient" else {}
    peer = PEERS[method](copy.deepcopy(module))
    return peer.attribute(x.clone(), torch.tensor(target), **options).detach()


def assert_equals_captum(method, name):
    """Two images through a network in which every ReLU is a module, in two precisions."""
    side = 128 if name in SMALL else 224
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=generator)
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        module = copy.deepcopy(network(name).module).to(dtype)
        R = xcnn.METHODS[method](module, x.to(dtype), TARGETS[:2])
        assert R.dtype == dtype
        assert_near(R, by_captum(method, module, x.to(dtype), TARGETS[:2]), tolerance)
        assert method == "gradient" or differs(R, xcnn.gradient(module, x.to(dtype), TARGETS[:2]))


def assert_equals_rewritten(method, name):
    """The map of a network, and autograd's of a copy whose ReLUs are modules that hold the rule."""
    net = network(name)
    x = images(name)
    R = xcnn.METHODS[method](net, x, TARGETS)
    assert_near(R, by_autograd(rewritten(name, net.module, method), x), 1e-12)
    assert method == "gradient" or differs(R, xcnn.gradient(net, x, TARGETS))


def assert_captum_gives_the_plain_gradient(method, name):
    """Where captum does not see a ReLU, it returns the plain gradient and says nothing."""
    net = network(name)
    x = images(name)
    plain = xcnn.gradient(net, x, TARGETS)
    assert_near(by_captum(method, net.module, x), plain, 1e-12)
    assert differs(xcnn.METHODS[method](net, x, TARGETS), plain)


def assert_differs_from_captum(method, name):
    net = network(name)
    x = images(name)
    assert differs(by_captum(method, net.module, x), xcnn.METHODS[method](net, x, TARGETS))


class OneReLU(nn.Module):
    """conv, ReLU, mean, linear.

    keeps: the network relies on what the ReLU does in place, not on what it returns.
    """

    def __init__(self, relu, keeps=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.relu = relu
        self.keeps = keeps

    def forward(self, x):
        A = self.conv(x)
        y = self.relu(A)
        return self.fc((A if self.keeps else y).mean((2, 3)))


def one_relu(relu, keeps=False):
    """A network of one ReLU in this spelling, and two images for it."""
    torch.manual_seed(0)
    return OneReLU(relu, keeps).eval().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def relu_on_a_view(x):
    x[:, :].relu_()
    return x


# spelling -> the ReLU
SPELLINGS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu by keyword": lambda x: F.relu(input=x, inplace=False),
    "torch.relu_": torch.relu_,
    "method": torch.Tensor.relu,
    "method in place": torch.Tensor.relu_,
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "hardtanh": nn.Hardtanh(0, 6),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0),
    "clamp_": lambda x: x.clamp_(min=0.0),
    "clip": lambda x: x.clip(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": nn.Threshold(0, 0),
    "torch.threshold": lambda x: torch.threshold(x, 0, 0),
    "clamp as relu6": lambda x: x.clamp(0, 6),
    "in place on a view": relu_on_a_view,
}


def works_in_place(spelling):
    return "in place" in spelling or spelling.endswith("_")
