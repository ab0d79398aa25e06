"""xcnn: the thin library of the book "Explainable Convolutional Neural Networks".

    net = xcnn.load("resnet_s")
    x = net.preprocess(image)
    R = xcnn.grad_cam(net, x, target="clock")    # (1, 1, H, W)

Every method is called as `method(net, x, target=None, **options)`; `METHODS` holds them by name.

In the examples of this library there are, besides `xcnn`, `np` and `torch`:

    net = xcnn.load("resnet_s")
    scene = xcnn.scenes.render(10, count=2)    # broccoli and a clock
    x = net.preprocess(scene.image)            # (1, 3, 128, 128)
    folder                                     # the path of an empty folder
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors
    from .checkup import doctor
    from .engine.target import versus
    from .errors import InputError
    from .evaluate import energy_concentration
    from .explorer import explore
    from .exporter import export
    from .loading import available, load
    from .methods import *
    from .networks import Network
    from .readers import Question, read_codes, reader_test

# Names are looked up when they are first used. So chapter 1 imports NumPy, and not PyTorch.
_HOMES = {
    "InputError": "errors",
    "Network": "networks",
    "Question": "readers",
    "available": "loading",
    "doctor": "checkup",
    "energy_concentration": "evaluate",
    "explore": "explorer",
    "export": "exporter",
    "load": "loading",
    "read_codes": "readers",
    "reader_test": "readers",
    "versus": "engine.target",
}


def __getattr__(name):
    """A name of the library's face, or one of its modules."""
    if name == "__all__":
        value = sorted([*_HOMES, *importlib.import_module(".methods", __name__).__all__])
    elif name.startswith("__"):  # what Python itself asks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    else:
        value = _module(name) or _method(name)
    globals()[name] = value
    return value


def _module(name):
    """The module of that name; None where there is none."""
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.{name}":
            return None
        from .packages import missing

        raise ModuleNotFoundError(missing(error.name, f"xcnn.{name}", error)) from error


def _method(name):
    """The method of that name, or another name of `methods`."""
    methods = importlib.import_module(".methods", __name__)
    if name not in methods.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(methods, name)


def __dir__():
    return sorted({*globals(), *__getattr__("__all__")})
