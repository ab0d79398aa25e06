"""Which library is right where: each question is put to each library that has the method.

Numbers decide. `make bench` records the answers for the book; tests/library/test_scoreboard.py
finds them again.
"""

import copy

import torch
from torch import nn
from xcnn.methods import LABELS

from tests.helpers.cam_formulas import PAPER, by_formula, enlarged, maps_and_slopes
from tests.helpers.oracles import TARGETS, batch, images, network, state
from tests.helpers.peers import WAYS
from tests.helpers.rewritten import by_autograd, rewritten

FAMILIES = [
    "vgg11",
    "resnet18",
    "squeezenet1_1",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "densenet121",
]
LAST = {
    "resnet18": "layer4",
    "squeezenet1_1": "features",
    "vgg11": "features",
    "densenet121": "features",
}
FAMILY = {LABELS[name]: weights for name, weights in PAPER.items()}
# how a library may refuse a network
REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    IndexError,
    AttributeError,
)


def ask(method, library, name, x, targets=TARGETS, module=None):
    """The map, from a copy of the network."""
    module = copy.deepcopy(module or network(name).module).to(x.dtype)
    return WAYS[method][library](module, LAST.get(name))(x, targets).detach()


def near(R, wanted, tolerance=1e-3):
    limit = tolerance * wanted.abs().max()
    return R.shape == wanted.shape and bool((R - wanted).abs().max() <= limit)


def guided_is_guided(library, name):
    """Guided backprop equals that of a network in which every ReLU is a module with the rule."""
    x = batch(network(name).size)
    wanted = by_autograd(rewritten(name, network(name).module, "guided_backprop"), x)
    return near(ask("guided backprop", library, name, x), wanted)


def relevance_is_kept(library, name):
    """LRP epsilon, all biases 0: the relevance of the pixels sums to the score."""
    module = copy.deepcopy(network(name).module)
    x = batch(network(name).size)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            # The bias of a batch norm is what is left of it where its input is 0.
            part.bias.data = part.running_mean * part.weight / (part.running_var + part.eps).sqrt()
        elif getattr(part, "bias", None) is not None:
            part.bias.data.zero_()
    S_c = module(x)[range(len(x)), TARGETS].detach()
    return near(ask("LRP epsilon", library, name, x, module=module).sum((1, 2, 3)), S_c)


def formula_holds(library, of):
    """A member of the CAM family equals its paper's formula at a network's last layer."""
    method, name = of.split(", ")
    x = images(name)
    A, g = maps_and_slopes(name, LAST[name])
    L = enlarged(by_formula(A, g, FAMILY[method](A, g)).relu(), x)
    if library == "pytorch-grad-cam":  # it stretches every map to [0, 1]
        L = L - L.amin((1, 2, 3), keepdim=True)
        L = L / L.amax((1, 2, 3), keepdim=True)
    return near(ask(method, library, name, x), L)


def batch_is_single(library, method, name="resnet18"):
    """Three images at once give what they give one by one."""
    x = batch(network(name).size).float()
    together = ask(method, library, name, x)
    singles = [ask(method, library, name, x[k : k + 1], [c]) for k, c in enumerate(TARGETS)]
    return near(together, torch.cat(singles))


def leaves_no_trace(library, method, name="squeezenet1_1"):
    """The network after the call is what it was: weights, gradients, hooks, modes, modules."""
    module = copy.deepcopy(network(name).module).float()
    x = batch(network(name).size, 1).float()
    before = state(module, x)
    WAYS[method][library](module, LAST[name])(x, [1])
    return state(module, x) == before


def questions():
    """Rows (question, method, what it is asked of)."""
    for name in FAMILIES:
        yield guided_is_guided, "guided backprop", name
    for name in FAMILIES:
        if name != "inception_v3":
            yield relevance_is_kept, "LRP epsilon", name
    for method in FAMILY:
        for name in ("resnet18", "densenet121"):
            yield formula_holds, method, f"{method}, {name}"
    for method in ("guided backprop", "Grad-CAM"):
        yield batch_is_single, method, method
    for method in ("guided backprop", "Grad-CAM", "LRP epsilon"):
        yield leaves_no_trace, method, method


def answers(*libraries):
    """Rows question, of, library, answer, why.

    The answer is right (to 1 in 1,000), wrong, or refuses; then `why` tells the error.
    """
    for question, method, of in questions():
        for library in WAYS[method]:
            if libraries and library not in libraries:
                continue
            answer, why = _answer(question, library, of)
            yield {
                "question": question.__name__,
                "of": of,
                "library": library,
                "answer": answer,
                "why": why,
            }


def _answer(question, library, of):
    try:
        return ("right" if question(library, of) else "wrong"), ""
    except REFUSALS as error:
        if library == "xcnn":
            raise
        return "refuses", f"{type(error).__name__}: {error}"[:120]
