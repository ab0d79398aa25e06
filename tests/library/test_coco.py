"""COCO folders: a written folder reads back, and a broken one is refused with a remedy."""

import contextlib
import io
import json
import warnings

import numpy as np
import pytest
import torchvision.models as zoo
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from xcnn import InputError, coco, scenes, study
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
    with pytest.raises(
        InputError, match=r"image 11 \(000011.png\) is not in .*download it, or take"
    ):
        coco.Folder(folder).image(11)


def test_two_annotation_files_must_be_told_apart(folder):
    (folder / "annotations/instances_b.json").write_text(
        (folder / "annotations/instances.json").read_text()
    )
    with pytest.raises(InputError, match=r"2 annotation files.*name one") as error:
        coco.Folder(folder)
    assert "annotations='instances.json' in Python" in str(error.value)
    assert "--annotations instances.json for `study`" in str(error.value)
    assert "there are instances.json, instances_b.json" in str(error.value)
    inside = folder / "annotations"
    for name in ("instances_b.json", inside / "instances_b.json", "annotations/instances_b.json"):
        assert coco.Folder(folder, name).file == inside / "instances_b.json"
        assert coco.Folder(folder, annotations=name).ids() == [11, 12, 13, 14]


@pytest.mark.parametrize("name", ["result.json", "annotations/result [1].json", "train/_coco.json"])
def test_an_annotation_file_of_another_name(folder, name):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    (folder / "annotations/instances.json").rename(file)
    if "train" not in name:
        with pytest.raises(InputError, match=r"0 annotation files.*name one") as error:
            coco.Folder(folder)
        assert f"annotations={file.name!r}" in str(error.value)
        assert coco.Folder(folder, file.name).ids() == [11, 12, 13, 14]
    assert coco.Folder(folder, file).ids() == [11, 12, 13, 14]
    with pytest.raises(InputError, match=r"no annotation file 'resalt\.json' in"):
        coco.Folder(folder, "resalt.json")


BROKEN_FILES = {
    "": "it is empty",
    "  \n": "it is empty",
    "{": "it is truncated",
    '{"images": [{"id": 1}': "it is truncated",
    '{"images": [{"id": 1}]': "it is truncated",
    '{"images": [{"id": 1, "file_name": "a': "it is truncated",
    '{"images": [}], "annotations": []}': "it is not JSON",
    "[]": "it holds a list, as results of a detector do",
    "7": "it holds a int",
    "{}": "it has no list of categories",
    '{"images": []}': "it has no list of categories",
    '{"images": {}, "categories": [], "annotations": []}': "it has no list of images",
    '{"images": [], "categories": []}': "it has no list of annotations",
    "\x00\xff": "it is not JSON",
    "<!DOCTYPE html><html><body>Sign in</body></html>": "it is a web page; download the file",
    "version https://git-lfs.github.com/spec/v1\noid sha256:1": "git lfs pull",
    "PK\x03\x04": "it is packed; unpack it",
    "[" * 100_000: "it is",
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_broken_annotations(folder, text):
    (folder / "annotations/instances.json").write_text(text)
    with pytest.raises(InputError, match=r"instances\.json is not a COCO annotation file") as error:
        coco.Folder(folder)
    assert BROKEN_FILES[text] in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_annotations_in_any_encoding(folder, encoding):
    path = folder / "annotations/instances.json"
    data = json.loads(path.read_text())
    data["categories"][0]["name"] = "bånan"
    path.write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    assert next(iter(coco.Folder(folder).categories)) == "bånan"


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
def test_broken_images(folder, content):
    path = folder / "images/000012.png"
    path.write_bytes(path.read_bytes()[:2000] if content == "half" else content)
    says = "truncated, the end of the file is missing" if content == "half" else "not an image"
    with pytest.raises(InputError, match=r"image 12 \(000012\.png\) cannot be read") as error:
        coco.Folder(folder).image(12)
    assert says in str(error.value) and "download" not in str(error.value)
    assert "or take image 12 out of instances.json" in str(error.value)


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


# ---- files as other tools write them

SQUARE = [2, 1, 8, 1, 8, 5, 2, 5]
TRIANGLE = [10, 10, 20, 10, 10, 20.5]


def image_record(image_id=1, size=(40, 30), **changed):
    record = {"id": image_id, "file_name": f"{image_id}.png", "width": size[0], "height": size[1]}
    return record | changed


def annotation(number=1, image_id=1, segmentation=(SQUARE,), **changed):
    record = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0}
    record["bbox"] = [2, 1, 6, 4]
    if segmentation is not None:
        record["segmentation"] = list(segmentation)
    return record | changed


