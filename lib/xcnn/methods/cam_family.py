"""The CAM family: Grad-CAM's relatives, each with another weight for a layer's maps.

All draw L = ReLU(sum_k w_k A_k) from the maps A_k of a layer. They differ in w_k. Four take it from
the gradient dS_c/dA_k; in two of these it differs from position to position. Score-CAM and
Ablation-CAM use no gradient: they ask the network what it says when one map alone shows the
picture, or when one map is missing.
"""

import torch
import torch.nn.functional as F

from ..engine.contract import isolated, to_image_size
from ..engine.head import MAX_NUMBERS, Head, targets_of
from ..engine.layers import layer_name, layout_of, maps_of
from ..engine.many import at_once, scores_of_many
from ..engine.progress import progress, timed
from ..engine.target import one_by_one, target_values
from ..networks import ready
from .grad_cam import maps_and_gradient


def hires_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k dS_c/dA_k * A_k), position by position.

    Source: Draelos and Carin 2020, arXiv 2011.08891. Where the network above the layer is linear,
    the signed map sums to S_c less the bias, so each position shows what it adds to the score;
    Grad-CAM, which averages the gradient first, need not.

    Arguments, shape and errors as in `grad_cam`. The paper draws the signed map, relu=False.

    >>> L = xcnn.hires_cam(net, x, "clock")
    >>> torch.allclose(L, xcnn.grad_cam(net, x, "clock"), atol=1e-5)  # a network that ends in GAP
    True
    """
    net, x = ready(net, x)
    A, dA = maps_and_gradient(net, x, target, layer, layout)
    return _drawn((dA * A).sum(1, keepdim=True), x, relu)


def grad_cam_plus_plus(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k w_k A_k), w_k = sum_ij alpha_ij ReLU(g_ij), where g = dS_c/dA_k.

    alpha_ij = g_ij^2 / (2 g_ij^2 + sum_ab A_ab g_ij^3), and 0 where g_ij or the denominator is 0.
    Source: Chattopadhay et al. 2018, arXiv 1710.11063, eq. 5 and 19, for the score exp S_c. Its
    factor exp S_c > 0 scales the whole map; it is left out here, as it overflows. pytorch-grad-cam
    adds 1e-6 to the denominator, which changes the map where gradients are small.

    Arguments, shape and errors as in `grad_cam`.

    >>> L = xcnn.grad_cam_plus_plus(net, x, "clock")
    >>> tuple(L.shape), L.min().item() >= 0
    ((1, 1, 128, 128), True)
    """
    net, x = ready(net, x)
    A, g = maps_and_gradient(net, x, target, layer, layout)
    denominator = 2 + A.sum((2, 3), keepdim=True) * g  # both sides of the fraction divided by g^2
    alpha = _quotient(torch.ones_like(g), denominator)
    w = (alpha * g.relu()).sum((2, 3), keepdim=True)
    return _drawn((w * A).sum(1, keepdim=True), x, relu)


def xgrad_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k w_k A_k), w_k = sum_ij A_ij / (sum_ab A_ab) dS_c/dA_ij.

    Source: Fu et al. 2020, arXiv 2008.02312, eq. 7 and 8. The signed map sums to sum dS_c/dA * A,
    as HiResCAM does. A map that sums to 0 gets the weight 0. The paper has maps behind a ReLU in
    mind: where a map has both signs, its sum can be near 0 and its weight huge.

    Arguments, shape and errors as in `grad_cam`.

    >>> maps = [method(net, x, "clock", relu=False) for method in (xcnn.xgrad_cam, xcnn.hires_cam)]
    >>> torch.allclose(*(R.mean() for R in maps), rtol=1e-3)
    True
    """
    net, x = ready(net, x)
    A, dA = maps_and_gradient(net, x, target, layer, layout)
    w = _quotient((A * dA).sum((2, 3), keepdim=True), A.sum((2, 3), keepdim=True))
    return _drawn((w * A).sum(1, keepdim=True), x, relu)


def layer_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k ReLU(dS_c/dA_k) * A_k), position by position.

    Source: Jiang et al. 2021, doi 10.1109/TIP.2021.3089943.

    Arguments, shape and errors as in `grad_cam`.

    >>> L = xcnn.layer_cam(net, x, "clock", layer="layer1")
    >>> tuple(L.shape)
    (1, 1, 128, 128)
    """
    net, x = ready(net, x)
    A, dA = maps_and_gradient(net, x, target, layer, layout)
    return _drawn((dA.relu() * A).sum(1, keepdim=True), x, relu)


