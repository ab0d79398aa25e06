"""COCO folders: a written folder reads back, and a broken one is refused with a remedy."""

import numpy as np
import pytest
import torchvision.models as zoo
from xcnn import InputError, coco, scenes
from xcnn.scenes import CLASSES, render


@pytest.fixture
def folder(tmp_path):
    scenes.write(tmp_path, 4, seed=11, count=2)
    return tmp_path


def test_a_written_folder_reads_back(folder):
    read = coco.Folder(folder)
    assert read.ids() == [11, 12, 13, 14] and list(read.categories) == list(CLASSES)
    for seed in read.ids():
        scene = render(seed, count=2)
        assert (np.asarray(read.image(seed)) == np.asarray(scene.image)).all()
        for name in CLASSES:
            truth = scene.mask(name) if name in scene.labels else np.zeros((128, 128), bool)
            mask = read.mask(seed, name)
            assert mask.dtype == bool and (mask == truth).all()
            assert (seed in read.ids(name)) == (name in scene.labels)


def test_missing_folders_and_files(folder, tmp_path_factory):
    with pytest.raises(InputError, match=r"0 annotation files.*a COCO folder holds"):
        coco.Folder(tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match="0 annotation files"):
        coco.Folder(folder / "nowhere")
    (folder / "images/000011.png").unlink()
    with pytest.raises(InputError, match=r"image 11 \(000011.png\) is not in .*download it"):
        coco.Folder(folder).image(11)


def test_two_annotation_files_must_be_told_apart(folder):
    (folder / "annotations/instances_b.json").write_text(
        (folder / "annotations/instances.json").read_text()
    )
    with pytest.raises(InputError, match=r"2 annotation files.*name one"):
        coco.Folder(folder)
    assert coco.Folder(folder, "instances_b.json").ids() == [11, 12, 13, 14]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": []}', "\x00\xff"])
def test_broken_annotations(folder, text):
    (folder / "annotations/instances.json").write_text(text)
    with pytest.raises(InputError, match=r"instances\.json is not a COCO annotation file"):
        coco.Folder(folder)


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
def test_broken_images(folder, content):
    path = folder / "images/000012.png"
    path.write_bytes(path.read_bytes()[:2000] if content == "half" else content)
    with pytest.raises(InputError, match=r"000012\.png cannot be read as an image"):
        coco.Folder(folder).image(12)


def test_unknown_ids_and_categories(folder):
    read = coco.Folder(folder)
    for call in (read.image, lambda i: read.mask(i, "pizza")):
        with pytest.raises(InputError, match="no image 99"):
            call(99)
    for call in (read.ids, lambda name: read.mask(11, name)):
        with pytest.raises(InputError, match=r"no category 'umbrela'.*'umbrella'"):
            call("umbrela")


def test_real_coco(real):
    read = coco.Folder(real / "coco")
    assert len(read.ids()) == 188 and len(read.categories) == 80
    assert {104455, 244592} <= set(read.ids("zebra")) < set(read.ids())
    for image_id in read.ids("zebra"):
        image, mask = read.image(image_id), read.mask(image_id, "zebra")
        assert image.mode == "RGB" and mask.shape == (image.height, image.width)
        assert mask.dtype == bool and 0 < mask.mean() < 1
    assert not read.mask(104455, "pizza").any()


def test_class_map_names_imagenets_classes():
    imagenet = zoo.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    table = coco.class_map()
    assert {"zebra": 340, "pizza": 963, "traffic light": 920, "banana": 954}.items() <= {
        name: next(iter(classes)) for name, classes in table.items()
    }.items()
    for name, classes in table.items():
        assert classes, name
        assert {index: imagenet[index] for index in classes} == classes