def written(folder, images, annotations, categories=({"id": 1, "name": "cat"},)):
    """Write a COCO folder; its images are there already, or white."""
    (folder / "annotations").mkdir(exist_ok=True)
    data = {"images": images, "annotations": annotations, "categories": list(categories)}
    (folder / "annotations/instances.json").write_text(json.dumps(data))
    for record in images:
        name = str(record["file_name"])
        if not (folder / name).exists() and name.endswith(".png") and "\\" not in name:
            Image.new("RGB", (40, 30), "white").save(folder / name)
    return folder


def opened(folder, annotations=None):
    """A folder that must not warn."""
    with warnings.catch_warnings(action="error"):
        return coco.Folder(folder, annotations)


def mask_of(segmentation, size=(40, 30)):
    """The mask that pycocotools alone makes of one annotation."""
    reference = COCO()
    reference.dataset = {
        "images": [image_record(size=size)],
        "annotations": [annotation(segmentation=segmentation)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
    return reference.annToMask(reference.anns[1]).astype(bool)


def test_outlines_by_hand(tmp_path):
    read = opened(written(tmp_path, [image_record()], [annotation()]))
    wanted = np.zeros((30, 40), bool)
    wanted[1:5, 2:8] = True
    assert np.array_equal(read.mask(1, "cat"), wanted)
    assert np.array_equal(mask_of([SQUARE]), wanted)


@pytest.mark.parametrize(
    ("written_as", "read_as"),
    [
        (12, 12),
        ("12", 12),
        (12.0, 12),
        ("img_7", "img_7"),
        ("000000012", "000000012"),
        ("0", 0),
        ("-3", -3),
        ("1e3", "1e3"),
        ("٣", "٣"),
        ("9" * 30, "9" * 30),
    ],
)
@pytest.mark.parametrize("reference", ["same", "text"])
def test_ids_of_any_kind(tmp_path, written_as, read_as, reference):
    of_image = written_as if reference == "same" else str(read_as)
    images = [image_record(written_as, file_name="a.png"), image_record("other")]
    annotations = [
        annotation("a1", of_image, category_id="1"),
        annotation("a2", "other", [TRIANGLE], category_id=1.0),
    ]
    read = opened(written(tmp_path, images, annotations))
    assert read.ids() == read.ids("cat") and set(read.ids()) == {read_as, "other"}
    for name in {written_as, read_as, str(read_as)}:
        assert read.image(name).size == (40, 30)
        assert np.array_equal(read.mask(name, "cat"), mask_of([SQUARE]))
    assert np.array_equal(read.mask("other", "cat"), mask_of([TRIANGLE]))
    assert not read.skipped


def test_ids_come_in_order(tmp_path):
    ids = ["b", 10, "2", "a", 9.0]
    images = [image_record(image_id, file_name="a.png") for image_id in ids]
    read = opened(written(tmp_path, images, []))
    assert read.ids() == [2, 9, 10, "a", "b"]
    assert read.image(np.int64(10)).size == read.image(np.str_("a")).size == (40, 30)


@pytest.mark.parametrize("size", [(40.0, 30.0), ("40", "30"), (40, 30.0)])
def test_sizes_of_any_kind(tmp_path, size):
    runs = {"size": [30.0, 40.0], "counts": [31, 4, 30 * 40 - 35]}
    read = opened(written(tmp_path, [image_record(size=size)], [annotation(segmentation=[SQUARE])]))
    assert read.image(1).size == (40, 30)
    assert np.array_equal(read.mask(1, "cat"), mask_of([SQUARE]))
    written(tmp_path, [image_record(size=size)], [annotation() | {"segmentation": runs}])
    by_runs = np.zeros(30 * 40, bool)
    by_runs[31:35] = True
    assert np.array_equal(opened(tmp_path).mask(1, "cat"), by_runs.reshape(40, 30).T)
    runs["counts"] = rle.frPyObjects(runs, 30, 40)["counts"].decode()
    written(tmp_path, [image_record(size=size)], [annotation() | {"segmentation": runs}])
    assert np.array_equal(opened(tmp_path).mask(1, "cat"), by_runs.reshape(40, 30).T)


BROKEN_RECORDS = [
    ("images", {"width": 640.5}, "image 5 has 'width' 640.5; it must be a whole number"),
    ("images", {"height": None}, "image 5 has 'height' None; it must be a whole number"),
    ("images", {"height": "tall"}, "image 5 has 'height' 'tall'"),
    ("images", {"width": True}, "image 5 has 'width' True"),
    ("images", {"width": float("nan")}, "image 5 has 'width' nan"),
    ("images", {"width": 0}, "image 5 is 0 x 30 pixels; correct its size"),
    ("images", {"width": 10**9}, "image 5 is 1000000000 x 30 pixels"),
    ("images", {"id": 5.5}, "image 5.5 has 'id' 5.5; it must be a whole number or a name"),
    ("images", {"id": ""}, "image '' has 'id' ''"),
    ("images", {"file_name": 7}, "image 5 has 'file_name' 7; it must be a name"),
    ("annotations", {"image_id": [5]}, "annotation 3 has 'image_id' [5]"),
    ("annotations", {"category_id": None}, "annotation 3 has 'category_id' None"),
    ("categories", {"name": None}, "category 1 has 'name' None"),
]


@pytest.mark.parametrize(("kind", "changed", "says"), BROKEN_RECORDS)
def test_a_broken_record_is_named(tmp_path, kind, changed, says):
    records = {
        "images": image_record(5),
        "annotations": annotation(3, 5),
        "categories": {"id": 1, "name": "cat"},
    }
    records[kind] |= changed
    written(tmp_path, *([record] for record in records.values()))
    with pytest.raises(InputError, match=r"instances\.json has a broken record") as error:
        coco.Folder(tmp_path)
    assert says in str(error.value)


@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
def test_a_record_that_lacks_a_key_is_named(tmp_path, key):
    broken = annotation(8, 5)
    del broken[key]
    written(tmp_path, [image_record(5)], [annotation(3, 5), broken])
    name = "annotation number 2" if key == "id" else "annotation 8"
    with pytest.raises(InputError, match=f"{name} lacks {key!r}; it must be"):
        coco.Folder(tmp_path)


@pytest.mark.parametrize("twin", [1, "1", 1.0])
def test_two_records_of_one_id(tmp_path, twin):
    images = [image_record(1, file_name="a.png"), image_record(twin, file_name="b.png")]
    with pytest.raises(InputError, match="2 images have the same 'id', 1; give each its own"):
        coco.Folder(written(tmp_path, images, []))
    annotations = [annotation(1), annotation(twin)]
    with pytest.raises(InputError, match="2 annotations have the same 'id', 1"):
        coco.Folder(written(tmp_path, images[:1], annotations))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    with pytest.raises(InputError, match="2 categories have the same 'name', 'cat'"):
        coco.Folder(written(tmp_path, images[:1], [], categories))


# ---- annotations without an outline

NO_OUTLINE = [None, [], [[]], [[], []], [[1, 2, 3, 4]], [1, 2, 3, 4], {}, "", "null"]


def without_outline(segmentation, number=3, image_id=5):
    record = annotation(number, image_id, segmentation=None)
    if segmentation is not None:
        record["segmentation"] = None if segmentation == "null" else segmentation
    return record


@pytest.mark.parametrize("segmentation", NO_OUTLINE)
@pytest.mark.parametrize("bbox", [[2, 1, 6, 4], None, []])
def test_an_annotation_without_an_outline_is_left_out_and_counted(tmp_path, segmentation, bbox):
    lacking = without_outline(segmentation) | {"bbox": bbox}
    images = [image_record(5), image_record(6)]
    annotations = [annotation(1, 5), lacking, annotation(2, 6, [TRIANGLE])]
    written(tmp_path, images, annotations)
    says = "has a box and not an outline" if bbox else "has no outline"
    with pytest.warns(UserWarning, match=f"annotation 3 of image 5 {says};") as caught:
        read = coco.Folder(tmp_path)
    assert len(caught) == 1 and "1 of 3 annotations are left out" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert read.skipped == {"box only" if bbox else "no outline": 1}
    assert read.ids("cat") == [5, 6]
    assert np.array_equal(read.mask(5, "cat"), mask_of([SQUARE]))
    assert np.array_equal(read.mask(6, "cat"), mask_of([TRIANGLE]))


@pytest.mark.parametrize("segmentation", NO_OUTLINE)
def test_an_image_without_any_outline(tmp_path, segmentation):
    images = [image_record(5), image_record(6)]
    annotations = [without_outline(segmentation), annotation(4, 6)]
    with pytest.warns(UserWarning, match="left out"):
        read = coco.Folder(written(tmp_path, images, annotations))
    assert read.ids() == [5, 6] and read.ids("cat") == [6]
    with pytest.raises(InputError, match="annotation 3 of image 5 has a box and not an outline;"):
        read.mask(5, "cat")
    assert read.image(5).size == (40, 30)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    annotations = [
        annotation(1, 5),
        without_outline([], number=3),
        without_outline(None, number="b"),
        without_outline([]) | {"id": 4, "bbox": []},
        annotation(6, "gone"),
        annotation(7, 5, category_id=99),
        annotation(8, 77),
    ]
    with pytest.warns(UserWarning) as caught:
        read = coco.Folder(written(tmp_path, [image_record(5)], annotations))
    counts = {"box only": 2, "no outline": 1, "unknown image": 2, "unknown category": 1}
    assert read.skipped == counts and read.skipped["anything"] == 0
    message = str(caught[0].message)
    assert message.startswith("instances.json: 6 of 7 annotations are left out: ")
    for part in (
        "annotation 3 of image 5 has a box and not an outline (and 1 more);",
        "annotation 4 of image 5 has no outline;",
        "annotation 6 of image gone belongs to an image that the file does not list (and 1 more);",
        "annotation 7 of image 5 belongs to a category that the file does not list;",
    ):
        assert part in message
    assert read.ids("cat") == read.ids() == [5]


def test_a_study_of_a_folder_with_boxes(tmp_path):
    images = [image_record(1), image_record(2), image_record(3)]
    annotations = [annotation(1, 1), without_outline([], 2, 2), annotation(3, 3)]
    with pytest.warns(UserWarning, match="1 of 3 annotations"):
        cases = study.cases(written(tmp_path, images, annotations), ["cat"])
    assert [case.image for case in cases] == [1, 3]


def test_an_empty_part_of_an_outline(tmp_path):
    outline = [[], SQUARE, [1, 2], TRIANGLE, [5, 5, 60, 60]]
    read = opened(written(tmp_path, [image_record()], [annotation(segmentation=outline)]))
    assert np.array_equal(read.mask(1, "cat"), mask_of([SQUARE]) | mask_of([TRIANGLE]))


@pytest.mark.parametrize("form", ["numbers", "letters"])
def test_a_crowd_is_part_of_the_mask(tmp_path, form):
    """Run lengths of a crowd, in both forms, beside an animal with an outline of polygons."""
    runs = {"size": [30, 40], "counts": [300, 45, 200, 60, 30 * 40 - 605]}
    by_runs = np.zeros(30 * 40, bool)
    by_runs[300:345] = by_runs[545:605] = True
    if form == "letters":
        runs["counts"] = rle.frPyObjects(runs, 30, 40)["counts"].decode()
    crowd = annotation(1, iscrowd=1) | {"segmentation": runs}
    folder = written(tmp_path, [image_record()], [crowd, annotation(2, segmentation=[TRIANGLE])])
    wanted = by_runs.reshape(40, 30).T | mask_of([TRIANGLE])
    assert np.array_equal(opened(folder).mask(1, "cat"), wanted)


def test_a_polygon_that_stands_alone(tmp_path):
    read = opened(written(tmp_path, [image_record()], [annotation(segmentation=TRIANGLE)]))
    assert np.array_equal(read.mask(1, "cat"), mask_of([TRIANGLE]))


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        (
            [[*SQUARE, 3]],
            "has an outline that is not x, y, x, y, ... in pixels of its image, 40 x 30",
        ),
        ([[*SQUARE, 3, "4"]], "has an outline that is not x, y"),
        ([[*SQUARE, 3, 1e6]], "has an outline that is not x, y"),
        ([SQUARE, "x"], "has an outline that is not x, y"),
        ("x", "neither polygons nor run lengths: 'x'"),
        ({"size": [40, 30], "counts": [1200]}, "has run lengths for [height, width] [40, 30], and"),
        (
            {"counts": [1200]},
            "has run lengths for [height, width] None, and its image has [30, 40]",
        ),
        (
            {"size": [30, 40], "counts": [1100]},
            "run lengths that do not add up to its image, 40 x 30",
        ),
        ({"size": [30, 40], "counts": "~"}, "run lengths that do not add up"),
        ({"size": [30, 40]}, "run lengths that do not add up"),
    ],
)
def test_a_broken_outline_is_named(tmp_path, segmentation, says):
    broken = annotation(3, 5) | {"segmentation": segmentation}
    read = opened(written(tmp_path, [image_record(5)], [broken, annotation(4, 5)]))
    with pytest.raises(InputError, match=r"annotation 3 of image 5 has .*; correct it in") as error:
        read.mask(5, "cat")
    assert says in str(error.value)


