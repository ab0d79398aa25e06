"""LRP between the layers: conservation, every spelling of a network, and what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from torch.nn.utils import prune
from xcnn import InputError
from xcnn.methods.lrp import lrp
from xcnn.methods.lrp_composites import COMPOSITES

from tests.helpers.oracles import (
    FAMILIES,
    HIGH,
    LOW,
    TARGETS,
    assert_near,
    batch,
    differs,
    images,
    network,
    state,
)
from tests.helpers.places import SMALL
from tests.helpers.relevance import any_norm, between, gradient_times_input, without_biases

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("Input Tensor 0", "`torch.jit", "The .grad")
]


# ---- conservation


@pytest.mark.parametrize("name", [*SMALL, *FAMILIES])
def test_without_biases_what_goes_in_comes_out(name):
    module = without_biases(network(name).module)
    rules = ["z+", "0"]
    x = batch(64, 1)
    if name in SMALL:
        rules += ["deep_taylor", "w2", "flat", "gamma", "epsilon_plus"]
        x = images(name)[:2]
    target = TARGETS[: len(x)]
    S_c = module(x)[range(len(x)), target].detach()
    maps = {rule: lrp(module, x, target, rule) for rule in rules}
    maps["epsilon"] = lrp(module, x, target, "epsilon", epsilon=1e-9)
    for rule, R in maps.items():
        torch.testing.assert_close(
            R.sum((1, 2, 3)), S_c, rtol=1e-4, atol=0, msg=lambda s, rule=rule: f"{rule}: {s}"
        )
        assert R.abs().amax((1, 2, 3)).min() > 0
    if name == "mobilenet_v2":
        return  # ReLU6: where it has stopped the gradient is 0, and relevance passes
    wanted = gradient_times_input(module, x, target)
    assert_near(maps["0"], wanted, 1e-3)
    assert_near(maps["epsilon"], wanted, 1e-3)
    assert differs(maps["z+"], wanted)


# ---- networks in every spelling


class Spelled(nn.Module):
    """One network in two spellings: modules and out of place, or functions and in place."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)
        self.norm_a = nn.BatchNorm2d(8)
        self.norm_b = nn.BatchNorm2d(8)
        self.fc = nn.Linear(12, 5)
        self.fc_a = nn.Linear(5, 5)
        self.norm_fc = nn.BatchNorm1d(5)
        self.relu6 = nn.ReLU6()
        self.in_place = in_place
        for norm in (self.norm_a, self.norm_b, self.norm_fc):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.by_functions(x) if self.in_place else self.by_modules(x)

    def by_functions(self, x):
        x *= 0.5
        x.add_(0.1)
        y = self.norm_a(self.a(x)).relu_()
        z = torch.relu_(self.b(y).mul_(2))
        z += y
        F.hardtanh_(z, 0.0, 6.0)
        self.norm_b(y)
        y = y.clamp_(min=0)
        z = torch.cat((self.c(z), z), dim=1)
        z = F.dropout(z.mean((-2, -1)), training=self.training)
        z = self.fc_a(F.relu(self.fc(z), inplace=True))
        return self.norm_fc(z).relu_() - 1.5

    def by_modules(self, x):
        y = F.relu(self.norm_a(self.a(x * 0.5 + 0.1)))
        z = torch.relu(self.b(y) * 2) + y
        z = self.relu6(z)
        z = torch.concat([self.c(z), z], 1)
        z = F.adaptive_avg_pool2d(z, 1).flatten(1)
        return torch.relu(self.norm_fc(self.fc_a(self.fc(z).clamp(min=0)))) - 1.5


@pytest.mark.parametrize("rule", COMPOSITES)
def test_in_place_and_functional_networks_give_the_same(rule):
    x = batch(16, 2)
    by_functions = Spelled(in_place=True).double().eval()
    by_modules = Spelled(in_place=False).double().eval()
    with torch.no_grad():
        assert torch.equal(by_functions(x.clone()), by_modules(x))
        assert (by_modules(x)[:, 0] != -1.5).all()
    R = lrp(by_functions, x, 0, rule)
    assert_near(R, lrp(by_modules, x, 0, rule), 1e-12)


