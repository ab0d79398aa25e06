"""Copies of networks in which each ReLU is a module that holds the rule.

A method that changes the backward pass of ReLUs must give on the original what autograd gives here.
"""

import copy

import torch
from torch import nn

from tests.helpers.oracles import TARGETS


class Rule(torch.autograd.Function):
    """The rules as in Springenberg et al. 2015, figure 1, written a second time."""

    @staticmethod
    def forward(ctx, x, method, top):
        ctx.save_for_backward(x)
        ctx.method = method
        ctx.top = top
        below_top = torch.where(x < top, x, torch.full_like(x, top))
        return torch.where(x > 0, below_top, torch.zeros_like(x))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        inside = ((x > 0) & (x < ctx.top)).to(g.dtype)
        positive = (g > 0).to(g.dtype)
        rules = {
            "gradient": inside * g,
            "deconvnet": positive * g,
            "guided_backprop": inside * positive * g,
        }
        return rules[ctx.method], None, None


class RuleReLU(nn.Module):
    def __init__(self, method, top=1e30):
        super().__init__()
        self.method = method
        self.top = top

    def forward(self, x):
        return Rule.apply(x, self.method, self.top)


class DenseNet(nn.Module):
    """torchvision's DenseNet with its one functional ReLU made a module."""

    def __init__(self, module, relu):
        super().__init__()
        self.features = module.features
        self.relu = relu
        self.classifier = module.classifier

    def forward(self, x):
        return self.classifier(self.relu(self.features(x)).mean((2, 3)))


def rewritten(name, module, method):
    """A copy of a network, every ReLU of which holds the rule of the method."""
    module = copy.deepcopy(module)
    swaps = {}
    for path, part in module.named_modules():
        if type(part).__name__ == "BasicConv2d":
            swaps[path] = nn.Sequential(part.conv, part.bn, RuleReLU(method))
        elif isinstance(part, nn.ReLU6):
            swaps[path] = RuleReLU(method, 6.0)
        elif isinstance(part, nn.ReLU):
            swaps[path] = RuleReLU(method)
    assert swaps
    for path, part in swaps.items():
        parent, _, last = path.rpartition(".")
        setattr(module.get_submodule(parent), last, part)
    return DenseNet(module, RuleReLU(method)).eval() if name == "densenet121" else module


def by_autograd(module, x):
    """The gradient of the scores of `TARGETS` with respect to x."""
    x = x.clone().requires_grad_()
    S = module(x)[range(len(x)), TARGETS]
    return torch.autograd.grad(S.sum(), x)[0]