# ---- image files as they are found


def turned_folder(folder, stored, record, orientation, suffix="jpg"):
    """A photograph, white at the top left of what the sensor saw, and its record's size."""
    photo = Image.new("RGB", stored)
    photo.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(folder / f"a.{suffix}", exif=exif)
    return written(folder, [image_record(size=record, file_name=f"a.{suffix}")], [])


# where the white square lies in the upright picture: (right?, low?)
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


def on_white(read, w, h, right, low):
    """The mask of an outline on one corner, and the share of it that is white."""
    x, y = right * (w - 10), low * (h - 10)
    corner = [x + 1, y + 1, x + 9, y + 1, x + 9, y + 9, x + 1, y + 9]
    path = read.file
    data = json.loads(path.read_text()) | {"annotations": [annotation(segmentation=[corner])]}
    path.write_text(json.dumps(data))
    read = opened(read.folder)
    mask = read.mask(1, "cat")
    return (np.asarray(read.image(1).convert("L"))[mask] > 128).mean()


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("stored", [(40, 40), (40, 30)])
def test_outlines_drawn_on_the_upright_picture(tmp_path, orientation, stored):
    upright = stored[::-1] if orientation > 4 else stored
    read = opened(turned_folder(tmp_path, stored, upright, orientation))
    assert read.image(1).size == upright
    assert on_white(read, *upright, *CORNERS[orientation]) > 0.95


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_outlines_drawn_on_the_picture_as_it_is_stored(tmp_path, orientation, suffix):
    """COCO's own loader does not look at EXIF."""
    read = opened(turned_folder(tmp_path, (40, 30), (40, 30), orientation, suffix))
    assert read.image(1).size == (40, 30)
    assert on_white(read, 40, 30, 0, 0) > 0.95


