"""Shap-CAM against enumeration, against the published algorithm, and against CAM."""

import copy
import functools
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
import xcnn.photos
from torch import nn
from xcnn import InputError
from xcnn.engine.head import Remainder
from xcnn.methods import shapley
from xcnn.methods.shap_cam import TRUST, Game
from xcnn.methods.shapley import path

from tests.helpers.oracles import network, with_maps
from tests.helpers.places import SMALL

GAP = [
    "resnet_s",
    "googlenet_s",
    "allconv_s",
    "resnet18",
    "googlenet",
    "squeezenet1_1",
    "mobilenet_v2",
    "densenet121",
]
# The end of the big networks, written out: running all of them for every coalition would take minutes.
HEADS = {
    "resnet18": lambda net, A: net.fc(A.mean((2, 3))),
    "googlenet": lambda net, A: net.fc(A.mean((2, 3))),
    "mobilenet_v2": lambda net, A: net.classifier(A.mean((2, 3))),
    "densenet121": lambda net, A: net.classifier(A.relu().mean((2, 3))),
}


def picture(side, seed=0):
    return torch.randn(
        1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def published(module, layer, x, c, score="logit", zero=False, end=None):
    """The game of the paper, played through the whole network, or through a given end: coalitions (B, P) -> (B,)."""
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _m, _i, out: seen.append(out.detach().clone())
    )
    with torch.no_grad():
        scores = module(x)
    handle.remove()
    (A,) = seen
    if end is None:
        end = lambda module, A: with_maps(module, layer, x, A)  # noqa: E731
    torch.testing.assert_close(end(module, A), scores, rtol=1e-10, atol=1e-12)
    base = torch.zeros_like(A) if zero else A.mean((2, 3), keepdim=True).expand_as(A)

    def v(coalitions):
        present = coalitions.view(-1, 1, *A.shape[2:])
        with torch.no_grad():
            S = torch.cat([end(module, torch.where(part, A, base)) for part in present.split(256)])
        return (S.softmax(1) if score == "probability" else S)[:, c]

    return v


# ---- the network above a layer


