"""Copies of networks in which each ReLU is a module that holds the rule: what a method must equal on the originals."""

import copy

import torch
from torch import nn

from tests.helpers.oracles import TARGETS


class Rule(torch.autograd.Function):
    """The rules as in Springenberg et al. 2015, figure 1, written a second time."""

    @staticmethod
    def forward(ctx, x, method, top):
        ctx.save_for_backward(x)
        ctx.method, ctx.top = method, top
        return torch.where(
            x > 0, torch.where(x < top, x, torch.full_like(x, top)), torch.zeros_like(x)
        )

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        inside, positive = ((x > 0) & (x < ctx.top)).to(g.dtype), (g > 0).to(g.dtype)
        return (
            {
                "gradient": inside * g,
                "deconvnet": positive * g,
                "guided_backprop": inside * positive * g,
            }[ctx.method],
            None,
            None,
        )


class RuleReLU(nn.Module):
    def __init__(self, method, top=1e30):
        super().__init__()
        self.method, self.top = method, top

    def forward(self, x):
        return Rule.apply(x, self.method, self.top)


class DenseNet(nn.Module):
    """torchvision's DenseNet with its one functional ReLU made a module."""

    def __init__(self, module, relu):
        super().__init__()
        self.features, self.relu, self.classifier = module.features, relu, module.classifier

    def forward(self, x):
        return self.classifier(self.relu(self.features(x)).mean((2, 3)))


def rewritten(name, module, method):
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
    x = x.clone().requires_grad_()
    S = module(x)[range(len(x)), TARGETS]
    return torch.autograd.grad(S.sum(), x)[0]