@pytest.mark.parametrize(
    ("record", "orientation", "sizes"),
    [((60, 50), 6, "30 x 40 or 40 x 30"), ((60, 50), 1, "40 x 30"), ((30, 40), 3, "40 x 30")],
)
def test_a_size_that_does_not_fit(tmp_path, record, orientation, sizes):
    read = opened(turned_folder(tmp_path, (40, 30), record, orientation))
    says = f"a.jpg has {sizes} pixels .width x height., and instances.json says {record[0]} x "
    with pytest.raises(InputError, match=rf"image 1: .*{says}{record[1]}; put the picture there"):
        read.image(1)
    Image.new("RGB", record).save(tmp_path / "a.jpg")
    assert read.image(1).size == record


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_says_so(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    written(tmp_path, [image_record(9, file_name=path.name)], [annotation(1, 9)])
    with pytest.raises(
        InputError, match=r"image 9 \(a\.\w+\) cannot be read.*is truncated"
    ) as error:
        opened(tmp_path).image(9)
    assert str(path) in str(error.value) and "take image 9 out of" in str(error.value)


def test_an_image_whose_scale_is_not_clear(tmp_path):
    Image.fromarray(np.full((30, 40), -3, np.float32)).save(tmp_path / "a.tiff")
    written(tmp_path, [image_record(9, file_name="a.tiff")], [])
    with pytest.raises(InputError, match=r"image 9 \(a\.tiff\) cannot be read: floats from -3"):
        opened(tmp_path).image(9)


def test_a_file_name_of_windows(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images/a.png")
    read = opened(written(tmp_path, [image_record(file_name="images\\a.png")], []))
    assert read.image(1).getpixel((0, 0)) == (255, 0, 0)


def test_a_study_turns_a_photograph(tmp_path):
    """The whole way: the picture and the mask of a case."""
    path = scenes.write(tmp_path, 1, seed=3, count=1)
    (case,) = study.cases(tmp_path)
    plain = case.load()
    file = tmp_path / "images" / json.loads(path.read_text())["images"][0]["file_name"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    for ours, theirs in zip(case.load(), plain, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_class_map_names_imagenets_classes():
    imagenet = zoo.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    table = coco.class_map()
    assert {"zebra": 340, "pizza": 963, "traffic light": 920, "banana": 954}.items() <= {
        name: next(iter(classes)) for name, classes in table.items()
    }.items()
    for name, classes in table.items():
        assert classes, name
        assert {index: imagenet[index] for index in classes} == classes
