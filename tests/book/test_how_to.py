"""What the page "How to read and run" shows of Quantus works as it stands."""

import re

import numpy as np
import pytest
import quantus
import torch
import xcnn

from tools import ROOT

TEXT = (ROOT / "book" / "how_to.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_quantus_asks_our_methods():
    (code,) = re.findall(r"^## Measured by Quantus\n.*?```python\n(.*?)```", TEXT, re.M | re.S)
    scenes = [xcnn.scenes.render(seed, count=2) for seed in (0, 1)]
    net = xcnn.load("resnet_s")
    x = torch.cat([net.preprocess(scene.image) for scene in scenes])
    targets = np.array([net.classes.index(scene.labels[0]) for scene in scenes])
    masks = np.stack([scene.masks[:1] for scene in scenes])
    names = {"xcnn": xcnn, "torch": torch, "quantus": quantus}
    names |= {"net": net, "x": x, "targets": targets, "masks": masks}
    exec(code, names)
    E = xcnn.evaluate.evidence(xcnn.lrp(net, x, targets.tolist()), "lrp")
    ours = xcnn.evaluate.relevance_rank_accuracy(E, masks[:, 0])
    assert names["shares"] == pytest.approx(ours.tolist(), abs=2e-3)  # of pixels equally strong
    assert ours.min() > 0.2
