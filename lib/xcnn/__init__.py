"""xcnn: the thin library of the book "Explainable Convolutional Neural Networks".

    net = xcnn.load("resnet_s")
    x = net.preprocess(image)
    R = xcnn.grad_cam(net, x, target="clock")    # (1, 1, H, W)

Every method is called as `method(net, x, target=None, **options)`; `METHODS` holds them by name.
"""

from .errors import InputError
from .evaluate import energy_concentration
from .explorer import explore
from .loading import available, load
from .methods import *  # noqa: F403
from .methods import __all__ as _methods
from .networks import Network

__all__ = [
    "InputError",
    "Network",
    "available",
    "energy_concentration",
    "explore",
    "load",
    *_methods,
]
