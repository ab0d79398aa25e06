"""`doctor` finds each of many planted faults, and has nothing to say of healthy networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
import xcnn
from torch import nn
from xcnn import scenes
from xcnn.loading import SMALL


def healthy(name="resnet_s"):
    """A trained network of our own, and a picture of broccoli and a clock."""
    net = xcnn.load(name)
    own = xcnn.Network(copy.deepcopy(net.module), name, net.classes, net.size)
    return own, own.preprocess(scenes.render(10, count=2).image)


class Changed(nn.Module):
    """A network whose input or output is changed."""

    def __init__(self, module, before=lambda x: x, after=lambda S: S):
        super().__init__()
        self.inner = module
        self.before = before
        self.after = after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def changed(before=lambda x: x, after=lambda S: S):
    net, x = healthy()
    module = Changed(net.module, before, after).eval()
    return xcnn.Network(module, "changed", net.classes, net.size), x


def small(*layers, classes=4):
    """A little network of these layers and a classifier, and noise for it."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes))
    module = nn.Sequential(*layers, head)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    module(x)
    with torch.no_grad():
        head[-1].weight.mul_(20)  # so that it is sure of something
    return module.eval(), x


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def in_train_mode():
    net, x = healthy()
    net.module.train()
    return net, x


def one_part_in_train_mode():
    net, x = healthy()
    net.module.layer2.bn1.train()
    return net, x


def pixels_to_255():
    net, x = healthy()
    return net, 255 * torch.from_numpy(net.picture(x)).permute(0, 3, 1, 2)


def not_normalised():
    net, x = healthy()
    return net, torch.from_numpy(net.picture(x)).permute(0, 3, 1, 2)


def normalised_twice():
    net, x = healthy()
    return net, net.normalise(x)


def from_minus_1_to_1():
    net, x = healthy()
    return net, 2 * torch.from_numpy(net.picture(x)).permute(0, 3, 1, 2) - 1


def normalised_with_other_numbers():
    net, x = healthy()
    other = xcnn.Network(net.module, mean=0.1307, std=0.3081)
    return net, other.normalise(torch.from_numpy(net.picture(x)).permute(0, 3, 1, 2))


def one_colour():
    net, x = healthy()
    return net, torch.zeros_like(x)


def channels_last():
    net, x = healthy()
    return net, x.permute(0, 2, 3, 1)


def one_image_without_a_batch():
    net, x = healthy()
    return net, x[0]


def bytes_and_not_floats():
    net, _ = healthy()
    return net, torch.zeros(1, 3, 128, 128, dtype=torch.uint8)


def a_nan_in_the_picture():
    net, x = healthy()
    x[0, 0, 5, 5] = torch.nan
    return net, x


def double_picture():
    net, x = healthy()
    return net, x.double()


def too_large():
    net, _ = healthy()
    return net, net.preprocess(scenes.render(10, count=2).image, size=320)


def too_small():
    net, _ = healthy()
    return net, net.preprocess(scenes.render(10, count=2).image, size=48)


def nan_weights():
    net, x = healthy()
    with torch.no_grad():
        net.module.layer3[0].conv1.weight[0] = torch.nan
    return net, x


def half_precision():
    net, x = healthy()
    net.module.bfloat16()
    return net, x.bfloat16()


def softmax_inside():
    return changed(after=lambda S: S.softmax(1))


def log_softmax_inside():
    return changed(after=lambda S: S.log_softmax(1))


def nan_scores():
    return changed(after=lambda S: S / 0 * 0)


def dropout_that_is_always_on():
    return changed(after=lambda S: F.dropout(S, 0.5))


def noise_inside():
    return changed(before=lambda x: x + 0.1 * torch.randn_like(x))


def batch_norm_without_statistics():
    return small(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU())


def normalised_over_the_batch():
    return changed(before=lambda x: (x - x.mean(0)) / (x.std(0, correction=0) + 1))


def untrained():
    torch.manual_seed(0)
    net, x = healthy()
    for part in net.module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return net, x


def names_of_another_network():
    net, x = healthy()
    return xcnn.Network(net.module, classes=["cat", "dog"], size=net.size), x


def a_class_that_is_not_there():
    net, x = healthy()
    return net, x, {"target": net.module(x).argmin().item()}


