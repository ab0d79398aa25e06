"""Networks by name: the small ones that come with the book, and torchvision's pretrained ones."""

import functools
import os
import pickle
import threading
import urllib.request
import warnings
from pathlib import Path

import torch

from . import small_networks
from .errors import InputError, nearest
from .networks import Network
from .packages import imported
from .paths import data_folder
from .scenes import CLASSES as SCENE_CLASSES

SMALL = tuple(small_networks.BUILD)
PAIRED = (*small_networks.PAIRS, *small_networks.PAIRS.values())
REAL = ("squeezenet1_1", "mobilenet_v2", "resnet18")  # the three that `make weights` fetches
ANSWER_TIMEOUT = 5  # seconds until a server counts as out of reach


def one_at_a_time(cached):
    """A cached function that a second thread enters when the first is done.

    The second thread then finds the first one's result.
    """
    lock = threading.Lock()

    @functools.wraps(cached)
    def locked(*args, **options):
        with lock:
            return cached(*args, **options)

    locked.cache_clear = cached.cache_clear
    return locked


# Weights that are made in a caller's inference mode could never have a gradient.
@one_at_a_time
@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def load(name):
    """A network by name, ready to be explained. Repeated calls return the same object.

    :param name: vgg_s, resnet_s, googlenet_s, allconv_s, or any classifier of torchvision's: vgg16,
        resnet18, resnet50, ...; resnet_s_tagged learned to cheat, for chapter 15, and so did others
        of `small_networks.PAIRS`
    :return: `Network` in eval mode
    :raises InputError: unknown name (with the nearest ones), or weights that cannot be had (with
        file and folder)

    >>> xcnn.load("vgg_s").classes[:3]
    ['banana', 'broccoli', 'bus']
    """
    if name in SMALL or name in PAIRED:
        return _small(name)
    return _pretrained(name)


def _small(name):
    """One of the book's own networks."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        module = small_networks.build(name, len(SCENE_CLASSES))
    small_networks.restore(module, data_folder() / "weights" / f"{name}.safetensors")
    return Network(module.eval(), name, list(SCENE_CLASSES), size=128)


def _pretrained(name):
    """One of torchvision's classifiers, with the first weights that were published for it."""
    zoo = _zoo(f"{name!r} is none of {', '.join(SMALL)}, and any other network")
    known = zoo.list_models(module=zoo)
    if name not in known:
        raise InputError(f"unknown network {name!r}; {nearest(name, [*SMALL, *known])}")
    weights = _first_weights(name)
    fetch_weights(weights)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # torchvision's own notes on how it initialises
            module = zoo.get_model(name, weights=weights)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"the weights in {weights_path(weights)} cannot be read ({type(error).__name__}); "
            "delete the file and try again"
        ) from error
    transform = weights.transforms()
    return Network(
        module.eval(),
        name,
        classes=list(weights.meta["categories"]),
        size=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _first_weights(name):
    """torchvision's description of a network's first published weights (IMAGENET1K_V1)."""
    zoo = _zoo(f"the network {name}")
    return next(iter(zoo.get_model_weights(name)))


def _zoo(what):
    """torchvision's networks: slow to import, and not needed by the small ones."""
    return imported("torchvision.models", what)


def weights_path(weights):
    """Where torch keeps these weights: $TORCH_HOME/hub/checkpoints/FILE."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)


def fetch_weights(weights):
    """Make sure that torchvision's weights are on disk: download them once, with a progress bar.

    :raises InputError: where they cannot be downloaded; names the file and the folder to put it in
    """
    path = weights_path(weights)
    if path.exists():
        return
    hash_prefix = path.stem.rsplit("-", 1)[-1]
    try:
        question = urllib.request.Request(weights.url, method="HEAD")
        urllib.request.urlopen(question, timeout=ANSWER_TIMEOUT).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(path), hash_prefix)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"cannot download {path.name} ({weights.url}): {reason}; "
            f"get the file elsewhere and put it into {path.parent}, "
            "or set TORCH_HOME to a folder that has it"
        ) from error


def available():
    """Networks that load without a download: the small four, then those of `REAL` that are here.

    >>> xcnn.available()[:4]
    ['vgg_s', 'resnet_s', 'googlenet_s', 'allconv_s']
    """
    try:
        here = [name for name in REAL if weights_path(_first_weights(name)).exists()]
    except InputError:  # without torchvision
        here = []
    return [*SMALL, *here]
