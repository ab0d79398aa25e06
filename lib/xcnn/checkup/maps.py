"""The later steps of a checkup: what leads to the map, and the map itself.

Steps as in `network`.
"""

import inspect
import math
import warnings

import torch
import torch.nn.functional as F

from ..engine.contract import isolated, run
from ..engine.layers import hooked, maps_of
from ..engine.relu import nodes_below
from ..engine.target import target_scores
from ..errors import InputError
from ..methods import METHODS
from .patient import LOOK, NOT_TRIED, OK, WRONG

FEW_POSITIONS = 16
MOSTLY_DEAD = 0.95  # part of the channels
FLAT = 1e-3  # of the largest value: how little a map changes that is the same everywhere
ALIKE = 0.98  # correlation of two maps
UNCHANGED = 0.9  # rank correlation of two maps
SHUFFLES = 3
NOISE_PICTURES = 4
CELLS = 7  # a peak is told by its cell in a grid of so many rows and columns
EDGES = {0, CELLS - 1}
RELU_METHODS = {"deconvnet", "guided_backprop", "guided_grad_cam"}
# nodes of autograd for units with a slope below 0, of which these methods say nothing
SMOOTH = {
    "CeluBackward0": "CELU",
    "EluBackward0": "ELU",
    "GeluBackward0": "GELU",
    "HardswishBackward0": "Hardswish",
    "LeakyReluBackward0": "LeakyReLU",
    "MishBackward0": "Mish",
    "PreluKernelBackward0": "PReLU",
    "SiluBackward0": "SiLU",
    "SoftplusBackward0": "Softplus",
    "TanhBackward0": "tanh",
}


def gradient(patient):
    """Does the gradient reach the pixels?"""
    try:
        g = METHODS["gradient"](patient.net, patient.x, patient.target)
    except InputError as error:
        if patient.method == "lime":
            return OK, "not there, and LIME needs none"
        remedy = "take detach(), .data, no_grad() or argmax out of its forward, or use lime"
        return WRONG, str(error), remedy
    if not g.isfinite().all():
        return (
            WRONG,
            "it is NaN or infinite",
            "look for sqrt, log or a division at 0 in the network",
        )
    if g.any():
        return OK, f"it reaches {(g != 0).any(1).double().mean():.0%} of the pixels"
    dead = _dead_layer(patient)
    if dead:
        says = f"it is 0 at every pixel: all that {dead} puts out is 0"
        return WRONG, says, "check the weights and biases of that layer"
    return WRONG, "it is 0 at every pixel", "look for saturated units, and values that are rounded"


def _dead_layer(patient):
    """The name of the first module that puts out nothing but 0; None where there is none."""
    dead = []

    def note(name):
        def hook(_part, _inputs, output):
            if isinstance(output, torch.Tensor) and not output.any():
                dead.append(name)

        return hook

    module = patient.net.module
    with hooked([(part, note(name)) for name, part in module.named_modules() if name]):
        with isolated(grad=False):
            run(module, patient.x)
    return repr(dead[0]) if dead else None


def relus(patient):
    """Do methods with rules for ReLUs see them all?"""
    if patient.method not in RELU_METHODS:
        return OK, "this method has no rule for them"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        METHODS["guided_backprop"](patient.net, patient.x, patient.target)
    doubts = [str(warning.message) for warning in caught if "ReLU" in str(warning.message)]
    if doubts:
        says, _, remedy = doubts[0].partition(". ")
        return LOOK, says, remedy or "take a network with ReLUs, or another method"
    with isolated(grad=True):
        out = run(patient.net.module, patient.x.clone().requires_grad_())
        score = target_scores(out, patient.target, patient.net, 1)
    names = {SMOOTH[v.name()] for v in nodes_below(score.grad_fn) if v.name() in SMOOTH}
    if names:
        return (
            LOOK,
            f"{', '.join(sorted(names))} keep their derivative: the method is made for ReLUs alone",
            "read it as halfway to the gradient, or use another method",
        )
    return OK, "all are seen"


def layer(patient):
    """Does the layer say something about places?"""
    name = patient.layer_of_maps
    if name is None:
        return OK, "this method takes no layer"
    net = patient.net.for_images(patient.x)
    with isolated(grad=True):
        _, y, layout = maps_of(net, name, patient.x)
        A = layout.maps(y)[0].detach()
    channels, height, width = A.shape
    seen = f"{name} puts out {channels} maps of {height} x {width}"
    if height * width == 1:
        return WRONG, f"{seen}, one value for the whole picture", "name an earlier layer: layer="
    silent = (A == 0).flatten(1).all(1).double().mean().item()
    if silent > MOSTLY_DEAD:
        return LOOK, f"{seen}, and {silent:.0%} of them are 0", "check weights and normalisation"
    if height * width <= FEW_POSITIONS:
        return LOOK, f"{seen}: too coarse to tell places", "name an earlier layer, or enlarge x"
    if name in net.layers and name != net.layer:
        advice = f"take the last one, {net.layer}, unless you ask what {name} itself sees"
        return LOOK, f"{seen}, and is not the last such layer", advice
    return OK, seen


