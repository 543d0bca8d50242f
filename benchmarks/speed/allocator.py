"""What the C library's allocator costs a step on the CPU, and how to save it.

XLA asks for its scratch memory anew at every step. The allocator hands large blocks
back to the system, and the system clears each page that is touched again.
"""

import resource
from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmarks.shared.timing import Step, in_a_process, print_rows, seconds
from benchmarks.speed import steps
from benchmarks.speed.steps import ELEMENTWISE, ENTRANTS, FEW, ROWS, Size

KEEP = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}
"""Environment variables by which glibc keeps what it was given back."""

SIZE = Size(2e7, FEW, ROWS)
STEPS = 7


def allocator() -> pd.DataFrame:
    """Steps of training of 20 million parameters, with and without `KEEP`.

    Returns:
      A row an optimizer: "optimizer" ("gradient" and "two gradients" are those alone),
      "nanoseconds" and "nanoseconds_kept" (a parameter and step, the fastest),
      "cleared" and "cleared_kept" (bytes a parameter that the system cleared).
    """
    module = "benchmarks.speed.allocator"
    plain, kept = (
        in_a_process(module, variables).set_index("optimizer")
        for variables in ({}, KEEP)
    )
    return plain.join(kept, rsuffix="_kept").reset_index()


def _rows() -> Iterator[dict[str, Any]]:
    for number, name in ((1, "gradient"), (2, "two gradients")):
        yield {"optimizer": name, **_measured(steps.gradients(number, SIZE))}
    for name in ELEMENTWISE:
        yield {
            "optimizer": name,
            **_measured(steps.train_step(ENTRANTS[name], SIZE)),
        }


def _measured(step: Step) -> dict[str, float]:
    for _ in range(2):
        seconds(step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fastest = min(seconds(step) for _ in range(STEPS))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    number = steps.parameters_of(SIZE)
    cleared = faults * resource.getpagesize() / STEPS
    return {"nanoseconds": 1e9 * fastest / number, "cleared": cleared / number}


if __name__ == "__main__":
    print_rows(_rows())