def output_of_maps():
    module, x = small(nn.Conv2d(3, 8, 3), nn.ReLU())
    return module[:2].eval(), x


def detached():
    return changed(before=lambda x: x.detach())


def without_gradients():
    net, x = healthy()

    def scores(x):
        with torch.no_grad():
            return net.module(x)

    return Function(scores).eval(), x


def dead_relus():
    net, x = healthy()
    with torch.no_grad():
        net.module.layer2.bn2.bias.fill_(-1e6)
        net.module.layer2.skip[1].bias.fill_(-1e6)
    return net, x


def a_relu_that_is_not_seen():
    class Half(nn.Module):
        def forward(self, x):
            return (x + x.abs()) / 2

    net, x = small(nn.Conv2d(3, 8, 3), Half())
    return net, x, {"method": "guided_backprop"}


def smooth_units():
    net, x = small(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU())
    return net, x, {"method": "guided_backprop"}


def without_relus():
    net, x = small(nn.Conv2d(3, 8, 3), nn.SiLU())
    return net, x, {"method": "deconvnet"}


def one_position():
    net, _ = healthy()
    return net, net.preprocess(scenes.render(10, count=2).image, size=16), {"layer": "layer3"}


def coarse_layer():
    net, _ = healthy()
    return net, net.preprocess(scenes.render(10, count=2).image, size=64)


def early_layer():
    return *healthy(), {"layer": "layer1"}


def unknown_layer():
    return *healthy(), {"layer": "layer7"}


