"""What a gradient in parts costs, and how exact it is, beside one call for all rows."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks.shared.timing import seconds
from dsa_optax.full_batch import microbatched_value_and_grad, streamed_value_and_grad

Data = tuple[np.ndarray, np.ndarray]
Call = Callable[[], tuple[jax.Array, Any]]

INPUTS, HIDDEN = 256, 1024
SIZE, SHORT = 256, 200
"""The rows of a batch, and of the last one."""


def measure(
    batches: tuple[int, ...] = (1, 4, 16, 64, 256), repeats: int = 5
) -> pd.DataFrame:
    """Measures the gradient of a float32 net of one hidden layer, in three ways.

    The three take turns, so that what else the machine does falls on all of them, and
    a ratio is the median of the turns' own ratios. Compilation is not counted.

    Args:
      batches: numbers of batches to measure: all of 256 rows, but for the last, of 200.
      repeats: how many turns.

    Returns:
      A row for each number of batches and method ("one call", "microbatched" and
      "streamed"): "batches", "rows", "method", "temp_bytes" (what XLA sets aside
      besides arguments and results; for "streamed", on one batch), "milliseconds" (the
      median), "ratio" (of the time to that of one call) and "error", the largest
      difference from the gradient in float64 of all rows, relative to the largest
      element of its leaf.
    """
    return pd.DataFrame([row for number in batches for row in _rows(number, repeats)])


def _rows(number: int, repeats: int) -> Iterator[dict[str, object]]:
    rows = SIZE * (number - 1) + SHORT
    params, data = _params(), _data(rows)
    on_device = jax.device_put(data)
    host = [
        (data[0][start : start + SIZE], data[1][start : start + SIZE])
        for start in range(0, rows, SIZE)
    ]
    one_call = jax.jit(jax.value_and_grad(_loss))
    microbatched = jax.jit(microbatched_value_and_grad(_loss, SIZE))
    calls: Mapping[str, Call] = {
        "one call": partial(one_call, params, *on_device),
        "microbatched": partial(microbatched, params, *on_device),
        "streamed": partial(streamed_value_and_grad(_loss, host), params),
    }
    bytes_of = {
        "one call": _temp_bytes(one_call, params, data),
        "microbatched": _temp_bytes(microbatched, params, data),
        "streamed": _temp_bytes(one_call, params, host[0]),
    }
    exact = _exact(params, data)
    errors = {name: _error(call()[1], exact) for name, call in calls.items()}
    turns = [
        {name: seconds(call) for name, call in calls.items()} for _ in range(repeats)
    ]
    for name in calls:
        yield {
            "batches": number,
            "rows": rows,
            "method": name,
            "temp_bytes": bytes_of[name],
            "milliseconds": 1000 * statistics.median(turn[name] for turn in turns),
            "ratio": statistics.median(turn[name] / turn["one call"] for turn in turns),
            "error": errors[name],
        }


def _params() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    hidden = random.normal(size=(INPUTS, HIDDEN)) / np.sqrt(INPUTS)
    out = random.normal(size=HIDDEN) / np.sqrt(HIDDEN)
    return {"hidden": hidden.astype(np.float32), "out": out.astype(np.float32)}


def _data(rows: int) -> Data:
    random = np.random.default_rng(1)
    x = random.normal(size=(rows, INPUTS)).astype(np.float32)
    return x, random.normal(size=rows).astype(np.float32)


def _loss(params: Mapping[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


def _temp_bytes(function: Any, params: Any, data: Data) -> int:
    compiled = function.lower(params, *data).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _exact(params: Any, data: Data) -> Any:
    """The gradient of the same numbers in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), (params, *data))
        return jax.tree.map(np.asarray, jax.grad(_loss)(*wide))


def _error(grads: Any, exact: Any) -> float:
    def error(grad: jax.Array, exact: np.ndarray) -> float:
        return float(np.abs(np.asarray(grad) - exact).max() / np.abs(exact).max())

    return max(jax.tree.leaves(jax.tree.map(error, grads, exact)))
