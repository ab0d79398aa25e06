"""What the study of trust records is what its parts say, for each scene by itself."""

import json

import numpy as np
import pytest
import torch
import xcnn
from xcnn import contestants, sanity, scenes
from xcnn.evaluate import causal_agreement, causal_effects, controls, evidence, relevance_of

from tools.data import study_trust

NET = "allconv_s"
SEEDS = (50_000, 50_001)


@pytest.fixture(scope="module")
def asked():
    net = xcnn.load(NET)
    return net, [study_trust.question(net, seed) for seed in SEEDS]


def test_the_question_is_the_likeliest_thing(asked):
    net, questions = asked
    for q in questions:
        whole, lesser = scenes.without_each(q.seed, count=3 + q.seed % 2)
        p = net.predict(q.x)[0]
        likeliest = max(whole.labels, key=lambda label: p[net.classes.index(label)])
        c = net.classes.index(likeliest)
        assert q.target == c and q.p == pytest.approx(p[c].item()) and len(q.masks) in (3, 4)
        assert q.rank == p.argsort(descending=True).tolist().index(c) + 1
        without = torch.cat([net.preprocess(scene.image) for scene in lesser])
        assert torch.allclose(q.gone, without[[whole.labels.index(likeliest)]])
        assert torch.allclose(q.effects, causal_effects(net, q.x, without, c))
        assert q.effects[whole.labels.index(likeliest)] > 0


@pytest.mark.parametrize("name", ["lrp", "hires_cam", "gradient", "edges", "shap_cam_probability"])
def test_rows_are_what_the_parts_say(asked, name):
    net, questions = asked
    rows = study_trust.rows(net, questions, name)
    layers = len(sanity.weighted_layers(net.module))
    for q, row in zip(questions, rows, strict=True):
        assert (row["network"], row["image"], row["method"]) == (NET, q.seed, name)

        def explain(network, x, q=q):
            if name == "edges":
                return controls(x)["edges"]
            if name == "hires_cam":
                return xcnn.hires_cam(network, x, q.target, relu=False)
            if name == "shap_cam_probability":
                return xcnn.shap_cam(network, x, q.target, score="probability", relu=False)
            return evidence(xcnn.METHODS[name](network, x, q.target), name, signed=True)

        R = explain(net, q.x)
        signs, ranks = causal_agreement(relevance_of(R, q.masks), q.effects)
        assert row["causal_signs"] == pytest.approx(signs)
        assert row["causal_ranks"] == pytest.approx(ranks)
        curves = {"deletion": "zero", "deletion_blurred": "blur", "deletion_scene": q.gone}
        for column, fill in curves.items():
            p = sanity.deletion(net, q.x, R, q.target, study_trust.STEPS, fill=fill)
            assert row[column] == pytest.approx(p.mean().item(), abs=2e-3)
        kept = sanity.randomisation(net, q.x, explain, last=layers // 2)
        assert row["kept_signed"] == pytest.approx(np.nanmean(kept["signed"]), abs=2e-3)
        assert row["kept_unsigned"] == pytest.approx(np.nanmean(kept["unsigned"]), abs=2e-3)
        assert row["dark"] == kept["signed"].isnan().sum() and row["status"] == "ok"
        json.dumps(row)


def test_a_refusal_is_a_row():
    net = xcnn.load("vgg_s")
    (row,) = study_trust.rows(net, [study_trust.question(net, SEEDS[0])], "cam")
    assert "global average" in row["status"] and "causal_signs" not in row


def test_signed_maps_can_speak_against_the_class(asked):
    net, questions = asked
    for name in ("grad_cam", "shap_cam", "lrp", "shap_cam_probability"):
        R = contestants.signed_maps(net, questions[0].x, [questions[0].target], name, ["a"])
        assert R.shape == (1, 1, 128, 128) and (R < 0).any() and (R > 0).any()
    with pytest.raises(xcnn.InputError, match="unknown method 'grad_kam'"):
        contestants.signed_maps(net, questions[0].x, [0], "grad_kam", ["a"])
