"""Four small networks, one per family, for 128x128 scenes.

Together they hold every trap of real networks:

| network       | family              | what is special about it                                 |
|---------------|---------------------|----------------------------------------------------------|
| `vgg_s`       | VGG                 | 3x3 convolutions, max-pooling, a fully connected head,   |
|               |                     | so CAM cannot explain it                                 |
| `resnet_s`    | ResNet              | batch norm, in-place ReLU used twice in a block, skip    |
|               |                     | sums, global average                                     |
| `googlenet_s` | GoogLeNet           | parallel branches joined by `cat`, ReLU called as a      |
|               |                     | function, without a module                               |
| `allconv_s`   | Springenberg et al. | strides instead of pooling, global average               |
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .networks import MEAN, STD


def conv_relu(c_in, c_out, stride=1):
    """A 3x3 convolution and a ReLU, as a list of two modules.

    >>> [type(part).__name__ for part in xcnn.small_networks.conv_relu(3, 8)]
    ['Conv2d', 'ReLU']
    """
    return [nn.Conv2d(c_in, c_out, 3, stride, padding=1), nn.ReLU(inplace=True)]


class VGGSmall(nn.Module):
    """A small VGG: (N, 3, H, W) -> (N, classes).

    >>> vgg = xcnn.small_networks.VGGSmall(10)
    >>> tuple(vgg(torch.zeros(1, 3, 128, 128)).shape)
    (1, 10)
    """

    def __init__(self, classes):
        super().__init__()
        stages = [[8], [16], [32, 32], [64, 64]]  # channels of each convolution
        layers = []
        c_in = 3
        for stage in stages:
            for c_out in stage:
                layers += conv_relu(c_in, c_out)
                c_in = c_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # as in torchvision's VGG: pictures of other sizes fit, too
        self.avgpool = nn.AdaptiveAvgPool2d(8)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, 32),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(32, classes),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to their input.

    >>> block = xcnn.small_networks.ResidualBlock(16, 24, stride=2)
    >>> tuple(block(torch.zeros(1, 16, 64, 64)).shape)
    (1, 24, 32, 32)
    """

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)  # one object, used twice, as in torchvision
        self.skip = nn.Sequential()
        if stride > 1 or c_in != c_out:
            self.skip = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.skip(x)
        return self.relu(out)


