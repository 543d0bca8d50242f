"""Who minimises the nets: each a loop on the host, an evaluation after the other."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.physics.watch import Watch
from benchmarks.shared.optimizers import scipy_minimizers
from benchmarks.shared.optimizers.host import Spent, restarting
from benchmarks.shared.optimizers.optimistix_steps import compiled_steps, descend
from dsa_optax import auto_dsa, make_train_step

HALVED_EVERY = 1000


class Task(NamedTuple):
    """A loss of one vector.

    Attributes:
      loss: of the vector.
      unravel: from the vector to the net's weights.
      start: the vector to begin with.
    """

    loss: Callable[[jax.Array], jax.Array]
    unravel: Callable[[jax.Array], Any]
    start: jax.Array


class Solver(NamedTuple):
    """Who takes part.

    Attributes:
      label: for tables and figures.
      prepare: compiles it for a task, and gives what runs it under a watch.
      ours: whether it is this package's own.
      wide: whether it takes part on the wide nets.
    """

    label: str
    prepare: Callable[[Task], Callable[[Watch], None]]
    ours: bool = False
    wide: bool = False


def _optax(
    make: Callable[[], optax.GradientTransformation], task: Task
) -> Callable[[Watch], None]:
    """An optimizer that is handed a gradient, and the weights as a tree."""
    tx = optax.with_extra_args_support(make())

    @partial(jax.jit, donate_argnums=1)
    def update(point: Any, state: Any, value: Any, grad: Any) -> Any:
        params, grads = task.unravel(point), task.unravel(grad)
        updates, state = tx.update(grads, state, params, value=value)
        return point + jax.flatten_util.ravel_pytree(updates)[0], state

    init = jax.jit(lambda point: tx.init(task.unravel(point)))
    zero = jnp.zeros([], task.start.dtype)
    jax.block_until_ready(update(task.start, init(task.start), zero, task.start))

    def run(watch: Watch) -> None:
        point, state = task.start, init(task.start)
        while True:
            point, state = update(point, state, *watch(point))

    return run


def _line_search(
    make: Callable[[], optax.GradientTransformationExtraArgs], task: Task
) -> Callable[[Watch], None]:
    """An optimizer of Optax's that evaluates the loss in a line search."""
    tx = make()
    step = make_train_step(task.loss, tx, donate=False)
    # Its first state has other types than those after it.
    _, state, _ = step(task.start, tx.init(task.start))
    jax.block_until_ready(step(task.start, state))

    def run(watch: Watch) -> None:
        point, state = task.start, tx.init(task.start)
        spent = 1
        while True:
            before = point
            point, state, value = step(point, state)
            watch.saw(spent, value, before)
            # One that finds nothing may spend nothing.
            spent = max(int(optax.tree.get(state, "num_linesearch_steps")), 1)

    return run


def _scipy(minimize: Callable[..., None], task: Task) -> Callable[[Watch], None]:
    """A loop of SciPy's kind, which is begun again where its line search fails."""

    def run(watch: Watch) -> None:
        def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
            value, grad = watch(point)
            return float(value), np.array(grad)

        restarting(
            lambda start: minimize(objective, start, 0.9),
            np.array(task.start),
            watch.lowest,
        )

    return run


def _optimistix(make: Callable[[], Any], task: Task) -> Callable[[Watch], None]:
    steps = compiled_steps(make())
    init, step = steps
    zero = jnp.zeros([], task.start.dtype)
    _, state = step(task.start, init(task.start), zero, task.start)
    jax.block_until_ready(step(task.start, state, zero, task.start))

    def run(watch: Watch) -> None:
        descend(steps, watch, task.start)

    return run


def _ssbroyden() -> Any:
    import ssbroyden_optimistix

    return ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0)


def _adam() -> optax.GradientTransformation:
    return optax.adam(optax.exponential_decay(5e-3, HALVED_EVERY, 0.5, staircase=True))


SOLVERS: Mapping[str, Solver] = {
    "auto-dsa": Solver("auto_dsa", partial(_optax, auto_dsa), ours=True, wide=True),
    "ssbroyden": Solver(
        "SSBroyden, Wolfe", partial(_scipy, scipy_minimizers.ssbroyden)
    ),
    "ssbfgs": Solver("SSBFGS, Wolfe", partial(_scipy, scipy_minimizers.ssbfgs)),
    "ssbroyden-optimistix": Solver(
        "ssbroyden-optimistix", partial(_optimistix, _ssbroyden)
    ),
    "scipy-bfgs": Solver("BFGS, SciPy", partial(_scipy, scipy_minimizers.bfgs)),
    "lbfgs": Solver(
        "L-BFGS, Optax, 30 pairs",
        partial(_line_search, partial(optax.lbfgs, memory_size=30)),
        wide=True,
    ),
    "adam": Solver("Adam, 5e-3 halved", partial(_optax, _adam), wide=True),
}
"""The package's own first."""


@contextmanager
def until_spent(watch: Watch) -> Iterator[None]:
    """Ends a run where nothing is left, or where it ends by itself."""
    with suppress(Spent):
        yield
    watch.end()
