"""The paper's case studies: the sum of four numbers, and tracks in a valley (Sec. 3.3).

The paper gives one valley for its tracks: a = 1, b = 1000 from (-0.06, 0.001). Plain
gradient descent at its learning rate of 0.01 (Sec. 3.1) can't calm down there, as the
paper says that it does: it diverges for any rate above 1/b. So it also runs at a rate
just below that, and in the gentler valley of the sensitivity analysis, whose rate limit
is just above 0.01.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from benchmarks.shared.optimizers.defaults import OPTIMIZERS, Optimizer
from benchmarks.shared.records import Records
from benchmarks.shared.runner import Problem, train

EXPERIMENT = "case-studies"
EPOCHS = 200

SUM_OF_FOUR_ROWS = 100


def sum_of_four() -> Problem:
    """Mean of (w·x - y)², y the sum of the four numbers x: the best w is all ones.

    The paper gives no data: ours are 100 rows of U(0, 1), drawn once. No bias, and
    PyTorch's initialisation of a linear layer, U(±1/√4).

    References:
      Sec. 3.3, Fig. 5.
    """
    rows = np.random.default_rng(0).uniform(size=(SUM_OF_FOUR_ROWS, 4))
    x = jnp.asarray(rows, jnp.float32)
    y = jnp.sum(x, axis=1)

    def init(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (4,), jnp.float32, minval=-0.5, maxval=0.5)

    return Problem(init, lambda w: jnp.mean((x @ w - y) ** 2), lambda w: w)


class Valley(NamedTuple):
    """A valley a·w₁² + b·w₂², b times steeper across than along, and where to start.

    References:
      Sec. 3.3, Figs. 6, 9 and 10.
    """

    b: float
    start: tuple[float, float]
    a: float = 1.0

    def loss(self, w: jax.Array) -> jax.Array:
        return self.a * w[0] ** 2 + self.b * w[1] ** 2

    def init(self) -> jax.Array:
        return jnp.array(self.start, jnp.float32)

    def problem(self) -> Problem:
        return Problem(lambda key: self.init(), self.loss, lambda w: w)


STEEP_VALLEY = Valley(b=1000, start=(-0.06, 0.001))  # Figs. 6 and 9
GENTLE_VALLEY = Valley(b=95, start=(-1, 1))  # Fig. 10

# SGD calms down below 1/b: each step multiplies w₂ by 1 - 2·1000·0.00095 = -0.9, as a
# rate of 0.01 does in the gentle valley.
STABLE_LR = 0.00095
STABLE: Mapping[str, Optimizer] = {
    f"sgd lr={STABLE_LR}": Optimizer(
        f"SGD, lr {STABLE_LR}", partial(optax.sgd, STABLE_LR)
    ),
    f"momentum lr={STABLE_LR}": Optimizer(
        f"Momentum, lr {STABLE_LR}", partial(optax.sgd, STABLE_LR, momentum=0.9)
    ),
}

PLAIN = ("sgd", "momentum", "dsa")
"""The paper's first group, on the first line of Fig. 6."""


class Case(NamedTuple):
    """A problem, who takes part, and whether each run starts at the same point."""

    model: str
    problem: Callable[[], Problem]
    optimizers: Mapping[str, Optimizer]
    one_start: bool
    optimum: float


CASES: Mapping[str, Case] = {
    "sum-of-four": Case("linear", sum_of_four, OPTIMIZERS, False, 1.0),
    "valley": Case(
        "quadratic", STEEP_VALLEY.problem, {**OPTIMIZERS, **STABLE}, True, 0.0
    ),
    "valley-b95": Case(
        "quadratic",
        GENTLE_VALLEY.problem,
        {name: OPTIMIZERS[name] for name in PLAIN},
        True,
        0.0,
    ),
}
"""The cases by their names in the column `dataset`."""


def base_name(optimizer: str) -> str:
    """The name in `OPTIMIZERS`, of "sgd lr=0.00095" as of "sgd"."""
    return optimizer.split(" ")[0]


def label(optimizer: str) -> str:
    """An optimizer's name in legends."""
    return {**OPTIMIZERS, **STABLE}[optimizer].label


def units(optimizers: Sequence[str]) -> list[tuple[str, str]]:
    """The runs, as (case, optimizer), that a choice of `OPTIMIZERS` stands for."""
    return [
        (dataset, name)
        for dataset, case in CASES.items()
        for name in case.optimizers
        if base_name(name) in optimizers
    ]


