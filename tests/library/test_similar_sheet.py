"""The sheet of similar images: what its panels show, and what stands above them."""

import os

import numpy as np
import pytest
import torch
import xcnn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import nn
from xcnn import InputError, scenes
from xcnn.similar import sheet
from xcnn.similar_sheet import MAX_CAPTION

from tests.helpers.albums import ODD_NAMES, index_of


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_the_sheet_shows_label_map_and_neighbours(index, net, pictures):
    path = pictures / "a.png"
    answer = index.search(path, k=3, itself=False)
    figure = sheet(net, path, answer)
    ((_, label, p),) = net.top(net.preprocess(Image.open(path)), 1)[0]
    own, of_map, *others = titles(figure)
    assert own == f"{label}\n{p:.1%}" and of_map == f"Grad-CAM\n{label}"
    assert others == [f"{value:.2f}\n{os.path.basename(other)}" for other, value in answer]
    drawn = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    for array, shown in zip(drawn[2:], answer, strict=True):
        seen = net.picture(net.preprocess(Image.open(shown[0])))[0]
        assert np.allclose(array, seen, atol=1e-6)
    R = xcnn.grad_cam(net, net.preprocess(Image.open(path)))
    wanted = xcnn.show.overlay(net.picture(net.preprocess(Image.open(path)))[0], R[0])
    assert np.array_equal(drawn[1], np.asarray(wanted))


@pytest.mark.parametrize(
    ("target", "title"), [("clock", "clock"), (3, "clock"), (np.int64(3), "clock"), (None, None)]
)
def test_the_map_of_another_class(target, title, net, pictures):
    figure = sheet(net, pictures / "a.png", [], target, "gradient")
    label = titles(figure)[0].split("\n")[0]
    assert titles(figure)[1] == f"gradient\n{title or label}" and len(figure.axes) == 2


def test_options_go_to_the_method(net, pictures):
    image = Image.open(pictures / "a.png")
    figure = sheet(net, image, [], 3, "grad_cam", layer="layer1")
    R = xcnn.grad_cam(net, net.preprocess(image), 3, layer="layer1")
    wanted = xcnn.show.overlay(net.picture(net.preprocess(image))[0], R[0])
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    assert np.array_equal(drawn, np.asarray(wanted))


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(0, 1, 2), (5, 1, 7), (6, 2, 7), (20, 4, 7)]
)
def test_many_neighbours_take_more_rows(count, rows, columns, net, pictures):
    answer = [(pictures / "a.png", 0.5)] * count
    figure = sheet(net, pictures / "a.png", answer)
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns)
    assert sum(bool(title) for title in titles(figure)) == 2 + count


@pytest.mark.parametrize("name", [*ODD_NAMES, "x" * 90 + ".png", "$.png", r"\frac{.png"])
def test_captions_can_be_drawn(name, net, pictures, recwarn):
    path = pictures / name
    scenes.render(0).image.save(path)
    figure = sheet(net, path, [(path, 1.0)])
    FigureCanvasAgg(figure).draw()
    caption = titles(figure)[2].split("\n", 1)[1].replace(r"\$", "$")
    assert len(caption) <= MAX_CAPTION and caption.isprintable()
    assert caption[:1] in (name[:1], "?") and caption[-1] == name[-1]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_network_without_names(net, pictures):
    nameless = xcnn.Network(net.module, size=128)
    figure = sheet(nameless, pictures / "a.png", [], 3)
    assert titles(figure)[0].startswith("class ") and titles(figure)[1] == "Grad-CAM\nclass 3"


def test_a_function_as_target_has_no_name(net, pictures):
    figure = sheet(net, pictures / "a.png", [], lambda S: S[:, 3] - S[:, 5])
    assert titles(figure)[1] == "Grad-CAM\n"


class Regression(nn.Module):
    """Two maps, and what it returns is not class scores."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return {"depth": self.maps(x).relu()}


def mean_depth(out):
    return out["depth"].mean((1, 2, 3))


def test_a_network_that_does_not_classify(pictures):
    torch.manual_seed(0)
    net = xcnn.Network(Regression().eval(), "depth", size=32)
    index = index_of(pictures, net, "maps")
    answer = index.search(pictures / "a.png", 2)
    figure = sheet(net, pictures / "a.png", answer, mean_depth, layer="maps")
    assert titles(figure)[0] == "\n" and len(figure.axes) == 4


def test_sheets_that_cannot_be_drawn(index, net, pictures):
    for question, says in [
        (lambda: sheet(net, pictures / "a.png", [], method="grad_kam"), "unknown method"),
        (lambda: sheet(net, pictures / "a.png", [], "clok"), "did you mean 'clock'"),
        (lambda: sheet(net, pictures / "no.png", []), r"cannot open .*no\.png"),
    ]:
        with pytest.raises(InputError, match=says):
            question()
    answer = index.search(pictures / "a.png")
    os.remove(pictures / "b.png")
    with pytest.raises(InputError, match=r"cannot open .*b\.png.*No such file"):
        sheet(net, pictures / "a.png", answer)
