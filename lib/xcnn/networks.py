"""`Network` wraps a classifier; `ready`, the front door of every method, checks its input."""

import copy
from dataclasses import dataclass, field

import torch
import torchvision.transforms.functional as TF
from torch import nn

from .engine.contract import check, isolated, run
from .engine.layers import spatial_layers
from .errors import InputError
from .photos import to_rgb

# mean and standard deviation of ImageNet's pixels: red, green, blue
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
DEFAULT_SIZE = "the network's own"
# Resizing keeps the aspect ratio. A longer picture would not fit into memory.
MAX_ASPECT_RATIO = 200


@dataclass(eq=False)
class Network:
    """A classifier, what its classes are called, and how it wants its pictures.

    :param module: nn.Module in eval mode, (N, 3, H, W) -> (N, K)
    :param name: what messages and tables call it
    :param classes: list of K names, empty where unknown
    :param size: side in pixels of the images it was trained on
    :param mean, std: normalisation of each colour channel

    >>> own = xcnn.Network(net.module, name="mine", classes=net.classes, size=128)
    >>> own.layer
    'layer3'
    """

    module: nn.Module
    name: str = "network"
    classes: list = ()
    size: int = 224
    mean: tuple = MEAN
    std: tuple = STD
    _height_width: tuple = field(default=None, init=False, repr=False)
    _known_layers: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def layers(self):
        """Layers worth offering in a slider, in order: name -> (C, h, w) of their maps.

        The sizes are those for images of the network's own size; inside a method, those for the
        images that it explains.

        >>> net.layers
        {'relu': (16, 64, 64), 'layer1': (24, 32, 32), 'layer2': (48, 16, 16), 'layer3': (80, 8, 8)}
        """
        height_width = self._height_width or (self.size, self.size)
        if height_width not in self._known_layers:
            weight = next(self.module.parameters(), torch.empty(0))
            x = torch.zeros(1, 3, *height_width).to(weight)
            check(self.module, x)
            self._known_layers[height_width] = spatial_layers(self.module, x)
        return self._known_layers[height_width]

    @property
    def layer(self):
        """The last spatial layer, which methods with a layer take by default.

        >>> net.layer
        'layer3'
        """
        if not self.layers:
            raise InputError(f"{self.name} has no layer that puts out maps; name one with layer=")
        return list(self.layers)[-1]

    def for_images(self, x):
        """The same network, whose `layers` and `layer` are those for images of the size of x.

        :param x: (N, 3, H, W)
        :return: `Network` around the same module

        >>> net.for_images(torch.zeros(1, 3, 64, 64)).layers["layer3"]
        (80, 4, 4)
        """
        twin = copy.copy(self)  # it shares the memory of layers that are known
        twin._height_width = tuple(x.shape[2:])
        return twin

    def normalise(self, v):
        """Values of pixels as the network sees them, (v - mean) / std.

        :param v: a grey value from 0 (black) to 1 (white), or colours (..., 3, H, W)
        :return: (3, 1, 1) float64 for a number; else as v, in its type of float

        >>> net.normalise(1).flatten().round(decimals=2).tolist()
        [2.25, 2.43, 2.64]
        """
        v = torch.as_tensor(v)
        v = v if v.ndim and v.is_floating_point() else v.double()
        mean, std = self._statistics(v)
        return (v - mean) / std

    def preprocess(self, image, size=DEFAULT_SIZE):
        """A picture as the network wants it.

        :param image: PIL image of any mode, or an (H, W, 3) uint8 array
        :param size: side in pixels: the shorter side is resized to it, the middle kept; default:
            the network's own size; None: the picture's original size, whole
        :return: (1, 3, H, W) float32, normalised

        >>> tuple(net.preprocess(scene.image, size=64).shape)
        (1, 3, 64, 64)
        """
        rgb = to_rgb(image)
        size = self.size if size is DEFAULT_SIZE else size
        if size is not None:
            rgb = _resized(rgb, size)
        return self.normalise(TF.to_tensor(rgb))[None]

    def picture(self, x):
        """The reverse of `preprocess`: images as arrays that can be shown.

        :param x: (N, 3, H, W)
        :return: (N, H, W, 3) array in [0, 1]

        >>> bool(np.allclose(net.picture(x)[0], np.asarray(scene.image) / 255, atol=1e-6))
        True
        """
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        mean, std = self._statistics(x)
        pixels = x * std + mean
        return pixels.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    def predict(self, x):
        """Class probabilities.

        :param x: (N, 3, H, W)
        :return: (N, K)

        >>> net.predict(x).sum(1).round(decimals=4)
        tensor([1.])
        """
        check(self.module, x)
        with isolated(grad=False):
            return run(self.module, x).softmax(1)

    def top(self, x, k=5):
        """The k likeliest classes of each image, or all classes where there are fewer.

        :param x: (N, 3, H, W)
        :param k: how many
        :return: N lists of (index, name, probability)

        >>> [name for _, name, _ in net.top(x, k=2)[0]]
        ['broccoli', 'clock']
        """
        p = self.predict(x)
        p, indices = p.topk(min(k, p.shape[1]))
        return [
            [(c, self._class_name(c), q) for c, q in zip(*image, strict=True)]
            for image in zip(indices.tolist(), p.tolist(), strict=True)
        ]

    def _class_name(self, c):
        return self.classes[c] if len(self.classes) else f"class {c}"

    def _statistics(self, like):
        """Mean and standard deviation, (3, 1, 1) each, of the type and device of `like`."""
        options = {"dtype": like.dtype, "device": like.device}
        return [torch.tensor(v, **options).view(3, 1, 1) for v in (self.mean, self.std)]


def _resized(rgb, size):
    """The middle of a picture, a square of this side."""
    if not hasattr(size, "__index__") or size < 1:
        raise InputError(
            f"size is a side in pixels, 1 or more, or None for the picture's own; got {size!r}"
        )
    size = size.__index__()
    if max(rgb.size) > MAX_ASPECT_RATIO * min(rgb.size):
        raise InputError(
            f"a picture of {rgb.width} x {rgb.height} is too long to be resized; cut it first"
        )
    return TF.center_crop(TF.resize(rgb, size, antialias=True), size)


def as_network(net):
    """A `Network` from a `Network` or any nn.Module that maps (N, 3, H, W) to (N, K)."""
    if isinstance(net, Network):
        return net
    if isinstance(net, nn.Module):
        return Network(net, name=type(net).__name__)
    raise InputError(
        f"expected an xcnn.Network or a torch.nn.Module, got {type(net).__name__}; "
        "xcnn.load(name) makes one"
    )


def ready(net, x):
    """The front door of every method: the network and the images, checked.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, 3, H, W) float, finite
    :return: `Network`, whose layers are those for the size of x, also for a bare module; and x,
        detached from the caller's graph
    :raises InputError: a network in train mode; an x of another shape or type; NaN or infinity

    >>> net_for_x, images = xcnn.networks.ready(net.module, x)
    >>> net_for_x.layer
    'layer3'
    """
    net = as_network(net)
    check(net.module, x)
    return net.for_images(x), x.detach()