def score_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k w_k A_k), w = softmax over the maps k of S_c(x * H_k).

    H_k is the map A_k, enlarged to the picture and stretched to [0, 1]; a constant map hides all.
    Source: Wang et al. 2020, arXiv 1910.01279, algorithm 1, where S_c is the logit (the score of
    the baseline x = 0, which it subtracts, falls out of the softmax). No weight is negative, so
    of maps that are not negative none can speak against the class. It runs the network once for
    each map.

    Arguments, shape and errors as in `grad_cam`; a function sees pictures of one image at a time.

    >>> L = xcnn.score_cam(net, x, "clock")
    >>> xcnn.energy_concentration(L, scene.mask("clock")).item() > 0.3
    True
    """
    net, x = ready(net, x)
    layer = layer_name(net, layer)
    with isolated(grad=False):
        (out, y, its_layout), seconds = timed(lambda: maps_of(net, layer, x, layout))
        A = its_layout.maps(y.detach())
        targets = one_by_one(out, target, net, len(x))
        runs = len(x) * A.shape[1]
        with progress(f"Score-CAM: {runs:,} runs", runs, seconds / len(x)) as done:
            S = [
                scores_of_many(net, _through_maps(image, its_maps), its_target, done=done)
                for image, its_maps, its_target in zip(x, A, targets, strict=True)
            ]
        w = torch.stack(S).softmax(1).to(A)
        return _drawn(torch.einsum("nk,nkyx->nyx", w, A)[:, None], x, relu)


def ablation_cam(net, x, target=None, layer=None, relu=True, layout=None):
    """L = ReLU(sum_k w_k A_k), w_k = (S_c - S_c without A_k) / |S_c|.

    Without A_k means that this map is 0.
    Source: Desai and Ramaswamy 2020, doi 10.1109/WACV45572.2020.9093360. They divide by S_c, which
    turns the map's sign where the score is negative; the absolute value does not. pytorch-grad-cam
    puts minus ten million in the place of a map with negative values. Only the part of the network
    above the layer runs, once for each map that is not 0 already.

    Arguments, shape and errors as in `grad_cam`; a function sees one image at a time.

    >>> L = xcnn.ablation_cam(net, x, "clock")
    >>> xcnn.energy_concentration(L, scene.mask("clock")).item() > 0.3
    True
    """
    net, x = ready(net, x)
    layer = layer_name(net, layer)
    heads = [Head(net.module, image, layer) for image in x.split(1)]
    maps = []
    for head, its_target in zip(heads, targets_of(heads, target, net), strict=True):
        its_layout = layout_of(net.module, head.A, layer, head.x, layout)
        A = its_layout.maps(head.A)
        w = _drops(head, its_layout, its_target, net).to(A)
        maps.append(torch.einsum("k,nkyx->nyx", w, A))
    return _drawn(torch.stack(maps), x, relu)


def _drawn(L, x, relu):
    """A signed map (N, 1, h, w), or what is positive in it, as large as the pictures."""
    return to_image_size(L.relu() if relu else L, x)


def _quotient(a, b):
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / b)


def _through_maps(image, A):
    """Batches of an image (C, H, W), seen through its maps (K, h, w), one each."""
    for maps in A.split(at_once(image)):
        H = F.interpolate(maps[None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        low = H.amin((1, 2), keepdim=True)
        H = _quotient(H - low, H.amax((1, 2), keepdim=True) - low)
        yield image * H[:, None].to(image)


def _drops(head, its_layout, target, net):
    """(S_c - S_c without A_k) / |S_c| for each map k of one image, (K,) float64."""
    A = its_layout.maps(head.A)
    alive = A[0].flatten(1).any(1).nonzero()[:, 0]

    def score(maps):
        out = head(its_layout.output(maps, head.A))
        return target_values(out, target, net, len(maps)).cpu().double()

    S, seconds = timed(lambda: score(A))
    drops = torch.zeros(A.shape[1], dtype=S.dtype)
    what = f"Ablation-CAM: {len(alive):,} runs above the layer"
    with progress(what, len(alive), seconds) as done:
        for ks in alive.split(max(1, MAX_NUMBERS // A.numel())):
            without = A.repeat(len(ks), 1, 1, 1)
            without[range(len(ks)), ks] = 0
            drops[ks.cpu()] = S - score(without)
            done(len(ks))
    return _quotient(drops, S.abs()) if S else drops
