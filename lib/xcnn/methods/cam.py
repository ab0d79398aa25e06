"""Class activation mapping (CAM), for networks that end in global average pooling.

Source: Zhou et al. 2016. Such a network already holds its map: the average of a weighted sum of
maps is the score, so the weighted sum itself says where the score comes from.
"""

import torch
import torch.nn.functional as F

from ..engine.contract import isolated, run, to_image_size
from ..engine.layers import find_layer, layer_name
from ..engine.layouts import CHANNELS_FIRST, CHANNELS_LAST
from ..engine.operations import KIND
from ..engine.tape import Tape, bind, by_position, tensors
from ..engine.target import target_scores
from ..errors import InputError
from ..networks import ready

# An average may be computed in several steps and another order, so it is recognised up to rounding.
ROUNDING = 1e-4  # relative tolerance, ample for float32
EPS_ALLOWED = 4  # tolerance in units of the type's eps, where that is more: float16, bfloat16


def cam(net, x, target=None, layer=None, relu=True):
    """M_c(x, y) = sum_k w_k^c A_k(x, y): the last maps, weighted by the classifier's weights.

    Source: Zhou et al. 2016, arXiv 1512.04150, eq. 2. A and w are found by watching the forward
    pass and checked in numbers (`gap_head`), so the names of the modules do not matter.

    :param net: `Network` or nn.Module, in eval mode, that ends in global average pooling and one
        linear layer
    :param x: (N, C, H, W) float
    :param target: class index or name, one per image; None for each image's top class; `versus`; or
        a function f of the scores, for which w_k = sum_c df/dS_c w_k^c
    :param layer: None, or the network's last spatial layer: CAM has no other
    :param relu: keep only what speaks for the class; False: the signed map of the paper, whose mean
        is the score less the bias
    :return: (N, 1, H, W), not normalised, enlarged bilinearly
    :raises InputError: see `ready`; a head of another kind; another layer

    >>> M = xcnn.cam(net, x, "clock", relu=False)
    >>> L = xcnn.grad_cam(net, x, "clock", relu=False)
    >>> torch.allclose(M, 64 * L, atol=1e-4)  # 8 x 8 positions
    True
    """
    net, x = ready(net, x)
    if layer is not None and layer_name(net, layer) != net.layer:
        find_layer(net.module, layer_name(net, layer))
        raise InputError(
            f"CAM exists only at the last spatial layer, {net.layer!r}; for {layer!r} use grad_cam"
        )
    S, A, W = _take_apart(net, x)
    with isolated(grad=True):
        S = S.detach().requires_grad_()
        (dS,) = torch.autograd.grad(target_scores(S, target, net, len(x)).sum(), S)
    w = dS @ W  # of a class its row of W
    M = torch.einsum("nk,nkyx->nyx", w, A)[:, None]
    return to_image_size(M.relu() if relu else M, x)


def gap_head(net, x):
    """Run the network and take apart its head, S = W GAP(A) + b.

    :return: S (N, K) scores, A (N, C, h, w) the maps that are averaged, W (K, C). Where the
        classifier is a 1x1 convolution before the pooling, the averaged maps are the class maps
        themselves and W is the identity.
    :raises InputError: see `ready`; where the head is of another kind
    """
    return _take_apart(*ready(net, x))


def _take_apart(net, x):
    """S, A and W as in `gap_head`, for a network and images that are checked."""
    watcher = HeadWatcher()
    with isolated(grad=False), Tape(watcher):
        S = run(net.module, x)
    if not isinstance(S, torch.Tensor) or S.ndim != 2 or not watcher.explains(S):
        raise InputError(
            "CAM needs a head of global average pooling and one linear layer; "
            f"{net.name} has another. Use grad_cam"
        )
    return S, watcher.A, watcher.W.detach()


class HeadWatcher:
    """For `Tape`: notes the maps that a network averages, and the linear map that follows.

    A: (N, C, h, w) the averaged maps, None until an average was seen. W (K, C), b: of the last
    linear map after it; until there is one, W is the identity.
    """

    maps = None  # the last maps that were seen: they may be averaged in one call or in several
    A = None
    W = None
    b = 0

    def __call__(self, func, args, kwargs):
        self._note_maps(func, args, kwargs)
        result = func(*args, **kwargs)
        averaged = _averaged(self.maps, result)
        if averaged is not None:
            self.A = averaged.clone()
            self.W = torch.eye(self.A.shape[1], dtype=self.A.dtype, device=self.A.device)
            self.b = 0
        elif self.A is not None and func in (F.linear, F.conv2d, torch.conv2d):
            call = bind(*by_position(args, kwargs), "a weight bias", bias=None)
            self.W = call.weight.flatten(1)
            self.b = 0 if call.bias is None else call.bias
        return result

    def _note_maps(self, func, args, kwargs):
        """Maps of one position count only where an average is called: they are their own mean."""
        first = next(tensors([*args, *kwargs.values()]), None)
        if first is None or first.ndim != 4:
            return
        if first.shape[2:].numel() > 1 or KIND.get(func) == "average":
            self.maps = first

    def explains(self, S):
        """Are these scores W GAP(A) + b?"""
        if self.A is None or self.W.shape != (S.shape[1], self.A.shape[1]):
            return False
        a = self.A.mean((2, 3))
        b = torch.as_tensor(self.b)
        return _equal(S, a @ self.W.T + b, size=a.abs() @ self.W.abs().T)


def _averaged(maps, result):
    """The maps (N, C, h, w) of which a result is the means; None where it is not.

    :param maps: the last maps, their channels first or last; None: there were none yet
    :param result: of the call or calls that may have averaged them
    """
    if maps is None or not isinstance(result, torch.Tensor) or result.ndim < 2:
        return None
    for order in (CHANNELS_FIRST, CHANNELS_LAST):
        A = maps.permute(0, *order)
        same_number = result.shape.numel() == A.shape[:2].numel()
        if same_number and _equal(result.flatten(1), A.mean((2, 3)), size=A.abs().mean((2, 3))):
            return A
    return None


def _equal(values, wanted, size):
    """Are the values those wanted, up to rounding?

    :param size: the sum of the absolute terms that were added up. The tolerance is a share of it:
        two small numbers are not equal just because both are small
    """
    precision = EPS_ALLOWED * torch.finfo(values.dtype).eps
    tolerance = max(ROUNDING, precision) * size + precision * values.abs()
    return bool(((values - wanted).abs() <= tolerance).all())
