"""Shap-CAM against enumeration, against the published algorithm, and against CAM."""

import copy
import functools
import itertools
import statistics
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
import xcnn
import xcnn.photos
from torch import nn
from xcnn import InputError
from xcnn.engine.head import Head
from xcnn.methods import shapley
from xcnn.methods.shap_cam import MAX_ERROR, Game, _solve
from xcnn.methods.shapley import path

from tests.helpers.oracles import network, noise, outputs_of, with_maps
from tests.helpers.relatives import dasp

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
# The end of the big networks, written out. To run all of them for every coalition would take
# minutes.
HEADS = {
    "resnet18": lambda net, A: net.fc(A.mean((2, 3))),
    "googlenet": lambda net, A: net.fc(A.mean((2, 3))),
    "mobilenet_v2": lambda net, A: net.classifier(A.mean((2, 3))),
    "densenet121": lambda net, A: net.classifier(A.relu().mean((2, 3))),
}


def published(module, layer, x, c, score="logit", zero=False, end=None):
    """The game of the paper, played through the whole network, or through an end written out.

    :return: function of coalitions, (B, P) -> (B,)
    """
    (A,) = outputs_of(module, layer, x)
    if end is None:

        def end(module, A):
            return with_maps(module, layer, x, A)

    with torch.no_grad():
        torch.testing.assert_close(end(module, A), module(x), rtol=1e-10, atol=1e-12)
    base = torch.zeros_like(A) if zero else A.mean((2, 3), keepdim=True).expand_as(A)

    def v(coalitions):
        present = coalitions.view(-1, 1, *A.shape[2:])
        with torch.no_grad():
            S = torch.cat([end(module, torch.where(part, A, base)) for part in present.split(256)])
        return (S.softmax(1) if score == "probability" else S)[:, c]

    return v


def relative_error(phi, wanted):
    return ((phi - wanted).norm() / wanted.norm()).item()


def two_objects(net, seed, side):
    """A scene of two objects that compete, side x side pixels, and the class the network sees."""
    picture = net.preprocess(xcnn.scenes.render(seed, count=2).image)
    x = F.interpolate(picture, (side, side), mode="area")
    return x, int(net.predict(x).argmax())


# ---- the tables of a head


class Gated(nn.Module):
    """Squeeze-and-excitation: linear layers below the last maps, and a connected head above."""

    def __init__(self, blocks=3):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.scale = nn.Parameter(torch.full((1,), -0.7))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(blocks))
        self.gates = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
        self.last = nn.Identity()
        self.head = nn.Sequential(nn.Linear(8 * 9, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, x):
        scale = self.scale.abs()
        A = self.first(x).relu()
        for conv, gate in zip(self.convs, self.gates, strict=True):
            A = conv(A).relu() * gate(A.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head((scale * self.last(A)).flatten(1))


@pytest.mark.parametrize("batch", [None, 1])  # 1: every coalition goes through the head alone
def test_linear_layers_below_and_a_vector_of_one_number(batch, monkeypatch):
    if batch:
        monkeypatch.setattr(sys.modules["xcnn.methods.shap_cam"], "MAX_NUMBERS", batch)
    torch.manual_seed(0)
    net = Gated().eval().double()
    x = noise(7)
    layer = "last"
    phi = shapley.exact(published(net, "last", x, 2), 9)
    (values,) = xcnn.shap_cam_values(net, x, 2, layer=layer, estimator="exact")
    torch.testing.assert_close(values.phi.flatten(), phi, rtol=1e-9, atol=1e-12)
    game = Game(Head(net, x, layer), 2)
    assert game.L is None
    assert (game.D is not None) == (batch is None)  # the head's own layer has the table


# ---- closed form and exact values


# side of the image at which the last layer has 3 x 3 positions; else 48
SIDES = {
    "resnet18": 96,
    "googlenet": 96,
    "mobilenet_v2": 96,
    "densenet121": 96,
    "squeezenet1_1": 63,
}


@pytest.mark.parametrize("name", GAP)
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_closed_form_is_the_enumeration_of_all_coalitions(name, baseline):
    net = network(name)
    side = SIDES.get(name, 48)
    x = noise(side)
    layer = {"squeezenet1_1": "features.12", "densenet121": "features.norm5"}.get(name, net.layer)
    R = xcnn.shap_cam(net, x, 3, layer, baseline=baseline, relu=False)
    (got,) = xcnn.shap_cam_values(net, x, 3, layer, baseline=baseline)
    assert got.estimator == "closed form" and got.phi.shape == (3, 3) and got.error == 0
    v = published(net.module, layer, x, 3, zero=baseline == "zero", end=HEADS.get(name))
    wanted = shapley.exact(v, 9).view(3, 3)
    assert wanted.abs().max() > 0
    assert (got.phi - wanted).abs().max() <= 1e-10 * max(1, wanted.abs().max())
    enlarged = F.interpolate(
        got.phi[None, None], (side, side), mode="bilinear", align_corners=False
    )
    assert torch.equal(R, enlarged)


def test_closed_form_on_sixteen_players():
    game = Game(Head(network("resnet_s").module, noise(64), "layer3"), 3)
    direct = shapley.exact(lambda S: game.head(game.maps(S))[:, 3], 16)
    assert (game.L[:, 3] - direct).abs().max() < 1e-10 and direct.abs().max() > 0


@pytest.mark.parametrize("name", ["resnet_s", "googlenet_s", "allconv_s", "resnet18"])
def test_baseline_zero_is_cam(name):
    """Shap-CAM of the score with baseline 0 is CAM / P, up to the ReLU."""
    net = network(name)
    x = noise(96)
    layer = "layer4" if name == "resnet18" else net.layer
    R = xcnn.shap_cam(net, x, 3, layer, baseline="zero", relu=False)
    P = xcnn.shap_cam_values(net, x, 3, layer, baseline="zero")[0].phi.numel()
    wanted = xcnn.cam(net, x, 3, relu=False) / P
    assert (R - wanted).abs().max() < 1e-10 * wanted.abs().max()


def three_by_three(name):
    """A network, an image for it, and a layer of 3 x 3 positions."""
    if name == "vgg_s":  # a fully connected head wants its own size: so a smaller sister
        torch.manual_seed(0)
        head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 9, 12), nn.ReLU(True), nn.Linear(12, 5))
        module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), head)
        return xcnn.Network(module.eval().double(), size=8), noise(8), "2"
    x, _ = two_objects(xcnn.load(name), 9, 48)
    return network(name), x.double(), "layer3"


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("name", ["resnet_s", "vgg_s"])
def test_exact_is_the_enumeration(name, score):
    net, x, layer = three_by_three(name)
    (values,) = xcnn.shap_cam_values(net, x, 3, layer, score=score, estimator="exact")
    wanted = shapley.exact(published(net.module, layer, x, 3, score), 9)
    torch.testing.assert_close(values.phi.flatten(), wanted, rtol=1e-9, atol=1e-12)
    assert wanted.abs().max() > 1e-4 and values.estimator == "exact"
    assert values.phi.sum().item() == pytest.approx(values.gain, abs=1e-10)


