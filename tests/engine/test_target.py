"""What may be asked of a network: classes, contrasts, and functions of anything it returns."""

import collections
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import InputError
from xcnn.engine.target import Contrast, contributions, settled, target_values

from tests.helpers.oracles import assert_near

QUICK = {
    "lime": {"samples": 30, "segments": 6},
    "rise": {"masks": 20},
    "shap_cam": {"samples": 16},
}
# what takes any function of what a network returns; CAM is for scores
METHODS = [name for name in xcnn.METHODS if name != "cam"]
every_method = pytest.mark.parametrize("method", METHODS)
CLASSES = list("abcde")


def small(outputs=5, channels=3):
    """A little network of all that has a rule, in float64."""
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(channels, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, outputs),
        )
        .eval()
        .double()
    )


def pictures(n=2, channels=3, h=17, w=14):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, channels, h, w, generator=generator, dtype=torch.float64)
    return x.clamp(-1.8, 2.2)  # what pixels can have: the zB-rule refuses others


def explain(method, net, x, target, **options):
    return xcnn.METHODS[method](net, x, target, **QUICK.get(method, {}) | options)


class Returns(nn.Module):
    """A network whose scores come out as something else."""

    def __init__(self, net, change):
        super().__init__()
        self.net = net
        self.change = change

    def forward(self, x):
        return self.change(self.net(x))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    states: tuple = None


class OrderedOutput(collections.OrderedDict):
    pass


# what a network may return -> how a class is read from it
RETURNED = {
    "tuple": (lambda S: (S, S * 2), lambda out: out[0][:, 3]),
    "list": (lambda S: [S * 2, S], lambda out: out[1][:, 3]),
    "dict": (lambda S: {"aux": S * 2, "out": S}, lambda out: out["out"][:, 3]),
    "ordered": (lambda S: OrderedOutput(out=S), lambda out: out["out"][:, 3]),
    "dataclass": (lambda S: Output(S), lambda out: out.logits[:, 3]),
    "maps": (lambda S: S[:, :, None, None].expand(-1, -1, 2, 3), lambda out: out[:, 3, 1, 2]),
    "one value": (lambda S: S[:, 3], lambda out: out),
}


@every_method
@pytest.mark.parametrize("kind", RETURNED)
def test_a_function_reads_a_class_from_whatever_is_returned(method, kind):
    """The map of class 3 is the same, however the scores are packed."""
    change, read = RETURNED[kind]
    net = small()
    x = pictures()
    options = {"score": "logit"} if method in ("lime", "rise", "shap_cam") else {}
    wanted = explain(method, net, x, 3, **options)
    assert wanted.abs().max() > 0
    R = explain(method, Returns(net, change).eval(), x, read)
    assert_near(R, wanted, 1e-9)


@every_method
@pytest.mark.parametrize("kind", [kind for kind in RETURNED if kind != "one value"])
def test_the_advice_for_a_class_that_cannot_be_read_works(method, kind):
    """The message holds a target; taken as it stands, it gives a map."""
    module = Returns(small(), RETURNED[kind][0]).eval()
    with pytest.raises(InputError, match="give a function of what it returned") as refusal:
        explain(method, module, pictures(), 3)
    advice = str(refusal.value).split("target=")[1]
    target = eval(advice)
    if method == "cnn_fixations" and ".mean" in advice:
        target = RETURNED[kind][1]  # an average of what is spread over positions has no unit
    assert explain(method, module, pictures(), target).isfinite().all()


def test_a_target_of_class_scores_is_autograds_gradient():
    net = small()
    x = pictures()
    for f in (
        lambda S: S[:, 3] - S[:, 1],
        lambda S: S.square().sum(1),
        lambda S: F.cosine_similarity(S, torch.arange(5.0).double()[None]),
        lambda S: S.log_softmax(1)[:, 2],
    ):
        leaf = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(f(net(leaf)).sum(), leaf)
        assert_near(xcnn.gradient(net, x, f), wanted, 1e-12)


@pytest.mark.parametrize("method", ["gradient", "deconvnet", "guided_backprop", "lrp", "cam"])
def test_a_contrast_is_the_difference_of_two_maps(method):
    """These methods are linear in the target."""
    net = small()
    x = pictures()
    options = {"rule": "0"} if method == "lrp" else {}
    options |= {"relu": False} if method == "cam" else {}
    contrast = explain(method, net, x, xcnn.versus(3, [1, 0]), **options)
    if method in ("deconvnet", "guided_backprop"):
        return assert_near(contrast, explain(method, net, x, difference_of_3_and_1_0), 1e-12)
    wanted = explain(method, net, x, 3, **options) - explain(method, net, x, [1, 0], **options)
    return assert_near(contrast, wanted, 1e-10)


