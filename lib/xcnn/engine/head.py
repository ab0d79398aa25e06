"""The part of a network above one of its layers, as a function of that layer's maps."""

import weakref

import torch
from torch.utils._pytree import tree_map

from .contract import own_grad_mode, run
from .layers import find_layer, hooked
from .tape import Tape, tensors


class Remainder:
    """A -> S: what the network makes of any maps A of a layer, without running what lies below.

    The network runs once, for one image, and what each call returned is remembered. From then on the calls that came
    before the layer was done are answered from memory; the layer puts out the given A; the calls above it are made.
    So it works for any network in which what is called does not depend on what the image shows. Of tensors that are
    gone when the layer is done, and so cannot be used above it, only the shape is remembered.

    x: (1, 3, H, W). layer: its name; where it runs several times in one pass, its last. A: (1, C, h, w), what the layer
    puts out for x. S: (1, K), the scores of x.
    """

    def __init__(self, module, x, layer):
        self.module, self.x, self.layer = module, x.detach().clone(), find_layer(module, layer)
        made, self.runs, busy = [], 0, False

        def remember(func, args, kwargs):
            result = func(*args, **kwargs)
            if not busy:
                made.append(
                    tree_map(lambda v: Kept(v) if isinstance(v, torch.Tensor) else v, result)
                )
            return result

        def done(_module, _inputs, A):
            nonlocal busy
            busy = True  # these copies are not the network's
            self.memory = [
                tree_map(lambda v: v.now() if isinstance(v, Kept) else v, result) for result in made
            ]
            self.A, self.runs = A.clone(), self.runs + 1
            busy = False

        with own_grad_mode(False), hooked([(self.layer, done)]), Tape(remember):
            self.S = run(module, self.x)

    def __call__(self, A):
        """The scores (B, K) of maps A (B, C, h, w)."""
        A, known, left, B, given = A.clone(), iter(self.memory), self.runs, len(A), {}
        x, above = self.x.expand(B, -1, -1, -1), object()

        def again(v):
            one = (
                v.ndim > 1 and len(v) == 1
            )  # of the one image; a vector of one number fits any batch
            v = v.expand(B, *v.shape[1:]) if one else v.expand_as(v)
            given[id(v)] = v
            return v

        def recall(func, args, kwargs):
            result = next(known, above)
            if isinstance(result, torch.Tensor):
                return again(result)
            if next(tensors([result]), None) is not None:  # a tuple, such as values and switches
                return tree_map(lambda v: again(v) if isinstance(v, torch.Tensor) else v, result)
            first = next(tensors([*args, *kwargs.values()]), None)
            if (
                result is above and id(first) in given
            ):  # a call may write to it, but not to the memory
                first.data = given.pop(id(first)).clone()
            return func(*args, **kwargs)

        def put(*_):
            nonlocal left
            left -= 1
            return None if left else A

        with own_grad_mode(False), hooked([(self.layer, put)]), Tape(recall):
            return run(self.module, x)


class Kept:
    """What is remembered of a tensor: all of it while the network holds on to it, afterwards only its shape."""

    def __init__(self, tensor):
        self.tensor, self.blank = weakref.ref(tensor), tensor.new_zeros(()).expand(tensor.shape)

    def now(self):
        return self.blank if (tensor := self.tensor()) is None else tensor.clone()
