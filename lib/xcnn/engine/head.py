"""The head of a network above one of its layers, as a function of that layer's maps.

A network is a program, not a list of layers, so it cannot simply be cut in two. Instead it runs
twice in different ways. In the first run, for one image, the results of all calls are remembered
up to the moment when the layer has put out its maps. In a replay, the calls up to that moment get
their remembered results and cost nothing; the layer puts out the maps that we want to know about;
the calls above it are really made.
"""

import weakref

import torch
from torch.utils._pytree import tree_map

from .contract import isolated, run
from .layers import check_tensor, find_layer, hooked
from .tape import Tape, tensors
from .target import class_outputs, is_function, one_by_one, target_scores

MAX_NUMBERS = 2**25  # in the maps that go through a head at once

# Calls that ask for the form of a tensor. In a replay there are more images than in the first run.
ASK_FOR_FORM = {
    torch.Tensor.shape.__get__,
    torch.Tensor.size,
    torch.Tensor.stride,
    torch.Tensor.__len__,
    torch.Tensor.numel,
    torch.Tensor.nelement,
    torch.numel,
}


class Head:
    """A -> S: the scores that a network gives any maps A of a layer. What lies below does not run.

    This needs a network that makes the same calls in the same order, whatever the layer's maps
    hold and however many there are. Some tensors no longer exist when the layer has run. Nothing
    above can use them, so only their shape is kept.

    :param module: nn.Module in eval mode
    :param x: (1, C, H, W), the image of the first run
    :param layer: name of the layer; where it runs several times in one pass, its last run counts

    A: what the layer puts out for x, (1, ...). S: what the network returns for x, such as scores
    (1, K).

    >>> head = xcnn.engine.head.Head(net.module, x, net.layer)
    >>> torch.allclose(head(head.A), net.module(x))
    True
    """

    def __init__(self, module, x, layer):
        self.module = module
        self.x = x.detach().clone()
        self.layer = find_layer(module, layer)
        recorder = _Recorder(layer)
        with (
            isolated(grad=False),
            hooked([(self.layer, recorder.layer_ran)]),
            Tape(recorder),
        ):
            self.S = run(module, self.x)
        self.A = recorder.A
        self.results = recorder.results_below
        self.layer_runs = recorder.layer_runs

    def __call__(self, A):
        """What the network returns for B outputs A of the layer, (B, ...)."""
        replay = _Replay(A.clone(), self.results, self.layer_runs)
        x = self.x.expand(len(A), -1, -1, -1)
        with (
            isolated(grad=False),
            hooked([(self.layer, replay.layer_ran)]),
            Tape(replay),
        ):
            return run(self.module, x)


def targets_of(heads, target, net):
    """The settled target of each image.

    :param heads: a `Head` for each image
    :param target: as methods take it
    :param net: `Network`
    :return: list, see `one_by_one`
    :raises InputError: as `target_scores`

    >>> xcnn.engine.head.targets_of([xcnn.engine.head.Head(net.module, x, net.layer)], "clock", net)
    [3]
    """
    outputs = [head.S for head in heads]
    if is_function(target):
        target_scores(outputs[0], target, net, N=1)
        return [target] * len(heads)
    S = torch.cat([class_outputs(out, N=1) for out in outputs])
    return one_by_one(S, target, net, len(heads))


class _Recorder:
    """The first run: remembers what each call returned, until the layer has run."""

    def __init__(self, layer):
        self.layer = layer
        self.results = []
        self.layer_runs = 0
        self.paused = False

    def __call__(self, func, args, kwargs):
        result = func(*args, **kwargs)
        if not self.paused:
            self.results.append(_in_tensors(_Remembered, result))
        return result

    def layer_ran(self, _module, _inputs, A):
        """Forward hook of the layer. Its last run decides what lies below."""
        check_tensor(A, self.layer)
        self.paused = True  # the copies made here pass through the tape, too
        memory = {}
        self.results_below = [
            tree_map(lambda v: v.now(memory) if isinstance(v, _Remembered) else v, result)
            for result in self.results
        ]
        self.A = A.clone()
        self.layer_runs += 1
        self.paused = False


class _Remembered:
    """A tensor, as long as the network itself holds on to it; afterwards only its shape."""

    def __init__(self, tensor):
        self.tensor = weakref.ref(tensor)
        self.blank = tensor.new_zeros(()).expand(tensor.shape)  # costs the memory of one number

    def now(self, memory):
        """A copy of the tensor as it is at this moment. Copies share memory as their originals do.

        :param memory: address -> copy, of the memory that has been copied already
        """
        tensor = self.tensor()
        if tensor is None:
            return self.blank
        if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
            return tensor.clone()  # its memory does not hold its values as they are
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in memory:
            memory[address] = tensor.new_empty(0).set_(storage).clone()
        form = tensor.shape, tensor.stride(), tensor.storage_offset()
        return memory[address].view(tensor.dtype).as_strided(*form)


class _Replay:
    """A later run: calls below the layer are answered from memory, calls above it are made."""

    _ABOVE = object()  # marks a call above the layer: nothing is remembered of it

    def __init__(self, A, results, layer_runs):
        self.A = A
        self.answers = iter(results)
        self.layer_runs = layer_runs
        # id of a tensor that the network has now -> that tensor, and the remembered one
        self.lent = {}

    def __call__(self, func, args, kwargs):
        answer = next(self.answers, self._ABOVE)
        if answer is self._ABOVE:
            self._protect(next(tensors([*args, *kwargs.values()]), None))
            self._protect(kwargs.get("out"))
            return func(*args, **kwargs)
        if func in ASK_FOR_FORM:
            return func(*args, **kwargs)
        return _in_tensors(self._lend, answer)

    def _lend(self, v):
        """A remembered tensor, repeated for each of the B maps."""
        lent = v.expand(len(self.A), *v.shape[1:]) if _has_images(v) else v.expand_as(v)
        self.lent[id(lent)] = lent, v
        return lent

    def _protect(self, tensor):
        """An in-place call above the layer must not overwrite what is remembered: copy it first.

        The network holds the tensor itself, so the copy has to take the place of its memory. What
        else shares that memory gets the same copy: a change of one shows in the other.
        """
        if id(tensor) not in self.lent:
            return
        _, v = self.lent[id(tensor)]
        memory = v.untyped_storage()
        numbers = v.new_empty(0).set_(memory).repeat(len(self.A), 1)  # a row for each of the B maps
        for key, (lent, v) in list(self.lent.items()):
            if v.dtype == numbers.dtype and v.untyped_storage().data_ptr() == memory.data_ptr():
                rows = (len(numbers), *v.shape[1:]), (numbers.shape[1], *v.stride()[1:])
                form = rows if _has_images(v) else (v.shape, v.stride())
                lent.data = numbers.as_strided(*form, v.storage_offset())
                del self.lent[key]

    def layer_ran(self, *_):
        """Forward hook of the layer: its last run puts out A."""
        self.layer_runs -= 1
        return None if self.layer_runs else self.A


def _has_images(v):
    """Has a remembered tensor a dimension of images? A vector of length 1 has none."""
    return v.ndim > 1 and len(v) == 1


def _in_tensors(change, result):
    """A call's result with each of its tensors changed."""
    return tree_map(lambda v: change(v) if isinstance(v, torch.Tensor) else v, result)
