"""Several methods at once: the same maps as one by one, whatever shares a forward pass."""

import pytest
import torch
import xcnn
from xcnn import InputError

from tests.helpers.oracles import batch, network

NAMES = ["gradient", "grad_cam", "guided_backprop", "guided_grad_cam"]
CASES = [
    {},
    {"grad_cam": {"layer": "layer2"}},
    {"guided_grad_cam": {"layer": "layer2"}},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_each_method_gets_its_own_options_in_any_order(names, options):
    net, x = network("resnet_s"), batch(128, 2)
    for name, R, _ in xcnn.explain_all(net, x, [3, 5], names, options):
        wanted = xcnn.METHODS[name](net, x, [3, 5], **options.get(name, {}))
        torch.testing.assert_close(R, wanted, rtol=1e-9, atol=1e-12, msg=name)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown method 'gradcam'; did you mean 'grad_cam'"):
        list(xcnn.explain_all(network("resnet_s"), batch(128, 1), [3], ["gradcam"]))


def test_a_refusal_comes_in_the_place_of_the_map():
    net, x = network("vgg_s"), batch(128, 1)
    answers = {name: R for name, R, _ in xcnn.explain_all(net, x, [3], ["cam", "gradient"])}
    assert "CAM needs a head of global average pooling" in answers["cam"]
    assert torch.is_tensor(answers["gradient"])
