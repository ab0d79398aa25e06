"""Networks behind one face: the four small ones that come with the book, and torchvision's pretrained ones by name."""

import functools
import os
import pickle
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import nn

from . import small_networks
from .contract import InputError, check, nearest, own_grad_mode, run
from .layers import spatial_layers
from .scenes import CLASSES as SCENE_CLASSES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, red, green, blue
SMALL = tuple(small_networks.BUILD)
REAL = ("squeezenet1_1", "mobilenet_v2", "resnet18")  # the three that `make weights` fetches
DEFAULT_SIZE = object()
LONGEST = 200  # times its shorter side: what is resized keeps its shape, and has to fit into memory


def data_folder():
    """`data/` of the repository, or its copy inside an installed package."""
    inside = Path(__file__).parent / "data"
    return inside if inside.exists() else Path(__file__).resolve().parents[2] / "data"


@dataclass(eq=False)
class Network:
    """A classifier, what its classes are called, and how it wants its pictures.

    :param module: nn.Module in eval mode, (N, 3, H, W) -> (N, K)
    :param name: what messages and tables call it
    :param classes: list of K names, empty where unknown
    :param size: side in pixels of the images it was trained on
    :param mean, std: normalisation of each colour channel
    """

    module: nn.Module
    name: str = "network"
    classes: list = ()
    size: int = 224
    mean: tuple = MEAN
    std: tuple = STD

    @functools.cached_property
    def layers(self):
        """Layers worth offering in a slider, in order: name -> (C, H, W) for an image of the default size."""
        like = next(self.module.parameters(), torch.empty(0))
        x = torch.zeros(1, 3, self.size, self.size).to(like)
        check(self.module, x)
        return spatial_layers(self.module, x)

    @property
    def layer(self):
        """The last spatial layer."""
        if not self.layers:
            raise InputError(f"{self.name} has no layer that puts out maps; name one with layer=")
        return list(self.layers)[-1]

    def preprocess(self, image, size=DEFAULT_SIZE):
        """A picture as the network wants it.

        :param image: PIL image of any mode, or an (H, W, 3) uint8 array
        :param size: side in pixels: the shorter side is resized to it, the middle kept; default: the network's own
            size; None: the picture's original size, whole
        :return: (1, 3, H, W) float32, normalised
        """
        rgb = to_rgb(image)
        size = self.size if size is DEFAULT_SIZE else size
        if size is not None:
            if not hasattr(size, "__index__") or size < 1:
                raise InputError(f"size is a side in pixels, 1 or more, or None for the picture's own; got {size!r}")
            size = size.__index__()
            if max(rgb.size) > LONGEST * min(rgb.size):
                raise InputError(f"a picture of {rgb.width} x {rgb.height} is too long to be resized; cut it first")
            rgb = TF.center_crop(TF.resize(rgb, size, antialias=True), size)
        return TF.normalize(TF.to_tensor(rgb), self.mean, self.std)[None]

    def picture(self, x):
        """The way back from `preprocess`: x (N, 3, H, W) -> (N, H, W, 3) array in [0, 1], to be shown."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (x.detach() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    def predict(self, x):
        """Class probabilities (N, K) of a batch x, (N, 3, H, W)."""
        check(self.module, x)
        with own_grad_mode(False):
            return run(self.module, x.clone()).softmax(1)  # a copy: a network may work in place

    def top(self, x, k=5):
        """The k likeliest classes of each image of x, at most all: N lists of (index, name, probability)."""
        p = self.predict(x)
        p, index = p.topk(min(k, p.shape[1]))
        name = lambda c: self.classes[c] if len(self.classes) else f"class {c}"  # noqa: E731
        return [
            [(c, name(c), q) for c, q in zip(*pair, strict=True)]
            for pair in zip(index.tolist(), p.tolist(), strict=True)
        ]


def as_network(net):
    """A `Network` from a `Network` or any nn.Module that maps (N, 3, H, W) to (N, K)."""
    if isinstance(net, Network):
        return net
    if isinstance(net, nn.Module):
        return Network(net, name=type(net).__name__)
    raise InputError(
        f"expected an xcnn.Network or a torch.nn.Module, got {type(net).__name__}; xcnn.load(name) makes one"
    )


def last_layer(net, x):
    """The last spatial layer of a `Network`, or of a bare module for images of the size of x."""
    if isinstance(net, Network):
        return net.layer
    layers = spatial_layers(net, x)
    if not layers:
        raise InputError("this network has no layer that puts out maps; name one with layer=")
    return list(layers)[-1]


def to_rgb(image):
    """Any picture as an 8-bit RGB PIL image; 16-bit greys are scaled, not clipped, transparency goes onto white.

    :raises InputError: for something that is no picture
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"an image array must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"expected a PIL image or an (H, W, 3) uint8 array, got {type(image).__name__}")
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image, np.float64)
        if not np.isfinite(grey).all():
            raise InputError("the image holds NaN or infinite values; repair it or leave it out")
        top = 65535 if grey.max() > 255 else 255
        image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
@torch.inference_mode(False)  # weights made in the caller's inference mode could never have a gradient
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
        urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=timeout).close()
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

    return [*SMALL, *(name for name in REAL if weights_path(next(iter(zoo.get_model_weights(name)))).exists())]
