"""The explanation methods, a file each; this listing is the table of contents.

`_TABLE` is the one list of them. `METHODS`, the names that `import xcnn` offers, the command line's
help, the page of names in the book and the lists that tests go through are made from it.
"""

import time

from ..errors import InputError, one_of
from .cam import cam
from .cam_family import (
    ablation_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)
from .class_image import class_image
from .deconvnet import deconv_rule, deconvnet
from .fixations import Fixations, cnn_fixations, find_fixations
from .grad_cam import grad_cam
from .gradient import gradient, pixel_gradients
from .gradient_times_input import gradient_times_input
from .guided_backprop import guided_backprop, guided_grad_cam, guided_rule
from .integrated_gradients import completeness_gap, integrated_gradients
from .lime import Surrogate, lime, lime_surrogates
from .lrp import deep_taylor, lrp
from .occlusion import occlusion
from .rise import RiseValues, rise, rise_values
from .shap_cam import ShapleyValues, shap_cam, shap_cam_values
from .smooth_grad import smooth_grad

PIXELS = "pixels"  # a map has the channels of x, (N, C, H, W)
POSITIONS = "positions"  # a map has one value a place, (N, 1, H, W)
EVIDENCE = "evidence"  # a positive value speaks for the class, a negative one against it
CHANGE = "change"  # the sign says in which direction the pixel should change

_TABLE = (
    (gradient, "gradient", PIXELS, CHANGE),
    (gradient_times_input, "gradient x input", PIXELS, EVIDENCE),
    (smooth_grad, "SmoothGrad", PIXELS, CHANGE),
    (integrated_gradients, "integrated gradients", PIXELS, EVIDENCE),
    (deconvnet, "deconvnet", PIXELS, CHANGE),
    (guided_backprop, "guided backprop", PIXELS, CHANGE),
    (cam, "CAM", POSITIONS, EVIDENCE),
    (grad_cam, "Grad-CAM", POSITIONS, EVIDENCE),
    (guided_grad_cam, "Guided Grad-CAM", PIXELS, CHANGE),
    (hires_cam, "HiResCAM", POSITIONS, EVIDENCE),
    (grad_cam_plus_plus, "Grad-CAM++", POSITIONS, EVIDENCE),
    (xgrad_cam, "XGrad-CAM", POSITIONS, EVIDENCE),
    (layer_cam, "LayerCAM", POSITIONS, EVIDENCE),
    (score_cam, "Score-CAM", POSITIONS, EVIDENCE),
    (ablation_cam, "Ablation-CAM", POSITIONS, EVIDENCE),
    (shap_cam, "Shap-CAM", POSITIONS, EVIDENCE),
    (lrp, "LRP", PIXELS, EVIDENCE),
    (deep_taylor, "deep Taylor", PIXELS, EVIDENCE),
    (occlusion, "occlusion", POSITIONS, EVIDENCE),
    (rise, "RISE", POSITIONS, EVIDENCE),
    (lime, "LIME", POSITIONS, EVIDENCE),
    (cnn_fixations, "CNN Fixations", POSITIONS, EVIDENCE),
)
METHODS = {method.__name__: method for method, *_ in _TABLE}
LABELS = {method.__name__: label for method, label, *_ in _TABLE}
PIXEL_METHODS = frozenset(method.__name__ for method, _, kind, _ in _TABLE if kind == PIXELS)
SIGNS = {method.__name__: sign for method, *_, sign in _TABLE}

# what a method found besides its map, by functions of their own, and in what form
_RESULTS = (
    completeness_gap,
    shap_cam_values,
    ShapleyValues,
    rise_values,
    RiseValues,
    lime_surrogates,
    Surrogate,
    find_fixations,
    Fixations,
)
# what explains a class, and not an answer to a picture
_OF_CLASSES = (class_image,)

__all__ = [
    "METHODS",
    "explain_all",
    *METHODS,
    *(function.__name__ for function in (*_RESULTS, *_OF_CLASSES)),
]

# methods that share one forward pass -> what each sends down at a ReLU
_RELU_RULES = {"gradient": None, "deconvnet": deconv_rule, "guided_backprop": guided_rule}


def explain_all(net, x, targets, names, options=None):
    """The maps of several methods, one by one. Methods that can share a forward pass share one.

    :param net, x: as in `gradient`
    :param targets: one class per image
    :param names: of methods, see `METHODS`
    :param options: name of a method -> its options
    :return: generator of (name, map, seconds); where a method refuses, its message comes instead of
        the map
    :raises InputError: unknown name

    >>> [name for name, R, seconds in xcnn.explain_all(net, x, [3], ["gradient", "grad_cam"])]
    ['gradient', 'grad_cam']
    """
    options = options or {}
    for name in names:
        one_of("method", name, METHODS)
    plain = [name for name in names if not options.get(name)]
    answers = _shared_pass(net, x, targets, [name for name in plain if name in _RELU_RULES])
    for name in names:
        factors = {"guided_backprop", "grad_cam"}
        if name == "guided_grad_cam" and factors <= answers.keys() and {name, *factors} <= {*plain}:
            answers[name] = _product(answers["guided_backprop"], answers["grad_cam"])
        elif name not in answers:
            answers[name] = _timed(METHODS[name], net, x, targets, **options.get(name, {}))
        yield name, *answers[name]


def _shared_pass(net, x, targets, names):
    """The methods whose rules differ at the ReLU alone: name -> (map or message, seconds)."""
    if not names:
        return {}
    rules = [_RELU_RULES[name] for name in names]
    maps, seconds = _timed(pixel_gradients, net, x, targets, rules=rules)
    if isinstance(maps, str):
        maps = [maps] * len(names)
    return {name: (R, seconds / len(names)) for name, R in zip(names, maps, strict=True)}


def _product(guided, grad_cam):
    """Guided Grad-CAM from its two factors; where one of them refused, its message."""
    R, seconds = guided
    L, more_seconds = grad_cam
    for factor in (R, L):
        if isinstance(factor, str):
            return factor, 0.0
    return R * L, seconds + more_seconds


def _timed(method, *args, **options):
    """What a method returns and the seconds it took; for a refusal its message, and 0."""
    start = time.perf_counter()
    try:
        answer = method(*args, **options)
    except InputError as error:
        return str(error), 0.0
    return answer, time.perf_counter() - start
