"""What a network sees of a picture: one vector, the mean of each map of a layer."""

import hashlib
import itertools
import json

import numpy as np
import torch
from torch import nn

from . import photos
from .engine.contract import check, isolated
from .engine.layers import maps_of
from .errors import InputError
from .networks import as_network, ready
from .similar_files import PATH, checked_file

BATCH = 32  # pictures that go through the network together


def fingerprint(net):
    """What features depend on besides the layer: a hash of the weights and of size, mean and std.

    :param net: `Network`
    :return: 64 hexadecimal digits
    :raises InputError: a bare nn.Module, which does not know how it wants its pictures

    >>> len(xcnn.similar.fingerprint(net))
    64
    """
    if isinstance(net, nn.Module):
        raise InputError(
            "pictures must be prepared as the network wants them; say how: "
            "xcnn.Network(module, size=..., mean=..., std=...)"
        )
    net = as_network(net)
    wanted = [np.ravel(values).astype(float).tolist() for values in (net.size, net.mean, net.std)]
    digest = hashlib.sha256(json.dumps(wanted).encode())
    for name, value in net.module.state_dict().items():
        if isinstance(value, torch.Tensor):  # a module may keep other things, too
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def prepared(net, picture):
    """A picture, or the one in a file, as the network wants it and where its weights are.

    :raises InputError: a file that is missing, broken, or not a picture
    """
    if isinstance(picture, PATH):
        picture = photos.read(checked_file(picture))
    x = net.preprocess(picture)
    return x.to(next(net.module.parameters(), x))


def batches(pictures):
    """Lists of so many pictures as go through the network together."""
    pictures = iter(pictures)
    return iter(lambda: list(itertools.islice(pictures, BATCH)), [])


def unit_features(net, x, layer, layout):
    """f = F / |F|, where F_k is the mean of map A_k of a layer, see `Index.features`.

    :return: (N, C) float32 array
    """
    check(net.module, x)
    try:
        net.check_images_are_apart(x)
        parts = x.split(BATCH)
    except InputError:
        parts = x.split(1)
    F = torch.cat([_means(net, part, layer, layout) for part in parts])
    if not torch.isfinite(F).all():
        raise InputError(
            f"the maps of layer {layer!r} hold NaN or infinite values; "
            "use float32, or choose another layer"
        )
    length = F.norm(dim=1, keepdim=True)
    return (F / length.where(length > 0, 1)).float().numpy()


def _means(net, x, layer, layout):
    """F (N, C), double, on the CPU."""
    net, x = ready(net, x)
    with isolated(grad=False):
        _, y, layout = maps_of(net, layer, x, layout)
        A = layout.maps(y.detach())
    # In single precision: half would lose digits, and not every device knows double.
    return A.float().mean((2, 3)).cpu().double()
