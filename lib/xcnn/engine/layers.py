"""The layers of a network: one by its name, what it puts out, and those a user can choose from."""

import contextlib
import threading
from dataclasses import dataclass

import torch

from ..errors import InputError, nearest
from .contract import backward, isolated, run
from .layouts import (
    AsItIs,
    Axes,
    are_attention,
    layout_by_shape,
    layout_by_trial,
    layout_of_convolutions,
    may_attend,
    tokens,
    trial_pictures,
)

ONE_POSITION = (1, 1)  # the size of a map after global pooling


def find_layer(module, layer):
    """The submodule of that name.

    :raises InputError: for an unknown name, with the nearest ones
    """
    parts = dict(module.named_modules())
    parts.pop("")
    if not isinstance(layer, str) or layer not in parts:
        raise InputError(f"no layer {layer!r} in this network; {nearest(layer, parts)}")
    return parts[layer]


def layer_name(net, layer):
    """The name of a layer that a caller may have given as a module, or not at all.

    :param net: `Network`
    :param layer: name or submodule; None: the last spatial layer
    :raises InputError: a module of another network; several layers at once

    >>> xcnn.engine.layers.layer_name(net, net.module.layer2)
    'layer2'
    """
    if layer is None:
        return net.layer
    if isinstance(layer, torch.nn.Module):
        names = [name for name, part in net.module.named_modules() if part is layer and name]
        if not names:
            raise InputError(
                f"layer= is a {type(layer).__name__} that is not a part of {net.name}; "
                "give its name, or a submodule of this very network"
            )
        return names[0]
    if not isinstance(layer, str):
        raise InputError(
            f"layer= is one name or submodule, not {layer!r}; call the method once for each layer"
        )
    return layer


@contextlib.contextmanager
def hooked(hooks):
    """Forward hooks, (module, hook) each, for as long as we are inside, and for this thread alone.

    Another thread may be explaining the same network at this moment.
    """
    our_thread = threading.get_ident()

    def ours(hook):
        def in_our_thread(*call):
            return hook(*call) if threading.get_ident() == our_thread else None

        return in_our_thread

    with contextlib.ExitStack() as stack:
        for part, hook in hooks:
            stack.enter_context(part.register_forward_hook(ours(hook)))
        yield


@contextlib.contextmanager
def capture(module, layer, cut=True):
    """Take a layer's output A. Where the layer runs several times in one pass, take its last.

    The network goes on with a copy, so that in-place operations cannot change A afterwards.

    :param cut: start the gradient at A; enter under `torch.no_grad()`. Autograd then records
        nothing up to the layer, and everything above it: a gradient with respect to A costs only
        the part of the network above the layer. False: leave the graph down to the pixels whole
    :return: context manager, which gives a list; after the forward pass it holds A
    :raises InputError: unknown layer, one that does not run, one that does not put out a tensor

    >>> with torch.no_grad(), xcnn.engine.layers.capture(net.module, "layer2") as seen:
    ...     S = net.module(x)
    >>> tuple(seen[0].shape), seen[0].requires_grad
    ((1, 48, 16, 16), True)
    """
    seen = []

    def take(_module, _inputs, output):
        check_tensor(output, layer)
        if cut:
            torch.set_grad_enabled(True)  # the caller's no_grad() ends it
            output = output.detach().clone().requires_grad_()
        else:
            output = output.clone()
        seen[:] = [output]
        return output.clone()

    with hooked([(find_layer(module, layer), take)]):
        yield seen
    if not seen:
        raise InputError(
            f"layer {layer!r} does not run when this network classifies an image; "
            "choose another layer"
        )


def check_tensor(output, layer):
    """Raise InputError where a layer puts out something else than a tensor."""
    if not isinstance(output, torch.Tensor):
        kind = type(output).__name__
        raise InputError(f"layer {layer!r} puts out {kind}, not a tensor; choose another layer")


