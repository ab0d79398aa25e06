"""Networks behind one face: the four small ones that come with the book, and torchvision's pretrained ones by name."""

import functools
from dataclasses import dataclass

import torch
import torchvision.transforms.functional as TF
from torch import nn

from .engine.contract import check, own_grad_mode, run
from .engine.layers import spatial_layers
from .errors import InputError
from .photos import to_rgb

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, red, green, blue
DEFAULT_SIZE = object()
LONGEST = 200  # times its shorter side: what is resized keeps its shape, and has to fit into memory


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
                raise InputError(
                    f"size is a side in pixels, 1 or more, or None for the picture's own; got {size!r}"
                )
            size = size.__index__()
            if max(rgb.size) > LONGEST * min(rgb.size):
                raise InputError(
                    f"a picture of {rgb.width} x {rgb.height} is too long to be resized; cut it first"
                )
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
