"""Who takes part in the contest: all methods, and controls that never look at the network.

Shap-CAM takes part twice, because of a score it is CAM minus its mean, and of a probability not.
"""

import inspect
import time
import zlib

import torch

from .errors import one_of
from .evaluate import controls, evidence
from .methods import LABELS, METHODS, explain_all

CONTROLS = ("random pixels", "random patches", "centre", "edges")
# name -> the method that is asked, and how
VARIANTS = {"shap_cam_probability": ("shap_cam", {"score": "probability"})}
# not 1,000: one map takes that many runs of the network
OPTIONS = {"lime": {"samples": 150}, "rise": {"masks": 300}}
# what tables and graphs call them
TITLES = {
    **LABELS,
    "shap_cam": "Shap-CAM of the score (CAM minus its mean)",
    "shap_cam_probability": "Shap-CAM of the probability",
    **{name: f"control: {name}" for name in CONTROLS},
}


def contestants():
    """The names of all that take part.

    >>> xcnn.contestants.contestants()[-5:]
    ['shap_cam_probability', 'random pixels', 'random patches', 'centre', 'edges']
    """
    return [*METHODS, *VARIANTS, *CONTROLS]


def answers(net, x, targets, names, keys):
    """The maps of several contestants, one by one, and what they say for the class.

    :param net, x: as in `gradient`
    :param targets: one class per image
    :param names: of contestants
    :param keys: one text per image, which decides its random controls, in whatever batch it comes
    :return: generator of (name, R, E, seconds): the map as it is, what it says for the class
        (N, 1, H, W), see `evidence`; where a method refuses, R is its message and E None
    :raises InputError: unknown name

    >>> made = xcnn.contestants.answers(net, x, [3], ["lrp", "centre"], keys=["scene 10"])
    >>> [(name, tuple(R.shape), tuple(E.shape)) for name, R, E, seconds in made]
    [('lrp', (1, 3, 128, 128), (1, 1, 128, 128)), ('centre', (1, 1, 128, 128), (1, 1, 128, 128))]
    """
    for name in names:
        one_of("method", name, contestants())
    methods = [name for name in names if name in METHODS]
    for name, R, seconds in explain_all(net, x, targets, methods, OPTIONS):
        yield _answer(name, name, R, seconds)
    for name in names:
        if name in VARIANTS:
            method, options = VARIANTS[name]
            ((_, R, seconds),) = explain_all(net, x, targets, [method], {method: options})
            yield _answer(name, method, R, seconds)
    yield from _of_controls(x, [name for name in names if name in CONTROLS], keys)


def signed_maps(net, x, targets, name, keys):
    """What one contestant says for and against the class, where it can say both.

    The family of CAM leaves out its ReLU here.

    :param net, x, targets, keys: as in `answers`
    :param name: of a contestant
    :return: (N, 1, H, W), see `evidence`
    :raises InputError: unknown name; where the method refuses

    >>> L = xcnn.contestants.signed_maps(net, x, [1], "grad_cam", keys=["scene 10"])
    >>> bool((L < 0).any())  # the clock speaks against broccoli
    True
    """
    one_of("method", name, contestants())
    if name in CONTROLS:
        ((_, R, _, _),) = _of_controls(x, [name], keys)
        return R
    method, options = VARIANTS.get(name, (name, OPTIONS.get(name, {})))
    if "relu" in inspect.signature(METHODS[method]).parameters:
        options = {**options, "relu": False}
    return evidence(METHODS[method](net, x, targets, **options), method, signed=True)


def _answer(name, method, R, seconds):
    """One answer: what a map says for the class depends on the method that drew it."""
    return name, R, None if isinstance(R, str) else evidence(R, method), seconds


def _of_controls(x, names, keys):
    """The controls of each image by itself, so that its noise does not depend on the batch."""
    if not names:
        return
    start = time.perf_counter()
    each = [
        controls(image[None], seed=zlib.crc32(key.encode()))
        for image, key in zip(x, keys, strict=True)
    ]
    seconds = (time.perf_counter() - start) / len(CONTROLS)
    for name in names:
        R = torch.cat([maps[name] for maps in each])
        yield name, R, R, seconds