def map_of_zeros():
    module, x = small(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        module[-1][-1].weight[2] = -module[-1][-1].weight[2].abs()
    return module, x, {"target": 2}


def map_without_places():
    module, x = small(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(1)
        module[-1][-1].weight.abs_()
    return module, x, {"method": "cam"}


def blind_to_the_class():
    module, x = small(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        module[-1][-1].weight.copy_(
            module[-1][-1].weight[:1] * torch.tensor([[1], [1.1], [2], [3]])
        )
    return module, x, {"target": 0}


def blind_to_the_weights():
    module, x = small(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), classes=2)
    with torch.no_grad():
        module[0].weight.fill_(1)
        module[-1][-1].weight.copy_(torch.tensor([[1.0], [1.0]]))
        module[-1][-1].bias.copy_(torch.tensor([3.0, 0.0]))
    return module, x, {"target": 0}


def padded_with_light():
    """Its maps are what is left of a bias: most in a corner, where the padding has no bias."""
    below = nn.Conv2d(3, 4, 3, padding=1)
    above = nn.Conv2d(4, 4, 3, padding=1)
    module, x = small(below, nn.ReLU(), above, nn.ReLU())
    with torch.no_grad():
        below.weight.mul_(0.1)
        below.bias.fill_(1.0)
        above.weight.fill_(-0.01)
        above.weight[:, :, 0, :] = -0.2
        above.weight[:, :, :, 0] = -0.2
        above.bias.fill_(9.0)
        module[-1][-1].weight.abs_()
    return module, x


PLANTED = {
    in_train_mode: "mode",
    one_part_in_train_mode: "mode",
    channels_last: "images",
    one_image_without_a_batch: "images",
    bytes_and_not_floats: "images",
    a_nan_in_the_picture: "images",
    double_picture: "images",
    nan_weights: "weights",
    half_precision: "weights",
    pixels_to_255: "normalisation",
    not_normalised: "normalisation",
    normalised_twice: "normalisation",
    from_minus_1_to_1: "normalisation",
    normalised_with_other_numbers: "normalisation",
    one_colour: "normalisation",
    too_large: "size",
    too_small: "size",
    dropout_that_is_always_on: "repeated",
    noise_inside: "repeated",
    batch_norm_without_statistics: "batches",
    normalised_over_the_batch: "batches",
    softmax_inside: "scores",
    log_softmax_inside: "scores",
    nan_scores: "scores",
    output_of_maps: "scores",
    untrained: "training",
    names_of_another_network: "training",
    a_class_that_is_not_there: "class",
    detached: "gradient",
    without_gradients: "gradient",
    dead_relus: "gradient",
    a_relu_that_is_not_seen: "ReLUs",
    smooth_units: "ReLUs",
    without_relus: "ReLUs",
    one_position: "layer",
    coarse_layer: "layer",
    early_layer: "layer",
    unknown_layer: "layer",
    map_of_zeros: "map",
    map_without_places: "map",
    blind_to_the_class: "another class",
    blind_to_the_weights: "other weights",
    padded_with_light: "peak",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant):
    net, x, *options = plant()
    checkup = xcnn.doctor(net, x, **(options[0] if options else {}))
    problems = {finding.step: finding for finding in checkup.problems}
    print(checkup)
    assert PLANTED[plant] in problems
    assert problems[PLANTED[plant]].says and problems[PLANTED[plant]].remedy


HEALTHY = [
    (name, method)
    for name in SMALL
    for method in xcnn.METHODS
    if method not in ("lime", "rise")  # which take too long
    and (name, method) != ("vgg_s", "cam")  # it has no global average
]


# Here it is the method: no relevance of deep Taylor and no weight of Score-CAM is negative, so all
# classes may get the same places; deconvnet goes down through strides, which leaves more in the
# corners.
OF_THE_METHOD = {
    ("vgg_s", "deep_taylor"): {"another class"},
    ("allconv_s", "deconvnet"): {"peak"},
    ("allconv_s", "score_cam"): {"another class"},
}


@pytest.mark.parametrize(("name", "method"), HEALTHY)
def test_nothing_to_say_of_healthy_networks(name, method):
    net, _ = healthy(name)
    for seed in 10, 11:
        x = net.preprocess(scenes.render(seed, count=2).image)
        problems = {finding.step for finding in xcnn.doctor(net, x, method=method).problems}
        assert problems <= OF_THE_METHOD.get((name, method), set())


def test_a_checkup_leaves_the_network_as_it_is():
    net, x = healthy()
    net.module.layer2.train()
    modes = [part.training for part in net.module.modules()]
    before = copy.deepcopy(net.module.state_dict())
    xcnn.doctor(net, x)
    assert [part.training for part in net.module.modules()] == modes
    assert all(torch.equal(v, before[key]) for key, v in net.module.state_dict().items())


def test_what_cannot_be_tried_is_said():
    net, x = healthy()
    checkup = xcnn.doctor(net, x[0])
    verdicts = {finding.step: finding.verdict for finding in checkup}
    assert verdicts["mode"] == "ok" and verdicts["images"] == "wrong"
    assert set(list(verdicts.values())[2:]) == {"not tried"}
    assert "-> give x[None]" in repr(checkup)


def test_a_function_as_target():
    net, x = healthy()
    checkup = xcnn.doctor(net, x, target=lambda S: S[:, 3] - S[:, 1])
    assert checkup.problems == []


def test_a_contrast_as_target():
    net, x = healthy()
    assert xcnn.doctor(net, x, target=xcnn.versus("clock", "broccoli")).problems == []


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda module: module])
def test_a_bare_module(wrap):
    net, x = healthy()
    checkup = xcnn.doctor(wrap(net.module), x)
    assert checkup.problems == []
    untried = [finding.step for finding in checkup if finding.verdict == "not tried"]
    assert untried == ["normalisation", "size"]


def test_several_images():
    net, x = healthy()
    checkup = xcnn.doctor(net, torch.cat([x, x + 1]))
    assert "the first of 2" in checkup[1].says
    assert checkup.problems == []


def test_the_remedies_help():
    """Each fault is gone when its remedy is followed."""
    net, x = healthy()
    scene = scenes.render(10, count=2).image
    net.module.train()
    assert xcnn.doctor(net, x).problems[0].remedy.startswith("call model.eval()")
    net.module.eval()
    assert xcnn.doctor(net, 255 * x).problems[0].remedy == "make x by net.preprocess(image)"
    assert xcnn.doctor(net, x[0]).problems[0].remedy == "give x[None]"
    assert xcnn.doctor(net, x[0][None]).problems == []
    last = xcnn.doctor(net, x, layer="layer1").problems[0].remedy
    assert "take the last one, layer3" in last
    assert xcnn.doctor(net, net.preprocess(scene), layer="layer3").problems == []


def test_an_unknown_method():
    net, x = healthy()
    with pytest.raises(xcnn.InputError, match="did you mean 'grad_cam'"):
        xcnn.doctor(net, x, method="grad_camm")


def test_an_unknown_class():
    net, x = healthy()
    (problem,) = xcnn.doctor(net, x, target="clok").problems
    assert problem.step == "class" and "'clock'" in str(problem)