def maps_of(net, layer, x, layout=None):
    """One forward pass: what the network returns, and a layer's output, with a graph between them.

    :param net, x: from `ready`
    :param layer: name of a module that puts out maps
    :param layout: (h, w) where it puts out tokens
    :return: the network's output; the layer's output y, which requires a gradient; and the layout
        that makes maps (N, C, h, w) of it, see `layouts`
    :raises InputError: unknown layer, or one that does not put out a map for each image
    """
    with torch.no_grad(), capture(net.module, layer) as seen:
        out = run(net.module, x)
    (y,) = seen
    return out, y, layout_of(net.module, y, layer, x, layout)


def layout_of(module, y, layer, x, layout=None):
    """How a layer's output y holds the picture.

    :param module: nn.Module
    :param layer: its name
    :param x: (N, C, H, W), the images
    :param layout: (h, w) where y are tokens
    :return: `Axes` or `Tokens`
    :raises InputError: where y is not a map of each image
    """
    if y.ndim and len(y) != len(x):
        raise InputError(
            f"layer {layer!r} puts out {len(y)} maps for {len(x)} images; explain them one by one"
        )
    if layout is not None:
        return tokens(layout, y, layer)
    if y.ndim == 3:
        raise InputError(
            f"layer {layer!r} puts out {tuple(y.shape)}, tokens and not maps (N, C, h, w); "
            "give their rows and columns, such as layout=(14, 14), or choose another layer"
        )
    if y.ndim != 4:
        raise InputError(
            f"layer {layer!r} puts out {tuple(y.shape)}, not maps (N, C, h, w); "
            "choose another layer"
        )
    order = _order_of(module, y, layer, x)
    if order is None:
        raise InputError(
            f"layer {layer!r} puts out {tuple(y.shape)}, which are not maps of the picture "
            "(attention weights, perhaps); choose another layer"
        )
    return Axes(order)


def unit_layout(module, y, layer, x):
    """The layout in which a unit of a layer's output y is (channel, y, x), where y is maps.

    Arguments as in `layout_of`.

    :return: `Axes`; `AsItIs` where y is something else
    """
    order = _order_of(module, y, layer, x) if y.ndim == 4 else None
    return AsItIs() if order is None else Axes(order)


def _order_of(module, y, layer, x):
    """Where a layer's output (N, a, b, c) has its channels, rows and columns; None for no map."""
    order = None
    if not may_attend(module) and not are_attention(y):
        order = layout_by_shape(y.shape, *x.shape[2:])
    return order or _orders_by_trial(module, x, [layer])[layer]


def _orders_by_trial(module, like, layers):
    """Where layers have their channels, rows and columns: dict name -> order, None for no map.

    The trial pictures run one by one: in some networks the images of a batch see each other.

    :param like: (N, C, H, W), of the size, type and device of the pictures
    :param layers: names
    """
    last = {}  # what each layer put out when it ran last, as `capture` takes it
    outputs = {layer: [] for layer in layers}

    def note(layer):
        def hook(_part, _inputs, output):
            last[layer] = output.detach().clone()

        return hook

    hooks = [(find_layer(module, layer), note(layer)) for layer in layers]
    with hooked(hooks), isolated(grad=False):
        for picture in trial_pictures(like).split(1):
            run(module, picture)
            for layer in layers:
                outputs[layer].append(last[layer])
    tell = layout_by_trial if may_attend(module) else layout_of_convolutions
    return {layer: tell(torch.cat(seen), *like.shape[2:]) for layer, seen in outputs.items()}


def map_gradient(S_c, y, layer):
    """dS_c / dy by a backward pass that stops at y, the output of a layer.

    :param S_c, y: (N,) and the layer's output, from `maps_of`
    :return: as y
    :raises InputError: where the score does not depend on the layer
    """
    refusal = f"the class score does not depend on layer {layer!r}; choose another layer"
    return backward(S_c, y, refusal)


@dataclass
class MapRun:
    """One run of a module that takes maps and puts out maps.

    :param name: of the module
    :param size_in: (h, w) of its input
    :param shape: (C, h, w) of its output
    :param idle: it has no weights, and returned values equal to its input or to the picture
    """

    name: str
    size_in: tuple
    shape: tuple
    idle: bool

    @property
    def size(self):
        return self.shape[1:]

    def inside(self, block):
        """Is this module the block, or a part of it?"""
        return self.name == block or self.name.startswith(f"{block}.")


