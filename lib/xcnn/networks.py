"""`Network` wraps a classifier; `ready`, the front door of every method, checks its input."""

import copy
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves

from .engine.contract import check, isolated, run
from .engine.layers import spatial_layers
from .engine.target import are_probabilities, class_outputs
from .engine.wrappers import INSIDE, SCORES, check_offers, unwrapped
from .errors import InputError
from .photos import to_rgb

# mean and standard deviation of ImageNet's pixels: red, green, blue
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
COLOURS = 3
DEFAULT_SIZE = "the network's own"
ACTIVATIONS = ("auto", "softmax", "sigmoid", None)
# Resizing keeps the aspect ratio. A longer picture would not fit into memory.
MAX_ASPECT_RATIO = 200


@dataclass(eq=False)
class Network:
    """A network, what its classes are called, and how it wants its pictures.

    :param module: nn.Module in eval mode, (N, C, H, W) -> scores (N, K); or anything else that it
        returns, where the target is a function of that. DataParallel, torch.compile and
        AveragedModel are taken off
    :param name: what messages and tables call it
    :param classes: list of K names, empty where unknown
    :param size: side in pixels of the images it was trained on
    :param mean, std: normalisation, a number or one per channel; None: ImageNet's for three
        channels, 0 and 1 for any other number
    :param activation: what makes probabilities of scores: "softmax"; "sigmoid" for several labels;
        None where the scores are probabilities already; "auto": softmax, for one score sigmoid

    >>> own = xcnn.Network(net.module, name="mine", classes=net.classes, size=128)
    >>> own.layer
    'layer3'
    """

    module: nn.Module
    name: str = "network"
    classes: list = ()
    size: int = 224
    mean: tuple = None
    std: tuple = None
    activation: str | None = "auto"
    _image_shape: tuple = field(default=None, init=False, repr=False)
    _known_layers: dict = field(default_factory=dict, init=False, repr=False)
    _pairs_tried: list = field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        self.module = unwrapped(self.module)
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation must be 'auto', 'softmax', 'sigmoid' or None, not {self.activation!r}"
            )
        channels = _channels(self.module, self.size, self.mean, self.std)
        mean, std = (MEAN, STD) if channels == COLOURS else (0.0, 1.0)
        self.mean = _per_channel("mean", self.mean, mean, channels)
        self.std = _per_channel("std", self.std, std, channels)

    @property
    def channels(self):
        """How many channels its pictures have, C.

        >>> net.channels
        3
        """
        return len(self.mean)

    @property
    def layers(self):
        """Layers worth offering in a slider, in order: name -> (C, h, w) of their maps.

        The sizes are those for images of the network's own size; inside a method, those for the
        images that it explains.

        >>> net.layers
        {'relu': (16, 64, 64), 'layer1': (24, 32, 32), 'layer2': (48, 16, 16), 'layer3': (80, 8, 8)}
        """
        shape = self._image_shape or (self.channels, self.size, self.size)
        if shape not in self._known_layers:
            weight = next(self.module.parameters(), torch.empty(0))
            x = torch.zeros(1, *shape).to(weight)
            check(self.module, x)
            check_offers(self.module, self.name, INSIDE)
            self._known_layers[shape] = spatial_layers(self.module, x)
        return self._known_layers[shape]

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

        :param x: (N, C, H, W)
        :return: `Network` around the same module

        >>> net.for_images(torch.zeros(1, 3, 64, 64)).layers["layer3"]
        (80, 4, 4)
        """
        twin = copy.copy(self)  # it shares the memory of layers that are known
        twin._image_shape = tuple(x.shape[1:])
        return twin

    def normalise(self, v):
        """Values of pixels as the network sees them, (v - mean) / std.

        :param v: a grey value from 0 (black) to 1 (white), or pixels (..., C, H, W)
        :return: (C, 1, 1) float64 for a number; else as v, in its type of float

        >>> net.normalise(1).flatten().round(decimals=2).tolist()
        [2.25, 2.43, 2.64]
        """
        if np.ndim(v) == 0:
            v = torch.tensor(float(v), dtype=torch.float64)  # on the CPU: some devices have none
        v = torch.as_tensor(v)
        v = v if v.is_floating_point() else v.double()
        mean, std = self._statistics(v)
        return (v - mean) / std

    def preprocess(self, image, size=DEFAULT_SIZE):
        """A picture as the network wants it: grey for one channel, RGB for three.

        :param image: PIL image of any mode, or an array, see `photos.to_rgb`
        :param size: side in pixels: the shorter side is resized to it, the middle kept; default:
            the network's own size; None: the picture's original size, whole
        :return: (1, C, H, W) float32, normalised
        :raises InputError: something that is not a picture; a network of 2, 4 or more channels

        >>> tuple(net.preprocess(scene.image, size=64).shape)
        (1, 3, 64, 64)
        """
        picture = to_rgb(image)
        if self.channels == 1:
            picture = picture.convert("L")
        elif self.channels != COLOURS:
            raise InputError(
                f"{self.name} takes {self.channels} channels, and a picture has 1 or 3; "
                "make x yourself, (1, C, H, W), normalised"
            )
        size = self.size if size is DEFAULT_SIZE else size
        if size is not None:
            picture = _resized(picture, size)
        values = np.atleast_3d(np.array(picture, np.float32)) / np.float32(255)
        return self.normalise(torch.from_numpy(values).permute(2, 0, 1))[None]

    def picture(self, x):
        """The reverse of `preprocess`: images as arrays that can be shown.

        :param x: (N, C, H, W)
        :return: (N, H, W, 3) array in [0, 1]: the colours, or the first three channels of more;
            grey, the mean of the channels, where there are one or two

        >>> bool(np.allclose(net.picture(x)[0], np.asarray(scene.image) / 255, atol=1e-6))
        True
        """
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        mean, std = self._statistics(x)
        pixels = x * std + mean
        if self.channels < COLOURS:
            pixels = pixels.mean(1, keepdim=True).expand(-1, COLOURS, -1, -1)
        return pixels[:, :COLOURS].clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    def predict(self, x):
        """Class probabilities, see `probabilities`.

        :param x: (N, C, H, W)
        :return: (N, K); of one score its sigmoid, (N, 1)
        :raises InputError: as every method; a network that does not return class scores

        >>> net.predict(x).sum(1).round(decimals=4)
        tensor([1.])
        """
        net, x = ready(self, x, needs=SCORES)
        with isolated(grad=False):
            return self.probabilities(class_outputs(run(net.module, x), len(x)))

    def probabilities(self, S):
        """Probabilities of scores, by the network's `activation`.

        :param S: (N, K)
        :return: (N, K)

        >>> net.probabilities(torch.tensor([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
        """
        activation = self.activation_of(S)
        if activation is None:
            return S
        if activation == "sigmoid":
            return S.sigmoid()
        self.warn_of_probabilities(S)
        return S.softmax(1)

    def activation_of(self, S):
        """What makes probabilities of these scores: "softmax", "sigmoid" or None.

        :param S: (N, K)
        :return: the name, or None

        >>> net.activation_of(torch.zeros(1, 1)), net.activation_of(torch.zeros(1, 2))
        ('sigmoid', 'softmax')
        """
        if self.activation != "auto":
            return self.activation
        return "sigmoid" if S.shape[1] == 1 else "softmax"

    def warn_of_probabilities(self, S):
        """Warn where scores look like probabilities, unless `activation` says that they are.

        :param S: (N, K)
        :return: None

        >>> net.warn_of_probabilities(torch.tensor([[0.5, 2.0]]))
        """
        if self.activation is not None and are_probabilities(S):
            warnings.warn(
                f"the scores of {self.name} look like probabilities (none is below 0, and each row "
                "sums to 1); explain the scores before the softmax, or say that they are: "
                "xcnn.Network(model, activation=None)",
                stacklevel=2,
            )

    def top(self, x, k=5):
        """The k likeliest classes of each image, or all classes where there are fewer.

        :param x: (N, C, H, W)
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
        return self.classes[c] if c < len(self.classes) else f"class {c}"

    def _statistics(self, like):
        """Mean and standard deviation, (C, 1, 1) each, of the type and device of `like`."""
        options = {"dtype": like.dtype, "device": like.device}
        return [torch.tensor(v, **options).view(-1, 1, 1) for v in (self.mean, self.std)]

    def check_images_are_apart(self, x):
        """Raise InputError where what the network says of an image depends on its batch.

        It is tried once, with the first image: alone, and beside one that is made of it.

        :param x: (N, C, H, W)
        :return: None
        :raises InputError: where its scores change

        >>> net.check_images_are_apart(torch.cat([x, x + 1]))
        """
        if len(x) == 1 or self._pairs_tried:
            return
        with isolated(grad=False):
            beside = run(self.module, torch.cat([x[:1], 1 - 2 * x[:1]]))
            alone = run(self.module, x[:1])
        for v, w in _first_of_both(beside, alone):
            tolerance = torch.finfo(v.dtype).eps ** 0.5 * w.abs().max()
            if bool(((v - w).abs() > tolerance).any()):
                raise InputError(
                    f"in {self.name} the images of a batch change each other's scores "
                    "(batch norm without running statistics, or numbers drawn at random); "
                    "explain them one by one, x[k : k + 1]"
                )
        self._pairs_tried.append(True)


def _first_of_both(pair, single):
    """The floats that a network returned for an image beside another, and for the image alone."""
    for v, w in zip(tree_leaves(pair), tree_leaves(single), strict=False):
        floats = all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in (v, w))
        if floats and v.ndim and v.shape[1:] == w.shape[1:] and (len(v), len(w)) == (2, 1):
            yield v[0], w[0]


def _channels(module, size, mean, std):
    """How many channels a network's pictures have.

    As many as there are means; else as many as its first weights say; 3 where there are none.
    """
    for statistic in (mean, std):
        if np.ndim(statistic):
            return len(statistic)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
        if isinstance(part, nn.Linear) and not part.in_features % size**2:
            return part.in_features // size**2
    return COLOURS


def _per_channel(name, values, default, channels):
    """One number per channel, as a tuple."""
    values = default if values is None else values
    values = tuple(map(float, values)) if np.ndim(values) else (float(values),) * channels
    if len(values) != channels or (name == "std" and min(values) <= 0):
        raise InputError(
            f"{name} must be a number or {channels} of them, one per channel"
            f"{', above 0' if name == 'std' else ''}; got {values}"
        )
    return values


def _resized(picture, size):
    """The middle of a picture, a square of this side."""
    if not hasattr(size, "__index__") or size < 1:
        raise InputError(
            f"size is a side in pixels, 1 or more, or None for the picture's own; got {size!r}"
        )
    size = size.__index__()
    if max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
        raise InputError(
            f"a picture of {picture.width} x {picture.height} is too long to be resized; "
            "cut it first"
        )
    shorter = min(picture.size)
    width, height = (int(size * side / shorter) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left = round((width - size) / 2)
    top = round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def as_network(net):
    """A `Network` from a `Network` or any nn.Module."""
    if isinstance(net, Network):
        return net
    if isinstance(net, nn.Module):
        net = unwrapped(net)
        return Network(net, name=type(net).__name__)
    raise InputError(
        f"expected an xcnn.Network or a torch.nn.Module, got {type(net).__name__}; "
        "xcnn.load(name) makes one"
    )


def ready(net, x, needs=INSIDE):
    """The front door of every method: the network and the images, checked.

    :param net: `Network` or nn.Module, in eval mode
    :param x: (N, C, H, W) float, finite
    :param needs: what the method needs of the network, see engine/wrappers.py
    :return: `Network`, whose layers are those for the size of x, also for a bare module; and x,
        detached from the caller's graph
    :raises InputError: a network in train mode, or one that cannot be looked into; an x of another
        shape or type; NaN or infinity; images that change each other's scores

    >>> net_for_x, images = xcnn.networks.ready(net.module, x)
    >>> net_for_x.layer
    'layer3'
    """
    net = as_network(net)
    check(net.module, x)
    check_offers(net.module, net.name, needs)
    x = x.detach()
    net.check_images_are_apart(x)
    return net.for_images(x), x
