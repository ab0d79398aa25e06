"""Where CNN Fixations' points lie on photographs that real networks get right: `make study COCO=folder`.

Every picture of a COCO folder whose top class is a kind of a category that its masks show. Writes
data/results/fixations.json: network -> a row for each picture with the number of points, the share of them within the
mask (grown by a fifth, as everywhere), and chance, the share of the picture that this mask covers.
"""

import argparse
import json

import numpy as np
import torchvision.transforms.functional as TF
import xcnn
from PIL import Image
from tqdm.auto import tqdm
from xcnn import coco
from xcnn.evaluate import dilated
from xcnn.loading import REAL

from tools import ROOT

RESULTS = ROOT / "data" / "results" / "fixations.json"


def mask_as_seen(mask, size):
    """A mask (H, W) resized and cropped as `Network.preprocess` does with its picture; what is recorded was cut so."""
    image = TF.resize(Image.fromarray(mask), size, TF.InterpolationMode.NEAREST)
    return np.asarray(TF.center_crop(image, size)) > 0


def rows(net, data):
    """A row for each picture and category that the network gets right."""
    for category, kinds in coco.class_map().items():
        for image in data.ids(category) if category in data.categories else []:
            x, mask = (
                net.preprocess(data.image(image)),
                mask_as_seen(data.mask(image, category), net.size),
            )
            c = net.predict(x).argmax().item()
            if c in kinds and mask.any():
                mask = dilated(mask, 0.2)
                y, x = xcnn.cnn_fixations(net, x, c).values[0].points.T
                yield {"category": category, "image": image, "points": len(y), "share": mask[y, x].mean().item(),
                       "chance": mask.mean().item()}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coco", help="a folder with annotations/instances_*.json and images")
    data = coco.Folder(parser.parse_args().coco)
    found = {name: list(tqdm(rows(xcnn.load(name), data), desc=name)) for name in REAL}
    RESULTS.write_text(json.dumps(found).replace("{", "\n{").lstrip() + "\n")