def run(
    records: Records,
    optimizers: Sequence[str],
    *,
    seeds: int,
    epochs: int = EPOCHS,
) -> Iterator[str]:
    """Trains and records what the records lack; yields the name of each unit, done.

    Args:
      records: where results go, and what is there already.
      optimizers: names of `OPTIMIZERS`; the stable rates go with their optimizers.
      seeds: how many initialisations of the sum of four numbers. A valley has one.
      epochs: how many full-batch updates.
    """
    for dataset, name in units(optimizers):
        case = CASES[dataset]
        run = {
            "experiment": EXPERIMENT,
            "dataset": dataset,
            "model": case.model,
            "optimizer": name,
        }
        case_seeds = 1 if case.one_start else seeds
        if not records.has(run, case_seeds, range(epochs + 1)):
            optimizer = case.optimizers[name]
            records.put(run, _train(case.problem(), optimizer, case_seeds, epochs))
        yield f"{dataset} {name}"


def _train(
    problem: Problem, optimizer: Optimizer, seeds: int, epochs: int
) -> pd.DataFrame:
    history = train(problem, optimizer.make(), range(seeds), range(epochs + 1))
    epoch = np.tile(np.arange(epochs + 1), seeds)
    weights = history.observed.reshape(len(epoch), -1)
    return pd.DataFrame(
        {
            "seed": np.repeat(np.arange(seeds), epochs + 1),
            "epoch": epoch,
            "gradient_evaluations": epoch * optimizer.gradients_per_step,
            "train_loss": history.losses.ravel(),
            **{f"w{i + 1}": weight for i, weight in enumerate(weights.T)},
            "seconds": history.seconds * epoch / epochs,
        }
    )


def weight_columns(records: pd.DataFrame) -> list[str]:
    """w1, w2, … as far as the records have them: two in a valley, else four."""
    names = [name for name in ("w1", "w2", "w3", "w4") if name in records]
    return [name for name in names if records[name].notna().any()]


def epochs_to(losses: pd.Series, share: float) -> float:
    """The first epoch with a loss below a share of the first one; inf for never.

    Args:
      losses: of one run, indexed by epoch.
      share: for example 1e-8.
    """
    below = losses.index[losses < share * losses.iloc[0]]
    return float(below[0]) if len(below) else float("inf")


def detour(weights: np.ndarray) -> float:
    """Length of a track over the distance from its start to its end; 1 if straight."""
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.linalg.norm(np.diff(weights, axis=0), axis=1).sum()
        ratio = float(length / np.linalg.norm(weights[-1] - weights[0]))
    return ratio if np.isfinite(ratio) else float("inf")


def overshoot(weights: np.ndarray, optimum: float) -> float:
    """How far any weight went beyond the optimum, over its first distance from it."""
    with np.errstate(invalid="ignore", over="ignore"):
        beyond = (optimum - weights) / (weights[0] - optimum)
    beyond = np.where(np.isfinite(beyond), beyond, np.inf)
    return float(max(beyond.max(), 0.0))


def summary(records: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Speed and oscillation of each optimizer in one case, as medians over the seeds.

    Args:
      records: what `run` recorded.
      dataset: the name of the case.

    Returns:
      A row an optimizer, in the order of the case, its name the index: the epochs to
      1e-2 and 1e-8 of the first loss, the same in gradient evaluations, the last loss,
      `overshoot` and `detour`.
    """
    case = CASES[dataset]
    shown = records[records["dataset"] == dataset]
    columns = weight_columns(shown)
    rows = {}
    for name, optimizer in case.optimizers.items():
        seeds = [run for _, run in shown[shown["optimizer"] == name].groupby("seed")]
        if seeds:
            measured = pd.DataFrame(_measure(run, columns, case) for run in seeds)
            rows[name] = _with_gradients(measured.median(), optimizer)
    return pd.DataFrame(rows).T


def _measure(run: pd.DataFrame, columns: list[str], case: Case) -> dict[str, float]:
    run = run.sort_values("epoch")
    losses = run.set_index("epoch")["train_loss"]
    weights = run[columns].to_numpy()
    return {
        "epochs to 1e-2": epochs_to(losses, 1e-2),
        "epochs to 1e-8": epochs_to(losses, 1e-8),
        "last loss": float(losses.iloc[-1]),
        "overshoot": overshoot(weights, case.optimum),
        "detour": detour(weights),
    }


def _with_gradients(measured: pd.Series, optimizer: Optimizer) -> pd.Series:
    gradients = {
        f"gradients to {share}": measured[f"epochs to {share}"]
        * optimizer.gradients_per_step
        for share in ("1e-2", "1e-8")
    }
    return pd.concat([measured.iloc[:2], pd.Series(gradients), measured.iloc[2:]])
