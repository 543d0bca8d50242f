"""How time and memory grow: with params, samples, devices, leaves, and runs at once."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.problems.halves import DEVELOPMENT
from benchmarks.shared.timing import in_a_process, paired, print_rows, seconds
from benchmarks.speed import steps
from benchmarks.speed.steps import ENTRANTS, FEW, Size

GROWING = ("sgd", "adam", "dsa", "adapt-parameter")
"""Whose growth is measured."""


def parameters(
    numbers: tuple[float, ...] = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8), budget: float = 1.0
) -> pd.DataFrame:
    """Time and memory of a step of training on eight rows.

    Returns:
      A row an optimizer and size: "optimizer", "parameters", "milliseconds",
      "peak_bytes" (all of them).
    """
    rows = []
    for number in numbers:
        size = Size(number, FEW, steps.ROWS)
        for name in GROWING:
            step = steps.train_step(ENTRANTS[name], size)
            calls = max(1, int(1e5 / number))
            taken = paired(step, step, calls=calls, budget=budget)
            rows.append(
                {
                    "optimizer": name,
                    "parameters": steps.parameters_of(size),
                    "milliseconds": taken.milliseconds,
                    "peak_bytes": steps.peak(step),
                }
            )
            del step
        jax.clear_caches()
    return pd.DataFrame(rows)


def samples(
    numbers: tuple[int, ...] = (64, 256, 1024, 4096, 16384, 65536), budget: float = 0.5
) -> pd.DataFrame:
    """Time of a step of training, and what it costs over a step of SGD.

    Returns:
      A row an optimizer and number: "optimizer", "samples", "milliseconds", "to_sgd",
      "peak_bytes".
    """
    rows = []
    for number in numbers:
        size = Size(1e4, FEW, number)
        sgd = steps.train_step(ENTRANTS["sgd"], size)
        for name in (*GROWING, "auto-light", "auto"):
            step = steps.train_step(ENTRANTS[name], size)
            taken = paired(step, sgd, budget=budget)
            rows.append(
                {
                    "optimizer": name,
                    "samples": number,
                    "milliseconds": taken.milliseconds,
                    "to_sgd": taken.ratio,
                    "peak_bytes": steps.peak(step),
                }
            )
        jax.clear_caches()
    return pd.DataFrame(rows)


def at_once(
    numbers: tuple[int, ...] = (1, 4, 16, 64, 256), updates: int = 50
) -> pd.DataFrame:
    """Many seeds in one `vmap`, against one after the other, on a net of the race.

    Returns:
      A row an optimizer and number: "optimizer", "seeds", "milliseconds" (of all seeds
      at once) and "speed_up" (how many times longer one after the other would take).
    """
    problem = DEVELOPMENT["diabetes-net"]()
    rows = []
    for name in ("sgd", "dsa", "auto-light", "auto"):
        tx = optax.with_extra_args_support(ENTRANTS[name].make())

        def train(key: jax.Array, tx: Any = tx) -> Any:
            def update(carry: Any, _: None) -> Any:
                params, state = carry
                grads = jax.grad(problem.loss)(params)
                updates, state = tx.update(grads, state, params, value_fn=problem.loss)
                return (optax.apply_updates(params, updates), state), None

            params = problem.init(key)
            return jax.lax.scan(update, (params, tx.init(params)), length=updates)[0][0]

        one = _compiled(train, jax.random.key(0))
        for number in numbers:
            keys = jax.random.split(jax.random.key(0), number)
            many = _compiled(jax.vmap(train), keys)
            taken = paired(many, one, budget=2.0)
            rows.append(
                {
                    "optimizer": name,
                    "seeds": number,
                    "milliseconds": taken.milliseconds,
                    "speed_up": number / taken.ratio,
                }
            )
        jax.clear_caches()
    return pd.DataFrame(rows)


def _compiled(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    compiled = jax.jit(function).lower(*args).compile()
    return lambda: compiled(*args)


# Devices ------------------------------------------------------------------------------


def devices(numbers: tuple[int, ...] = (1, 2, 4, 8)) -> pd.DataFrame:
    """A step of training on simulated devices, the rows spread over them.

    They share the cores of this machine, so that the time tells what the division of
    the work costs, not what it gains. What a pod would send is in the program.

    Returns:
      A row an optimizer and number: "optimizer", "devices", "milliseconds",
      "all_reduces" (how many), "bytes_reduced" (a parameter), "gathers".
    """
    option = "--xla_force_host_platform_device_count"
    frames = [
        in_a_process("benchmarks.speed.growth", {"XLA_FLAGS": f"{option}={number}"})
        for number in numbers
    ]
    return pd.concat(frames, ignore_index=True)


def _on_all_devices() -> Iterator[dict[str, Any]]:
    """The rows of `devices` for as many as this process has."""
    size = Size(1e5, FEW, 4096)
    count = len(jax.devices())
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("data",), axis_types=kinds)
    everywhere = jax.NamedSharding(mesh, jax.P())
    rows = jax.NamedSharding(mesh, jax.P("data"))
    for name in (*GROWING, "auto-light", "auto"):
        params, x, y = steps.net(size)
        params = jax.device_put(params, everywhere)
        x, y = jax.device_put((x, y), rows)
        tx = ENTRANTS[name].make()
        state = jax.jit(tx.init)(params)
        step = dsa_optax.make_train_step(steps.loss, tx, donate=False)
        compiled = step.lower(params, state, x, y).compile()  # type: ignore[attr-defined]
        state = jax.device_put(state, compiled.input_shardings[0][1])
        run = lambda c=compiled, a=(params, state, x, y): c(*a)
        seconds(run)
        taken = float(np.median([seconds(run) for _ in range(5)]))
        number, reduced = _reduced(compiled.as_text())
        yield {
            "optimizer": name,
            "devices": count,
            "milliseconds": 1e3 * taken,
            "all_reduces": number,
            "bytes_reduced": reduced / steps.count(params),
            "gathers": len(re.findall(r" all-gather(?:-start)?\(", compiled.as_text())),
        }


def _reduced(program: str) -> tuple[int, int]:
    """How many all-reduces a compiled program has, and of how many bytes in all."""
    results = re.findall(r"= (.*) all-reduce(?:-start)?\(", program)
    shapes = re.findall(r"f32\[([\d,]*)\]", " ".join(results))
    sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]
    return len(results), int(4 * sum(sizes))


# Exponents ----------------------------------------------------------------------------


def exponents(frame: pd.DataFrame, by: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """The slope of each column on doubly logarithmic axes, over the larger half."""

    def slope(rows: pd.DataFrame, column: str) -> float:
        rows = rows.sort_values(by).tail((len(rows) + 1) // 2)
        return float(np.polyfit(np.log(rows[by]), np.log(rows[column]), 1)[0])

    return pd.DataFrame(
        {
            name: {column: slope(rows, column) for column in columns}
            for name, rows in frame.groupby("optimizer", sort=False)
        }
    ).T


if __name__ == "__main__":
    print_rows(_on_all_devices())
