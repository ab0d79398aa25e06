"""Class activation mapping: a network that ends in global average pooling already holds its map (Zhou et al. 2016)."""

import torch
import torch.nn.functional as F

from ..engine.contract import check, class_indices, own_grad_mode, run, to_image_size
from ..engine.layers import find_layer
from ..engine.operations import KIND
from ..engine.tape import Tape, tensors
from ..errors import InputError
from ..networks import as_network, last_layer


def cam(net, x, target=None, layer=None, relu=True):
    """M_c(x, y) = sum_k w_k^c A_k(x, y): the last maps, weighted by the classifier's weights for class c.

    Source: Zhou et al. 2016, arXiv 1512.04150, eq. 2. A and w are found by watching the forward pass and checked in
    numbers (`gap_head`), so the names of the modules do not matter.

    :param net: `Network` or nn.Module, in eval mode, that ends in global average pooling and one linear layer
    :param x: (N, 3, H, W) float
    :param target: class index or name, one per image, or None for each image's top class
    :param layer: None, or the network's last spatial layer: CAM has no other
    :param relu: keep only what speaks for the class; False: the signed map, whose mean is the score less the bias
    :return: (N, 1, H, W), not normalised, enlarged bilinearly
    :raises InputError: see `contract.check`; a head of another kind; another layer
    """
    given, net = net, as_network(net)
    check(net.module, x)
    if layer is not None and layer != (last := last_layer(given, x)):
        find_layer(net.module, layer)
        raise InputError(
            f"CAM exists only at the last spatial layer, {last!r}; for {layer!r} use grad_cam"
        )
    S, A, W = gap_head(net, x)
    w = W[class_indices(S, target, net.classes)]
    M = torch.einsum("nk,nkyx->nyx", w, A)[:, None]
    return to_image_size(M.relu() if relu else M, x)


def gap_head(net, x):
    """Run the network and take apart its head, S = W GAP(A) + b.

    :return: S (N, K) scores, A (N, C, h, w) the maps that are averaged, W (K, C). Where the classifier is a 1x1
        convolution before the pooling, the averaged maps are the class maps themselves and W is the identity.
    :raises InputError: see `contract.check`; where the head is of another kind
    """
    net = as_network(net)
    check(net.module, x)
    found, maps = {}, None

    def watch(func, args, kwargs):
        nonlocal maps
        a = next(iter(tensors([*args, *kwargs.values()])), None)
        if (
            a is not None
            and a.ndim == 4
            and (a.shape[2:].numel() > 1 or KIND.get(func) == "average")
        ):
            maps = a  # the last ones seen: they may become their means in one step or in several
        result = func(*args, **kwargs)
        if _is_global_average(maps, result):
            found.update(
                A=maps.clone(),
                W=torch.eye(maps.shape[1], dtype=maps.dtype, device=maps.device),
                b=0,
            )
        elif func in (F.linear, F.conv2d, torch.conv2d) and "A" in found:
            found.update(_linear_part(*args, **kwargs))
        return result

    with own_grad_mode(False), Tape(watch):
        S = run(net.module, x.clone())
    if "A" in found:
        A, W, b = found["A"], found["W"], found["b"]
        if W.shape == (S.shape[1], A.shape[1]):
            a, b = A.mean((2, 3)), torch.as_tensor(b)
            if _equal(S, a @ W.T + b, a.abs() @ W.abs().T):
                return S, A, W.detach()
    raise InputError(
        f"CAM needs a head of global average pooling and one linear layer; {net.name} has another. Use grad_cam"
    )


def _linear_part(_input, weight, bias=None, *_, **__):
    """W (K, C) and b of a call to linear or conv2d."""
    return {"W": weight.flatten(1), "b": 0 if bias is None else bias}


def _is_global_average(A, result):
    """Is this result the means of maps A (N, C, h, w), whatever the call or calls that made it?"""
    if (
        A is None
        or not isinstance(result, torch.Tensor)
        or result.shape.numel() != A.shape[:2].numel()
    ):
        return False
    return _equal(result.flatten(1), A.mean((2, 3)), A.abs().mean((2, 3)))


def _equal(got, wanted, size):
    """Equal up to rounding, where terms of this size were added up: small numbers are not equal for being small."""
    rounding = 4 * torch.finfo(got.dtype).eps
    return bool(((got - wanted).abs() <= max(1e-4, rounding) * size + rounding * got.abs()).all())