class Gated(nn.Module):
    """Squeeze-and-excitation with linear layers below the last maps, and a fully connected head above them."""

    def __init__(self, blocks=3):
        super().__init__()
        self.first, self.scale = nn.Conv2d(3, 8, 3, stride=2), nn.Parameter(torch.full((1,), -0.7))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(blocks))
        self.gates = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
        self.last, self.head = (
            nn.Identity(),
            nn.Sequential(nn.Linear(8 * 9, 12), nn.ReLU(), nn.Linear(12, 5)),
        )

    def forward(self, x):
        scale, A = self.scale.abs(), self.first(x).relu()
        for conv, gate in zip(self.convs, self.gates, strict=True):
            A = conv(A).relu() * gate(A.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head((scale * self.last(A)).flatten(1))


class Awkward(nn.Module):
    """Values from below the layer that are changed in place above it, a call that returns two things, a shared ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(6, 8, 3),
        )
        self.relu, self.fc, self.pool = (
            nn.ReLU(),
            nn.Linear(8, 5),
            nn.MaxPool2d(2, return_indices=True),
        )
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x):
        A = self.relu(self.first(x))
        A += self.second(A)
        y, switches = self.pool(A)
        A = A + self.unpool(self.second(y), switches)
        return self.fc(self.relu(self.third(A)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "second", "third", "relu"])
def test_remainder_of_an_awkward_network(layer):
    torch.manual_seed(0)
    net, x = Awkward().eval().double(), picture(10)
    head, runs = Remainder(net, x, layer), []
    A = torch.cat([head.A, 0.5 * head.A, head.A.roll(1, 2)])

    def last(_module, _inputs, out):
        runs.append(out)
        return A if len(runs) == 1 + (layer in ("second", "relu")) else None

    handle = net.get_submodule(layer).register_forward_hook(last)
    with torch.no_grad():
        wanted = net(x.expand(3, -1, -1, -1))
    handle.remove()
    for _ in range(2):  # nothing that is remembered has changed
        torch.testing.assert_close(head(A), wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(head(A[:1]), wanted[:1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("together", [None, 1])  # 1: every coalition goes through the head alone
def test_linear_layers_below_and_a_vector_of_one_number(together, monkeypatch):
    if together:
        monkeypatch.setattr(sys.modules["xcnn.methods.shap_cam"], "TOGETHER", together)
    torch.manual_seed(0)
    net, x = Gated().eval().double(), picture(7)
    layer, phi = "last", shapley.exact(published(net, "last", x, 2), 9)
    R = xcnn.shap_cam(net, x, 2, layer=layer, estimator="exact", relu=False)
    torch.testing.assert_close(R.values[0].phi.flatten(), phi, rtol=1e-9, atol=1e-12)
    game = Game(Remainder(net, x, layer), 2)
    assert game.L is None and (game.D is not None) == (
        together is None
    )  # the head's own layer has the table


@pytest.mark.parametrize(
    "name", [*SMALL, "resnet18", "densenet121", "googlenet", "squeezenet1_1", "mobilenet_v2"]
)
def test_remainder_is_the_rest_of_the_network(name):
    net = network(name)
    x = picture(net.size)
    for layer in list(net.layers)[-3:]:
        head = Remainder(net.module, x, layer)
        assert torch.equal(head.S, net.module(x))
        A = torch.cat([head.A, 0.5 * head.A, head.A.roll(1, 2)])
        torch.testing.assert_close(
            head(A), with_maps(net.module, layer, x, A), rtol=1e-9, atol=1e-12
        )


def test_remainder_does_not_run_what_lies_below():
    class Counts(nn.Conv2d):
        runs = 0

        def _conv_forward(self, *args):
            Counts.runs += 1
            return super()._conv_forward(*args)

    class Net(nn.Module):
        """The layer's input is used again above it, and worked on in place."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Linear(4, 5),
            )

        def forward(self, x):
            n = x.shape[0]
            skip = F.relu(self.a(x), inplace=True)
            out = self.b(skip)
            out += skip
            return self.fc(F.relu_(out).mean((2, 3)).view(n, -1))

    torch.manual_seed(0)
    module, x = Net().eval().double(), picture(8)
    calls = []
    module.a.register_forward_hook(lambda _m, given, _o: calls.append(len(given[0])))
    head = Remainder(module, x, "b")
    A = torch.cat([head.A, -head.A, head.A * 2])
    before = A.clone()
    torch.testing.assert_close(head(A), with_maps(module, "b", x, A))
    assert torch.equal(A, before) and torch.equal(head(A[:1]), head.S)


# ---- closed form and exact values


@pytest.mark.parametrize("name", GAP)
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_closed_form_is_the_enumeration_of_all_coalitions(name, baseline):
    net = network(name)
    side = {
        "resnet18": 96,
        "googlenet": 96,
        "mobilenet_v2": 96,
        "densenet121": 96,
        "squeezenet1_1": 63,
    }.get(name, 48)
    x = picture(side)
    layer = {"squeezenet1_1": "features.12", "densenet121": "features.norm5"}.get(name, net.layer)
    R = xcnn.shap_cam(net, x, 3, layer, baseline=baseline, relu=False)
    (got,) = R.values
    assert got.estimator == "closed form" and got.phi.shape == (3, 3) and got.error == 0
    v = published(net.module, layer, x, 3, zero=baseline == "zero", end=HEADS.get(name))
    wanted = shapley.exact(v, 9).view(3, 3)
    assert wanted.abs().max() > 0
    assert (got.phi - wanted).abs().max() <= 1e-10 * max(1, wanted.abs().max())
    assert torch.equal(
        R, F.interpolate(got.phi[None, None], (side, side), mode="bilinear", align_corners=False)
    )


