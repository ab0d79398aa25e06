"""Pictures of any number of channels, networks with any number of scores, maps in either order."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
import xcnn
from PIL import Image
from torch import nn
from xcnn import InputError, show

from tests.helpers.oracles import assert_near
from tests.helpers.relevance import without_biases


class TwoLayers(nn.Module):
    """Two convolutions, an average, a linear layer; `last`: the maps lie channels last."""

    def __init__(self, channels, scores, last):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(channels, 8, 3)
        self.second = nn.Conv2d(8, 6, 3, stride=2)
        self.order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
        self.maps = nn.ReLU()
        self.over = (1, 2) if last else (2, 3)
        self.fc = nn.Linear(6, scores)

    def forward(self, x):
        x = self.second(self.first(x).relu()).permute(self.order)
        return self.fc(self.maps(x).mean(self.over))


SIZES = [(19, 15), (17, 23)]  # of the pictures: odd, and not square
CASES = [
    (channels, scores, last, size)
    for channels in (1, 2, 3, 4)
    for scores in (1, 5)
    for last in (False, True)
    for size in SIZES
]
every_case = pytest.mark.parametrize(("channels", "scores", "last", "size"), CASES)


def case(channels, scores, last, size):
    net = TwoLayers(channels, scores, last).eval().double()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, channels, *size, generator=generator, dtype=torch.float64)
    return net, x, scores - 1


def forward(net, x):
    """What the network computes, channels first: z1, z2 before each ReLU, the maps, the scores."""
    z1 = net.first(x)
    z2 = net.second(z1.relu())
    A = z2.relu()
    return z1, z2, A, net.fc(A.mean((2, 3)))


def backward_by_hand(net, x, c, rule):
    """The backward pass with g -> rule(z, g) at each ReLU."""
    z1, z2, A, _ = forward(net, x)
    g = (net.fc.weight[c] / A[0, 0].numel())[None, :, None, None].expand_as(A)
    g = rule(z2, g)
    rest = (z1.shape[2] - 3) % 2, (z1.shape[3] - 3) % 2
    g = F.conv_transpose2d(g, net.second.weight, stride=2, output_padding=rest)
    return F.conv_transpose2d(rule(z1, g), net.first.weight).detach()


RULES = {
    "gradient": lambda z, g: g * (z > 0),
    "deconvnet": lambda z, g: g.clamp(min=0),
    "guided_backprop": lambda z, g: (g * (z > 0)).clamp(min=0),
}


@every_case
@pytest.mark.parametrize("method", RULES)
def test_backward_passes_by_hand(method, channels, scores, last, size):
    net, x, c = case(channels, scores, last, size)
    R = xcnn.METHODS[method](net, x, c)
    assert R.shape == x.shape and R.abs().max() > 0
    assert_near(R, backward_by_hand(net, x, c, RULES[method]), 1e-12)


def class_map(net, x, c):
    """CAM by hand, signed, at the size of the maps."""
    A = forward(net, x)[2]
    return (A * net.fc.weight[c][None, :, None, None]).sum(1, keepdim=True).detach()


def enlarged(M, x):
    return F.interpolate(M, x.shape[2:], mode="bilinear")


@every_case
def test_maps_by_hand(channels, scores, last, size):
    net, x, c = case(channels, scores, last, size)
    M = class_map(net, x, c)
    positions = M[0].numel()
    grad_cam = xcnn.grad_cam(net, x, c, layer="maps", relu=False)
    assert_near(grad_cam, enlarged(M, x) / positions, 1e-12)
    positive = enlarged(M.relu(), x) / positions
    torch.testing.assert_close(xcnn.grad_cam(net, x, c, layer="maps"), positive)
    guided = xcnn.guided_grad_cam(net, x, c, layer="maps")
    by_hand = backward_by_hand(net, x, c, RULES["guided_backprop"])
    torch.testing.assert_close(guided, by_hand * positive)
    shapley = xcnn.shap_cam(net, x, c, layer="maps", relu=False)
    assert_near(shapley, enlarged(M - M.mean((2, 3), keepdim=True), x) / positions, 1e-10)
    assert_near(xcnn.cam(net, x, c, relu=False), enlarged(M, x), 1e-12)
    torch.testing.assert_close(xcnn.cam(net, x, c), enlarged(M.relu(), x))


@every_case
def test_shapley_values_of_a_probability_add_up(channels, scores, last, size):
    """Efficiency: together they are worth what all maps are worth, less their mean alone."""
    net, x, c = case(channels, scores, last, size)
    A = forward(net, x)[2]
    S = net.fc(A.mean((2, 3)))  # of the maps, and of their means: the same average
    for k, v in enumerate(xcnn.shap_cam_values(net, x, c, "maps", "probability", "zero")):
        ends = torch.stack([S[k], net.fc.bias])
        p = ends.sigmoid() if scores == 1 else ends.softmax(1)
        assert v.phi.shape == A.shape[2:]
        assert v.phi.sum().item() == pytest.approx((p[0, c] - p[1, c]).item(), rel=1e-9)


@every_case
def test_relevance_by_hand(channels, scores, last, size):
    """LRP's rule 0 is input times gradient; deep Taylor of a positive score is not negative."""
    net, x, c = case(channels, scores, last, size)
    by_hand = x * backward_by_hand(net, x, c, RULES["gradient"])
    assert_near(xcnn.lrp(net, x, c, rule="0"), by_hand, 1e-9)
    R = xcnn.lrp(net, x, c, rule="zB", low=0, high=1)
    S_c = forward(net, x)[3][:, c]
    assert R.shape == x.shape
    assert ((R.sum((1, 2, 3)) * S_c).detach() >= -1e-12).all()


