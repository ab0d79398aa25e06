"""The first steps of a checkup: the network, the images and the question.

Each takes a `Patient` and returns a verdict, what it saw, and a remedy where something is wrong. A
step may rely on those before it.
"""

import math

import torch
from torch.utils._pytree import tree_leaves

from ..engine.contract import check, isolated, run
from ..engine.target import are_probabilities, target_scores
from ..errors import InputError
from .patient import LOOK, NOT_TRIED, OK, WRONG, what_and_remedy

# Normalised pixels stay below 3 with ImageNet's numbers, and below 10 with any in use.
UNSCALED = 20
TOLERANCE = 0.02  # of a grey value from 0 to 1
# Part of the values of a channel. [-1, 1] in the place of ImageNet's normalisation gives 0.46.
NARROW = 0.5
LARGE = 2  # times the side that a network was trained with, or its reciprocal
NEARLY_LOG_K = 0.98  # of log K, the entropy of a network that has learned nothing
UNLIKELY = 0.05


def mode(patient):
    """Train mode: dropout draws, and batch norm takes its statistics from the batch."""
    parts = patient.in_train_mode
    if not parts:
        return OK, "every part is in eval mode"
    shown = ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
    return WRONG, f"in train mode: {shown}", "call model.eval(); what follows here is in eval mode"


def images(patient):
    """Is x a batch that every method takes? From here on it is one image."""
    x = patient.x
    channels = patient.net.channels
    if isinstance(x, torch.Tensor) and x.ndim == 3:
        raise InputError(f"x is one image, {tuple(x.shape)}, not a batch; give x[None]")
    is_batch = isinstance(x, torch.Tensor) and x.ndim == 4
    if is_batch and x.shape[1] != channels and x.shape[3] == channels:
        raise InputError(
            f"x is {tuple(x.shape)}, with its channels last; give x.permute(0, 3, 1, 2)"
        )
    check(patient.net.module, x)
    patient.x = x[:1].detach()
    answers = [tuple(v.shape) for v in tree_leaves(patient.output) if isinstance(v, torch.Tensor)]
    several = f", the first of {len(x)}," if len(x) > 1 else ""
    return OK, f"{tuple(patient.x.shape)}{several} becomes {', '.join(map(str, answers))}"


def weights(patient):
    """NaN, or too few digits?"""
    module = patient.net.module
    tensors = [v for v in (*module.parameters(), *module.buffers()) if v.is_floating_point()]
    if not all(v.isfinite().all() for v in tensors):
        return WRONG, "weights are NaN or infinite", "load the weights again, or train again"
    if any(v.dtype in (torch.half, torch.bfloat16) for v in tensors):
        return (
            LOOK,
            "half precision: small gradients and relevances become 0",
            "explain model.float() with x.float()",
        )
    return OK, "all are finite"


def normalisation(patient):
    """Do the pixels, with the normalisation undone, lie between black and white?"""
    x = patient.x.float()
    reached = x.abs().max().item()
    advice = "make x by net.preprocess(image)"
    if reached > UNSCALED:
        return WRONG, f"x reaches {reached:.0f}, so pixels from 0 to 255 went in unscaled", advice
    if x.min() == x.max():
        return LOOK, "the picture has one colour", "look at net.picture(x)"
    if patient.is_bare:
        return (
            NOT_TRIED,
            "not known for a bare module: xcnn.Network(model, mean=..., std=...) tells it",
        )
    mean, std = (torch.tensor(v).view(-1, 1, 1).to(x) for v in (patient.net.mean, patient.net.std))
    pixels = x * std + mean
    low, high = pixels.min().item(), pixels.max().item()
    seen = f"undoing it gives pixels from {low:.2f} to {high:.2f}"
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        advice += ", or tell the network your numbers: xcnn.Network(model, mean=..., std=...)"
        return WRONG, f"{seen}, not 0 to 1: x was normalised twice, or with other numbers", advice
    is_none = not mean.any() and bool((std == 1).all())
    if not is_none and x.min() >= 0 and x.max() <= 1:
        return LOOK, "x lies between 0 and 1, as pixels do that were not normalised", advice
    if (pixels.amax((2, 3)) - pixels.amin((2, 3))).max() < NARROW:
        return LOOK, f"{seen}: a faint picture, or normalised with other numbers", advice
    return OK, seen


