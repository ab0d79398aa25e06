"""What stands around a network or in its place: wrappers are taken off, copies that cannot be
looked into are told by their kind."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..errors import InputError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

# What a method needs of a network. Each includes those before it.
SCORES = "scores"  # it runs
GRADIENT = "gradient"  # and autograd records it
INSIDE = "inside"  # and its layers and calls can be seen

OF_SCORES = "occlusion, rise and lime take it as it is"
OF_GRADIENTS = f"gradient, gradient_times_input, smooth_grad, integrated_gradients, {OF_SCORES}"
# kind of network -> what it offers, and the methods that need no more
OFFERS = {
    "scripted (TorchScript)": ((SCORES, GRADIENT), OF_GRADIENTS),
    "exported (torch.export)": ((SCORES, GRADIENT), OF_GRADIENTS),
    "quantised": ((SCORES,), OF_SCORES),
}


def unwrapped(module):
    """The network itself, without DataParallel, `torch.compile` or AveragedModel around it.

    >>> xcnn.engine.wrappers.unwrapped(torch.nn.DataParallel(net.module)) is net.module
    True
    """
    while True:
        if isinstance(module, WRAPPERS):
            module = module.module
        elif hasattr(module, "_orig_mod"):  # of torch.compile, whose class is slow to import
            module = module._orig_mod
        else:
            return module


def kind_of(module):
    """What kind of copy a network is that cannot be looked into; None for an ordinary one.

    >>> xcnn.engine.wrappers.kind_of(net.module) is None
    True
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return "scripted (TorchScript)"
    if is_exported(module):
        return "exported (torch.export)"
    if any(".quantized" in type(part).__module__ for part in module.modules()):
        return "quantised"
    return None


def is_exported(module):
    """Is this a graph of torch's lowest calls, as torch.export makes it?"""
    return isinstance(module, torch.fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )


def check_offers(module, name, needs):
    """Raise InputError where a network cannot give what a method needs.

    :param name: of the network, for the message
    :param needs: SCORES, GRADIENT or INSIDE
    """
    kind = kind_of(module)
    if kind is None:
        return
    offered, methods = OFFERS[kind]
    if needs not in offered:
        raise InputError(
            f"{name} is {kind}, so its layers and calls cannot be seen; "
            f"give the nn.Module that it was made from ({methods})"
        )
