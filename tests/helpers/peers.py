"""Every way to the same map: method -> library -> how.

How: (module, layer) -> call(x, targets) -> the map, as large as the library makes it. The libraries
change the network: each has its copy.
"""

import contextlib
import functools
import inspect
import io

import captum.attr
import numpy as np
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchcam.methods
import xcnn
import zennit.composites as zc
import zennit.rules as zr
import zennit.types as zt
from captum.attr._utils.lrp_rules import EpsilonRule
from lime.lime_image import LimeImageExplainer
from pytorch_grad_cam import GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from xcnn.methods.rise import _Masks
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (xcnn.networks.MEAN, xcnn.networks.STD))
SAMPLES = 64  # of LIME
STEPS = 32  # of integrated gradients
NOISES = 25  # samples of SmoothGrad
MASKS = 100  # of RISE


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
    known = inspect.signature(getattr(xcnn, method)).parameters

    def prepare(module, layer):
        of_classes = method != "cam" and "unit" not in known  # CAM has one layer only
        at_layer = {"layer": layer} if "layer" in known and of_classes else {}
        of_size = functools.cache(lambda size: xcnn.Network(module, size=size))

        def call(x, targets):
            net = of_size(x.shape[-1])
            return getattr(xcnn, method)(net, x, targets, **at_layer, **options)

        return call

    return prepare


def by_captum(explainer, **options):
    def prepare(module, _layer):
        def call(x, targets):
            return explainer(module).attribute(x.clone(), target=targets, **options)

        return call

    return prepare


def captum_smooth_grad(module, _layer):
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(module))

    def call(x, targets):
        sigma = 0.15 * (x.max() - x.min()).item()
        return tunnel.attribute(
            x.clone(), nt_samples=NOISES, stdevs=sigma, target=targets, abs=False
        )

    return call


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


def by_pytorch_grad_cam(kind):
    """Its map, stretched to [0, 1] and enlarged."""

    def prepare(module, layer):
        cam = kind(model=module, target_layers=[module.get_submodule(layer)])

        def call(x, targets):
            with contextlib.redirect_stderr(io.StringIO()):  # its progress
                L = cam(x, [ClassifierOutputTarget(c) for c in targets])
            return torch.from_numpy(L)[:, None]

        return call

    return prepare


def by_torch_cam(kind):
    """Its map, as large as the layer's, enlarged as ours are."""

    def prepare(module, layer):
        def call(x, targets):
            with kind(module, layer, input_shape=tuple(x.shape[1:])) as extractor:
                S = module(x.clone().requires_grad_())
                (L,) = extractor(list(targets), S, normalized=False)
            return F.interpolate(L[:, None].relu(), x.shape[2:], mode="bilinear")

        return call

    return prepare


def captum_occlusion(module, _layer):
    method = captum.attr.Occlusion(module)

    def call(x, targets):
        side = round(min(x.shape[2:]) / 7)
        window = (x.shape[1], side, side)
        step = (x.shape[1], side // 2, side // 2)
        R = method.attribute(x, window, step, 0, targets, perturbations_per_eval=32)
        return R[:, :1]

    return call


def rise_by_a_loop(module, _layer):
    """One mask after another, as the paper writes it."""

    def call(x, targets):
        rows = []
        for image, c in zip(x, targets, strict=True):
            masks = _Masks(MASKS, 7, 0.5, 0, x.shape[2:]).batches(1)
            f = []
            total = 0
            shown = 0
            for M in masks:
                M = M.to(x)
                with torch.no_grad():
                    f.append(module(image * M).softmax(1)[0, c])
                total = total + f[-1] * M[0]
                shown = shown + M[0]
            rows.append((total - sum(f) / MASKS * shown) / (MASKS * 0.5))
        return torch.stack(rows)

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
    net = xcnn.Network(module)

    def call(x, targets):
        return xcnn.lime(net, x, targets, segments=squares(x), samples=SAMPLES, hidden="grey")

    return call


# method -> library -> how
WAYS = {
    "gradient": {
        "xcnn": ours("gradient"),
        "captum": by_captum(captum.attr.Saliency, abs=False),
    },
    "gradient x input": {
        "xcnn": ours("gradient_times_input"),
        "captum": by_captum(captum.attr.InputXGradient),
    },
    f"SmoothGrad, {NOISES} samples": {
        "xcnn": ours("smooth_grad", samples=NOISES),
        "captum": captum_smooth_grad,
    },
    f"integrated gradients, {STEPS} steps": {
        "xcnn": ours("integrated_gradients", baseline="zero", steps=STEPS),
        "captum": by_captum(captum.attr.IntegratedGradients, n_steps=STEPS, method="gausslegendre"),
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
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.GradCAM),
        "torch-cam": by_torch_cam(torchcam.methods.GradCAM),
    },
    "Guided Grad-CAM": {
        "xcnn": ours("guided_grad_cam"),
        "captum": captum_guided_grad_cam,
    },
    "HiResCAM": {
        "xcnn": ours("hires_cam"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.HiResCAM),
    },
    "Grad-CAM++": {
        "xcnn": ours("grad_cam_plus_plus"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.GradCAMPlusPlus),
        "torch-cam": by_torch_cam(torchcam.methods.GradCAMpp),
    },
    "XGrad-CAM": {
        "xcnn": ours("xgrad_cam"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.XGradCAM),
        "torch-cam": by_torch_cam(torchcam.methods.XGradCAM),
    },
    "LayerCAM": {
        "xcnn": ours("layer_cam"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.LayerCAM),
        "torch-cam": by_torch_cam(torchcam.methods.LayerCAM),
    },
    "Score-CAM": {
        "xcnn": ours("score_cam"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.ScoreCAM),
        "torch-cam": by_torch_cam(torchcam.methods.ScoreCAM),
    },
    "Ablation-CAM": {
        "xcnn": ours("ablation_cam"),
        "pytorch-grad-cam": by_pytorch_grad_cam(pytorch_grad_cam.AblationCAM),
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
    "occlusion": {
        "xcnn": ours("occlusion", fill="zero"),
        "captum": captum_occlusion,
    },
    f"RISE, {MASKS} masks": {
        "xcnn": ours("rise", masks=MASKS),
        "a plain loop": rise_by_a_loop,
    },
    "LIME, 64 samples": {"xcnn": our_lime, "lime": by_lime},
    "CNN Fixations": {"xcnn": ours("cnn_fixations")},
}
