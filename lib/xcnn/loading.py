"""Networks by name: the small ones of the book, and torchvision's."""

import functools
import os
import pickle
import threading
import warnings
from pathlib import Path

import torch

from . import small_networks
from .errors import InputError, nearest
from .networks import Network
from .scenes import CLASSES as SCENE_CLASSES

SMALL = tuple(small_networks.BUILD)
REAL = ("squeezenet1_1", "mobilenet_v2", "resnet18")  # the three that `make weights` fetches


def data_folder():
    """`data/` of the repository, or its copy inside an installed package."""
    inside = Path(__file__).parent / "data"
    return inside if inside.exists() else Path(__file__).resolve().parents[2] / "data"


def one_at_a_time(cached):
    """A cached function that a second thread enters when the first is done: it then finds the first one's result."""
    lock = threading.Lock()

    @functools.wraps(cached)
    def locked(*args, **options):
        with lock:
            return cached(*args, **options)

    locked.cache_clear = cached.cache_clear
    return locked


@one_at_a_time
@functools.lru_cache(maxsize=8)
@torch.inference_mode(
    False
)  # weights made in the caller's inference mode could never have a gradient
def load(name):
    """A network by name, ready to be explained. Repeated calls return the same object.

    :param name: vgg_s, resnet_s, googlenet_s, allconv_s, or any torchvision classifier: vgg16, resnet18, resnet50, ...;
        resnet_s_tagged is the one that learned to cheat, for chapter 12
    :return: `Network` in eval mode
    :raises InputError: unknown name (with the nearest ones), or weights that cannot be had (with file and folder)
    """
    if name in SMALL or name == small_networks.TAGGED:
        with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
            module = small_networks.build(name, len(SCENE_CLASSES))
        small_networks.restore(module, data_folder() / "weights" / f"{name}.safetensors")
        return Network(module.eval(), name, list(SCENE_CLASSES), size=128)

    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        raise InputError(f"unknown network {name!r}; {nearest(name, [*SMALL, *known])}")
    weights = next(iter(zoo.get_model_weights(name)))  # the first published set, IMAGENET1K_V1
    fetch_weights(weights)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # torchvision's own notes on how it initialises
            module = zoo.get_model(name, weights=weights)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        path = weights_path(weights)
        raise InputError(
            f"the weights in {path} cannot be read ({type(error).__name__}); delete the file and try again"
        ) from error
    transform = weights.transforms()
    return Network(module.eval(), name, list(weights.meta["categories"]), transform.crop_size[0],
                   tuple(transform.mean), tuple(transform.std))  # fmt: skip


def weights_path(weights):
    """Where torch keeps these weights: $TORCH_HOME/hub/checkpoints/FILE."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)


def fetch_weights(weights, timeout=5):
    """Make sure that torchvision's weights are on disk, downloading them once, with a progress bar.

    :raises InputError: where they cannot be downloaded; names the file and the folder to put it in
    """
    import urllib.request

    path = weights_path(weights)
    if path.exists():
        return
    try:
        urllib.request.urlopen(
            urllib.request.Request(weights.url, method="HEAD"), timeout=timeout
        ).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(path), path.stem.rsplit("-", 1)[-1])
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download {path.name} ({weights.url}): {getattr(error, 'reason', error)}; "
            f"get the file elsewhere and put it into {path.parent}, or set TORCH_HOME to a folder that has it"
        ) from error


def available():
    """Networks that load without a download: the small four, then those of `REAL` whose weights are here."""
    import torchvision.models as zoo

    return [
        *SMALL,
        *(name for name in REAL if weights_path(next(iter(zoo.get_model_weights(name)))).exists()),
    ]
