"""Where the picture lies in a layer's output: channels first, channels last, tokens, or nowhere."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.engine.layers import maps_of
from xcnn.engine.layouts import layout_by_trial, trial_pictures

from tests.helpers.oracles import assert_near


class ChannelsLast(nn.Module):
    """w01, what Swin and the like do: maps lie as (N, h, w, C)."""

    def __init__(self, channels=32, stride=16):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, stride, stride)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 5)

    def maps(self, x):
        return self.norm(self.stem(x).permute(0, 2, 3, 1))

    def forward(self, x):
        return self.head(self.maps(x).mean((1, 2)))


class Attends(nn.Module):
    """Tokens of patches with a class token in front, and attention between them."""

    def __init__(self, channels=16, heads=2, stride=16, prefix=1):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, stride, stride)
        self.prefix = nn.Parameter(torch.randn(1, prefix, channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.weights = nn.Softmax(-1)
        self.product = nn.Identity()
        self.block = nn.Linear(channels, channels)
        self.head = nn.Linear(channels, 5)
        self.heads = heads

    def forward(self, x):
        tokens = self.stem(x).flatten(2).mT
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.weights(self.product(q @ k.mT))
        tokens = tokens + (weights @ v).transpose(1, 2).flatten(2)
        return self.head(self.block(tokens).mean(1))


def picture(n=1, h=112, w=112, seed=0):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(seed)).double()


def grad_cam_by_hand(A, S_c, size):
    """Eq. 1 and 2 on maps (N, C, h, w), signed."""
    (g,) = torch.autograd.grad(S_c.sum(), A)
    L = (g.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True)
    return F.interpolate(L, size, mode="bilinear").detach()


@pytest.mark.parametrize(("h", "w"), [(112, 112), (80, 160), (160, 96), (112, 116)])
@pytest.mark.parametrize("channels", [32, 7, 5])  # 7 channels beside 7 rows and 7 columns
def test_grad_cam_of_maps_with_their_channels_last(h, w, channels):
    net = ChannelsLast(channels).eval().double()
    x = picture(1, h, w)
    A = net.maps(x).permute(0, 3, 1, 2).detach().requires_grad_()
    wanted = grad_cam_by_hand(A, net.head(A.mean((2, 3)))[:, 1], (h, w))
    for options in ({}, {"layer": "norm"}, {"layer": net.norm}):
        own = options or {"layer": xcnn.networks.ready(net, x)[0].layer}
        R = xcnn.grad_cam(net, x, 1, relu=False, **own)
        if own["layer"] == "stem":
            continue
        assert_near(R, wanted, 1e-10)
    assert xcnn.grad_cam(net, x, 1, relu=False).abs().max() > 0


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_shapley_values_of_maps_with_their_channels_last(baseline):
    net = ChannelsLast(32).eval().double()
    x = picture(1, 64, 64)
    values = xcnn.shap_cam_values(net, x, 1, "norm", baseline=baseline)[0]
    exact = xcnn.shap_cam_values(net, x, 1, "norm", baseline=baseline, estimator="exact")[0]
    A = net.maps(x)[0].flatten(0, 1)
    base = A.mean(0) if baseline == "mean" else 0
    by_hand = ((A - base) @ net.head.weight[1] / len(A)).view(4, 4)
    assert_near(values.phi, by_hand.detach(), 1e-10)
    assert_near(exact.phi, by_hand.detach(), 1e-10)


def test_layers_offered_have_their_channels_in_front():
    net = xcnn.Network(ChannelsLast(32).eval().double(), size=112)
    assert set(net.layers.values()) == {(32, 7, 7)}


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("h", "w"), [(112, 112), (64, 96)])
def test_tokens_become_maps_by_their_layout(prefix, h, w):
    net = Attends(prefix=prefix).eval().double()
    x = picture(2, h, w)
    rows, columns = h // 16, w // 16
    seen = []
    handle = net.block.register_forward_hook(lambda *call: seen.append(call[2]))
    S = net(x)
    handle.remove()
    tokens = seen[0]
    (g,) = torch.autograd.grad(S[:, 2].sum(), tokens)
    A, dA = (
        v[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns)).detach() for v in (tokens, g)
    )
    L = (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True)
    wanted = F.interpolate(L, (h, w), mode="bilinear")
    R = xcnn.grad_cam(net, x, 2, layer="block", relu=False, layout=(rows, columns))
    assert_near(R, wanted, 1e-10)
    guided = xcnn.guided_grad_cam(net, x, 2, layer="stem")
    assert guided.isfinite().all()
    with pytest.raises(InputError, match=r"tokens and not maps.*layout=\(14, 14\)"):
        xcnn.grad_cam(net, x, 2, layer="block")


@pytest.mark.parametrize("layout", [(3, 3, 3), 7, "tokens", (0, 4), (2.5, 4), ("a", 2)])
def test_layouts_that_are_none(layout):
    with pytest.raises(InputError, match=r"layout is \(rows, columns\)"):
        xcnn.grad_cam(Attends().eval().double(), picture(), 1, layer="block", layout=layout)


def test_a_layout_of_too_many_tokens_or_of_maps():
    net = Attends().eval().double()
    with pytest.raises(InputError, match=r"needs 64 tokens or more.*\(1, 50, 16\)"):
        xcnn.grad_cam(net, picture(), 1, layer="block", layout=(8, 8))
    with pytest.raises(InputError, match=r"needs 49 tokens.*puts out \(1, 16, 7, 7\)"):
        xcnn.grad_cam(net, picture(), 1, layer="stem", layout=(7, 7))


@pytest.mark.parametrize("method", ["grad_cam", "shap_cam", "guided_grad_cam"])
@pytest.mark.parametrize("layer", ["weights", "product"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_attention_never_passes_as_a_map(method, layer, prefix):
    """(N, heads, T, T) has the form of maps."""
    net = Attends(prefix=prefix).eval().double()
    with pytest.raises(InputError, match=f"layer '{layer}' puts out .* not maps of the picture"):
        xcnn.METHODS[method](net, picture(), 1, layer=layer)
    offered = xcnn.Network(net, size=112).layers
    assert layer not in offered and offered == {"stem": (16, 7, 7)}


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "vit_b_16", "resnet18"])
def test_torchvisions_networks_offer_maps_of_the_picture(name):
    torch.manual_seed(0)
    options = {"image_size": 64} if name == "vit_b_16" else {}
    net = xcnn.Network(zoo.get_model(name, weights=None, **options).eval(), size=64)
    assert net.layers
    assert all(h == w <= 64 for _, h, w in net.layers.values())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for layer, shape in net.layers.items():
        _, y, layout = maps_of(net, layer, x)
        assert layout.maps(y).shape[1:] == shape


@pytest.mark.parametrize(
    ("order", "there"),
    [((0, 1, 2, 3), (1, 2, 3)), ((0, 2, 3, 1), (3, 1, 2)), ((0, 3, 1, 2), (2, 3, 1))],
)
def test_a_trial_finds_rows_and_columns_in_any_order(order, there):
    torch.manual_seed(0)
    y = nn.Conv2d(3, 8, 9, 8, 4)(trial_pictures(torch.zeros(1, 3, 64, 64))).detach()
    assert y.shape == (5, 8, 8, 8), "the shape does not tell"
    assert layout_by_trial(y.permute(order), 64, 64) == there


@pytest.mark.parametrize("size", [(12, 13), (13, 12), (12, 12)])
@pytest.mark.parametrize("output", [(1, 3), (3, 1), (1, 2), (2, 2), (1, 8), (8, 1)])
@pytest.mark.parametrize("channels", [2, 3, 4, 8])
def test_small_maps_of_convolutions_have_their_channels_first(size, output, channels):
    """Maps of a few positions answer to the trial by chance; convolutions settle it."""
    for seed in range(5):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.AdaptiveAvgPool2d(output),
            nn.Flatten(),
            nn.Linear(channels * output[0] * output[1], 5),
        )
        net = net.eval().double()
        x = picture(1, *size, seed=seed)
        A = net[:2](x).detach().requires_grad_()
        wanted = grad_cam_by_hand(A, net[2:](A)[:, 1], size)
        assert_near(xcnn.grad_cam(net, x, 1, layer="1", relu=False), wanted, 1e-10)


def test_a_trial_of_what_is_not_a_map():
    noise = torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert layout_by_trial(noise, 64, 64) is None
    assert layout_by_trial(noise.softmax(-1), 64, 64) is None
    assert layout_by_trial(noise[0], 64, 64) is None