def spatial_layers(module, like):
    """The layers that a user can choose from: for each size of maps, the last block of that size.

    A block may change the size once, so maps of two sizes in it are allowed. More than two mean a
    container such as `features`, whose parts are offered instead. A module without weights that
    returns a copy of its input, or the picture itself, is not offered, nor one that runs more than
    once. Where every block ends in a global average, the parts of these blocks are offered.

    Noise runs through the network once, without gradients, so the answer is the same for all
    images of a size.

    :param like: image batch (N, C, H, W) of that size, type and device
    :return: dict name -> (C, h, w), in the order of execution
    """
    runs = _map_runs(module, like)
    names = [map_run.name for map_run in runs]
    blocks = [
        name for name in names if len(_sizes_inside(name, runs)) <= 2 and names.count(name) == 1
    ]
    layers = _last_of_each_size(blocks, runs)
    if not layers:
        single = {map_run.name for map_run in runs if map_run.size == ONE_POSITION}
        layers = _last_of_each_size([name for name in blocks if name not in single], runs)
    return layers


def _map_runs(module, like):
    """A `MapRun` for each run of a submodule from maps to maps, in the order in which they end."""
    runs = []

    def note(name):
        def hook(part, inputs, output):
            if not (inputs and _is_map(inputs[0]) and _is_map(output)):
                return
            unchanged = (
                inputs[0].shape == output.shape
                and inputs[0] is not output  # in place: the input is gone
                and torch.equal(inputs[0], output)
            )
            is_picture = output.shape == noise.shape and torch.equal(output, noise)
            has_weights = next(part.parameters(), None) is not None
            idle = (unchanged or is_picture) and not has_weights
            runs.append(MapRun(name, tuple(inputs[0].shape), tuple(output.shape), idle))

        return hook

    hooks = [(part, note(name)) for name, part in module.named_modules() if name]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *like.shape[1:], generator=generator).to(like)
    with hooked(hooks), isolated(grad=False):
        run(module, noise)
    return _understood(runs, module, like)


def _understood(runs, module, like):
    """The runs that put out maps of the picture, with their sizes in the order channels, rows,
    columns."""
    height_width = like.shape[2:]
    orders = {v.name: layout_by_shape(v.shape, *height_width) for v in runs}
    if may_attend(module):
        orders = {name: None for name in orders}
    names = [map_run.name for map_run in runs]
    unclear = [name for name, order in orders.items() if not order and names.count(name) == 1]
    if unclear:
        orders |= _orders_by_trial(module, like, unclear)
    understood = []
    for map_run in runs:
        order = orders[map_run.name]
        if order is None:
            continue
        order_in = layout_by_shape(map_run.size_in, *height_width) or order
        shape = tuple(map_run.shape[dim] for dim in order)
        size_in = tuple(map_run.size_in[dim] for dim in order_in[1:])
        understood.append(MapRun(map_run.name, size_in, shape, map_run.idle))
    return understood


def _is_map(v):
    return isinstance(v, torch.Tensor) and v.ndim == 4


def _sizes_inside(block, runs):
    """The sizes of maps that occur in a block and its parts; a single position does not count."""
    sizes = set()
    for map_run in runs:
        if map_run.inside(block):
            sizes |= {map_run.size_in, map_run.size}
    return {size for size in sizes if size > ONE_POSITION}


def _last_of_each_size(blocks, runs):
    """For each size of maps the last block that puts them out: dict name -> (C, h, w)."""
    last = {}
    for map_run in runs:
        part_of_a_block = any(map_run.name.startswith(f"{block}.") for block in blocks)
        offered = map_run.name in blocks and not part_of_a_block and not map_run.idle
        if offered and map_run.size > ONE_POSITION:
            last.pop(map_run.size, None)  # so that the order stays that of execution
            last[map_run.size] = map_run
    return {map_run.name: map_run.shape for map_run in last.values()}