def difference_of_3_and_1_0(S):
    return S[:, 3] - S.gather(1, torch.tensor([[1], [0]]))[:, 0]


def test_a_contrast_with_all_rivals_by_hand():
    S = torch.tensor([[1.0, 3.0, 0.5], [0.0, -1.0, 2.0]], dtype=torch.float64)
    wanted = [
        3 - math.log((math.exp(1) + math.exp(0.5)) / 2),
        -1 - math.log((math.exp(0) + math.exp(2)) / 2),
    ]
    assert xcnn.versus(1).value(S).tolist() == pytest.approx(wanted)
    p = S.softmax(1)[:, 1]
    log_odds = (p / (1 - p)).log() + math.log(2)
    assert xcnn.versus(1).value(S).tolist() == pytest.approx(log_odds.tolist())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cnn_fixations"])
def test_a_contrast_by_names(method):
    net = xcnn.Network(small(), classes=CLASSES, size=17)
    by_name = explain(method, net, pictures(), xcnn.versus("d", "b"))
    assert_near(by_name, explain(method, net, pictures(), lambda S: S[:, 3] - S[:, 1]), 1e-9)
    rivals = explain(method, net, pictures(), xcnn.versus("d"))
    assert rivals.shape == by_name.shape and not torch.equal(rivals, by_name)


def test_fixations_follow_the_class_that_speaks_for_a_contrast():
    net = small()
    x = pictures(1)
    S = net(x)[0]
    c, d = S.argmax().item(), S.argmin().item()
    assert S[c] > 0 > S[d]
    both = xcnn.find_fixations(net, x, xcnn.versus(c, d))[0]
    alone = [xcnn.find_fixations(net, x, k)[0] for k in (c, d)]
    assert set(map(tuple, both.all_points.tolist())) >= set(
        map(tuple, alone[0].all_points.tolist())
    )
    with pytest.raises(InputError, match=r"name one rival, versus\(c, d\)"):
        xcnn.cnn_fixations(net, x, xcnn.versus(c))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (lambda S: S, r"shape \(2,\); it returned \(2, 5\).*column"),
        (lambda S: S.sum(), r"it returned \(\)"),
        (lambda S: 3.0, "it returned float"),
        (lambda S: None, "it returned NoneType"),
        (lambda S: S.argmax(1), r"floats, not torch.int64"),
        (xcnn.versus(7), "7 is out of range"),
        (xcnn.versus(1, "x"), "class names are not known"),
        (xcnn.versus([1, 2, 3]), "3 targets for 2 images"),
    ],
)
@every_method
def test_targets_that_will_not_do(method, target, says):
    if method == "cnn_fixations":
        if isinstance(target, Contrast) and target.d is None:
            says = "name one rival"
    if method in ("ablation_cam", "cnn_fixations", "shap_cam"):  # one image at a time
        says = says.replace(r"\(2,\)", r"\(1,\)").replace(r"\(2, 5\)", r"\(1, 5\)")
    with pytest.raises(InputError, match=says):
        explain(method, small(), pictures(), target)


def test_a_contrast_of_one_score_has_no_rivals():
    with pytest.raises(InputError, match="needs two scores or more, and this network has one"):
        xcnn.gradient(small(1), pictures(), xcnn.versus(0))


def test_too_few_class_names():
    net = xcnn.Network(small(), classes=["a", "b"], size=17)
    assert [name for _, name, _ in net.top(pictures(1))[0]].count("a") == 1
    assert "class 4" in [name for _, name, _ in net.top(pictures(1))[0]]
    too_many = xcnn.Network(small(2), classes=CLASSES, size=17)
    with pytest.raises(InputError, match="'e' is class 4 of 5 names, and the network has 2 scores"):
        xcnn.gradient(too_many, pictures(), "e")


# ---- what makes probabilities


