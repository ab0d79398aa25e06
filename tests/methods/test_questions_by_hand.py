"""Any question, computed by hand: segmentation, regression, two heads, an embedding's similarity.

A question is a function of what the network returns. Each method is written out here for such a
function, with nothing of the library's: autograd, a custom backward pass, hooks, least squares.
"""

import collections
import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models.segmentation as zoo
import xcnn
from torch import nn

from tests.helpers.frozen import Frozen, rule_0
from tests.helpers.oracles import assert_near, outputs_of, within
from tests.helpers.rewritten import RuleReLU


class Body(nn.Module):
    """Two convolutions and an average: features (N, 6) of what a question is about."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU(inplace=True)  # used twice
        self.second = nn.Conv2d(8, 6, 3, stride=2)
        self.maps = nn.ReLU()

    def forward(self, x):
        return self.maps(self.second(self.relu(self.first(x)))).mean((2, 3))


class WithHeads(nn.Module):
    """Heads on the same features, and a function that packs what they say."""

    def __init__(self, pack, *widths):
        super().__init__()
        self.body = Body()
        self.heads = nn.ModuleList(nn.Linear(6, width) for width in widths)
        self.pack = pack

    def forward(self, x):
        features = self.body(x)
        return self.pack(*(head(features) for head in self.heads))


@dataclasses.dataclass
class Detected:
    scores: torch.Tensor
    boxes: torch.Tensor


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):
    """Values by name, by key and by number, as a well-known library returns them."""

    logits: torch.Tensor = None
    boxes: torch.Tensor = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self[field.name] = getattr(self, field.name)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        super().__setitem__(name, value)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else list(self.values())[key]


def in_dict(S, boxes):
    return {"scores": S, "boxes": boxes}


def as_tuple(S, boxes):
    return S, boxes


def nested(S, boxes):
    return {"heads": [{"scores": S}, (boxes, S.argmax(1))], "count": 2}


def alone(v):
    return v


def one_number(v):
    return v[:, 0]


WANTED = torch.tensor([0.3, -1.0, 0.2, 0.8, -0.4], dtype=torch.float64)


def similarity(E):
    """Of an embedding (N, 5) and a fixed one."""
    return F.cosine_similarity(E, WANTED.to(E)[None])


def distance(E):
    return -(E - WANTED.to(E)).square().sum(1).sqrt()


def fcn():
    return zoo.fcn_resnet50(weights=None, weights_backbone=None, num_classes=8, aux_loss=True)


def lraspp():
    return zoo.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=8)


def one_class_of_two_heads(out):
    """A class in the mean of its map, and in that of the second head."""
    return out["out"][:, 3].mean((1, 2)) + 0.4 * out["aux"][:, 3].mean((1, 2))


def one_class_less_another_in_a_part(out):
    part = out["out"][:, :, 8:24, 16:40]
    return (part[:, 3] - part[:, 5]).mean((1, 2))


# name -> the network, what is asked, a layer of maps
CASES = {
    "segmentation, fcn": (fcn, one_class_of_two_heads, "backbone.layer3"),
    "segmentation, lraspp": (lraspp, one_class_less_another_in_a_part, "classifier.cbr"),
    "regression": (lambda: WithHeads(alone, 1), lambda out: out[:, 0], "body.maps"),
    "regression, one value": (lambda: WithHeads(one_number, 1), lambda out: out, "body.maps"),
    "two heads, dict": (
        lambda: WithHeads(in_dict, 5, 4),
        lambda out: out["scores"][:, 1] * out["boxes"][:, 2],
        "body.maps",
    ),
    "two heads, tuple": (
        lambda: WithHeads(as_tuple, 5, 4),
        lambda out: out[0].log_softmax(1)[:, 1] + out[1].square().sum(1),
        "body.maps",
    ),
    "two heads, dataclass": (
        lambda: WithHeads(Detected, 5, 4),
        lambda out: out.scores[:, 4] - out.boxes[:, 0],
        "body.maps",
    ),
    "two heads, ModelOutput": (
        lambda: WithHeads(ModelOutput, 5, 4),
        lambda out: out.logits[:, 4] * out["boxes"][:, 0] + out[1][:, 3],
        "body.maps",
    ),
    "two heads, nested": (
        lambda: WithHeads(nested, 5, 4),
        lambda out: out["heads"][0]["scores"][:, 2] * out["heads"][1][0][:, 1],
        "body.maps",
    ),
    "embedding, cosine": (lambda: WithHeads(alone, 5), similarity, "body.maps"),
    "embedding, distance": (lambda: WithHeads(alone, 5), distance, "body.maps"),
}
SMALL_CASES = [name for name in CASES if not name.startswith("segmentation")]


@dataclasses.dataclass
class Case:
    """A network with something of every size in it, a picture, and a question."""

    module: nn.Module
    f: object
    layer: str
    x: torch.Tensor


def made(name):
    make, f, layer = CASES[name]
    torch.manual_seed(0)
    module = make().double().eval()
    if name.startswith("segmentation"):
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
    side = (48, 48) if name.startswith("segmentation") else (21, 18)
    generator = torch.Generator().manual_seed(1)
    x = within(torch.randn(1, 3, *side, dtype=torch.float64, generator=generator))
    return Case(module, f, layer, x)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return made(request.param)


@pytest.fixture(params=SMALL_CASES, scope="module")
def small_case(request):
    return made(request.param)


def slope(module, f, x):
    """df/dx."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(module(x.clone())).sum(), x)[0]


