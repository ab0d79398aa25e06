"""xcnn: the thin library of the book "Explainable Convolutional Neural Networks".

    net = xcnn.load("resnet_s")
    x = net.preprocess(image)
    R = xcnn.grad_cam(net, x, target="clock")    # (1, 1, H, W)

Every method is called as `method(net, x, target=None, **options)`; `METHODS` holds them by name.
"""

from .backprop import gradient
from .cam import cam
from .contract import InputError
from .deconvnet import deconvnet
from .evaluate import energy_concentration
from .explore import explore
from .fixations import cnn_fixations
from .grad_cam import grad_cam
from .guided_backprop import guided_backprop, guided_grad_cam
from .lime import lime
from .lrp import deep_taylor, lrp
from .networks import Network, available, load
from .shap_cam import shap_cam

_FUNCTIONS = (gradient, deconvnet, guided_backprop, cam, grad_cam, guided_grad_cam, shap_cam, lrp, deep_taylor, lime,
              cnn_fixations)  # fmt: skip
METHODS = {method.__name__: method for method in _FUNCTIONS}

__all__ = ["METHODS", "InputError", "Network", "available", "cam", "cnn_fixations", "deconvnet", "deep_taylor",
           "energy_concentration", "explore", "grad_cam", "gradient", "guided_backprop", "guided_grad_cam", "lime",
           "load", "lrp", "shap_cam"]  # fmt: skip
