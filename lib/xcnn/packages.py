"""Packages that only some features need. They are imported where they are used.

`import xcnn` and all methods on the small networks do without them, and start sooner.
"""

import importlib

from .errors import InputError

# how a package is imported -> how it is installed, where that is another name
INSTALLED_AS = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


def imported(module, what):
    """A module of another package.

    :param module: its full name
    :param what: the feature that needs it, for the message
    :return: the module
    :raises InputError: where it cannot be imported; says what to install

    >>> xcnn.packages.imported("scipy.ndimage", "a blurred map").__name__
    'scipy.ndimage'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(missing(module, what, error)) from error


def missing(module, what, error):
    """What to say where a module cannot be imported.

    :param module, what: as in `imported`
    :param error: the ImportError

    >>> xcnn.packages.missing("skimage.data", "this", ImportError("No module named 'skimage'"))
    "this needs scikit-image: pip install scikit-image (No module named 'skimage')"
    """
    package = module.partition(".")[0]
    package = INSTALLED_AS.get(package, package)
    return f"{what} needs {package}: pip install {package} ({error})"
