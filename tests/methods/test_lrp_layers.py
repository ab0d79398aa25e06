"""Calls that become layers: transposed convolutions, products with matrices, channels last."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import zennit.composites as zc
import zennit.rules as zr
from torch import nn
from xcnn import InputError
from xcnn.methods.lrp import lrp
from zennit.attribution import Gradient

from tests.helpers.oracles import assert_near, batch
from tests.helpers.relevance import any_norm, between, gradient_times_input

RULES_ABOVE = ["0", "epsilon", "gamma", "alpha_beta", "z+"]
TINY = 1e-30  # zennit adds it to what it divides by; we add nothing

GEOMETRY = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 2, "stride": 2, "groups": 2},
    {"kernel_size": (3, 2), "stride": (1, 2), "dilation": 2, "padding": (2, 0)},
    {"kernel_size": 4, "stride": 3, "bias": False},
]


class AsConvolution(nn.Module):
    """A transposed convolution by its definition: zeros between the values, and a convolution."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        inputs, outputs, *window = layer.weight.shape
        groups = layer.groups
        w = layer.weight.detach().view(groups, inputs // groups, outputs, *window)
        w = w.transpose(1, 2).flip(3, 4).reshape(groups * outputs, inputs // groups, *window)
        options = {"dilation": layer.dilation, "groups": groups, "bias": layer.bias is not None}
        self.conv = nn.Conv2d(inputs, groups * outputs, window, **options)
        self.conv.weight = nn.Parameter(w)
        self.conv.bias = layer.bias

    def forward(self, y):
        for dim in (2, 3):
            y = self.with_zeros_between(y, dim)
        border = []
        for side in (1, 0):
            reach = self.layer.dilation[side] * (self.layer.kernel_size[side] - 1)
            padding = reach - self.layer.padding[side]
            border += [padding, padding + self.layer.output_padding[side]]
        return self.conv(F.pad(y, border))

    def with_zeros_between(self, y, dim):
        zeros = [torch.zeros_like(y)] * (self.layer.stride[dim - 2] - 1)
        y = torch.stack([y, *zeros], dim + 1).flatten(dim, dim + 1)
        return y.narrow(dim, 0, y.shape[dim] - len(zeros))


def transposed(geometry, inputs=4, outputs=4):
    torch.manual_seed(3)
    return nn.ConvTranspose2d(inputs, outputs, **geometry).double()


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
@pytest.mark.parametrize("rule", RULES_ABOVE)
def test_a_transposed_convolution_is_the_convolution_that_it_stands_for(rule, geometry):
    layer = transposed(geometry)
    net = between(layer)
    twin = between(AsConvolution(layer))
    x = batch(6, 2)
    assert torch.allclose(net(x), twin(x))
    assert_near(lrp(net, x, 3, rule), lrp(twin, x, 3, rule), 1e-9)


@pytest.mark.parametrize("rule", [*RULES_ABOVE, "zB"])
def test_a_transposed_convolution_may_be_the_first_layer(rule):
    layer = transposed(GEOMETRY[0], 3, 5)
    torch.manual_seed(0)
    head = [nn.ReLU(), nn.Flatten(), nn.Linear(5 * 100, 4).double()]
    net = nn.Sequential(layer, *head).eval()
    twin = nn.Sequential(AsConvolution(layer), *head).eval()
    x = batch(5, 2)
    assert_near(lrp(net, x, 2, rule), lrp(twin, x, 2, rule), 1e-9)


@pytest.mark.parametrize("rule", ["w2", "flat"])
def test_shares_by_the_weights_of_a_transposed_convolution(rule):
    """Windows do not overlap: each output sees one position, and shares among its channels."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 2, 2, stride=2)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(2 * 36, 3)).double().eval()
    x = batch(3, 1)

    def of_first(_kind, index, _name):
        return rule if index == 0 else "0"

    A = layer(x)[0].detach()
    R_A = A * net[2].weight[1].detach().view(2, 6, 6)
    w = layer.weight.detach() ** 2 if rule == "w2" else torch.ones_like(layer.weight.detach())
    shares = w / w.sum(0)
    wanted = torch.einsum("ckuv,kiujv->cij", shares, R_A.view(2, 3, 2, 3, 2))
    assert_near(lrp(net, x, 1, of_first), wanted[None], 1e-9)


def test_a_transposed_convolution_connection_by_connection():
    """z+ in plain loops: R_j = sum_k (a_j w_jk)+ / sum_j (a_j w_jk)+ R_k."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(2 * 36, 3)).double().eval()
    x = batch(3, 1)
    A = layer(x)[0].detach()
    above = [(a * v) for a, v in zip(A.flatten().tolist(), net[2].weight[1].tolist(), strict=True)]
    total = sum(max(c, 0) for c in above) + max(net[2].bias[1].item(), 0)
    S = net(x)[0, 1].item()
    R_A = torch.tensor([max(c, 0) / total * S for c in above]).view(2, 6, 6)
    R = torch.zeros_like(x[0])
    for k, i, j in itertools.product(range(2), range(6), range(6)):
        window = layer.weight[:, k, i % 2, j % 2].tolist()  # each output sees one position
        contributions = [x[0, c, i // 2, j // 2].item() * window[c] for c in range(3)]
        positive = sum(max(v, 0) for v in contributions)
        if not positive:  # then by rule 0
            contributions = [-v for v in contributions]
            positive = sum(contributions)
        for c in range(3):
            share = max(contributions[c], 0) / positive
            R[c, i // 2, j // 2] += share * R_A[k, i, j].item()
    assert_near(lrp(net, x, 1, "z+"), R[None], 1e-6)


ZENNIT = {
    "epsilon": lambda: zr.Epsilon(1e-6),
    "gamma": lambda: zr.Gamma(0.25, TINY),
    "alpha_beta": lambda: zr.AlphaBeta(2, 1, TINY),
    "z+": lambda: zr.ZPlus(TINY),
}


@pytest.mark.parametrize("rule", ZENNIT)
def test_a_transposed_convolution_in_zennit(rule):
    """Of one group: zennit's rules are those of a module."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 4, 3), nn.ReLU(), transposed(GEOMETRY[0]), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*stages, nn.Linear(4 * 64, 5)).double().eval()
    x = batch(6, 1)
    weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    composite = zc.LayerMapComposite([*zc.layer_map_base(TINY), (weighted, ZENNIT[rule]())])
    with Gradient(copy.deepcopy(net), composite) as attributor:
        _, wanted = attributor(x.clone(), lambda S: S * F.one_hot(torch.tensor([2]), 5))
    assert_near(lrp(net, x, 2, rule), wanted.detach(), 1e-9)


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
@pytest.mark.parametrize("rule", RULES_ABOVE)
def test_a_batch_norm_becomes_part_of_a_transposed_convolution(rule, geometry):
    torch.manual_seed(1)
    norm = any_norm(4)
    for v in (norm.running_mean, norm.bias.data):
        v *= 0.05  # so that the maps live
    layer = transposed(geometry)
    folded = transposed({**geometry, "bias": True})
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = 0 if layer.bias is None else layer.bias
    with torch.no_grad():
        for o in range(4):  # output channel o of a group has its weights at o % outputs
            group = o // layer.weight.shape[1]
            rows = slice(group * 4 // layer.groups, (group + 1) * 4 // layer.groups)
            column = o % layer.weight.shape[1]
            folded.weight[rows, column] = layer.weight[rows, column] * factor[o]
        folded.bias.copy_((bias - norm.running_mean) * factor + norm.bias)
    net = between(nn.Sequential(layer, norm, nn.ReLU()))
    twin = between(nn.Sequential(folded, nn.ReLU()))
    x = batch(6, 2)
    assert torch.allclose(net(x), twin(x))
    c = int(net(x)[0].argmax())
    assert_near(lrp(net, x, c, rule), lrp(twin, x, c, rule), 1e-9)


# ---- linear layers in other words


def linear(inputs=4, outputs=4):
    torch.manual_seed(5)
    return nn.Linear(inputs, outputs).double()


def channels_last(f):
    """f on maps whose channels lie last."""
    return lambda y: f(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


LINEAR = linear()
W = LINEAR.weight
b = LINEAR.bias
WITHOUT_BIAS = {
    "F.linear": channels_last(lambda y: F.linear(y, W)),
    "y @ W.T": channels_last(lambda y: y @ W.T),
    "torch.matmul": channels_last(lambda y: torch.matmul(y, W.mT)),
    "mm": channels_last(lambda y: torch.mm(y.flatten(0, 2), W.t()).view(y.shape)),
    "addmm, beta 0": channels_last(
        lambda y: torch.addmm(b, y.flatten(0, 2), W.t(), beta=0).view(y.shape)
    ),
    "W @ y": lambda y: (W @ y.flatten(2)).view(y.shape),
    "1 x 1": lambda y: F.conv2d(y, W[:, :, None, None]),
}


@pytest.mark.parametrize("form", WITHOUT_BIAS)
@pytest.mark.parametrize("rule", RULES_ABOVE)
def test_a_product_with_a_matrix_is_a_linear_layer(form, rule):
    x = batch(6, 2)
    wanted = lrp(between(WITHOUT_BIAS["F.linear"]), x, 2, rule)
    assert_near(lrp(between(WITHOUT_BIAS[form]), x, 2, rule), wanted, 1e-9)


def test_addmm_has_a_bias():
    x = batch(6, 2)
    forms = [
        channels_last(lambda y: F.linear(y, 2 * W, 3 * b)),
        channels_last(
            lambda y: torch.addmm(b, y.flatten(0, 2), W.t(), beta=3, alpha=2).view(y.shape)
        ),
    ]
    for rule in RULES_ABOVE:
        wanted, R = (lrp(between(f), x, 2, rule) for f in forms)
        assert_near(R, wanted, 1e-9)


def test_a_bias_for_every_row():
    B = torch.randn(36, 4, dtype=torch.float64)
    f = channels_last(lambda y: torch.addmm(B, y.flatten(0, 2), W.t()).view(y.shape))
    x = batch(6, 1)
    net = between(f)
    assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-6)


def test_a_batch_norm_after_channels_last_is_not_folded_into_the_wrong_dimension():
    """The norm's channels are the second dimension, the linear layer's outputs the last."""
    torch.manual_seed(2)
    norm = any_norm(4)
    f = nn.Sequential(nn.Linear(6, 4), norm).double().eval()
    net = between(lambda y: f(y).relu())
    x = batch(6, 2)
    assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-6)


@pytest.mark.parametrize(
    "f",
    [
        lambda y: y.flatten(2) @ y.flatten(2).mT @ y.flatten(2),
        lambda y: y @ torch.ones(4, 6, 8, dtype=y.dtype),
        lambda y: torch.addmm(y[0, 0], torch.ones(6, 6).double(), y[0, 1]).repeat(2, 2),
        lambda y: torch.baddbmm(y[:, 0], y[:, 1], torch.ones(1, 6, 6).double()).repeat(1, 2, 2),
    ],
)
def test_other_products_of_matrices_are_refused(f):
    class Product(nn.Module):
        def forward(self, y):
            return f(y).flatten()[:64].reshape(1, 4, -1, 1)

    with pytest.raises(InputError, match=r"has no rule for .*mm|has no rule for .*matmul"):
        lrp(between(Product()), batch(6, 1), 2)
