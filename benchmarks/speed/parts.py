"""Where a step of `auto_dsa` spends its time."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import jax
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.optimizers.contenders import Contender
from benchmarks.shared.problems.halves import DEVELOPMENT
from benchmarks.shared.wall_time import milliseconds
from benchmarks.speed.steps import ENTRANTS

Make = Callable[[], optax.GradientTransformation]

TIMED = ("diabetes-net", "digits-shallow")
"""Of 1,441 and 2,410 parameters."""

PARTS: Mapping[str, Make] = {
    "SGD": ENTRANTS["sgd"].make,
    "Adam": ENTRANTS["adam"].make,
    "Muon": ENTRANTS["muon"].make,
    "the sign, a rate a parameter": ENTRANTS["adapt-parameter"].make,
    "Muon, a rate a tensor": ENTRANTS["adapt-muon"].make,
    "both: the light form": partial(dsa_optax.auto_dsa, 0),
    "and L-BFGS, memory 5": partial(dsa_optax.auto_dsa, 5),
    "and L-BFGS, memory 10": partial(dsa_optax.auto_dsa, 10),
    "and L-BFGS, memory 30: `auto_dsa()`": dsa_optax.auto_dsa,
}


def _entrant(label: str, make: Make) -> Contender:
    return Contender(label, lambda _: make(), ours=True)


def parts(problems: Iterable[str] = TIMED) -> pd.DataFrame:
    """A whole step of training with each part of the blend.

    Returns:
      A row a part and problem of the race: "optimizer", "problem", "microseconds" and
      "to_sgd".
    """
    rows = []
    for problem in problems:
        made = DEVELOPMENT[problem]()
        for label, make in PARTS.items():
            taken = milliseconds(made, _entrant(label, make)).update
            unit = {"optimizer": label, "problem": problem}
            rows.append(unit | {"microseconds": 1e3 * taken})
        jax.clear_caches()
    frame = pd.DataFrame(rows)
    sgd = frame[frame["optimizer"] == "SGD"].set_index("problem")["microseconds"]
    return frame.assign(to_sgd=frame["microseconds"] / frame["problem"].map(sgd))
