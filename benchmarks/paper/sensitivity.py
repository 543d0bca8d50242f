"""How DSA depends on its own hyper-parameters (Fig. 10, Appendix H)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import dsa_optax
from benchmarks.paper.case_studies import GENTLE_VALLEY, epochs_to
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.records import code, write

EXPERIMENT = "sensitivity"
EPOCHS = 200
UNITS = 1

DEFAULTS: Mapping[str, float] = {
    "init_log2_lr": -12.0,
    "decrease": 0.6,
    "increase": 0.3,
}
"""η₀, β₁ and β₂ of Sec. 3.1, which Fig. 10 varies one at a time."""

SWEEPS: Mapping[str, tuple[float, ...]] = {
    "init_log2_lr": (-24, -20, -16, -12, -8, -4, 0),
    "decrease": (0.075, 0.15, 0.3, 0.6, 1.2, 2.4, 4.8),
    "increase": (0.0375, 0.075, 0.15, 0.3, 0.6, 1.2, 2.4),
}
"""Halved and doubled three times from the paper's (η₀: by 4), which names no others."""


def settings() -> pd.DataFrame:
    """A row a setting: which hyper-parameter varies, and the value of all three."""
    return pd.DataFrame(
        {"varied": varied, **DEFAULTS, varied: value}
        for varied, values in SWEEPS.items()
        for value in values
    )


def trajectories(
    hyper_parameters: np.ndarray, epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """DSA in the gentle valley at all settings together, in one compiled call.

    Args:
      hyper_parameters: rows of (η₀, β₁, β₂).
      epochs: how many updates.

    Returns:
      Losses (settings, epochs + 1) and weights (settings, epochs + 1, 2), from the
      start on.
    """

    def track(setting: jax.Array) -> tuple[jax.Array, jax.Array]:
        tx = dsa_optax.dsa(*setting)
        step = dsa_optax.make_train_step(GENTLE_VALLEY.loss, tx, donate=False)

        def epoch(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
            before, state = carry
            after, state, loss = step(before, state)
            return (after, state), (loss, before)

        start = GENTLE_VALLEY.init()
        return jax.lax.scan(epoch, (start, tx.init(start)), length=epochs + 1)[1]

    rows = jnp.asarray(hyper_parameters, jnp.float32)
    losses, weights = jax.jit(jax.vmap(track))(rows)
    return np.asarray(losses), np.asarray(weights)


def records(epochs: int = EPOCHS) -> pd.DataFrame:
    """A row a setting and epoch."""
    rows = settings()
    losses, weights = trajectories(rows[list(DEFAULTS)].to_numpy(), epochs)
    frame = rows.loc[rows.index.repeat(epochs + 1)].reset_index(drop=True)
    epoch = np.tile(np.arange(epochs + 1), len(rows))
    frame = frame.assign(
        epoch=epoch,
        gradient_evaluations=epoch * OPTIMIZERS["dsa"].gradients_per_step,
        train_loss=losses.ravel(),
        w1=weights[..., 0].ravel(),
        w2=weights[..., 1].ravel(),
    )
    run = {
        "experiment": EXPERIMENT,
        "dataset": "valley-b95",
        "model": "quadratic",
        "optimizer": "dsa",
    }
    return pd.DataFrame(run, frame.index).join(frame)


def run(path: Path, *, epochs: int = EPOCHS) -> Iterator[str]:
    """Writes the records to a CSV file in one move; yields once, when it has.

    It takes seconds, so what is there already is done again.
    """
    write(path, records(epochs).assign(code=code()))
    yield EXPERIMENT


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """The speed of each setting.

    Returns:
      A row a setting: what varies, the three values, the epochs to 1e-2 and to 1e-8 of
      the first loss (inf for never), and the last loss.
    """
    rows = []
    for setting, run in records.groupby(["varied", *DEFAULTS], sort=False):
        losses = run.set_index("epoch")["train_loss"].sort_index()
        rows.append(
            {
                **dict(zip(("varied", *DEFAULTS), setting, strict=True)),
                "epochs to 1e-2": epochs_to(losses, 1e-2),
                "epochs to 1e-8": epochs_to(losses, 1e-8),
                "last loss": float(losses.iloc[-1]),
            }
        )
    return pd.DataFrame(rows)


def beginning(records: pd.DataFrame, varied: str) -> pd.Series:
    """Epochs to 1e-2 of the first loss, by the value of a hyper-parameter."""
    return _of(records, varied)["epochs to 1e-2"]


def end(records: pd.DataFrame, varied: str) -> pd.Series:
    """Epochs from 1e-2 to 1e-8 of the first loss, by the value of a hyper-parameter."""
    speeds = _of(records, varied)
    epochs = speeds["epochs to 1e-8"] - speeds["epochs to 1e-2"]
    return epochs.fillna(np.inf)  # never minus never


def _of(records: pd.DataFrame, varied: str) -> pd.DataFrame:
    speeds = summary(records)
    return speeds[speeds["varied"] == varied].set_index(varied).sort_index()


def never_rises(epochs: pd.Series) -> bool:
    """Whether no value needs more epochs than the next smaller one."""
    return not bool((epochs.diff().iloc[1:] > 0).any())
