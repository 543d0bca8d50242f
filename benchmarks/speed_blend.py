"""Where a step of `auto_dsa` spends its time, and what is lost with cheaper parts."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd

import dsa_optax
from benchmarks import race_runs, race_scores
from benchmarks.race_contenders import RIVALS, Contender
from benchmarks.race_problems import DEVELOPMENT
from benchmarks.speed_steps import ENTRANTS, by_sign
from dsa_optax._quasi_newton import lbfgs_direction

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


def _auto(memory_size: int = 30, **muon: Any) -> optax.GradientTransformation:
    """`auto_dsa` with other settings of Muon."""
    direction = lbfgs_direction(memory_size)
    return dsa_optax.blend(
        dsa_optax.adapt(by_sign(), "parameter"),
        dsa_optax.adapt(optax.contrib.muon(1.0, **muon)),
        dsa_optax.adapt(direction, "global", init_log2_lr=-2.0, max_log2_lr=0.0),
    )


VARIANTS: Mapping[str, Make] = {
    "`auto_dsa()`": dsa_optax.auto_dsa,
    "memory 10": partial(dsa_optax.auto_dsa, 10),
    "3 of Muon's 5 iterations": partial(_auto, ns_steps=3),
    "Muon's momentum in bfloat16": partial(_auto, mu_dtype=jnp.bfloat16),
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
            taken = race_runs.milliseconds(made, _entrant(label, make)).update
            unit = {"optimizer": label, "problem": problem}
            rows.append(unit | {"microseconds": 1e3 * taken})
        jax.clear_caches()
    frame = pd.DataFrame(rows)
    sgd = frame[frame["optimizer"] == "SGD"].set_index("problem")["microseconds"]
    return frame.assign(to_sgd=frame["microseconds"] / frame["problem"].map(sgd))


def variants(cache: Path) -> pd.DataFrame:
    """The race's development half with cheaper parts, and what a step of them costs.

    Args:
      cache: the race's, with the curves of all rivals on that half.

    Returns:
      A row a variant: "variant", "untuned" and "tuned" (areas in gradient evaluations),
      "microseconds" (a step on the first of `TIMED`).
    """
    entrants = {_key(label): _entrant(label, m) for label, m in VARIANTS.items()}
    field = {**RIVALS, **entrants}
    budget, seeds = race_runs.BUDGET, race_runs.SEEDS
    for _ in race_runs.run(cache, DEVELOPMENT, field, seeds=seeds, budget=budget):
        pass
    no_times = pd.DataFrame(
        [
            {"problem": problem, "optimizer": name, "evaluation": 1.0}
            for problem in DEVELOPMENT
            for name in field
        ]
    )
    records = race_scores.collect(cache, no_times, DEVELOPMENT, field)
    problem = DEVELOPMENT[TIMED[0]]()
    rows = []
    for name, entrant in entrants.items():
        areas = {}
        for division in race_scores.DIVISIONS:
            times = race_scores.times(records, division, "evaluations")
            standings = race_scores.standings(times, list(entrants))
            areas[division] = standings.loc[name, "area"]
        taken = race_runs.milliseconds(problem, entrant).update
        rows.append({"variant": entrant.label, **areas, "microseconds": 1e3 * taken})
    return pd.DataFrame(rows)


def _key(label: str) -> str:
    """A variant's name in the cache."""
    return "variant-" + "".join(c if c.isalnum() else "-" for c in label)
