"""Steps by leaves and parameters: the bytes that they move, and their kernels.

Meant for an accelerator, where small leaves cost a launch each and large ones the
memory's bandwidth. On a CPU it stops at a million parameters.
"""

import re
from functools import partial

import jax
import numpy as np
import pandas as pd

from benchmarks.shared.timing import paired
from benchmarks.speed import steps
from benchmarks.speed.steps import ENTRANTS, ROWS, Size

NAMES = ("sgd", "adam", "muon", "dsa", "auto-light", "auto")
LAYERS = (3, 21, 80)
"""Of two leaves each."""

PARAMETERS = (1e4, 1e6, 1e7, 1e8)
MOST_ON_A_CPU = 1e6
NOISE = 0.05
"""What an update adds to its gradients isn't told from nothing below this share."""


def grid(
    parameters: tuple[float, ...] = PARAMETERS,
    layers: tuple[int, ...] = LAYERS,
    budget: float = 1.0,
) -> pd.DataFrame:
    """Steps of training on eight rows, whose gradient is cheap.

    Returns:
      A row an optimizer and size: "optimizer", "parameters", "leaves", "milliseconds",
      "bytes" (a parameter that the update must move), "gigabytes_per_second" (those,
      by the time that the step takes beyond its gradients'; NaN where that is noise),
      "kernels" (that a step launches).
    """
    on_cpu = jax.default_backend() == "cpu"
    rows = []
    for number in parameters:
        if on_cpu and number > MOST_ON_A_CPU:
            continue
        for depth in layers:
            size = Size(number, depth, ROWS)
            floors = {n: steps.gradients(n, size) for n in (1, 2)}
            for name in NAMES:
                entrant = ENTRANTS[name]
                step = steps.train_step(entrant, size)
                calls = max(1, int(3e5 / number))
                timed = partial(paired, step, calls=calls, budget=budget)
                taken = timed(floors[entrant.gradients])
                moved = steps.moved(entrant, steps.shapes(size))
                added = taken.milliseconds - taken.beside
                if added < NOISE * taken.milliseconds:
                    added = np.nan
                rows.append(
                    steps.unit(name, size)
                    | {
                        "milliseconds": taken.milliseconds,
                        "bytes": moved / steps.parameters_of(size),
                        "gigabytes_per_second": moved / added / 1e6,
                        "kernels": kernels(step.compiled.as_text() or ""),
                    }
                )
                del step
            jax.clear_caches()
    return pd.DataFrame(rows)


NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"} | {
    "while",
    "conditional",
    "call",
    "after-all",
}


def kernels(program: str) -> int:
    """How many a compiled program launches; those in the body of a loop count once."""
    inside = set(re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", program))
    called = set(re.findall(r" call\(.*?to_apply=%?([\w.-]+)", program))
    number, counted = 0, False
    for line in program.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            counted = header[1] not in inside - called
        elif counted and (
            found := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", line)
        ):
            number += found[1] not in NO_KERNEL
    return number