def size(patient):
    """Is the picture far from the size that the network knows?"""
    side = patient.net.size
    height, width = patient.x.shape[2:]
    if patient.is_bare:
        return (
            NOT_TRIED,
            f"{height} x {width}; what it was trained on is not known for a bare module",
        )
    seen = f"{height} x {width}, and the network was trained on {side} x {side}"
    advice = "make x by net.preprocess(image)"
    if min(height, width) > LARGE * side:
        return LOOK, f"{seen}: things look larger than any it knows", advice
    if max(height, width) < side / LARGE:
        return LOOK, f"{seen}: things look smaller than any it knows", advice
    return OK, seen


def repeated(patient):
    """Does the same image get the same answer twice?"""
    module = patient.net.module
    with isolated(grad=False):  # in one block: afterwards the random numbers are set back
        answers = [tree_leaves(run(module, patient.x)) for _ in range(2)]
    pairs = zip(*answers, strict=True)
    if all(torch.equal(v, w) for v, w in pairs if isinstance(v, torch.Tensor)):
        return OK, "the same image gets the same answer twice"
    return (
        WRONG,
        "the same image gets another answer each time",
        "write F.dropout(x, training=self.training), and draw nothing in eval mode",
    )


def batches(patient):
    """Does an image's answer depend on the images beside it?"""
    try:
        patient.net.check_images_are_apart(torch.cat([patient.x] * 2))
    except InputError as error:
        return WRONG, *what_and_remedy(error)
    return OK, "an image's answer does not depend on its batch"


def scores(patient):
    """Are these the scores of classes, before any softmax?"""
    S = patient.scores
    if S is None:
        target_scores(patient.output, patient.target, patient.net, 1)  # raises the errors
        return OK, "the target is a function of what the network returns"
    if not S.isfinite().all():
        raise InputError("the scores are NaN or infinite; look for a division by 0 in the network")
    if patient.net.activation is not None and are_probabilities(S):
        return (
            WRONG,
            "they are probabilities: where the network is sure, their gradient is nearly 0",
            "explain what goes into the softmax, or say xcnn.Network(model, activation=None)",
        )
    K = S.shape[1]
    if K > 1 and (S <= 0).all() and S.logsumexp(1).abs() < 1e-3:
        return (
            LOOK,
            "they are logarithms of probabilities, so that each depends on all classes",
            "explain what goes into the log-softmax; on purpose, ask xcnn.versus(c)",
        )
    return OK, f"{K} scores" if K > 1 else "one score"


def training(patient):
    """Has the network learned anything, and are its classes named rightly?"""
    S = patient.scores
    if S is None:
        return NOT_TRIED, "not told by the values of a function"
    K = S.shape[1]
    classes = patient.net.classes
    if len(classes) and len(classes) != K:
        return WRONG, f"{len(classes)} class names for {K} scores", "give the network its own names"
    if K == 1 or patient.net.activation_of(S) != "softmax":
        return NOT_TRIED, "not told by these scores"
    p = S.softmax(1)
    entropy = -(p * p.clamp(min=1e-300).log()).sum().item()
    if entropy > NEARLY_LOG_K * math.log(K):
        return (
            LOOK,
            f"all {K} classes are about equally likely: untrained, or nothing that it knows",
            "check that the weights were loaded (load_state_dict), and the normalisation",
        )
    return OK, f"the likeliest class has {p.max().item():.0%}"


def question(patient):
    """Is the class one that the network sees?"""
    c = patient.asked_class
    if c is None or patient.scores.shape[1] == 1:
        return NOT_TRIED, "not a choice between classes"
    S = patient.scores[0]
    p = patient.net.probabilities(S[None])[0, c].item()
    rank = int((S > S[c]).sum()) + 1
    seen = f"{patient.name_of(c)} has {p:.1%}, rank {rank} of {len(S)}"
    if rank > 1 and p < UNLIKELY:
        return (
            LOOK,
            f"{seen}: the map shows what little speaks for a class that is not seen",
            f"ask for the top class, {patient.name_of(S.argmax().item())}, or why not: "
            f"xcnn.versus({c}, {S.argmax().item()})",
        )
    return OK, seen


STEPS = {
    "mode": mode,
    "images": images,
    "weights": weights,
    "normalisation": normalisation,
    "size": size,
    "repeated": repeated,
    "batches": batches,
    "scores": scores,
    "training": training,
    "class": question,
}
