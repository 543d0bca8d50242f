"""The way through an update in Python, and what one costs outside `jit`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pandas as pd

import dsa_optax
from benchmarks.speed.leaves import shallow
from benchmarks.speed.steps import ENTRANTS

NAMES = ("adam", "muon", "dsa", "adapt-parameter", "auto-light", "auto")
LIBRARY = str(Path(dsa_optax.__file__).parent)


def inside(names: tuple[str, ...] = NAMES, calls: int = 20) -> pd.DataFrame:
    """An update on six leaves: its Python calls, its state, and its time outside `jit`.

    Returns:
      A row an optimizer: "optimizer", "calls" (of functions of this library, while an
      update is traced), "moves" (those of a function in another module), "depth" (of
      their nesting), "state" (leaves of the state), "first_seconds" and "milliseconds"
      (the first update that isn't jitted, and another).
    """
    net = shallow()
    grads = jax.grad(net.loss)(net.params, *net.data)
    rows = []
    for name in names:
        jax.clear_caches()
        tx = ENTRANTS[name].make()
        state = jax.block_until_ready(tx.init(net.params))
        extra = {"grad_fn": lambda _: grads} if name == "dsa" else {}

        def update(tx: Any = tx, state: Any = state, extra: Any = extra) -> Any:
            return tx.update(grads, state, net.params, **extra)

        begun = time.perf_counter()
        jax.block_until_ready(update())
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(update())
        later = (time.perf_counter() - begun) / calls
        jax.clear_caches()
        way = way_through(jax.make_jaxpr(update))
        rows.append(
            {"optimizer": name}
            | way
            | {
                "state": len(jax.tree.leaves(state)),
                "first_seconds": first,
                "milliseconds": 1e3 * later,
            }
        )
    return pd.DataFrame(rows)


def way_through(call: Callable[[], Any], library: str = LIBRARY) -> dict[str, int]:
    """How many of a library's functions a call calls, from module to module.

    Returns:
      "calls", "moves" (calls from a function of one of its modules to one of another)
      and "depth" (the most that are nested).
    """
    counts = {"calls": 0, "moves": 0, "depth": 0}
    nested: list[str] = []

    def notice(frame: Any, event: str, _: Any) -> None:
        module = frame.f_code.co_filename
        if not module.startswith(library):
            return
        if event == "call":
            counts["calls"] += 1
            counts["moves"] += bool(nested and nested[-1] != module)
            nested.append(module)
            counts["depth"] = max(counts["depth"], len(nested))
        elif event == "return" and nested:
            nested.pop()

    sys.setprofile(notice)
    try:
        call()
    finally:
        sys.setprofile(None)
    return counts
