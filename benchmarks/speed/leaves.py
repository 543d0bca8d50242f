"""What many leaves cost: to compile a step and to take it, and its operations."""

import itertools
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.timing import seconds
from benchmarks.speed import steps
from benchmarks.speed.steps import ENTRANTS

NAMES = ("sgd", "adam", "muon", "lbfgs", "dsa", "adapt-parameter", "auto-light", "auto")


MOST_LEAVES = {"lbfgs": 160}
"""Beyond, it takes XLA many minutes."""


class Net(NamedTuple):
    """Params, what the loss takes beside them, and the loss."""

    params: Any
    data: tuple[jax.Array, ...]
    loss: Any


def shallow() -> Net:
    """Six leaves, no two of one shape: layers of 32 and 24 units on 600 rows."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    widths = (10, 32, 24, 1)
    params = [
        {"w": normal(rows, columns) / rows**0.5, "b": jnp.zeros(columns)}
        for rows, columns in itertools.pairwise(widths)
    ]

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return jnp.mean((x @ params[-1]["w"] + params[-1]["b"] - y) ** 2)

    return Net(params, (normal(600, 10), normal(600, 1)), loss)


def deep(layers: int) -> Net:
    """A net with skip connections, 31 units wide, on 200 rows."""
    size = steps.Size(31**2 * layers, layers, 200)
    params, x, y = steps.net(size)
    return Net(params, (x, y), steps.loss)


def apart(leaves: int) -> Net:
    """Four parameters in each leaf, and a loss that compiles in seconds."""
    params = [jnp.full(4, 1 + i % 7, jnp.float32) for i in range(leaves)]
    return Net(params, (), lambda params: optax.tree.norm(params, squared=True))


NETS: dict[int, Callable[[], Net]] = {
    6: shallow,
    42: lambda: deep(21),
    160: lambda: deep(80),
    1000: lambda: apart(1000),
}
"""By their number of leaves."""


def leaves(
    numbers: tuple[int, ...] = tuple(NETS), names: tuple[str, ...] = NAMES
) -> pd.DataFrame:
    """A train step's compilation and run, by the number of leaves.

    Returns:
      A row an optimizer and number: "optimizer", "leaves", "init_seconds" (to make the
      state), "compile_seconds" (to trace and compile the step), "milliseconds" (a
      step, the fastest of nine turns), "operations" (of the compiled step, those inside
      its fusions too).
    """
    rows = []
    _measured(names[0], numbers[0])  # warms what all of them use
    for number in numbers:
        for name in names:
            if number > MOST_LEAVES.get(name, number):
                continue
            jax.clear_caches()
            rows.append({"optimizer": name, "leaves": number} | _measured(name, number))
    return pd.DataFrame(rows)


def _measured(name: str, number: int) -> dict[str, float]:
    params, data, loss = NETS[number]()
    tx = ENTRANTS[name].make()
    begun = time.perf_counter()
    state = jax.block_until_ready(tx.init(params))
    made = time.perf_counter()
    step = dsa_optax.make_train_step(loss, tx)
    compiled = step.lower(params, state, *data).compile()  # type: ignore[attr-defined]
    done = time.perf_counter()

    # A state may share an array with the params, and none is donated twice.
    carry = jax.tree.map(jnp.copy, (params, state))
    turns, calls = [], max(5, 2000 // number)
    for _ in range(9):

        def several() -> Any:
            nonlocal carry
            for _ in range(calls):
                *carry, _ = compiled(*carry, *data)
            return carry

        turns.append(seconds(several) / calls)
    return {
        "init_seconds": made - begun,
        "compile_seconds": done - made,
        "milliseconds": 1e3 * min(turns),
        "operations": operations(compiled.as_text()),
    }


def operations(program: str) -> int:
    """How many a compiled program has."""
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", program, re.MULTILINE))
