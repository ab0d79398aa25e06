"""The table of torch's calls: what counts as a ReLU, and a rule in both methods for every kind."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import resolve_name
from xcnn import InputError
from xcnn.engine.operations import (
    COVERED,
    IN_OTHER_WORDS,
    KIND,
    RELUS,
    Factor,
    factor_of,
    refuse,
    signal_of,
)
from xcnn.methods.fixation_rules import RULES
from xcnn.methods.lrp_operations import HANDLERS

# the call without its input -> the arguments that make it a ReLU, or a ReLU that stops at 6
RELU_ARGUMENTS = {
    "relu": [()],
    "relu6": [()],
    "hardtanh": [(0, 6), (0.0, math.inf)],
    "threshold": [(0, 0)],
    "clamp": [(0,), (0, None), (0, 6), (0, math.inf)],
    "clip": [(0,), (0, None), (0, 6)],
    "clamp_min": [(0,)],
}
STOPS_AT_6 = {("relu6", ()), ("hardtanh", (0, 6)), ("clamp", (0, 6)), ("clip", (0, 6))}
# arguments that make it something else
OTHER_ARGUMENTS = {
    "hardtanh": [(), (-1, 1), (-6, 6), (0, 1), (0, 2), (0.0, 8.0)],
    "threshold": [(0.1, 0), (0, -1), (-1, 0)],
    "clamp": [(-1,), (0, 1), (0, 2.0), (0, 8), (None, 6), (1, 6)],
    "clip": [(-1,), (0, 1), (0, 2.0), (0, 8), (None, 6), (1, 6)],
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


@pytest.mark.parametrize("top", [0.5, 1, 2, 6, 20, math.inf, None])
def test_one_function_in_two_spellings_is_a_relu_in_both_or_in_none(top):
    """ReLU6 is one; what stops elsewhere may limit pixels, or be a hard sigmoid, and is none."""
    bounds = [RELUS[F.hardtanh](0, top), RELUS[torch.clamp](0, top), RELUS[torch.clip](0, max=top)]
    assert bounds == [0 if top in (6, math.inf, None) else None] * 3


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


# ---- calls in other words

A = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
W = torch.linspace(-1, 3, 8, dtype=torch.float64).view(4, 2)
b = torch.tensor([0.5, -1.0], dtype=torch.float64)
CALLS = {
    "rsub": (torch.rsub, (A, 2), {"alpha": 3}),
    "1 - a": (torch.Tensor.__rsub__, (A, 1), {}),
    "a - of a tensor": (torch.Tensor.__rsub__, (A, A[0] * 3), {}),
    "matmul": (torch.matmul, (A, W), {}),
    "of tokens": (torch.Tensor.matmul, (A.expand(5, 3, 4), W), {}),
    "weights first": (torch.matmul, (W.mT, A.mT), {}),
    "weights first, tokens": (torch.matmul, (W.mT, A.mT.expand(5, 4, 3)), {}),
    "mm": (torch.mm, (A, W), {}),
    "addmm": (torch.addmm, (b, A, W), {"beta": 2, "alpha": 0.5}),
    "addmm, a bias for each row": (torch.addmm, (A[:, :2], A, W), {}),
    "addmm, one number": (torch.addmm, (b[:1], A, W), {"beta": 3}),
    "addcmul": (torch.addcmul, (A, A, A[0]), {"value": 2}),
    "addcmul of 1": (torch.Tensor.addcmul, (A, A[0], A), {}),
    "glu": (F.glu, (A,), {"dim": 1}),
    "glu of the last": (F.glu, (A.mT.reshape(2, 6),), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_other_words_is_the_same(name):
    func, args, kwargs = CALLS[name]
    others = {id(v) for v in (W, b)} | ({id(args[0])} if "weights first" in name else set())
    others |= {id(args[0])} if "addmm" in name else set()

    def is_map(v):
        return isinstance(v, torch.Tensor) and id(v) not in others

    y = IN_OTHER_WORDS[func](is_map, *args, **kwargs)
    torch.testing.assert_close(y, func(*args, **kwargs))


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (torch.matmul, (A, A.mT)),
        (torch.matmul, (A, W.expand(2, 4, 2))),
        (torch.addmm, (A[:, :2], A, W)),
        (torch.addmm, (b, A, A.mT[:, :2])),
    ],
)
def test_products_of_maps_have_no_other_words(func, args):
    weights = {id(W), id(b), *(id(v) for v in args if v.ndim == 3)}
    assert IN_OTHER_WORDS[func](lambda v: id(v) not in weights, *args) is NotImplemented


def test_calls_in_other_words_are_in_no_table():
    assert not set(IN_OTHER_WORDS) & set(KIND)
    assert {base_name(func) for func in IN_OTHER_WORDS} == {
        *("rsub", "matmul", "mm", "addmm", "addcmul", "glu")
    }


# ---- signal and gate

MAP = torch.zeros(2, 4, 5, 5)
VECTOR = torch.zeros(2, 4, 1, 1)
PLAIN = Factor(False, "plain", 0)
GATE = Factor(True, "gate", 3)


@pytest.mark.parametrize(
    ("maps", "factors", "signal"),
    [
        ([MAP, MAP], [PLAIN, GATE], 0),
        ([MAP, MAP], [GATE, PLAIN], 1),
        ([VECTOR, VECTOR], [GATE, PLAIN], 1),
        ([VECTOR, MAP], [PLAIN, GATE], 0),  # a sigmoid tells more than a size
        ([MAP, VECTOR], [PLAIN, PLAIN], 0),
        ([VECTOR, MAP], [PLAIN, PLAIN], 1),
        ([MAP[:, :1], MAP], [GATE, GATE], 1),
        ([MAP, VECTOR.expand_as(MAP)], [PLAIN, PLAIN], 0),
        ([MAP[:1, :1, :, :1], MAP], [PLAIN, PLAIN], 1),
        ([MAP, MAP], [PLAIN, Factor(False, "plain", 2)], 0),
        ([MAP, MAP], [Factor(False, "x", 3), Factor(False, "x", 1)], 1),
        ([MAP, MAP], [Factor(False, "x", 1), Factor(False, "x", 1)], 0),
        ([MAP, MAP], [PLAIN, Factor(False, "other", 2)], None),
        ([MAP, MAP], [GATE, Factor(True, "other", 2)], None),
        ([VECTOR, MAP[:, :1]], [PLAIN, Factor(False, "other", 2)], None),  # an outer product
    ],
)
def test_which_of_two_maps_is_the_signal(maps, factors, signal):
    assert signal_of(maps, factors) == signal


@pytest.mark.parametrize(
    ("func", "below", "wanted"),
    [
        (torch.sigmoid, [PLAIN], Factor(True, "plain", 1)),
        (F.hardsigmoid, [PLAIN], Factor(True, "plain", 1)),
        (F.softmax, [PLAIN], Factor(True, "new", 0)),
        (F.relu6, [PLAIN], Factor(False, "plain", 1)),
        (torch.tanh, [GATE], Factor(False, "gate", 4)),
        (torch.mul, [GATE], Factor(True, "gate", 4)),
        (torch.mul, [GATE, PLAIN], Factor(False, "new", 0)),
        (torch.add, [GATE, GATE], Factor(True, "gate", 4)),
        (torch.Tensor.view, [GATE], Factor(True, "new", 0)),
        (torch.Tensor.expand_as, [GATE, PLAIN], Factor(True, "new", 0)),
        (torch.Tensor.type_as, [PLAIN, GATE], Factor(False, "plain", 1)),
        (torch.cat, [GATE, GATE], Factor(True, "new", 0)),
        (torch.cat, [GATE, PLAIN], Factor(False, "new", 0)),
        (F.interpolate, [GATE], Factor(True, "new", 0)),
        (F.conv2d, [GATE], Factor(False, "new", 0)),
        (torch.einsum, [GATE], Factor(False, "new", 0)),
    ],
)
def test_what_is_known_of_a_result(func, below, wanted):
    assert factor_of(func, below, "new") == wanted


# ---- what has no rule


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