def test_closed_form_on_sixteen_players():
    net, x = network("resnet_s"), picture(64)
    game = Game(Remainder(net.module, x, "layer3"), 3)
    direct = shapley.exact(lambda S: game.head(game.maps(S))[:, 3], 16)
    assert (game.L[:, 3] - direct).abs().max() < 1e-10 and direct.abs().max() > 0


@pytest.mark.parametrize("name", ["resnet_s", "googlenet_s", "allconv_s", "resnet18"])
def test_baseline_zero_is_cam(name):
    """Shap-CAM of the score with baseline 0 is CAM / P, up to the ReLU."""
    net = network(name)
    x = picture(96)
    layer = "layer4" if name == "resnet18" else net.layer
    R = xcnn.shap_cam(net, x, 3, layer, baseline="zero", relu=False)
    P = R.values[0].phi.numel()
    wanted = xcnn.cam(net, x, 3, relu=False) / P
    assert (R - wanted).abs().max() < 1e-10 * wanted.abs().max()


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("name", ["resnet_s", "vgg_s"])
def test_exact_is_the_enumeration(name, score):
    net = network(name)
    if (
        name == "vgg_s"
    ):  # a fully connected head wants its own size: ask at a layer of 3 x 3 in a smaller sister
        torch.manual_seed(0)
        head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 9, 12), nn.ReLU(True), nn.Linear(12, 5))
        module = (
            nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), head).eval().double()
        )
        net, x, layer = xcnn.Network(module, size=8), picture(8), "2"
    else:  # a picture of two classes that compete
        scene = xcnn.scenes.render(9, count=2)
        x, layer = (
            F.interpolate(net.preprocess(scene.image), (48, 48), mode="area").double(),
            "layer3",
        )
    R = xcnn.shap_cam(net, x, 3, layer, score=score, estimator="exact", relu=False)
    wanted = shapley.exact(published(net.module, layer, x, 3, score), 9)
    torch.testing.assert_close(R.values[0].phi.flatten(), wanted, rtol=1e-9, atol=1e-12)
    assert wanted.abs().max() > 1e-4 and R.values[0].estimator == "exact"
    gain = R.values[0].gain
    assert R.values[0].phi.sum().item() == pytest.approx(gain, abs=1e-10)


# ---- probabilities


@pytest.mark.parametrize("name", ["resnet_s", "googlenet_s", "allconv_s"])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("side", [48, 64])
def test_path_integral_against_enumeration(name, baseline, side):
    net, off = xcnn.load(name), []
    for seed in range(6):
        x = F.interpolate(net.preprocess(xcnn.scenes.render(seed).image), (side, side), mode="area")
        c = int(net.predict(x).argmax())
        R = xcnn.shap_cam(net, x, c, score="probability", baseline=baseline, relu=False)
        (got,) = R.values
        exact = (
            xcnn.shap_cam(net, x, c, score="probability", baseline=baseline, estimator="exact")
            .values[0]
            .phi
        )
        error = ((got.phi - exact).norm() / exact.norm()).item()
        assert abs(got.phi.sum().item() - got.gain) < 1e-6
        assert error < (0.05 if got.estimator == "Sobol permutations" else 0.1), (got, error)
        off.append(error)
    assert sorted(off)[3] < 0.03


def test_second_order_is_better_than_first_and_more_nodes_change_nothing():
    generator = torch.Generator().manual_seed(0)
    L, b = (torch.randn(n, 6, dtype=torch.float64, generator=generator) for n in (12, 1))
    v = lambda S: (b + S.double() @ (0.4 * L)).softmax(1)[:, 2]  # noqa: E731
    exact = shapley.exact(v, 12)
    phi, delta = path(0.4 * L, b[0], 2)
    more, _ = path(0.4 * L, b[0], 2, nodes=64)
    off = lambda got: ((got - exact).norm() / exact.norm()).item()  # noqa: E731
    assert off(phi) < off(path(0.4 * L, b[0], 2, order=1)[0]) / 3, (
        "the second order takes away most of the error"
    )
    assert off(phi) < delta
    torch.testing.assert_close(phi, more, rtol=1e-6, atol=1e-9)
    assert phi.sum().item() == pytest.approx(
        (v(torch.ones(1, 12) > 0) - v(torch.zeros(1, 12) > 0)).item(), abs=1e-12
    )


