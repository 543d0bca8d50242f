"""Optimistix's quasi-Newton solvers: a step is an evaluation of the loss."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from benchmarks.cutest.watch import Compiled, Trace, Watch
from benchmarks.shared.optimizers.host import Spent
from benchmarks.shared.optimizers.optimistix_steps import compiled_steps, descend


def traces(name: str, compiled: Compiled, budget: int) -> Iterator[Trace]:
    """Of a solver of that name at its defaults, as far as the budget goes."""
    watch = Watch(compiled.evaluate, budget)
    with suppress(Spent):
        descend(_steps(name), watch, compiled.problem.start)
    # What is accepted is lower.
    yield watch.trace(0.0, end_loss=watch.lowest()[0])


@cache
def _steps(name: str) -> Any:
    import optimistix

    return compiled_steps(getattr(optimistix, name)(rtol=0.0, atol=0.0))
