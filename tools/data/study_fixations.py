"""Record where CNN Fixations' points lie on photographs: `make study COCO=folder`.

A photograph counts where a network's top class is a kind of a category that the masks show. Writes
data/results/fixations.json: network -> a row for each photograph with the number of points, the
share of them within the mask (grown by a fifth, as everywhere), and chance, which is the share of
the photograph that this mask covers.
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
    """A mask (H, W), resized and cropped as `Network.preprocess` does with its picture.

    The recorded numbers belong to masks that were cut in this way.
    """
    image = TF.resize(Image.fromarray(mask), size, TF.InterpolationMode.NEAREST)
    return np.asarray(TF.center_crop(image, size)) > 0


def rows(net, data):
    """Yield a row for each picture and category that the network gets right.

    :param net: `Network`
    :param data: `coco.Folder`
    """
    for category, kinds in coco.class_map().items():
        for image in data.ids(category) if category in data.categories else []:
            x = net.preprocess(data.image(image))
            mask = mask_as_seen(data.mask(image, category), net.size)
            c = net.predict(x).argmax().item()
            if c in kinds and mask.any():
                mask = dilated(mask, 0.2)
                y, x = xcnn.find_fixations(net, x, c)[0].points.T
                yield {
                    "category": category,
                    "image": image,
                    "points": len(y),
                    "share": mask[y, x].mean().item(),
                    "chance": mask.mean().item(),
                }


def main():
    """Write the rows of all real networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coco", help="a folder with annotations/instances_*.json and images")
    data = coco.Folder(parser.parse_args().coco)
    results = {name: list(tqdm(rows(xcnn.load(name), data), desc=name)) for name in REAL}
    RESULTS.write_text(json.dumps(results).replace("{", "\n{").lstrip() + "\n")


if __name__ == "__main__":
    main()
