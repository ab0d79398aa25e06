"""Every way to the same map: method -> library -> how.

How: (module, layer) -> call(x, targets) -> the map, as large as the library makes it. The libraries
change the network: each has its copy.
"""

import contextlib
import io

import captum.attr
import numpy as np
import torch
import torch.nn.functional as F
import xcnn
import zennit.composites as zc
import zennit.rules as zr
import zennit.types as zt
from captum.attr._utils.lrp_rules import EpsilonRule
from lime.lime_image import LimeImageExplainer
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (xcnn.networks.MEAN, xcnn.networks.STD))
SAMPLES = 64  # of LIME


def gamma_box(**options):
    return zc.EpsilonGammaBox(-MEAN / STD, (1 - MEAN) / STD, **options)


COMPOSITES = {
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_gamma_box": gamma_box,
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
}


def epsilon(**options):
    layers = [*zc.layer_map_base(1e-6), (zt.Linear, zr.Epsilon(1e-6))]
    return zc.LayerMapComposite(layers, **options)


def ours(method, **options):
    def prepare(module, layer):
        at_layer = {"layer": layer} if method.endswith("_cam") else {}  # CAM has one layer only

        def call(x, targets):
            net = xcnn.Network(module, size=x.shape[-1])
            return xcnn.METHODS[method](net, x, targets, **at_layer, **options)

        return call

    return prepare


def by_captum(method, **options):
    def prepare(module, _layer):
        def call(x, targets):
            return method(module).attribute(x.clone(), targets, **options)

        return call

    return prepare


def captum_grad_cam(module, layer):
    cam = captum.attr.LayerGradCam(module, module.get_submodule(layer))

    def call(x, targets):
        L = cam.attribute(x.clone(), targets, relu_attributions=True)
        return F.interpolate(L, x.shape[2:], mode="bilinear")

    return call


def captum_guided_grad_cam(module, layer):
    product = captum.attr.GuidedGradCam(module, module.get_submodule(layer))

    def call(x, targets):
        return product.attribute(x.clone(), targets, interpolate_mode="bilinear")

    return call


def captum_lrp(module, _layer):
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
        if isinstance(part, nn.Linear | nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            part.rule = EpsilonRule(1e-6)

    def call(x, targets):
        return captum.attr.LRP(module).attribute(x.clone(), targets)

    return call


def pytorch_grad_cam(module, layer):
    cam = GradCAM(model=module, target_layers=[module.get_submodule(layer)])

    def call(x, targets):
        L = cam(x, [ClassifierOutputTarget(c) for c in targets])
        return torch.from_numpy(L)[:, None]

    return call


def pytorch_grad_cam_guided(module, _layer):
    guided = GuidedBackpropReLUModel(module, device="cpu")

    def call(x, targets):  # one image at a time: it takes no batch
        rows = [guided(image[None], c) for image, c in zip(x, targets, strict=True)]
        return torch.from_numpy(np.stack([row.transpose(2, 0, 1) for row in rows]))

    return call


def by_zennit(composite, of_score=True):
    """zennit's way to a map.

    :param of_score: start from the score itself and fold batch norms, as LRP does; else from 1, in
        the network as it is
    """

    def prepare(module, _layer):
        options = {}
        if of_score:
            is_resnet = type(module).__name__ == "ResNet"
            canonizer = ResNetCanonizer() if is_resnet else SequentialMergeBatchNorm()
            options["canonizers"] = [canonizer]

        def call(x, targets):
            def start(S):
                return (S if of_score else 1) * one_hot(targets, S)

            with Gradient(module, composite(**options)) as attributor:
                return attributor(x.clone(), start)[1]

        return call

    return prepare


def one_hot(targets, S):
    return F.one_hot(torch.as_tensor(targets), S.shape[1]).to(S)


def by_lime(module, _layer):
    explainer = LimeImageExplainer(random_state=0)

    def predict(pictures):
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            return module(x).softmax(1).numpy()

    def call(x, targets):
        for image, c in zip(x, targets, strict=True):
            picture = image.permute(1, 2, 0).double().numpy()
            with contextlib.redirect_stderr(io.StringIO()):  # its progress
                explainer.explain_instance(
                    picture,
                    predict,
                    labels=(c,),
                    top_labels=None,
                    hide_color=0,
                    batch_size=64,
                    num_samples=SAMPLES,
                    segmentation_fn=lambda _: squares(x),
                )

    return call


def squares(x, count=7):
    """Superpixels that cost nothing to find: (H, W), 7 x 7 squares."""
    row, column = (np.arange(side) * count // side for side in x.shape[2:])
    return row[:, None] * count + column


def our_lime(module, _layer):
    def call(x, targets):
        net = xcnn.Network(module)
        return xcnn.lime(net, x, targets, segments=squares(x), samples=SAMPLES, hidden="grey")

    return call


# method -> library -> how
WAYS = {
    "gradient": {
        "xcnn": ours("gradient"),
        "captum": by_captum(captum.attr.Saliency, abs=False),
    },
    "deconvnet": {
        "xcnn": ours("deconvnet"),
        "captum": by_captum(captum.attr.Deconvolution),
    },
    "guided backprop": {
        "xcnn": ours("guided_backprop"),
        "captum": by_captum(captum.attr.GuidedBackprop),
        "pytorch-grad-cam": pytorch_grad_cam_guided,
        "zennit": by_zennit(zc.GuidedBackprop, of_score=False),
    },
    "CAM": {"xcnn": ours("cam")},
    "Grad-CAM": {
        "xcnn": ours("grad_cam"),
        "captum": captum_grad_cam,
        "pytorch-grad-cam": pytorch_grad_cam,
    },
    "Guided Grad-CAM": {
        "xcnn": ours("guided_grad_cam"),
        "captum": captum_guided_grad_cam,
    },
    "Shap-CAM, scores": {"xcnn": ours("shap_cam")},
    "Shap-CAM, probabilities": {"xcnn": ours("shap_cam", score="probability")},
    "LRP epsilon": {
        "xcnn": ours("lrp", rule="epsilon"),
        "captum": captum_lrp,
        "zennit": by_zennit(epsilon),
    },
    **{
        f"LRP {name}": {"xcnn": ours("lrp", rule=name), "zennit": by_zennit(composite)}
        for name, composite in COMPOSITES.items()
    },
    "LIME, 64 samples": {"xcnn": our_lime, "lime": by_lime},
    "CNN Fixations": {"xcnn": ours("cnn_fixations")},
}