@every_case
def test_deep_taylor_conserves_the_score(channels, scores, last, size):
    """Without biases all of the score arrives; where it is positive, nothing below 0 does."""
    net, x, c = case(channels, scores, last, size)
    net = without_biases(net)
    S_c = forward(net, x)[3][:, c].detach()
    R = xcnn.deep_taylor(net, x, c)
    assert R.shape == x.shape and S_c.abs().min() > 0
    torch.testing.assert_close(R.sum((1, 2, 3)), S_c, rtol=1e-6, atol=0)
    assert (R * S_c.sign()[:, None, None, None] >= 0).all()


@every_case
def test_lime_learns_from_the_altered_pictures(channels, scores, last, size):
    net, x, c = case(channels, scores, last, size)
    H, W = size
    cut = np.arange(H)[:, None].repeat(W, 1) // 5
    surrogate = xcnn.lime_surrogates(net, x[:1], c, segments=cut, samples=20, hidden="mean")[0]
    means = torch.stack([x[0][:, cut == k].mean(1) for k in range(cut.max() + 1)], 1)
    for z, f in zip(surrogate.z, surrogate.f, strict=True):
        shown = torch.from_numpy(z[cut])
        altered = torch.where(shown, x[0], means[:, cut])
        S = forward(net, altered[None])[3]
        p = S.sigmoid() if scores == 1 else S.softmax(1)
        assert f == pytest.approx(p[0, c].item(), rel=1e-9)
    # where (pi (f - b - z w)^2 + |w|^2) is least, its derivatives are 0
    z = surrogate.z.astype(float)
    rest = surrogate.pi * (surrogate.f - surrogate.b - z @ surrogate.w)
    assert np.abs(surrogate.w).max() > 0
    np.testing.assert_allclose(rest.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(z.T @ rest, surrogate.w, atol=1e-12)
    R = xcnn.lime(net, x, c, segments=cut, samples=20)
    assert R.shape == (2, 1, H, W) and R.isfinite().all()
    torch.testing.assert_close(R[0, 0], torch.from_numpy(surrogate.w[cut]))


@every_case
def test_fixations_lie_in_the_picture(channels, scores, last, size):
    net, x, c = case(channels, scores, last, size)
    R = xcnn.cnn_fixations(net, x, c)
    assert R.shape == (2, 1, *size) and R.isfinite().all() and (R >= 0).all()
    for one_map, fixations in zip(R, xcnn.find_fixations(net, x, c), strict=True):
        assert (fixations.all_points >= 0).all()
        assert (fixations.all_points < torch.tensor(size)).all()
        assert one_map.sum().item() == pytest.approx(len(fixations.points))


@every_case
def test_fixations_are_those_of_channels_first(channels, scores, last, size):
    net, x, c = case(channels, scores, last, size)
    first = case(channels, scores, False, size)[0]
    for here, there in zip(
        xcnn.find_fixations(net, x, c), xcnn.find_fixations(first, x, c), strict=True
    ):
        assert torch.equal(here.all_points, there.all_points)


# ---- from a file to a map


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "LA", "I;16", "F"])
def test_a_grey_network_from_file_to_picture(tmp_path, mode):
    """w09: an MNIST network. The first error's advice led to a second error."""
    net = xcnn.Network(
        nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        ).eval(),
        size=28,
        mean=0.1307,
        std=0.3081,
    )
    ramp = np.linspace(0, 1, 28 * 28).reshape(28, 28)
    if mode == "F":
        image = Image.fromarray(ramp.astype(np.float32))
    elif mode == "I;16":
        image = Image.fromarray((ramp * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode)
    assert net.channels == 1 and net.mean == (0.1307,)
    x = net.preprocess(image)
    assert x.shape == (1, 1, 28, 28) and x.dtype == torch.float32
    if mode != "1":
        wanted = torch.from_numpy((ramp - 0.1307) / 0.3081).float()
        torch.testing.assert_close(x[0, 0], wanted, atol=0.03, rtol=0)
    picture = net.picture(x)
    assert picture.shape == (1, 28, 28, 3)
    assert (picture[..., 0] == picture[..., 2]).all()
    assert net.layers == {"1": (8, 26, 26)}
    R = xcnn.grad_cam(net, x)
    show.row(("grey", picture[0]), ("map", picture[0], R)).savefig(tmp_path / "grey.png")
    assert xcnn.lime(net, x, samples=20, segments=4).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_other_numbers_of_channels_come_as_tensors(tmp_path, channels):
    module = nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    net = xcnn.Network(module, size=20)
    assert net.channels == channels and net.mean == (0,) * channels
    with pytest.raises(InputError, match=f"takes {channels} channels.*make x yourself"):
        net.preprocess(Image.new("RGB", (20, 20)))
    x = torch.rand(1, channels, 20, 20, generator=torch.Generator().manual_seed(0))
    picture = net.picture(x)
    shown = x[0, :3] if channels > 2 else x[0].mean(0, keepdim=True).expand(3, -1, -1)
    np.testing.assert_allclose(picture[0], shown.permute(1, 2, 0), atol=1e-6)
    for method in ("gradient", "grad_cam", "deep_taylor"):
        R = xcnn.METHODS[method](net, x, 1)
        show.row(("map", picture[0], R)).savefig(tmp_path / "map.png")


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 5)), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 5)), 3),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), 4),
        (nn.Flatten(), 3),
    ],
)
def test_channels_are_read_from_the_first_weights(module, channels):
    assert xcnn.Network(module.eval(), size=28).channels == channels


@pytest.mark.parametrize(
    "options",
    [{"mean": (0.5, 0.5)}, {"mean": (0.5,) * 3, "std": (1,) * 2}, {"std": 0}, {"std": (1, -1, 1)}],
)
def test_statistics_that_do_not_fit(options):
    if options == {"mean": (0.5, 0.5)}:
        assert xcnn.Network(nn.Conv2d(3, 4, 3), **options).channels == 2
        return
    with pytest.raises(InputError, match="one per channel"):
        xcnn.Network(nn.Conv2d(3, 4, 3), **options)


@pytest.mark.parametrize("size", [(40, 30), (31, 77), (128, 128), (5, 9)])
@pytest.mark.parametrize("side", [28, 13, 128])
def test_preprocess_is_torchvisions(size, side):
    """Without torchvision: the same numbers, bit for bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    net = xcnn.Network(nn.Conv2d(3, 4, 3), size=side)
    cut = TF.center_crop(TF.resize(image, side, antialias=True), side)
    wanted = TF.to_tensor(cut)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.mean, net.std))
    assert torch.equal(net.preprocess(image)[0], (wanted - mean) / std)
    whole = net.preprocess(image, size=None)[0]
    assert torch.equal(whole, (TF.to_tensor(image) - mean) / std)
