"""Time several ways to do a thing side by side, so that a busy moment hits all, and record it."""

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
WARM_UP_ROUNDS = 2
SMALL = 1e-3  # larger numbers are recorded with four digits after the point


def unit(module, x, targets):
    """One forward pass and the gradient of the scores with respect to the input."""
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(module(leaf)[range(len(x)), targets].sum(), leaf)


def side_by_side(calls, seconds, rounds=3):
    """What each call costs as a multiple of the first, paired round by round.

    Every round takes the calls in another order.

    :param calls: name -> function; the first is the unit
    :param seconds: for how long to go on
    :param rounds: at least so many, after two to warm up
    :return: name -> {"times": median, "low", "high": the quartiles, "ms": median milliseconds}
    """
    taken = {name: [] for name in calls}
    start = time.perf_counter()
    done = -WARM_UP_ROUNDS
    while done < rounds or time.perf_counter() - start < seconds:
        for name, call in random.sample(list(calls.items()), len(calls)):
            before = time.perf_counter()
            call()
            if done >= 0:
                taken[name].append(time.perf_counter() - before)
        done += 1
    units = taken[next(iter(calls))]
    return {name: _summary(values, units) for name, values in taken.items()}


def _summary(values, units):
    """Quartiles of the ratios of two lists of seconds, and the median of the first."""
    ratios = [value / unit for value, unit in zip(values, units, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    milliseconds = 1000 * statistics.median(values)
    return {"times": middle, "low": low, "high": high, "ms": milliseconds}


def peak_memory(call):
    """The most that tensors made by a call hold at one moment, in MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = 0
    most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most / 1e6


def record(section, rows, *same):
    """Put rows (dicts) into a section of data/results/bench.json.

    :param section: its name
    :param rows: they replace those that are equal in the columns `same`
    :param same: names of columns
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def key(row):
        return tuple(row[column] for column in same)

    new = {key(row) for row in rows}
    kept = [row for row in results.get(section, []) if key(row) not in new]
    results[section] = kept + [_rounded(row) for row in rows]
    results["machine"] = {
        "processors": os.cpu_count(),
        "kind": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }
    text = json.dumps(results, sort_keys=True).replace("{", "\n{")  # a line for each row
    RESULTS.write_text(text.lstrip() + "\n")


def _rounded(row):
    """The row with fewer digits."""
    return {
        column: round(value, 4) if isinstance(value, float) and value > SMALL else value
        for column, value in row.items()
    }


def show(rows):
    """Print a table of costs; the first row is the unit."""
    first, *others = rows
    print(
        f"\n{first['network']}, batch of {first['batch']}; "
        f"{first['method']}: {first['ms']:.1f} ms, {first['MB']:.0f} MB"
    )
    for row in others:
        spread = f"{row['times']:7.2f} ({row['low']:.2f} to {row['high']:.2f})"
        off = "" if row["difference"] is None else f"{row['difference']:10.1e}"
        print(f"  {row['method']:30}{row['library']:18}{spread:26}{row['MB']:7.0f} MB{off}")
