"""What stands where a part of a picture is hidden, or where the path to the picture begins."""

import torch

from ..errors import InputError, one_of
from ..packages import imported

GREY = {"black": 0, "grey": 0.5, "white": 1}  # the shade of each, from 0 (black) to 1 (white)
FILLS = ("zero", *GREY, "mean", "blur")
BLUR = 1 / 20  # standard deviation of the Gaussian as a share of the picture's shorter side
CUT_OFF = 2  # standard deviations from its middle, where the Gaussian ends


def filled(net, x, fill):
    """Pictures as large as x that show nothing of it, or little.

    :param net: `Network`
    :param x: (N, C, H, W)
    :param fill: "zero": 0 in x, which is ImageNet's mean colour for its networks; "black", "grey",
        "white"; "mean": the mean colour of each picture; "blur": the picture, blurred by a Gaussian
        of a twentieth of its shorter side; or a tensor (C, H, W), normalised as x is
    :return: (N, C, H, W)
    :raises InputError: another name; a tensor of another shape, or one that is not finite

    >>> xcnn.engine.fill.filled(net, x, "black").equal(net.normalise(0).to(x).expand_as(x))
    True
    """
    if isinstance(fill, torch.Tensor):
        return _own(fill, x)
    one_of("fill", fill, FILLS)
    if fill == "zero":
        return torch.zeros_like(x)
    if fill in GREY:
        return net.normalise(GREY[fill]).to(x).expand_as(x)
    if fill == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    return blurred(x, BLUR * min(x.shape[2:]))


def blurred(x, sigma):
    """Pictures (N, C, H, W), blurred by a Gaussian of this standard deviation in pixels.

    >>> xcnn.engine.fill.blurred(torch.ones(1, 1, 8, 8), 2).allclose(torch.ones(1, 1, 8, 8))
    True
    """
    TF = imported("torchvision.transforms.functional", "a blurred picture")
    radius = min(round(CUT_OFF * sigma), (min(x.shape[2:]) - 1) // 2)  # fits into the picture
    return TF.gaussian_blur(x, 2 * radius + 1, sigma) if radius > 0 else x


def _own(fill, x):
    """The caller's own picture, for each of x."""
    if fill.shape != x.shape[1:]:
        raise InputError(
            f"a picture to hide by must be (C, H, W) = {tuple(x.shape[1:])}, "
            f"as x is, got {tuple(fill.shape)}"
        )
    if not torch.isfinite(fill).all():
        raise InputError("the picture to hide by holds NaN or infinite values")
    return fill.detach().to(x).expand_as(x)