def zeros(patient):
    """Is there anything in the map? If not, why?"""
    R = patient.R
    if not R.isfinite().all():
        return WRONG, "it holds NaN", "see above; where all is ok there, please report it"
    if R.any():
        spread = ((R.max() - R.min()) / R.abs().max()).item()
        if spread < FLAT:
            return WRONG, "it is the same everywhere", "name an earlier layer, or enlarge x"
        return OK, f"it goes from {R.min().item():.2g} to {R.max().item():.2g}"
    if "relu" in inspect.signature(METHODS[patient.method]).parameters:
        if patient.map(relu=False).any():
            return (
                WRONG,
                "it is 0 everywhere: each place speaks against this class, or not at all",
                f"look at the signed map, xcnn.{patient.method}(..., relu=False), or ask for a "
                "class that is seen",
            )
    return WRONG, "it is 0 everywhere", "see above what is not ok; else ask for another class"


def _is_flat(R):
    """Is there nothing in a map to compare?"""
    return bool(R.max() == R.min())


def other_class(patient):
    """Does the map change with the class?"""
    if not patient.is_asked_of_classes or _is_flat(patient.R):
        return NOT_TRIED, "there is nothing to compare"
    ranked = patient.scores[0].argsort(descending=True).tolist()
    rival = next(c for c in ranked if c != patient.asked_class)
    Q = patient.map(target=rival)
    if _is_flat(Q):
        return OK, f"the map of {patient.name_of(rival)} is another one: it is 0"
    maps = torch.stack([M.sum(1).flatten().double() for M in (patient.R, Q)])
    likeness = torch.corrcoef(maps)[0, 1].item()
    seen = f"the map of {patient.name_of(rival)} correlates with it by {likeness:.2f}"
    if likeness > ALIKE:
        return (
            LOOK,
            f"{seen}: it does not tell these classes apart",
            f"ask for the difference, xcnn.versus({patient.asked_class}, {rival}), or use another "
            "method: some never tell (chapter 6)",
        )
    return OK, seen


def other_weights(patient):
    """Does the map change where the network forgets what it learned?"""
    from .. import sanity  # SciPy is slow to import

    count = len(sanity.weighted_layers(patient.net.module))
    if not count or _is_flat(patient.R):
        return NOT_TRIED, "there is nothing to compare"
    likenesses = []
    for seed in range(SHUFFLES):
        Q = patient.map(net=sanity.randomised(patient.net, count, seed))
        likeness = sanity.rank_correlation(patient.R, Q).item()
        likenesses.append(0.0 if math.isnan(likeness) else likeness)  # of a map that is flat
    shown = ", ".join(f"{likeness:.2f}" for likeness in likenesses)
    seen = f"with shuffled weights its ranks correlate by {shown}"
    if min(likenesses) > UNCHANGED:
        return LOOK, f"{seen}: it shows the picture, not what was learned", "use another method"
    return OK, seen


def peak(patient):
    """Does the peak stay at the edge whatever the picture? Padding and strides can do that."""
    if _is_flat(patient.R):
        return NOT_TRIED, "the map is flat"
    generator = torch.Generator().manual_seed(0)
    shape = (NOISE_PICTURES, *patient.x.shape[1:])
    noise = patient.net.normalise(torch.rand(shape, generator=generator)).to(patient.x)
    blank = torch.zeros_like(patient.x)
    own = _peak_cell(patient.R)
    if not EDGES & {*own}:
        return OK, "not at the edge"
    maps = [patient.map(x=picture) for picture in (blank, *noise.split(1))]
    others = [_peak_cell(M) for M in maps if not _is_flat(M)]
    is_there = all(cell == own for cell in others)
    in_corners = all(EDGES >= {*cell} for cell in (own, *others))
    if len(others) > 1 and (is_there or in_corners):
        return (
            LOOK,
            "it is at the edge for a blank picture and for noise, too: padding or strides, perhaps",
            "distrust the edge of this map, and compare with an earlier layer or another method",
        )
    return OK, "at the edge, and elsewhere for noise or a blank picture"


def _peak_cell(R):
    """Where a map (1, C, H, W) is strongest: row and column in a grid of CELLS x CELLS."""
    size = R.abs().sum(1).float()
    cells = F.adaptive_avg_pool2d(size, CELLS)
    return divmod(cells.argmax().item(), CELLS)


STEPS = {
    "gradient": gradient,
    "ReLUs": relus,
    "layer": layer,
    "map": zeros,
    "another class": other_class,
    "other weights": other_weights,
    "peak": peak,
}
