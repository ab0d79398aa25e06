"""Time several ways to do a thing side by side, so that a busy moment hits all alike."""

import random
import statistics
import time


def side_by_side(calls, rounds):
    """name -> median seconds of each call; in every round in another order, after two rounds to warm up."""
    seconds = {name: [] for name in calls}
    for one in range(rounds + 2):
        for name, call in random.sample(list(calls.items()), len(calls)):
            start = time.perf_counter()
            call()
            if one >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title, seconds, unit):
    """Print each as a multiple of the one called unit."""
    print(f"\n{title}; {unit} = {1000 * seconds[unit]:.1f} ms")
    for name in seconds:
        if name != unit:
            print(f"  {name:34}{seconds[name] / seconds[unit]:8.2f}")