@pytest.mark.parametrize("rule", COMPOSITES)
def test_modules_that_are_told_to_work_in_place(rule):
    maps = []
    for in_place in (False, True):
        module = copy.deepcopy(network("resnet_s").module)
        for part in module.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = in_place
        maps.append(lrp(module, images("resnet_s")[:1], 3, rule))
    assert torch.equal(*maps) and maps[0].abs().max() > 0


def no_grad_inside(y):
    with torch.no_grad():
        scale = y.abs().amax() * 0 + 1
        aside = F.conv2d(y, torch.ones(1, 4, 1, 1, dtype=y.dtype))
    return torch.cat([y * scale, aside], 1)[:, :4]


# forms that give what they get
SAME = {
    "view and back": lambda y: y.view(len(y), -1).reshape(y.size(0), 4, *y.shape[2:]),
    "permute": lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "transpose": lambda y: torch.transpose(y, 2, 3).transpose(2, 3).mT.mT,
    "chunk and cat": lambda y: torch.cat(y.chunk(2, 1), 1),
    "split and cat": lambda y: torch.cat(torch.split(y, [1, 3], dim=1), dim=1),
    "slices": lambda y: torch.cat([y[:, :1], y[:, 1:, :, :], y[:, 4:]], 1),
    "unbind and stack": lambda y: torch.stack(y.unbind(1), dim=1),
    "squeeze": lambda y: y.unsqueeze(1).squeeze(1),
    "flatten": lambda y: torch.flatten(y, 2).unflatten(2, y.shape[2:]),
    "clone": lambda y: y.clone().to(y.dtype).double(),
    "pad": lambda y: F.pad(y, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    "dropout": lambda y: F.dropout(y, 0.5, False),
    "dropout2d": nn.Dropout2d().eval(),
    "identity": nn.Identity(),
    "pooling of one": nn.AvgPool2d(1),
    "no gradient inside": no_grad_inside,
    "shuffle": lambda y: F.channel_shuffle(F.channel_shuffle(y, 2), 2),
    "repeated": lambda y: y.repeat(1, 2, 1, 1)[:, :4],
}


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("rule", ["epsilon", "z+"])
def test_moving_values_about_changes_nothing(form, rule):
    x = batch(8, 2)
    assert_near(lrp(between(SAME[form]), x, 2, rule), lrp(between(lambda y: y), x, 2, rule), 1e-7)


def test_sums_share_in_proportion():
    """y + 3 y, y - (-3 y), and sums with one value for a whole map, all equal to 4 y."""
    x = batch(8, 2)
    wanted = lrp(between(lambda y: 4 * y), x, 2, "gamma")
    spellings = [
        lambda y: y + 3 * y,
        lambda y: y - (-3) * y,
        lambda y: torch.add(y, y, alpha=3),
        lambda y: y.add(other=3 * y),
        lambda y: torch.sub(y, y, alpha=-3),
        lambda y: sum([y, y, 2 * y]),
        lambda y: (y + y) / 0.5,
    ]
    for f in spellings:
        assert_near(lrp(between(f), x, 2, "gamma"), wanted, 1e-7)
    net = between(lambda y: y + y.mean((2, 3), keepdim=True))
    assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-5)


def test_a_constant_summand_takes_its_share_like_a_bias():
    x = batch(8, 2)
    shift = torch.randn(4, 1, 1, dtype=torch.float64, requires_grad=True)
    net = between(lambda y: F.relu(y + shift))
    without = between(F.relu)
    assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-5)
    assert shift.grad is None and differs(lrp(net, x, 2, "0"), lrp(without, x, 2, "0"))


