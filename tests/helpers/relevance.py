"""What the tests of LRP share: small networks with anything between their layers."""

import copy

import torch
import xcnn
from torch import nn


class Between(nn.Module):
    """Whatever comes between a convolution and a linear layer."""

    def __init__(self, between, width=4, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.between = between
        self.fc = nn.Linear(width, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.fc(self.between(self.conv(x)).mean((2, 3)))


def between(f, width=4, **parts):
    """A convolution, f, and a linear layer, in float64."""
    return Between(f, width, **parts).double().eval()


def without_biases(module):
    """A copy in which a network of zeros would be zero everywhere."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for part in module.modules():
            if getattr(part, "bias", None) is not None:
                part.bias.zero_()
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.zero_()
    return module


def any_norm(channels, kind=nn.BatchNorm2d):
    """A batch norm with statistics and weights drawn at random."""
    norm = kind(channels)
    for v in (norm.running_mean, norm.weight.data, norm.bias.data):
        v.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm.double().eval()


def gradient_times_input(net, x, target):
    """What rule 0 must give where there are no biases, or a bias keeps its share."""
    return xcnn.gradient(net, x, target) * x