def with_rule(module, method):
    """A copy in which each ReLU is a module with the method's own backward pass."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.ReLU):
                setattr(parent, name, RuleReLU(method))
    return module


def grad_cam_by_hand(case):
    """Selvaraju et al. 2017, eq. 1 and 2, signed and not enlarged."""
    (A,) = outputs_of(case.module, case.layer, case.x)
    A = A.requires_grad_()
    part = case.module.get_submodule(case.layer)
    handle = part.register_forward_hook(lambda *_: A.clone())
    (dA,) = torch.autograd.grad(case.f(case.module(case.x.clone())).sum(), A)
    handle.remove()
    return (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).detach()


def test_gradient(case):
    assert_near(xcnn.gradient(case.module, case.x, case.f), slope(case.module, case.f, case.x))


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_backward_passes_with_another_relu(case, method):
    wanted = slope(with_rule(case.module, method), case.f, case.x)
    assert_near(xcnn.METHODS[method](case.module, case.x, case.f), wanted)


def test_grad_cam(case):
    L = grad_cam_by_hand(case)
    enlarged = F.interpolate(L, case.x.shape[2:], mode="bilinear", align_corners=False)
    R = xcnn.grad_cam(case.module, case.x, case.f, case.layer, relu=False)
    assert_near(R, enlarged)
    above_0 = F.interpolate(L.relu(), case.x.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(xcnn.grad_cam(case.module, case.x, case.f, case.layer), above_0)


def test_guided_grad_cam(case):
    guided = slope(with_rule(case.module, "guided_backprop"), case.f, case.x)
    L = grad_cam_by_hand(case).relu()
    wanted = guided * F.interpolate(L, case.x.shape[2:], mode="bilinear", align_corners=False)
    R = xcnn.guided_grad_cam(case.module, case.x, case.f, case.layer)
    torch.testing.assert_close(R, wanted, rtol=1e-6, atol=1e-6 * guided.abs().max().item())


@pytest.mark.parametrize("options", [{"rule": "0"}, {"rule": "epsilon", "epsilon": 1e-12}])
def test_lrp_with_rule_0(case, options):
    """x times the gradient with all factors held fixed, which starts with v df/dv."""
    R = xcnn.lrp(case.module, case.x, case.f, **options)
    assert_near(R, rule_0(case.module, case.x, case.f), 1e-6)


class Absorbing(nn.Module):
    """A linear layer of which epsilon takes its part in the backward pass: z / (z + e sign z)."""

    def __init__(self, layer, epsilon):
        super().__init__()
        self.layer = layer
        self.epsilon = epsilon

    def forward(self, a):
        z = self.layer(a)
        handed_down = (z / (z + torch.copysign(torch.full_like(z, self.epsilon), z))).detach()
        return z * handed_down + (z - z * handed_down).detach()


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_lrp_with_epsilon(small_case, epsilon):
    """Bach et al. 2015, eq. 58, as x times a gradient that epsilon takes its part of."""
    module = copy.deepcopy(small_case.module)
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.Conv2d | nn.Linear):
                setattr(parent, name, Absorbing(part, epsilon))
    x = small_case.x.clone().requires_grad_()
    with Frozen():
        out = module(x.clone())
    (g,) = torch.autograd.grad(small_case.f(out).sum(), x)
    wanted = (g * x).detach()
    R = xcnn.lrp(small_case.module, small_case.x, small_case.f, rule="epsilon", epsilon=epsilon)
    assert_near(R, wanted, 1e-9)
    assert (wanted - rule_0(small_case.module, small_case.x, small_case.f)).abs().max() > 0


def test_shares_of_lrp_add_up_to_what_the_values_add(small_case):
    """Without biases and with rule 0: sum R = sum_v v df/dv."""
    module = copy.deepcopy(small_case.module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    features = module.body(small_case.x).detach()
    values = [scale * head(features).detach() for head in module.heads]  # v df/dv, summed: df/ds
    (wanted,) = torch.autograd.grad(small_case.f(module.pack(*values)).sum(), scale)
    R = xcnn.lrp(module, small_case.x, small_case.f, rule="0")
    torch.testing.assert_close(R.sum(), wanted, rtol=1e-9, atol=1e-12)


def test_lime(case):
    """The same pictures, altered by hand; weights and intercept by the normal equations."""
    H, W = case.x.shape[2:]
    cut = np.arange(H)[:, None] // 16 * 3 + np.arange(W)[None] // 16
    cut = np.unique(cut, return_inverse=True)[1].reshape(H, W)
    v = xcnn.lime_surrogates(case.module, case.x, case.f, segments=cut, samples=4, batch=3)[0]
    means = torch.stack([case.x[0][:, cut == k].mean(1) for k in range(cut.max() + 1)], 1)
    pictures = torch.stack(
        [torch.where(torch.from_numpy(shown[cut]), case.x[0], means[:, cut]) for shown in v.z]
    )
    with torch.no_grad():
        f = torch.cat([case.f(case.module(picture)) for picture in pictures.split(1)]).numpy()
    np.testing.assert_allclose(v.f, f, rtol=1e-9)
    assert np.ptp(f) > 0
    z = v.z.astype(float)
    distance = 1 - np.sqrt(z.mean(1))
    pi = np.sqrt(np.exp(-(distance**2) / 0.25**2))
    Z = np.column_stack([z, np.ones(len(z))])
    ridge = np.diag([1.0] * z.shape[1] + [0])
    *w, b = np.linalg.solve(Z.T @ (pi[:, None] * Z) + ridge, Z.T @ (pi * f))
    np.testing.assert_allclose(v.w, w, rtol=1e-6, atol=1e-9 * np.abs(w).max())
    assert v.b == pytest.approx(b)
    R = xcnn.lime(case.module, case.x, case.f, segments=cut, samples=4, batch=3)
    torch.testing.assert_close(R[0, 0], torch.from_numpy(np.array(w)[cut]))


def test_shapley_values_of_positions_add_up(small_case):
    """Efficiency, by hand: sum phi is f of the maps less f of their mean alone."""
    case = small_case
    values = xcnn.shap_cam_values(case.module, case.x, case.f, case.layer, samples=4)[0]
    (A,) = outputs_of(case.module, case.layer, case.x)
    nobody = A.mean((2, 3), keepdim=True).expand_as(A)
    part = case.module.get_submodule(case.layer)
    ends = []
    for maps in (A, nobody):
        handle = part.register_forward_hook(lambda *_, maps=maps: maps.clone())
        with torch.no_grad():
            ends.append(case.f(case.module(case.x.clone())).item())
        handle.remove()
    assert values.phi.sum().item() == pytest.approx(ends[0] - ends[1], abs=1e-9)


# ---- regression and similarity in the words of a user


@pytest.mark.parametrize("activation", ["auto", None])
def test_regression_by_its_column_and_by_a_function(activation):
    """One number is column 0. LIME learns the number itself where `activation` is None."""
    case = made("regression")
    net = xcnn.Network(case.module, size=21, activation=activation)
    for method in ("gradient", "guided_backprop", "grad_cam", "lrp"):
        assert torch.equal(
            xcnn.METHODS[method](net, case.x, 0), xcnn.METHODS[method](net, case.x, case.f)
        )
    options = {"segments": 4, "samples": 8}
    by_column = xcnn.lime_surrogates(net, case.x, 0, **options)[0]
    by_function = xcnn.lime_surrogates(net, case.x, case.f, **options)[0]
    number = torch.from_numpy(by_function.f)
    wanted = number if activation is None else number.sigmoid()
    np.testing.assert_allclose(by_column.f, wanted, rtol=1e-9)
    with torch.no_grad():
        out = case.module(case.x)
    torch.testing.assert_close(net.predict(case.x), out if activation is None else out.sigmoid())


def test_each_image_has_its_own_answer():
    """A batch of two pictures, and a fixed embedding for each."""
    case = made("embedding, cosine")
    x = torch.cat([case.x, case.x.flip(3)])
    both = torch.stack([WANTED, -WANTED.flip(0)])

    def similar_to_its_own(E):
        return F.cosine_similarity(E, both)

    R = xcnn.gradient(case.module, x, similar_to_its_own)
    for k in range(2):
        wanted = slope(
            case.module, lambda E, k=k: F.cosine_similarity(E, both[k : k + 1]), x[k : k + 1]
        )
        assert_near(R[k : k + 1], wanted)
