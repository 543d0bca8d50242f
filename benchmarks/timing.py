"""Times two things side by side, so that what else the machine does falls on both."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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

    once = seconds(lambda: several(call)) + seconds(lambda: several(beside))
    once = seconds(lambda: several(call)) + seconds(lambda: several(beside))
    turns = max(LEAST_TURNS, min(MOST_TURNS, int(budget / once)))
    times = [
        (seconds(lambda: several(call)), seconds(lambda: several(beside)))
        for _ in range(turns)
    ]
    first, second = zip(*times, strict=True)
    return Paired(
        1e3 * statistics.median(first) / calls,
        1e3 * statistics.median(second) / calls,
        statistics.median(a / b for a, b in times),
    )
