"""Times two things side by side, so that what else the machine does falls on both."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd

MOST_TURNS = 30
LEAST_TURNS = 3


class Paired(NamedTuple):
    """What two calls took.

    Attributes:
      milliseconds: the median of the first.
      beside: the median of the second.
      ratio: the median of the turns' own ratios, first to second.
    """

    milliseconds: float
    beside: float
    ratio: float


class Step:
    """A compiled step that is given its own results again, its buffers donated."""

    def __init__(self, step: Callable[..., Any], carry: Any, *data: Any) -> None:
        """Compiles `carry = step(carry, *data)`."""
        jitted = jax.jit(step, donate_argnums=0, keep_unused=True)
        self.compiled = jitted.lower(carry, *data).compile()
        # A state may share an array with the params, and none is donated twice.
        self._carry, self._data = jax.tree.map(jnp.copy, carry), data

    def __call__(self) -> Any:
        """One step further."""
        self._carry = self.compiled(self._carry, *self._data)
        return self._carry

    @property
    def memory(self) -> Any:
        """XLA's account of the compiled step."""
        return self.compiled.memory_analysis()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of a call, to the end of its computation."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def paired(
    call: Callable[[], Any],
    beside: Callable[[], Any],
    *,
    calls: int = 1,
    budget: float = 1.0,
) -> Paired:
    """Times two calls in turns, after two of each that aren't counted.

    Args:
      call: what is measured.
      beside: what it is measured against.
      calls: how often a turn calls each, for what takes microseconds.
      budget: seconds that all turns may take.
    """

    def several(function: Callable[[], Any]) -> Any:
        for _ in range(calls):
            result = function()
        return result

    def turn() -> tuple[float, float]:
        return seconds(lambda: several(call)), seconds(lambda: several(beside))

    turn()
    turns = max(LEAST_TURNS, min(MOST_TURNS, int(budget / sum(turn()))))
    times = [turn() for _ in range(turns)]
    first, second = zip(*times, strict=True)
    return Paired(
        1e3 * statistics.median(first) / calls,
        1e3 * statistics.median(second) / calls,
        statistics.median(a / b for a, b in times),
    )


def in_a_process(module: str, variables: Mapping[str, str]) -> pd.DataFrame:
    """The table that a module prints (by `print_rows`), run on the CPU by itself.

    Args:
      module: its name, for `python -m`.
      variables: of its environment, which have to be there before it starts.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, **variables, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return pd.read_json(StringIO(done.stdout), orient="records", lines=True)


def print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints a table for `in_a_process`."""
    print(pd.DataFrame(list(rows)).to_json(orient="records", lines=True))
