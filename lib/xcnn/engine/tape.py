"""The one way this library looks inside a network: it intercepts torch's function calls.

No part of the network is replaced. `Tape` hands every functional call of a forward pass to a rule,
whether a module makes the call or a plain function. The rest of this file reads such a call: its
tensors, its arguments by name, the submodule that makes it.
"""

import sys
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode


class Tape(TorchFunctionMode):
    """Intercepts calls. It records nothing: what becomes of a call is the rule's business.

    While the tape is active, each torch call goes through `rule(func, args, kwargs)`, which returns
    the call's result.

    >>> def tell(func, args, kwargs):
    ...     print(func.__name__)
    ...     return func(*args, **kwargs)
    >>> with xcnn.engine.tape.Tape(tell):
    ...     y = torch.relu(torch.zeros(1) + 1)
    zeros
    add
    relu
    """

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
    rest = {key: v for key, v in kwargs.items() if key != "input"}
    return (kwargs["input"], *args), rest


def bind(args, kwargs, names, **defaults):
    """The arguments of a call under their names.

    Many of torch's functions are written in C and have no signature that Python could read.

    :param args, kwargs: of the call, after `by_position`
    :param names: names of the positional arguments in order, separated by blanks
    :param defaults: values of arguments that may be missing
    :return: namespace

    >>> xcnn.engine.tape.bind((1, 2), {"stride": 3}, "a weight bias stride", bias=None, stride=1)
    namespace(bias=None, stride=3, a=1, weight=2)
    """
    by_order = dict(zip(names.split(), args, strict=False))
    return SimpleNamespace(**defaults | by_order | kwargs)


def running_part(names):
    """The submodule that runs now: its name, and the name of its class.

    It is read from the call stack: the nearest caller whose `self` is a submodule. Hooks on every
    module would tell the same at more cost. Not found: code without `self`, such as a scripted
    module.

    :param names: id of each submodule -> its name
    """
    # Not our own frame: one that looks at its own variables holds itself, and what it holds stays
    # in memory until Python's garbage collector runs.
    frame = sys._getframe(1)
    while frame:
        part = frame.f_locals.get("self")
        if id(part) in names:
            return names[id(part)], type(part).__name__
        frame = frame.f_back
    return "", "unknown place"
