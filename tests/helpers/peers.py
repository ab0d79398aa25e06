"""Every way to the same map: method -> library -> how. The libraries change the network: each has its copy.

How: (module, layer) -> call(x, targets) -> the map, as large as the library makes it.
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
COMPOSITES = {
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_gamma_box": lambda **how: zc.EpsilonGammaBox(-MEAN / STD, (1 - MEAN) / STD, **how),
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
}
SAMPLES = 64


def epsilon(**how):
    return zc.LayerMapComposite([*zc.layer_map_base(1e-6), (zt.Linear, zr.Epsilon(1e-6))], **how)


def ours(method, **options):
    return lambda module, layer: (
        lambda x, targets: xcnn.METHODS[method](
            xcnn.Network(module, size=x.shape[-1]),
            x,
            targets,
            **({"layer": layer} if method.endswith("_cam") else {}),  # CAM has one layer only
            **options,
        )
    )


def by_captum(method, **options):
    return lambda module, layer: (
        lambda x, targets: method(module).attribute(x.clone(), targets, **options)
    )


def captum_grad_cam(module, layer):
    cam = captum.attr.LayerGradCam(module, module.get_submodule(layer))
    return lambda x, targets: F.interpolate(
        cam.attribute(x.clone(), targets, relu_attributions=True), x.shape[2:], mode="bilinear"
    )


def captum_guided_grad_cam(module, layer):
    both = captum.attr.GuidedGradCam(module, module.get_submodule(layer))
    return lambda x, targets: both.attribute(x.clone(), targets, interpolate_mode="bilinear")


def captum_lrp(module, layer):
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
        if isinstance(part, nn.Linear | nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            part.rule = EpsilonRule(1e-6)
    return lambda x, targets: captum.attr.LRP(module).attribute(x.clone(), targets)


def pytorch_grad_cam(module, layer):
    cam = GradCAM(model=module, target_layers=[module.get_submodule(layer)])
    return lambda x, targets: torch.from_numpy(
        cam(x, [ClassifierOutputTarget(c) for c in targets])
    )[:, None]


def pytorch_grad_cam_guided(module, layer):
    guided = GuidedBackpropReLUModel(module, device="cpu")
    rows = lambda x, targets: [
        guided(one[None], c).transpose(2, 0, 1) for one, c in zip(x, targets, strict=True)
    ]  # noqa: E731
    return lambda x, targets: torch.from_numpy(
        np.stack(rows(x, targets))
    )  # one image at a time: it takes no batch


def by_zennit(composite, of_score=True):
    """of_score: start from the score itself and fold batch norms, as LRP does; else from 1, in the network as it is."""

    def prepare(module, layer):
        canonizer = (
            ResNetCanonizer() if type(module).__name__ == "ResNet" else SequentialMergeBatchNorm()
        )
        made = {"canonizers": [canonizer]} if of_score else {}

        def call(x, targets):
            with Gradient(module, composite(**made)) as attributor:
                return attributor(
                    x.clone(), lambda S: (S if of_score else 1) * one_hot(targets, S)
                )[1]

        return call

    return prepare


def one_hot(targets, S):
    return F.one_hot(torch.as_tensor(targets), S.shape[1]).to(S)


def by_lime(module, layer):
    explainer = LimeImageExplainer(random_state=0)

    def call(x, targets):
        def predict(pictures):
            with torch.no_grad():
                return (
                    module(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float())
                    .softmax(1)
                    .numpy()
                )

        for one, c in zip(x, targets, strict=True):
            picture = one.permute(1, 2, 0).double().numpy()
            with contextlib.redirect_stderr(io.StringIO()):  # its progress
                explainer.explain_instance(picture, predict, labels=(c,), top_labels=None, hide_color=0, batch_size=64,
                                           num_samples=SAMPLES, segmentation_fn=lambda _: squares(x))  # fmt: skip

    return call


def squares(x, count=7):
    """Superpixels that cost nothing to find: (H, W), 7 x 7 squares."""
    row, column = (np.arange(side) * count // side for side in x.shape[2:])
    return row[:, None] * count + column


def our_lime(module, layer):
    return lambda x, targets: xcnn.lime(
        xcnn.Network(module), x, targets, segments=squares(x), samples=SAMPLES, hidden="grey"
    )


# method -> library -> how
WAYS = {
    "gradient": {"xcnn": ours("gradient"), "captum": by_captum(captum.attr.Saliency, abs=False)},
    "deconvnet": {"xcnn": ours("deconvnet"), "captum": by_captum(captum.attr.Deconvolution)},
    "guided backprop": {
        "xcnn": ours("guided_backprop"), "captum": by_captum(captum.attr.GuidedBackprop),
        "pytorch-grad-cam": pytorch_grad_cam_guided, "zennit": by_zennit(zc.GuidedBackprop, of_score=False),
    },
    "CAM": {"xcnn": ours("cam")},
    "Grad-CAM": {"xcnn": ours("grad_cam"), "captum": captum_grad_cam, "pytorch-grad-cam": pytorch_grad_cam},
    "Guided Grad-CAM": {"xcnn": ours("guided_grad_cam"), "captum": captum_guided_grad_cam},
    "Shap-CAM, scores": {"xcnn": ours("shap_cam")},
    "Shap-CAM, probabilities": {"xcnn": ours("shap_cam", score="probability")},
    "LRP epsilon": {"xcnn": ours("lrp", rule="epsilon"), "captum": captum_lrp, "zennit": by_zennit(epsilon)},
    **{
        f"LRP {name}": {"xcnn": ours("lrp", rule=name), "zennit": by_zennit(composite)}
        for name, composite in COMPOSITES.items()
    },
    "LIME, 64 samples": {"xcnn": our_lime, "lime": by_lime},
    "CNN Fixations": {"xcnn": ours("cnn_fixations")},
}  # fmt: skip
