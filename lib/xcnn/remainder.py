"""The part of a network above one of its layers, as a function of that layer's maps."""

import weakref

import torch

from .contract import own_grad_mode, run
from .layers import find_layer, hooked
from .tape import Tape


class Remainder:
    """A -> S: what the network makes of any maps A of a layer, without running what lies below.

    The network runs once, for one image, and what each call returned is remembered. From then on the calls that came
    before the layer was done are answered from memory; the layer puts out the given A; the calls above it are made.
    So it works for any network in which what is called does not depend on what the image shows. Of tensors that are
    gone when the layer is done, and so cannot be used above it, only the shape is remembered.

    x: (1, 3, H, W). layer: its name. A: (1, C, h, w), what the layer puts out for x. S: (1, K), the scores of x.
    """

    def __init__(self, module, x, layer):
        self.module, self.x, self.layer = module, x.detach().clone(), find_layer(module, layer)
        self.memory, self.below = [], None

        def remember(func, args, kwargs):
            result = func(*args, **kwargs)
            if self.below is None:
                tensor = isinstance(result, torch.Tensor)
                blank = result.new_zeros(()).expand(result.shape) if tensor else result
                self.memory.append((blank, weakref.ref(result) if tensor else lambda: None))
            return result

        def done(_module, _inputs, A):
            if self.below is None:  # from here on nothing is remembered, these copies neither
                self.below = len(self.memory)
                self.memory = [blank if alive() is None else alive().clone() for blank, alive in self.memory]
            self.A = A.clone()

        with own_grad_mode(False), hooked([(self.layer, done)]), Tape(remember):
            self.S = run(module, self.x)

    def __call__(self, A):
        """The scores (B, K) of maps A (B, C, h, w)."""
        A, calls, B = A.clone(), iter(range(self.below)), len(A)
        x = self.x.expand(B, -1, -1, -1)

        def recall(func, args, kwargs):
            known = self.memory[k] if (k := next(calls, None)) is not None else None
            if isinstance(known, torch.Tensor):
                one = known.ndim > 1 and len(known) == 1  # of the one image; a vector of one number fits any batch
                return known.expand(B, *known.shape[1:]) if one else known
            return func(*args, **kwargs)

        with own_grad_mode(False), hooked([(self.layer, lambda *_: A)]), Tape(recall):
            return run(self.module, x)