# ---- probabilities


@pytest.mark.parametrize("name", ["resnet_s", "googlenet_s", "allconv_s"])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("side", [48, 64])
def test_path_integral_against_enumeration(name, baseline, side):
    net = xcnn.load(name)
    errors = []
    for seed in range(6):
        x = F.interpolate(net.preprocess(xcnn.scenes.render(seed).image), (side, side), mode="area")
        c = int(net.predict(x).argmax())
        options = {"score": "probability", "baseline": baseline}
        (got,) = xcnn.shap_cam_values(net, x, c, **options)
        (exact,) = xcnn.shap_cam_values(net, x, c, estimator="exact", **options)
        error = relative_error(got.phi, exact.phi)
        assert abs(got.phi.sum().item() - got.gain) < 1e-6
        assert error < 0.05, (got, error)
        errors.append(error)
    assert sorted(errors)[3] < 0.03


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
    net = sharp(6)
    flagged = 0
    worst = 0
    for seed in range(8):
        x, c = two_objects(net, seed, 64)
        call = functools.partial(xcnn.shap_cam_values, net, x, c, score="probability")
        auto, exact, trusting = (
            call(estimator=estimator)[0] for estimator in ("auto", "exact", "path")
        )
        if auto.estimator == "permutations":
            flagged += 1
            worst = max(worst, relative_error(trusting.phi, exact.phi))
            assert trusting.error > MAX_ERROR
        assert relative_error(auto.phi, exact.phi) < 0.05
    assert flagged >= 2 and worst > 0.05, "this test must see failures of the path integral"


def additive_softmax(L, b, c):
    """The game v(S) = softmax(b + sum_{i in S} L_i)_c."""

    def v(S):
        return (b + S.double() @ L).softmax(1)[:, c]

    return v


def test_corrections_of_opposite_sign_do_not_hide_a_failure():
    """Here both orders end close to each other, and wrong: only the corrections on the way tell."""
    net = xcnn.load("allconv_s")
    x, c = two_objects(net, 9, 48)
    game = Game(Head(net.module, x, net.layer), c, baseline="zero")
    L = 2 * game.L
    b = 2 * game.b
    exact = shapley.exact(additive_softmax(L, b, c), 9)
    first, delta = path(L, b, c, order=1)
    second, _ = path(L, b, c, order=2)
    assert relative_error(second, exact) > 0.3 and relative_error(first, second) < 0.1
    assert delta**2 > MAX_ERROR