def test_one_score_is_a_sigmoid_like_two_scores():
    """w02: the same classifier written with one score s, and with two, [0, s]."""
    net = small(1)
    two = Returns(net, lambda s: torch.cat([0 * s, s], 1)).eval()
    x = pictures()
    one = xcnn.Network(net, size=17)
    assert_near(one.predict(x)[:, 0], net(x).sigmoid()[:, 0], 1e-12)
    assert_near(one.predict(x)[:, 0], xcnn.Network(two, size=17).predict(x)[:, 1], 1e-12)
    for method, options in [
        ("lime", {"samples": 60}),
        ("shap_cam", {"score": "probability", "relu": False}),
        ("grad_cam", {"relu": False}),
        ("gradient", {}),
    ]:
        R = xcnn.METHODS[method](net, x, 0, **options)
        assert R.abs().max() > 0
        assert_near(R, xcnn.METHODS[method](two, x, 1, **options), 1e-9)
    R = xcnn.gradient(net, x)
    for curve in (xcnn.sanity.deletion, xcnn.sanity.insertion):
        options = {"blur": 2} if curve is xcnn.sanity.insertion else {}
        assert_near(
            curve(net, x, R, 0, steps=3, **options), curve(two, x, R, 1, steps=3, **options), 1e-12
        )


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_shapley_values_of_every_activation_by_all_coalitions(activation, score):
    net = xcnn.Network(small(), size=17, activation=activation)
    x = pictures(1, h=11, w=11)
    options = {"score": score, "relu": False, "layer": "3"}
    exact = xcnn.shap_cam_values(net, x, 2, "3", score, estimator="exact")[0]
    quick = xcnn.shap_cam_values(net, x, 2, "3", score)[0]
    path = activation is not None and score == "probability"
    assert quick.estimator == ("path" if path else "closed form")
    assert_near(quick.phi, exact.phi, 2e-2 if path else 1e-9)
    assert xcnn.shap_cam(net, x, 2, **options).abs().max() > 0


def test_shapley_values_of_a_function_by_all_coalitions():
    x = pictures(1, h=11, w=11)
    difference = xcnn.shap_cam_values(small(), x, lambda S: S[:, 3] - S[:, 1], "3")[0]
    exact = xcnn.shap_cam_values(small(), x, xcnn.versus(3, 1), "3", estimator="exact")[0]
    assert difference.estimator == "closed form"
    assert_near(difference.phi, exact.phi, 1e-9)
    curved = xcnn.shap_cam_values(small(), x, lambda S: S[:, 3].exp(), "3", samples=512)[0]
    exact = xcnn.shap_cam_values(small(), x, lambda S: S[:, 3].exp(), "3", estimator="exact")[0]
    assert curved.estimator == "permutations"
    assert_near(curved.phi, exact.phi, 5e-2)
    assert curved.phi.sum().item() == pytest.approx(curved.gain)


@pytest.mark.parametrize("activation", ["tanh", "", 3, True])
def test_an_unknown_activation(activation):
    with pytest.raises(InputError, match="activation must be 'auto', 'softmax', 'sigmoid' or None"):
        xcnn.Network(small(), activation=activation)


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "lime", "shap_cam", "cam"])
def test_scores_that_are_probabilities_are_said(method):
    """w13 and more: a network that ends in a softmax; the advice of the warning ends it."""
    net = Returns(small(), lambda S: S.softmax(1)).eval()
    if method == "cam":
        return  # its head is not the one that CAM needs
    with pytest.warns(UserWarning, match=r"look like probabilities.*activation=None"):
        explain(method, net, pictures(), 3)
    with pytest.warns(UserWarning, match="look like probabilities"):
        xcnn.Network(net).predict(pictures())
    said = xcnn.Network(net, size=17, activation=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(method, said, pictures(), 3)
        assert torch.equal(said.predict(pictures()), net(pictures()))
        explain(method, small(), pictures(), 3)


def test_lime_of_probabilities_learns_them_as_they_are():
    x = pictures(1)
    ends = Returns(small(), lambda S: S.softmax(1)).eval()
    said = xcnn.Network(ends, size=17, activation=None)
    options = {"samples": 40, "segments": 6}
    assert_near(xcnn.lime(said, x, 3, **options), xcnn.lime(small(), x, 3, **options), 1e-9)


# ---- the pieces


def test_contributions_count_each_value_once():
    """Scores that are made of features, and are returned beside them."""
    features = torch.tensor([[1.0, 2.0]], requires_grad=True) * 1
    S = features * 3
    values, R = contributions({"features": features, "S": S}, lambda out: out["S"][:, 1], None, 1)
    assert len(values) == 1 and values[0] is S
    assert R[0].tolist() == [[0.0, 6.0]]


def test_settled_targets_do_not_change_with_the_pictures():
    net = xcnn.Network(small(), classes=CLASSES, size=17)
    S = torch.tensor([[0.0, 1, 2, 9, 3], [5, 0, 0, 0, 1.0]])
    assert settled(S, None, net, 2) == [3, 0]
    assert settled(S, "e", net, 2) == [4, 4]
    assert settled(S, np.array([1, 2]), net, 2) == [1, 2]
    assert settled(S, xcnn.versus(None, "a"), net, 2) == Contrast([3, 0], [0, 0])
    assert settled(S, xcnn.versus(2), net, 2) == Contrast([2, 2], None)


def test_probabilities_are_those_of_the_scores_in_double_precision():
    S = torch.tensor([[20.0, 0.0]])
    net = xcnn.Network(small(2), size=17)
    p = target_values(S, 1, net, 1, "probability").item()
    assert p == pytest.approx(1 / (1 + math.exp(20)), rel=1e-12)
