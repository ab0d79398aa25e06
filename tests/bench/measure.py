"""Time several ways to do a thing side by side, so that a busy moment hits all alike, and keep what was found."""

import json
import os
import platform
import random
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from tools import ROOT

RESULTS = ROOT / "data" / "results" / "bench.json"
UNIT = "one forward pass + input gradient"


def unit(module, x, targets):
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(module(leaf)[range(len(x)), targets].sum(), leaf)


def side_by_side(calls, seconds, rounds=3):
    """What each call costs as a multiple of the first, paired round by round, every round in another order.

    :param calls: name -> function; the first is the unit
    :param seconds: for how long to go on; at least so many rounds, after two to warm up
    :return: name -> {"times": median, "low", "high": the quartiles, "ms": median milliseconds}
    """
    taken, unit = {name: [] for name in calls}, next(iter(calls))
    start, done = time.perf_counter(), -2
    while done < rounds or time.perf_counter() - start < seconds:
        for name, call in random.sample(list(calls.items()), len(calls)):
            before = time.perf_counter()
            call()
            if done >= 0:
                taken[name].append(time.perf_counter() - before)
        done += 1
    found = {}
    for name, values in taken.items():
        ratios = [own / one for own, one in zip(values, taken[unit], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = {
            "times": middle,
            "low": low,
            "high": high,
            "ms": 1000 * statistics.median(values),
        }
    return found


def peak_memory(call):
    """The most that tensors made by a call hold at one moment, in MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [
        event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def record(section, rows, *same):
    """Put rows (dicts) into a section of data/results/bench.json, in the place of those that are equal in `same`."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    new = {tuple(row[key] for key in same) for row in rows}
    kept = [row for row in found.get(section, []) if tuple(row[key] for key in same) not in new]
    rows = [
        {key: round(v, 4) if isinstance(v, float) and v > 1e-3 else v for key, v in row.items()}
        for row in rows
    ]
    found[section] = kept + rows
    found["machine"] = {
        "processors": os.cpu_count(), "kind": platform.machine(), "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }  # fmt: skip
    text = json.dumps(found, sort_keys=True).replace("{", "\n{")  # a line for each row
    RESULTS.write_text(text.lstrip() + "\n")


def show(rows):
    """Print a table of costs."""
    unit = rows[0]
    print(
        f"\n{unit['network']}, batch of {unit['batch']}; {unit['method']}: {unit['ms']:.1f} ms, {unit['MB']:.0f} MB"
    )
    for row in rows[1:]:
        spread = f"{row['times']:7.2f} ({row['low']:.2f} to {row['high']:.2f})"
        off = "" if row["difference"] is None else f"{row['difference']:10.1e}"
        print(f"  {row['method']:30}{row['library']:18}{spread:26}{row['MB']:7.0f} MB{off}")