@functools.cache
def sharp(factor):
    """resnet_s, whose scores are multiplied: the same decisions, made with more confidence."""
    net = xcnn.load("resnet_s")
    module = copy.deepcopy(net.module)
    with torch.no_grad():
        module.fc.weight *= factor
        module.fc.bias *= factor
    return xcnn.Network(module, "sharp", net.classes, size=128)


def test_where_the_path_integral_fails_the_guard_sees_it():
    net, flagged, worst = sharp(6), 0, 0
    for seed in range(8):
        x = F.interpolate(
            net.preprocess(xcnn.scenes.render(seed, count=2).image), (64, 64), mode="area"
        )
        c = int(net.predict(x).argmax())
        call = functools.partial(xcnn.shap_cam, net, x, c, score="probability")
        auto, exact, trusting = (
            call(estimator=e, samples=1024).values[0] for e in ("auto", "exact", "path")
        )
        error = lambda got, exact=exact: ((got.phi - exact.phi).norm() / exact.phi.norm()).item()  # noqa: E731
        if auto.estimator == "Sobol permutations":
            flagged += 1
            worst = max(worst, error(trusting))
            assert trusting.error > TRUST and error(auto) < 0.05
        else:
            assert error(auto) < 0.1
    assert flagged >= 2 and worst > 0.05, "this test must see failures of the path integral"


def test_corrections_of_opposite_sign_do_not_hide_a_failure():
    """Here the two orders end up close to each other, and both are wrong: only the corrections on the way tell."""
    net = xcnn.load("allconv_s")
    x = F.interpolate(net.preprocess(xcnn.scenes.render(9, count=2).image), (48, 48), mode="area")
    game = Game(Remainder(net.module, x, net.layer), int(net.predict(x).argmax()), baseline="zero")
    L, b = 2 * game.L, 2 * game.b
    exact = shapley.exact(lambda S: (b + S.double() @ L).softmax(1)[:, game.c], 9)
    (one, delta), (two, _) = (path(L, b, game.c, order=k) for k in (1, 2))
    off = lambda got, wanted: ((got - wanted).norm() / wanted.norm()).item()  # noqa: E731
    assert off(two, exact) > 0.3 and off(one, two) < 0.1
    assert delta > TRUST


def test_the_guard_misses_no_failure_among_many():
    """Small games of the small networks, sharpened: no error above 10 % may go unnoticed."""
    failed = 0
    for name in ("allconv_s", "googlenet_s", "resnet_s"):
        net = xcnn.load(name)
        for seed in range(5):
            x = F.interpolate(
                net.preprocess(xcnn.scenes.render(seed, count=2).image), (48, 48), mode="area"
            )
            head, c = Remainder(net.module, x, net.layer), int(net.predict(x).argmax())
            for baseline, factor in [
                ("zero", 1),
                ("zero", 4),
                ("mean", 4),
                ("zero", 8),
                ("mean", 8),
            ]:
                game = Game(head, c, baseline=baseline)
                L, b = factor * game.L, factor * game.b
                exact = shapley.exact(
                    lambda S, L=L, b=b, c=c: (b + S.double() @ L).softmax(1)[:, c], 9
                )
                phi, delta = path(L, b, c)
                if ((phi - exact).norm() / exact.norm()).item() > 0.1:
                    failed += 1
                    assert delta > TRUST, (name, seed, baseline, factor)
    assert failed >= 10, "this test must see failures"


def test_extreme_scores_overflow_nothing():
    R = xcnn.shap_cam(sharp(1000), picture(64).float(), score="probability")
    assert torch.isfinite(R).all()


