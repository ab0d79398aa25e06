"""Entries of the table for layers, beside torch: the same values, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from xcnn.engine.onnx_calls import CALLS
from xcnn.errors import InputError

from tests.engine.test_onnx_calls import FUNCTIONS
from tests.helpers.onnx_runs import assert_same, back, both_ways, met, picture, run

WINDOW = {"kernel_size": 3, "stride": 2, "padding": 1}
W = picture(9, (4, 3, 3, 3))
B = picture(8, (4,))
W_T = picture(7, (3, 4, 3, 3))
NORM = (picture(6, (3,)), picture(5, (3,)).exp(), picture(4, (3,)), picture(3, (3,)))

LAYERS = both_ways(
    lambda x: F.conv2d(x, W, B, stride=2, padding=1),
    lambda x: F.conv2d(x, W, None, padding=(0, 2), dilation=(1, 2)),
    lambda x: F.conv2d(x, W[:3, :1], stride=(2, 3), groups=3),
    lambda x: F.conv_transpose2d(x, W_T, B, stride=2, output_padding=1),
    lambda x: F.linear(x.flatten(1), picture(2, (5, 144)), picture(1, (5,))),
    lambda x: x @ picture(2, (8, 5)),
    lambda x: torch.einsum("nchw,kc->nkhw", x, picture(2, (5, 3))),
    lambda x: F.batch_norm(x, *NORM),
    lambda x: F.batch_norm(x, *NORM[:2]),
    lambda x: F.layer_norm(x, (8,), picture(2, (8,)), picture(1, (8,))),
    lambda x: F.layer_norm(x, (6, 8)),
)
POOLS = both_ways(
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.max_pool2d(x, **WINDOW),
    lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, **WINDOW),
    lambda x: F.avg_pool2d(x, **WINDOW, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    lambda x: F.interpolate(x, (13, 9), mode="bilinear"),
    lambda x: F.interpolate(x, (3, 5), mode="bilinear", align_corners=True),
    lambda x: F.interpolate(x, (12, 11)),
)


@pytest.mark.parametrize("function", [*LAYERS, *POOLS])
def test_a_layer_gives_the_same_values(function):
    assert_same(function, picture(1))


def test_each_entry_of_the_table_has_been_tried():
    for function in [*FUNCTIONS, *LAYERS, *POOLS]:
        run(function, picture(1))
    assert not CALLS.keys() - met


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor"),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
        (back(lambda x: F.avg_pool2d(x, 4, 3, ceil_mode=True)), "hang over"),
        (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), "by a factor"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(), "_to_copy"),
    ],
)
def test_what_the_table_lacks_is_refused(function, message):
    with pytest.raises(InputError, match=message):
        run(function, picture(1))
