"""What many and large leaves cost: to compile a step and to take it, its operations."""

import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

import dsa_optax
from benchmarks.shared.timing import seconds
from benchmarks.speed.nets import NETS
from benchmarks.speed.steps import ENTRANTS

NAMES = (
    "sgd",
    "adam",
    "muon",
    "lbfgs",
    "dsa",
    "warmup-muon",
    "adapt-global",
    "adapt-parameter",
    "auto-light",
    "auto",
)

LEFT_OUT = {("lbfgs", net) for net in ("1,000 leaves", "100 of 256×256", "transformer")}
"""They take XLA many minutes."""

BEST_OF = 3
"""Turns to compile a step, of which the fastest counts, where one takes seconds."""


def leaves(
    nets: Sequence[str] = tuple(NETS), names: Sequence[str] = NAMES
) -> pd.DataFrame:
    """A train step's compilation and run, by the leaves of the net.

    Returns:
      A row an optimizer and net: "optimizer", "net", "leaves" (their number),
      "init_seconds" (to make the state), "compile_seconds" (to trace and compile the
      step), "milliseconds" (a step, the fastest of nine turns), "operations" (of the
      compiled step, those inside its fusions too), "temporary_bytes" (what a step needs
      beside what it is given and returns).
    """
    rows = []
    _measured(names[0], nets[0])  # warms what all of them use
    for net in nets:
        for name in names:
            if (name, net) not in LEFT_OUT:
                rows.append({"optimizer": name, "net": net} | _measured(name, net))
    return pd.DataFrame(rows)


def _measured(name: str, net: str) -> dict[str, float]:
    params, data, loss = NETS[net]()
    init_seconds, compile_seconds = [], []
    for _ in range(BEST_OF):
        jax.clear_caches()
        tx = ENTRANTS[name].make()
        begun = time.perf_counter()
        state = jax.block_until_ready(tx.init(params))
        made = time.perf_counter()
        step = dsa_optax.make_train_step(loss, tx)
        compiled = step.lower(params, state, *data).compile()  # type: ignore[attr-defined]
        init_seconds.append(made - begun)
        compile_seconds.append(time.perf_counter() - made)
        if compile_seconds[-1] > 5:
            break

    # A state may share an array with the params, and none is donated twice.
    carry = jax.tree.map(jnp.copy, (params, state))
    number = len(jax.tree.leaves(params))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    turns, calls = [], max(1, min(2000 // number, int(1e7 / size)))
    for _ in range(9):

        def several() -> Any:
            nonlocal carry
            for _ in range(calls):
                *carry, _ = compiled(*carry, *data)
            return carry

        turns.append(seconds(several) / calls)
    return {
        "leaves": number,
        "init_seconds": min(init_seconds),
        "compile_seconds": min(compile_seconds),
        "milliseconds": 1e3 * min(turns),
        "operations": operations(compiled.as_text()),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def operations(program: str) -> int:
    """How many a compiled program has."""
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", program, re.MULTILINE))