FACTORS = (1, 2, 4, 8, 16, 32)


class Table(Game):
    """A game of a table alone, sharpened."""

    def __init__(self, game, factor):
        vars(self).update(vars(game))
        self.L = factor * game.L
        self.b = factor * game.b
        self.score = "probability"


def games(side, seeds, factors=FACTORS):
    """Games of the small networks, sharpened, each with the values of all coalitions."""
    for name, seed in itertools.product(("allconv_s", "googlenet_s", "resnet_s"), range(seeds)):
        net = xcnn.load(name)
        x, c = two_objects(net, seed, side)
        head = Head(net.module, x, net.layer)
        for baseline, factor in itertools.product(("mean", "zero"), factors):
            game = Table(Game(head, c, baseline=baseline), factor)
            yield (name, seed, baseline, factor), game, shapley.exact(game, game.P)


@pytest.mark.parametrize(("side", "seeds", "factors"), [(48, 4, FACTORS), (64, 1, (1, 8, 32))])
def test_no_result_is_far_off_unless_its_error_says_so(side, seeds, factors):
    """Nine positions have few enough coalitions to take them all; sixteen are sampled."""
    failed = 0
    other_ways = set()
    for where, game, exact in games(side, seeds, factors):
        values = _solve(game, "auto", None, seed=0)
        if not exact.any():  # so sharp that nobody changes anything
            assert not values.phi.any()
            continue
        off = relative_error(values.phi.flatten(), exact)
        off_by_path = relative_error(path(*game.softmax_table())[0], exact)
        failed += off_by_path > 0.05
        says = (*where, off, off_by_path, values)
        assert off <= 0.05 or values.error >= 0.05, says
        if values.estimator != "path":  # it is not worse than what it replaces
            other_ways.add(values.estimator)
            assert off <= off_by_path + 3 * values.error, says
    assert failed >= 5, "this test must see failures"
    assert other_ways == ({"exact"} if side == 48 else {"permutations"})


def probability(S, c):
    return S.softmax(1)[:, c]


def test_a_probability_is_not_taken_for_a_sum_where_it_hardly_changes():
    """Sharpened, it is 0 for nearly all coalitions. The library took that for a straight line."""
    for _, game, exact in games(48, 4, (8, 16, 32)):
        assert not game.is_affine()
        game.c = functools.partial(torch.select, dim=1, index=game.c)  # a function of the scores
        assert game.is_affine()
        c = game.c.keywords["index"]
        game.c = functools.partial(probability, c=c)
        assert not game.is_affine()
        values = _solve(game, "auto", None, seed=0)
        assert torch.allclose(values.phi.flatten(), exact, atol=1e-9)


def test_the_path_integral_beside_dasp():
    """Both take random coalitions as spread around a mean. DASP fixes their size, and leaves out
    that the scores move together; it is off by more."""
    off = {"path": [], "DASP": []}
    for name, seed in itertools.product(("allconv_s", "googlenet_s", "resnet_s"), range(4)):
        net = xcnn.load(name)
        x, c = two_objects(net, seed, 48)
        game = Table(Game(Head(net.module, x, net.layer), c), 1)
        exact = shapley.exact(game, 9)
        off["path"].append(relative_error(path(game.L, game.b, c)[0], exact))
        off["DASP"].append(relative_error(dasp(game.L, game.b, c), exact))
    typical = {way: statistics.median(errors) for way, errors in off.items()}
    assert typical["path"] < typical["DASP"] / 2 and typical["DASP"] < 0.3, typical


def test_more_orders_until_the_error_is_small():
    net = xcnn.load("resnet_s")
    x, c = two_objects(net, 0, 48)
    game = Table(Game(Head(net.module, x, net.layer), c), 32)
    values = _solve(game, "permutation", None, seed=0)
    few = _solve(game, "permutation", 64, seed=0)
    assert values.error < 1.5 * MAX_ERROR < few.error


@pytest.mark.parametrize("samples", [2, 3, 5, 8])
def test_any_number_of_orders(samples):
    (values,) = xcnn.shap_cam_values(
        xcnn.load("vgg_s"), noise(128).float(), 3, samples=samples, estimator="permutation"
    )
    assert values.phi.sum().item() == pytest.approx(values.gain, rel=1e-4)


def test_extreme_scores_overflow_nothing():
    R = xcnn.shap_cam(sharp(1000), noise(64).float(), score="probability")
    assert torch.isfinite(R).all()


# ---- other heads