def test_max_pooling_gives_all_to_the_winner():
    x = batch(8, 1)
    net = between(lambda y: F.max_pool2d(F.relu(y), 8))
    A = net.conv(x).relu().detach()
    # flat spreads evenly over the 3x3 pixels that a unit sees: the winners' places show
    R = lrp(net, x, 2, lambda kind, *_: "flat" if kind == "conv" else "0")
    seen = torch.zeros(8, 8, dtype=torch.bool)
    for k in A.amax((2, 3))[0].nonzero()[:, 0]:
        i, j = divmod(int(A[0, k].argmax()), 8)
        seen[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    assert torch.equal(R[0].abs().sum(0) > 0, seen) and not seen.all()


def test_average_pooling_shares_in_proportion():
    x = batch(8, 2)
    pools = [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(3),
        lambda y: y.sum(3, keepdim=True),
    ]
    for pool in pools:
        net = between(lambda y, pool=pool: pool(y.relu()))
        assert_near(lrp(net, x, 2, "0"), gradient_times_input(net, x, 2), 1e-5)


class Ready(nn.Module):
    """A network that normalises its pixels itself."""

    def __init__(self, inner, normalise):
        super().__init__()
        self.inner = inner
        self.normalise = normalise

    def forward(self, x):
        return self.inner(self.normalise(x))


@pytest.mark.parametrize("rule", COMPOSITES)
def test_what_makes_pixels_ready_is_passed_over(rule):
    """(x - mean) / std changes scale and origin, not which pixels matter, however it is written."""
    x = batch(8, 2)
    inner = between(F.relu)
    norm = any_norm(3)
    mean = norm.running_mean.view(3, 1, 1)
    std = (norm.running_var + norm.eps).sqrt().view(3, 1, 1)
    w = norm.weight.detach().view(3, 1, 1)
    b = norm.bias.detach().view(3, 1, 1)

    def by_hand(x):
        return (x - mean) / std * w + b

    box = {}
    if COMPOSITES[rule].first == "zB":
        bounds = torch.stack([norm(bound.double()).detach()[0] for bound in (LOW, HIGH)])
        box = {"low": bounds.amin(0), "high": bounds.amax(0)}
    wanted = lrp(inner, norm(x).detach(), 2, rule, **box)
    assert_near(lrp(Ready(inner, norm).eval(), x, 2, rule), wanted, 1e-9)
    assert_near(lrp(Ready(inner, by_hand).eval(), x, 2, rule), wanted, 1e-6)


# weights that are computed anew in each forward pass, or masked
COMPUTED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm, by hooks": nn.utils.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "spectral norm, by hooks": nn.utils.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "pruned channels": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("rule", ["0", "z+", "epsilon_alpha2_beta1_flat"])
def test_weights_that_are_computed(kind, rule):
    """The same maps as with the weights that come out, written down."""
    net = between(F.relu)
    for layer in (net.conv, net.fc):
        COMPUTED[kind](layer)
    net = net.double().eval()
    x = batch(8, 2)
    S = net(x)
    plain = between(F.relu)
    for ours, theirs in ((plain.conv, net.conv), (plain.fc, net.fc)):
        ours.weight.data.copy_(theirs.weight.detach())
    torch.testing.assert_close(plain(x), S)
    c = int(plain.fc.weight.abs().sum(1).argmax())  # of a class that is not pruned
    R = lrp(net, x, c, rule)
    assert_near(R, lrp(plain, x, c, rule), 1e-7)
    if rule == "0":
        assert_near(R, gradient_times_input(net, x, c), 1e-6)


# ---- what every method promises


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_is_its_images_and_types_stay(name):
    net = network(name)
    x = images(name)
    targets = [0, 3, 9]
    for rule in ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat", "epsilon"):
        R = lrp(net, x, targets, rule)
        assert R.dtype == torch.float64 and R.shape == x.shape and not R.requires_grad
        for k, target in enumerate(targets):
            assert_near(lrp(net, x[k : k + 1], target, rule), R[k : k + 1], 1e-6)
    small = xcnn.load(name)
    x32 = x.float()
    R = lrp(small, x32, small.classes[3])
    assert R.dtype == torch.float32
    assert_near(R.double(), lrp(net, x, 3), 1e-3)
    assert torch.equal(lrp(small, x32), lrp(small, x32, small.predict(x32).argmax(1)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rule", COMPOSITES)
def test_a_dead_map_is_zeros(name, rule):
    module = copy.deepcopy(network(name).module)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert (lrp(module, images(name)[:1], 3, rule) == 0).all()
    assert torch.isfinite(lrp(network(name), images(name)[:1] * 0, 3, rule)).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_whatever_the_callers_grad_mode(context):
    net = xcnn.load("resnet_s")
    x = batch(128, 1).float()
    R = lrp(net, x, 3)
    with context():
        assert torch.equal(R, lrp(net, x.clone(), 3)) and R.abs().max() > 0


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"])
def test_nothing_of_the_callers_is_changed(rule):
    module = copy.deepcopy(xcnn.load("resnet_s").module)
    x = batch(128, 1).float()
    first = next(module.parameters())
    first.grad = torch.ones_like(first)
    first.requires_grad = False
    module.register_forward_hook(lambda *_: None)
    fails = nn.Sequential(module, nn.Softmax(1)).eval()
    for net in (module, fails):
        before = state(net, x)
        if net is fails:
            with pytest.raises(InputError):
                lrp(net, x, 3, rule)
        else:
            lrp(net, x, 3, rule)
        assert state(net, x) == before


# ---- what has no rule is named, with its place


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y * y.sigmoid()

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Dynamic(nn.Module):
    def forward(self, y):
        return F.conv2d(y, y[:1, :, :3, :3])


class Masked(nn.Module):
    def forward(self, y):
        y[:, 0] = y[:, 1] * 2
        return y


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        (nn.Softmax(1), "softmax"),
        (
            nn.BatchNorm2d(4, track_running_stats=False).double(),
            "batch norm with the statistics of the batch",
        ),
        (
            lambda y: F.batch_norm(y, None, None, training=True),
            "the statistics of the batch itself",
        ),
        (Dynamic(), "conv2d whose weights depend on the image"),
        (Masked(), r"an operation that works unseen|__setitem__"),
        (lambda y: 1 / (y + 9), r"in the network itself \(Between\)"),
        (lambda y: y**2, "pow"),
        (lambda y: y @ y.mT, "matmul"),
        (lambda y: F.dropout(y, 0.5), "dropout that is always on"),
        (lambda y: Swish.apply(y), r"unseen.*autograd\.Function"),
        (lambda y: y.abs(), "abs"),
        (lambda y: torch.einsum("nchw->nchw", y), "einsum"),
    ],
)
def test_an_operation_without_a_rule_is_named_with_its_place(inner, says):
    net = between(inner)
    with pytest.raises(InputError, match="LRP has no rule for .*" + says):
        lrp(net, batch(8, 1), 2)


def test_a_scripted_part_is_not_passed_over():
    net = between(lambda y: y)
    net.between = torch.jit.trace(
        nn.Sequential(nn.Conv2d(4, 4, 3).double(), nn.Sigmoid()), net.conv(batch(8, 1))
    )
    with pytest.raises(InputError, match=r"works unseen|is scripted"):
        lrp(net.eval(), batch(8, 1), 2)


@pytest.mark.parametrize("part", ["", "layer2", "fc"])
def test_a_hook_of_the_callers_own_changes_nothing(part):
    net = network("resnet_s")
    x = images("resnet_s")
    met = []
    module = copy.deepcopy(net.module)
    module.get_submodule(part).register_full_backward_hook(lambda *_: met.append(part))
    for rule in ("epsilon_plus", "z+"):
        assert_near(lrp(module, x, TARGETS, rule), lrp(net.module, x, TARGETS, rule), 1e-12)
    assert met


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 8)
        self.add = Add()

    def forward(self, x):
        return self.fc(self.add(self.first(x), self.second(x).relu()).mean((2, 3)))


def test_a_hook_on_a_part_with_two_inputs():
    torch.manual_seed(0)
    net = Joined().eval().double()
    x = batch(16)
    met = []
    before = lrp(net, x, TARGETS)
    net.add.register_full_backward_hook(lambda *_: met.append(1))
    assert_near(lrp(net, x, TARGETS), before, 1e-12)
    assert met


class Off(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)


def test_a_network_that_switches_gradients_off():
    with pytest.raises(InputError, match="do not depend on the image"):
        lrp(Off(xcnn.load("resnet_s").module).eval(), batch(128, 1).float(), 3)
