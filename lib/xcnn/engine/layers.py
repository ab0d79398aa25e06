"""The layers of a network: finding one by name, taking what it puts out, and choosing those worth offering."""

import contextlib
import threading

import torch

from ..errors import InputError, nearest
from .contract import own_grad_mode, run


def find_layer(module, layer):
    """The submodule of that name.

    :raises InputError: for an unknown name, with the nearest ones
    """
    parts = dict(module.named_modules())
    parts.pop("")
    if layer not in parts:
        raise InputError(f"no layer {layer!r} in this network; {nearest(layer, parts)}")
    return parts[layer]


@contextlib.contextmanager
def hooked(hooks):
    """While inside, each module of `hooks`, pairs of (module, forward hook), has its hook: for this thread alone.

    Others may be explaining the same network at this moment.
    """
    ours = threading.get_ident()

    def here(hook):
        return lambda *call: hook(*call) if threading.get_ident() == ours else None

    with contextlib.ExitStack() as stack:
        for part, hook in hooks:
            stack.enter_context(part.register_forward_hook(here(hook)))
        yield


@contextlib.contextmanager
def capture(module, layer, cut=True):
    """Take a layer's output A; where the layer runs several times in one pass, its last.

        with torch.no_grad(), capture(module, "layer4") as seen:
            S = module(x)
        A, = seen

    The network goes on with a copy, so that in-place operations cannot change A afterwards.

    :param cut: start the gradient at A; enter under `torch.no_grad()`. Up to the layer nothing is recorded for the
        backward pass, so a gradient with respect to A costs only the part of the network above it.
        False: leave the way down to the pixels open.
    :raises InputError: unknown layer, one that does not run, one that puts out no tensor
    """
    seen = []

    def take(_module, _inputs, output):
        if not isinstance(output, torch.Tensor):
            raise InputError(
                f"layer {layer!r} puts out {type(output).__name__}, not a tensor; choose another layer"
            )
        if cut:
            torch.set_grad_enabled(True)
        seen[:] = [output.detach().clone().requires_grad_() if cut else output.clone()]
        return seen[0].clone()

    with hooked([(find_layer(module, layer), take)]):
        yield seen
    if not seen:
        raise InputError(
            f"layer {layer!r} does not run when this network classifies an image; choose another layer"
        )


def spatial_layers(module, like):
    """The layers worth offering: for each map size, the last block that puts it out.

    A block that changes the size more than once (such as a `features` container) is opened; a block that changes
    nothing is passed over, and so is one that runs more than once. Where all maps lie inside blocks that end in a
    single position (such as a container that ends in the global average), these are opened, too.

    Noise is run through the network once, without gradients: the answer is the same for all images of a size.

    :param like: image batch (N, 3, H, W) of that size, type and device
    :return: dict name -> (C, H, W), in the order of execution
    """
    ran = []

    def note(name):
        def hook(_module, inputs, output):
            before = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
            if (
                isinstance(output, torch.Tensor)
                and output.ndim == 4
                and before is not None
                and before.ndim == 4
            ):
                same = (
                    before.shape == output.shape
                    and bool(torch.equal(before, output))
                    and before is not output
                )
                ran.append(
                    (
                        name,
                        tuple(before.shape[2:]),
                        tuple(output.shape[1:]),
                        same and not _has_weights(_module),
                    )
                )

        return hook

    with (
        hooked([(part, note(name)) for name, part in module.named_modules() if name]),
        own_grad_mode(False),
    ):
        run(
            module,
            torch.randn(1, *like.shape[1:], generator=torch.Generator().manual_seed(0)).to(like),
        )

    def sizes(block):
        inside = [
            (before, after[1:])
            for name, before, after, _ in ran
            if f"{name}.".startswith(f"{block}.")
        ]
        return {size for pair in inside for size in pair if size > (1, 1)}

    names = [name for name, *_ in ran]
    blocks = [name for name in names if len(sizes(name)) <= 2 and names.count(name) == 1]

    def offered(blocks):
        last = {}
        for name, _, after, idle in ran:
            nested = any(name.startswith(f"{block}.") for block in blocks)
            if name in blocks and not nested and not idle and after[1:] > (1, 1):
                last.pop(after[1:], None)
                last[after[1:]] = (name, after)
        return dict(last.values())

    single = {name for name, _, after, _ in ran if after[1:] == (1, 1)}
    return offered(blocks) or offered([name for name in blocks if name not in single])


def _has_weights(module):
    return next(module.parameters(), None) is not None
