"""The table of torch's calls: what counts as a ReLU, and a rule in both methods for every kind."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import resolve_name
from xcnn import InputError
from xcnn.engine.operations import COVERED, KIND, RELUS, refuse
from xcnn.methods.fixation_rules import RULES
from xcnn.methods.lrp_operations import HANDLERS

# the call without its input -> the arguments that make it a ReLU, or a ReLU that stops at 6
RELU_ARGUMENTS = {
    "relu": [()],
    "relu6": [()],
    "hardtanh": [(0, 6)],
    "threshold": [(0, 0)],
    "clamp": [(0,), (0, None), (0, 6)],
    "clip": [(0,), (0, None), (0, 6)],
    "clamp_min": [(0,)],
}
STOPS_AT_6 = {("relu6", ()), ("hardtanh", (0, 6)), ("clamp", (0, 6)), ("clip", (0, 6))}
# arguments that make it something else
OTHER_ARGUMENTS = {
    "hardtanh": [(), (-1, 1), (-6, 6)],
    "threshold": [(0.1, 0), (0, -1), (-1, 0)],
    "clamp": [(-1,), (0, 1), (None, 6), (1, 6)],
    "clip": [(-1,), (0, 1), (None, 6), (1, 6)],
    "clamp_min": [(-1,), (0.5,)],
}


def base_name(func):
    """The name of a call, in place or not."""
    return func.__name__.strip("_")


def with_arguments(table):
    return [
        pytest.param(func, arguments, id=f"{resolve_name(func)}{arguments}")
        for func in RELUS
        for arguments in table.get(base_name(func), [])
    ]


@pytest.mark.parametrize("func", RELUS, ids=resolve_name)
def test_every_call_in_the_table_is_a_relu_for_some_arguments(func):
    assert RELU_ARGUMENTS[base_name(func)]


@pytest.mark.parametrize(("func", "arguments"), with_arguments(RELU_ARGUMENTS))
def test_a_call_with_the_arguments_of_a_relu_is_one(func, arguments):
    x = torch.linspace(-9, 9, 361)
    top = 6 if (base_name(func), arguments) in STOPS_AT_6 else None
    assert RELUS[func](*arguments) == 0
    assert torch.equal(func(x.clone(), *arguments), x.clamp(0, top))


@pytest.mark.parametrize(("func", "arguments"), with_arguments(OTHER_ARGUMENTS))
def test_a_call_with_other_arguments_is_none(func, arguments):
    x = torch.linspace(-9, 9, 361)
    lower_bound = RELUS[func](*arguments)
    y = func(x.clone(), *arguments)
    assert lower_bound is None or lower_bound != 0
    assert not torch.equal(y, x.relu())
    assert not torch.equal(y, F.relu6(x))


def test_every_kind_has_a_rule_in_both_methods():
    assert set(COVERED) == set(KIND.values()) == set(HANDLERS) == set(RULES)


def test_no_call_is_of_two_kinds():
    for (kind, calls), (other, more) in itertools.combinations(COVERED.items(), 2):
        assert not set(calls) & set(more), (kind, other)


def test_a_call_in_place_is_of_the_kind_of_its_namesake():
    names = {func: func.__name__ for func in KIND if callable(func)}
    in_place = [func for func, name in names.items() if name.endswith("_") and "__" not in name]
    assert len(in_place) > 20
    for func in in_place:
        kinds = {KIND[other] for other, name in names.items() if name == base_name(func)}
        assert kinds == {KIND[func]}, resolve_name(func)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (("features.0", "SiLU"), r"LRP has no rule for silu, which runs in 'features.0' \(SiLU\);"),
        (("", "Net"), r"which runs in the network itself \(Net\); .*gradient or grad_cam"),
    ],
)
def test_a_refusal_names_operation_and_place(place, says):
    with pytest.raises(InputError, match=says):
        refuse("LRP", "silu", place)
