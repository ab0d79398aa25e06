"""Shap-CAM of a probability to 1 % error, ours beside the published algorithm.

On a small network it is run end to end. For real networks it is extrapolated: orders needed, from
the errors recorded in data/results/shap_cam.json, times the recorded cost of one coalition.
"""

import json
import statistics
import time

import pytest
import torch
import xcnn
from xcnn import scenes
from xcnn.engine.head import Head
from xcnn.methods import shapley
from xcnn.methods.shap_cam import Game
from xcnn.paths import data_folder

from tests.bench.measure import record

GOAL = 0.01
LONG = "64"  # orders; the error of sampling falls with the root of their number
REFERENCE_ORDERS = 2**15


def until_near(v, reference, batch, step=8):
    """Seconds and orders of arrival that sampling needs until its error is at most 1 %."""
    start = time.perf_counter()
    total = torch.zeros_like(reference)
    orders = 0
    while orders == 0 or (total / orders - reference).norm() > GOAL * reference.norm():
        phi, _ = shapley.permutations(v, len(reference), step, seed=orders, batch=batch)
        total += step * phi
        orders += step
    return time.perf_counter() - start, orders


def published_ways(net, x, head, game):
    """name -> (v, batch): the game as published, through the head alone, and on our table."""

    def through_network(S):  # every coalition runs through all layers
        layer = net.module.get_submodule(net.layer)
        handle = layer.register_forward_hook(lambda *_: game.maps(S))
        with torch.no_grad():
            scores = net.module(x.expand(len(S), -1, -1, -1))
        handle.remove()
        return scores.double().softmax(1)[:, game.c]

    def through_head(S):
        return head(game.maps(S)).double().softmax(1)[:, game.c]

    return {
        "published, whole network": (through_network, 512),
        "published, head only": (through_head, 4096),
        "orders on the table": (game, 8192),
    }


@pytest.mark.parametrize("seed", [10, 6])
def test_time_to_one_percent(seed):
    net = xcnn.load("resnet_s")
    x = net.preprocess(scenes.render(seed, count=2).image)
    head = Head(net.module, x, net.layer)
    c = head.S.argmax(1).item()
    game = Game(head, c, score="probability")
    reference, error = shapley.permutations(game, game.P, REFERENCE_ORDERS, orders="sobol")
    assert error.norm() < 2e-3 * reference.norm()
    xcnn.shap_cam_values(net, x, c, score="probability")  # warm up
    start = time.perf_counter()
    (values,) = xcnn.shap_cam_values(net, x, c, score="probability")
    ours = time.perf_counter() - start
    off = ((values.phi.flatten() - reference).norm() / reference.norm()).item()
    print(
        f"\nresnet_s, scene {seed}, forward pass included: "
        f"{values.estimator} {1000 * ours:.1f} ms, error {off:.2%}"
    )
    assert off <= GOAL
    for name, (v, batch) in published_ways(net, x, head, game).items():
        seconds, orders = until_near(v, reference, batch)
        times = seconds / ours
        print(f"  {name:26}{seconds:8.1f} s for {orders:5} orders: {times:9,.0f} times as long")


def test_real_networks_extrapolated():
    results = json.loads((data_folder() / "results" / "shap_cam.json").read_text())
    rows = []
    for name, cost in results["seconds"].items():
        cases = [
            case
            for case in results["cases"]
            if case["network"] == name and case["estimator"] == "path"
        ]
        for goal in (GOAL, statistics.median(case["auto"] for case in cases)):
            rows.append(extrapolated(name, cost, cases, goal))
    record("shap_cam", rows)
    assert all(row["published"] > 1e3 for row in rows)


def extrapolated(name, cost, cases, goal):
    """How many times as long sampling takes as the path, until its error is `goal`; printed, too.

    :param name: of the network
    :param cost: seconds of each part, as recorded
    :param cases: recorded errors
    :return: a row
    """
    orders = statistics.median(int(LONG) * (case["random"][LONG] / goal) ** 2 for case in cases)
    coalitions = orders * cost["positions"]
    row = {
        "network": name,
        "goal": goal,
        "orders": orders,
        "published": coalitions * cost["network"] / cost["shap_cam"],
        "head": coalitions * cost["head"] / cost["shap_cam"],
    }
    print(
        f"\n{name}, extrapolated, to {goal:.2%} error, {orders:,.0f} orders: published algorithm "
        f"{row['published']:,.0f}, through the head {row['head']:,.0f} times as long",
        end="",
    )
    return row