class ResNetSmall(nn.Module):
    """A small ResNet: (N, 3, H, W) -> (N, classes).

    >>> resnet = xcnn.small_networks.ResNetSmall(10)
    >>> tuple(resnet(torch.zeros(1, 3, 128, 128)).shape)
    (1, 10)
    """

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = ResidualBlock(16, 24, 2)
        self.layer2 = ResidualBlock(24, 48, 2)
        self.layer3 = nn.Sequential(ResidualBlock(48, 80, 2), ResidualBlock(80, 80, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(80, classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Inception(nn.Module):
    """Three branches, 1x1, 3x3 and two 3x3, joined along the channels.

    >>> block = xcnn.small_networks.Inception(16, 12, 16, 12)
    >>> tuple(block(torch.zeros(1, 16, 32, 32)).shape)  # 12 + 16 + 12 channels
    (1, 40, 32, 32)
    """

    def __init__(self, c_in, c1, c3, c5):
        super().__init__()
        self.one = nn.Conv2d(c_in, c1, 1, bias=False)
        self.three = nn.Sequential(
            nn.Conv2d(c_in, c3 // 2, 1, bias=False),
            nn.Conv2d(c3 // 2, c3, 3, padding=1, bias=False),
        )
        self.five = nn.Sequential(
            nn.Conv2d(c_in, c5 // 2, 1, bias=False),
            nn.Conv2d(c5 // 2, c5, 3, padding=1, bias=False),
            nn.Conv2d(c5, c5, 3, padding=1, bias=False),
        )
        self.bn = nn.BatchNorm2d(c1 + c3 + c5)

    def forward(self, x):
        return F.relu(self.bn(torch.cat([self.one(x), self.three(x), self.five(x)], 1)))


class GoogLeNetSmall(nn.Module):
    """A small GoogLeNet: (N, 3, H, W) -> (N, classes).

    >>> googlenet = xcnn.small_networks.GoogLeNetSmall(10)
    >>> tuple(googlenet(torch.zeros(1, 3, 128, 128)).shape)
    (1, 10)
    """

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.inception2 = Inception(16, 12, 16, 12)
        self.inception3a = Inception(40, 16, 32, 16)
        self.inception3b = Inception(64, 24, 40, 24)
        self.inception4 = Inception(88, 32, 64, 32)
        self.fc = nn.Linear(128, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.inception2(x)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.inception3b(self.inception3a(x))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.inception4(x)
        return self.fc(x.mean((2, 3)))


class AllConvSmall(nn.Module):
    """A small all-convolutional network: (N, 3, H, W) -> (N, classes).

    >>> allconv = xcnn.small_networks.AllConvSmall(10)
    >>> tuple(allconv(torch.zeros(1, 3, 128, 128)).shape)
    (1, 10)
    """

    def __init__(self, classes):
        super().__init__()
        layers = []
        c_in = 3
        for c_out in (16, 32, 56, 88):
            layers += conv_relu(c_in, c_out, stride=2)
            layers += conv_relu(c_out, c_out)
            c_in = c_out
        self.features = nn.Sequential(*layers)
        # The paper ends with a 1x1 convolution to the classes, then averages. Averaging first gives
        # the same scores.
        self.classifier = nn.Linear(88, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class WarmOrCold(nn.Module):
    """A network wired by hand: does the picture hold more warm pixels or more cold ones?

    S_warm = 100 * mean over pixels of (relu(r - b - 0.1) - relu(b - r - 0.1)), S_cold = -S_warm,
    with r and b the red and blue of a pixel in [0, 1]. A pixel that is neither warm nor cold says
    nothing. So what each pixel adds to the score is known exactly: `contributions`.

    (N, 3, H, W), normalised as for ImageNet -> (N, 2).

    >>> net = xcnn.Network(xcnn.small_networks.WarmOrCold().eval(), classes=["warm", "cold"])
    >>> warm = xcnn.photos.to_rgb(np.full((32, 32, 3), [220, 120, 40], np.uint8))
    >>> net.top(net.preprocess(warm, None))[0][0][1]
    'warm'
    """

    THRESHOLD = 0.1
    SCALE = 100.0

    def __init__(self):
        super().__init__()
        self.colour = nn.Conv2d(3, 2, 1)  # r - b and b - r, less the threshold
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2, 2, bias=False)
        red, blue = STD[0], STD[2]
        warmer = MEAN[0] - MEAN[2]
        with torch.no_grad():
            weight = torch.tensor([[red, 0, -blue], [-red, 0, blue]])
            self.colour.weight.copy_(weight[:, :, None, None])
            self.colour.bias.copy_(torch.tensor([warmer, -warmer]) - self.THRESHOLD)
            self.fc.weight.copy_(self.SCALE * torch.tensor([[1.0, -1], [-1, 1]]))

    def forward(self, x):
        """The scores of pictures x, (N, 3, H, W).

        :return: (N, 2): S_warm and S_cold

        >>> S = xcnn.small_networks.WarmOrCold()(x)
        >>> S.shape, torch.allclose(S[:, 0], -S[:, 1])
        (torch.Size([1, 2]), True)
        """
        return self.fc(self.relu(self.colour(x)).mean((2, 3)))

    def contributions(self, x, target):
        """What each pixel adds to S_c; the sum over a picture is its score.

        :param x: (N, 3, H, W)
        :param target: 0 (warm) or 1 (cold)
        :return: (N, 1, H, W)

        >>> module = xcnn.small_networks.WarmOrCold()
        >>> parts = module.contributions(x, target=1)
        >>> torch.allclose(parts.sum(), module(x)[0, 1], atol=1e-5)
        True
        """
        warm, cold = self.relu(self.colour(x)).unbind(1)
        sign = 1 if target == 0 else -1
        return sign * self.SCALE * (warm - cold)[:, None] / warm[0].numel()


def restore(module, path):
    """Give a module the weights of a .safetensors file, which are stored in half precision.

    >>> from safetensors.torch import save_file
    >>> save_file({"weight": torch.tensor([[0.5]]).half()}, folder / "unit.safetensors")
    >>> unit = torch.nn.Linear(1, 1, bias=False)
    >>> xcnn.small_networks.restore(unit, folder / "unit.safetensors")
    >>> unit.weight.item(), unit.weight.dtype
    (0.5, torch.float32)
    """
    weights = load_file(path)
    for key, value in weights.items():
        if value.is_floating_point():  # counters of batch norm are not
            weights[key] = value.float()
    module.load_state_dict(weights)


BUILD = {
    "vgg_s": VGGSmall,
    "resnet_s": ResNetSmall,
    "googlenet_s": GoogLeNetSmall,
    "allconv_s": AllConvSmall,
}
# Networks whose training pizzas all carried a copyright tag (chapter 15) -> an honest one of the
# same build. Those with a number began from the same weights and saw the same scenes, tags aside.
PAIRS = {
    "resnet_s_tagged": "resnet_s",
    "googlenet_s_tagged_1": "googlenet_s_honest_1",
    "googlenet_s_tagged_2": "googlenet_s_honest_2",
    "googlenet_s_tagged_3": "googlenet_s_honest_3",
}


def build(name, classes):
    """One of the four (or of `PAIRS`) with fresh weights (He initialisation), in train mode.

    :param name: a key of `BUILD`, or a name in `PAIRS`
    :param classes: how many
    :return: nn.Module, (N, 3, H, W) -> (N, classes)

    >>> module = xcnn.small_networks.build("resnet_s", 10)
    >>> tuple(module(torch.zeros(2, 3, 128, 128)).shape), module.training
    ((2, 10), True)
    """
    of_four = name.split("_tagged")[0].split("_honest")[0]
    module = BUILD[of_four](classes)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