def some_coalitions(count, players):
    return torch.rand(count, players, generator=torch.Generator().manual_seed(1)) < 0.5


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_a_fully_connected_head_goes_by_table_and_gives_the_same(score):
    net = network("vgg_s")
    x = noise(128)
    game = Game(Head(net.module, x, net.layer), 3, score)
    assert game.L is None and game.D.shape == (64, 32)
    S = some_coalitions(20, 64)
    wanted = published(net.module, net.layer, x, 3, score)(S)
    torch.testing.assert_close(game(S), wanted, rtol=1e-8, atol=1e-10)


def test_permutations_through_the_head_find_what_the_published_algorithm_finds():
    net = network("vgg_s")
    x = net.preprocess(xcnn.scenes.render(3).image).double()
    c = int(net.predict(x).argmax())

    def call(samples, seed):
        return xcnn.shap_cam_values(net, x, c, samples=samples, seed=seed)[0]

    got = call(4, 7)
    v = published(net.module, net.layer, x, c)
    phi, error = shapley.permutations(v, 64, 4, seed=7, orders="paired")  # the same orders
    torch.testing.assert_close(got.phi.flatten(), phi, rtol=1e-8, atol=1e-10)
    assert got.error == pytest.approx((error.norm() / phi.norm()).item(), rel=1e-6)
    assert got.error > 0.05
    first = call(2000, 1)
    second = call(2000, 2)
    assert first.estimator == "permutations" and 0 < first.error < 0.05
    far = ((first.phi - second.phi).norm() / first.phi.norm()).item()
    assert far < 2 * (first.error + second.error)


def test_an_early_layer_has_neither_table():
    net = network("resnet_s")
    x = noise(64)
    game = Game(Head(net.module, x, "layer2"), 3)
    assert game.L is None
    S = some_coalitions(10, game.P)
    wanted = published(net.module, "layer2", x, 3)(S)
    torch.testing.assert_close(game(S), wanted, rtol=1e-8, atol=1e-10)
    (values,) = xcnn.shap_cam_values(net, x, 3, "layer2", samples=20)
    assert values.phi.sum().item() == pytest.approx(values.gain, abs=1e-8)


def test_vgg11_is_not_taken_for_position_wise():
    """Its adaptive pooling takes a map of one position and spreads it out: only numbers tell."""
    torch.manual_seed(0)
    module = zoo.vgg11(weights=None).eval()
    game = Game(Head(module, noise(224).float(), "features.20"), 3)
    assert game.L is None and game.D.shape == (49, 4096)


# ---- bad input


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet_s", {"estimator": "exact"}, "64 players.*1 to 20"),
        (
            "vgg_s",
            {"estimator": "path", "score": "probability"},
            "not position-wise.*permutation",
        ),
        ("resnet_s", {"estimator": "paths"}, "unknown estimator 'paths'.*'path'"),
        ("resnet_s", {"score": "logits"}, "unknown score 'logits'.*'logit'"),
        ("resnet_s", {"baseline": "means"}, "unknown baseline.*'mean'"),
        ("resnet_s", {"layer": "fc"}, r"puts out \(1, 10\), not maps"),
        ("resnet_s", {"layer": "layer_3"}, "did you mean.*'layer3'"),
        ("vgg_s", {"samples": 1}, "samples must be a whole number, 2 or more"),
    ],
)
def test_bad_input(name, options, says):
    with pytest.raises(InputError, match=says):
        xcnn.shap_cam(xcnn.load(name), torch.zeros(1, 3, 128, 128) + 0.1, 3, **options)


# ---- the real networks


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_path_integral_on_real_networks(real, name):
    net = xcnn.load(name)
    for photo in ("coffee", "temple"):
        x = net.preprocess(xcnn.photos.load(photo))
        (got,) = xcnn.shap_cam_values(net, x, score="probability")
        c = int(net.predict(x).argmax())
        game = Game(Head(net.module, x, net.layer), c, "probability")
        phi, error = shapley.permutations(game, game.P, 512, orders="sobol")
        limit = 3 * error.norm() / phi.norm() + 0.02
        assert (got.phi.flatten() - phi).norm() / phi.norm() < limit


class Told(Exception):
    """The estimate has been made."""


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_the_estimate_comes_after_a_few_runs_of_the_head(monkeypatch, layer):
    """At inner layers a table of all positions was tried first, and took longer than all else."""
    runs = []
    head_of = Game._head_of

    def counted(game, maps):
        runs.append(len(maps))
        return head_of(game, maps)

    def told(what, count, seconds):
        raise Told(count)

    monkeypatch.setattr(Game, "_head_of", counted)
    monkeypatch.setattr(sys.modules["xcnn.methods.shap_cam"], "progress", told)
    net = network("resnet18")
    positions = net.for_images(noise(96)).layers[layer][1] ** 2
    with pytest.raises(Told, match=str(16 * (positions + 1))):
        xcnn.shap_cam(net, noise(96), 1, layer=layer, samples=16)
    assert sum(runs) <= 6 < positions
