"""Four small networks, one per family, for 128x128 scenes. Together they hold every trap of real networks.

| network       | family               | what is special about it                                                     |
|---------------|----------------------|------------------------------------------------------------------------------|
| `vgg_s`       | VGG                  | 3x3 convolutions, max-pooling, a fully connected head: no CAM                |
| `resnet_s`    | ResNet               | batch norm, in-place ReLU used twice in a block, skip sums, global average   |
| `googlenet_s` | GoogLeNet            | parallel branches joined by `cat`, ReLU called as a function: no ReLU module |
| `allconv_s`   | Springenberg et al.  | strides instead of pooling, global average                                   |
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


def conv_relu(c_in, c_out, stride=1):
    return [nn.Conv2d(c_in, c_out, 3, stride, padding=1), nn.ReLU(inplace=True)]


class VGGSmall(nn.Module):
    def __init__(self, classes):
        super().__init__()
        widths, layers, c_in = [[8], [16], [32, 32], [64, 64]], [], 3
        for stage in widths:
            for c_out in stage:
                layers += conv_relu(c_in, c_out)
                c_in = c_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(
            8
        )  # as in torchvision's VGG: pictures of other sizes fit, too
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
    """Three branches, 1x1, 3x3 and two 3x3, joined along the channels."""

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
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            *conv_relu(3, 16, 2), *conv_relu(16, 16), *conv_relu(16, 32, 2), *conv_relu(32, 32), *conv_relu(32, 56, 2),
            *conv_relu(56, 56), *conv_relu(56, 88, 2), *conv_relu(88, 88),
        )  # fmt: skip
        # The paper ends with a 1x1 convolution to the classes, then averages. Averaging first gives the same scores.
        self.classifier = nn.Linear(88, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def restore(module, path):
    """Give a module the weights of a .safetensors file, which are stored in half precision."""
    module.load_state_dict(
        {key: v.float() if v.is_floating_point() else v for key, v in load_file(path).items()}
    )


BUILD = {
    "vgg_s": VGGSmall,
    "resnet_s": ResNetSmall,
    "googlenet_s": GoogLeNetSmall,
    "allconv_s": AllConvSmall,
}
TAGGED = (
    "resnet_s_tagged"  # a resnet_s whose training pizzas all carried a copyright tag: chapter 12
)


def build(name, classes):
    """One of the four (or `TAGGED`) with fresh weights (He initialisation), in train mode."""
    module = BUILD["resnet_s" if name == TAGGED else name](classes)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