# ---- other heads


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_a_fully_connected_head_goes_by_table_and_gives_the_same(score):
    net, x = network("vgg_s"), picture(128)
    game = Game(Remainder(net.module, x, net.layer), 3, score)
    assert game.L is None and game.D.shape == (64, 32)
    S = torch.rand(20, 64, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(
        game(S), published(net.module, net.layer, x, 3, score)(S), rtol=1e-8, atol=1e-10
    )


def test_permutations_through_the_head_find_what_the_published_algorithm_finds():
    net = network("vgg_s")
    x = net.preprocess(xcnn.scenes.render(3).image).double()
    c = int(net.predict(x).argmax())
    call = lambda samples, seed: xcnn.shap_cam(net, x, c, samples=samples, seed=seed).values[0]  # noqa: E731
    got = call(4, 7)
    phi, error = shapley.permutations(
        published(net.module, net.layer, x, c), 64, 4, seed=7
    )  # the same orders
    torch.testing.assert_close(got.phi.flatten(), phi, rtol=1e-8, atol=1e-10)
    assert (
        got.error == pytest.approx((error.norm() / phi.norm()).item(), rel=1e-6)
        and got.error > 0.05
    )
    one, two = call(2000, 1), call(2000, 2)
    assert one.estimator == "permutations" and 0 < one.error < 0.05
    assert ((one.phi - two.phi).norm() / one.phi.norm()).item() < 2 * (one.error + two.error)


def test_an_early_layer_has_neither_table():
    net, x = network("resnet_s"), picture(64)
    game = Game(Remainder(net.module, x, "layer2"), 3)
    assert game.L is None
    S = torch.rand(10, game.P, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(
        game(S), published(net.module, "layer2", x, 3)(S), rtol=1e-8, atol=1e-10
    )
    values = xcnn.shap_cam(net, x, 3, "layer2", samples=20).values[0]
    assert values.phi.sum().item() == pytest.approx(values.gain, abs=1e-8)


def test_vgg11_is_not_taken_for_position_wise():
    """Its adaptive pooling accepts a map of one position, and spreads it out: only numbers can tell."""
    torch.manual_seed(0)
    module = zoo.vgg11(weights=None).eval()
    game = Game(Remainder(module, picture(224).float(), "features.20"), 3)
    assert game.L is None and game.D.shape == (49, 4096)


# ---- bad input


@pytest.mark.parametrize(("name", "options", "says"), [
    ("resnet_s", {"estimator": "exact"}, "64 players.*1 to 20"),
    ("vgg_s", {"estimator": "path", "score": "probability"}, "not position-wise.*permutation"),
    ("resnet_s", {"estimator": "paths"}, "unknown estimator 'paths'.*'path'"),
    ("resnet_s", {"score": "logits"}, "unknown score 'logits'.*'logit'"),
    ("resnet_s", {"baseline": "means"}, "unknown baseline.*'mean'"),
    ("resnet_s", {"layer": "fc"}, r"puts out \(1, 10\), not maps"),
    ("resnet_s", {"layer": "layer_3"}, "did you mean.*'layer3'"),
    ("vgg_s", {"samples": 1}, "2 samples"),
])  # fmt: skip
def test_bad_input(name, options, says):
    with pytest.raises(InputError, match=says):
        xcnn.shap_cam(xcnn.load(name), torch.zeros(1, 3, 128, 128) + 0.1, 3, **options)


# ---- the real networks


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_path_integral_on_real_networks(real, name):
    net = xcnn.load(name)
    for photo in ("coffee", "temple"):
        x = net.preprocess(xcnn.photos.load(photo))
        (got,) = xcnn.shap_cam(net, x, score="probability").values
        game = Game(
            Remainder(net.module, x, net.layer), int(net.predict(x).argmax()), "probability"
        )
        phi, error = shapley.permutations(game, game.P, 512, sobol=True)
        limit = 3 * error.norm() / phi.norm() + 0.02
        assert (got.phi.flatten() - phi).norm() / phi.norm() < limit
