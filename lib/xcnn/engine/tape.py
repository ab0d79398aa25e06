"""The one way this library works inside a network: nothing in the network is replaced or rewritten.

`Tape` sees every functional call of a forward pass, whether it comes from a module or from a plain function.
`ReLURule` is what it does at a ReLU for deconvnet, guided backprop and LRP: however it is spelled, it gets another way
back.
"""

import sys

import torch
from torch.overrides import TorchFunctionMode


class Tape(TorchFunctionMode):
    """While active, each torch call goes through `rule(func, args, kwargs)`, which returns the call's result."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self.rule(func, args, kwargs or {})


def tensors(values):
    """All tensors in nested arguments."""
    for v in values:
        if isinstance(v, torch.Tensor):
            yield v
        elif isinstance(v, list | tuple):
            yield from tensors(v)


def by_position(args, kwargs):
    """The same call with `input=`, which some functions take by name, as its first argument."""
    if "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"], *args), {key: v for key, v in kwargs.items() if key != "input"}


def place(names):
    """The submodule that runs now, read from the call stack: this needs no hooks. Its name and its class's.

    :param names: id of each submodule -> its name
    """
    frame = sys._getframe()
    while frame:
        part = frame.f_locals.get("self")
        if id(part) in names:
            return names[id(part)], type(part).__name__
        frame = frame.f_back
    return "", "unknown place"
