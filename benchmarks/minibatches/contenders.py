"""Who takes part in the mini-batch race, over rates and schedules."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import optax

from benchmarks.shared.optimizers.contenders import muon
from benchmarks.shared.optimizers.soap import soap

WARM_UP, DECAY = 0.05, 0.2
"""Shares of the steps of warm-up-stable-decay."""


def constant(steps: int) -> np.ndarray:
    """No schedule."""
    return np.ones(steps)


def cosine(steps: int) -> np.ndarray:
    """From 1 to 0."""
    return (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


def warmup_stable_decay(steps: int) -> np.ndarray:
    """Up in the first twentieth of the steps, and down to 0 in the last fifth."""
    share = np.arange(steps) / steps
    up = (share + 1 / steps) / WARM_UP
    return np.minimum(np.minimum(up, 1), (1 - share) / DECAY)


SCHEDULES: Mapping[str, Callable[[int], np.ndarray]] = {
    "constant": constant,
    "cosine": cosine,
    "wsd": warmup_stable_decay,
}
"""From the number of steps to what the rate is multiplied by at each."""


class Contender(NamedTuple):
    """An optimizer in the race.

    Attributes:
      label: for tables and figures.
      make: from a schedule of its learning rate to the optimizer.
      rates: the default first, and then the others of its grid.
      customary: the schedule that its users give it, a name of `SCHEDULES`.
      warmed: whether it is in `adaptive_warmup`, for a tenth of the steps.
    """

    label: str
    make: Callable[[optax.Schedule], optax.GradientTransformation]
    rates: Sequence[float]
    customary: str = "cosine"
    warmed: bool = False

    @property
    def line(self) -> str:
        """At its default, for people who tune nothing."""
        return f"{self.label} at {self.rates[0]:g} with a {self.customary}"


RIVALS: Mapping[str, Contender] = {
    "adam": Contender("Adam", optax.adam, (1e-3, 3e-4, 3e-3, 0.01, 0.03)),
    "adamw": Contender(
        "AdamW",
        partial(optax.adamw, weight_decay=0.01),
        (1e-3, 3e-4, 3e-3, 0.01, 0.03),
    ),
    "muon": Contender("Muon", muon, (0.02, 5e-3, 0.01, 0.05, 0.1)),
    "muon-decay": Contender(
        "Muon with weight decay",
        partial(muon, weight_decay=0.1),
        (0.02, 5e-3, 0.01, 0.05, 0.1),
    ),
    "soap": Contender("SOAP", soap, (3e-3, 3e-4, 1e-3, 0.01, 0.03)),
    "prodigy": Contender("Prodigy", optax.contrib.prodigy, (1.0, 0.25, 0.5, 2.0, 4.0)),
    "schedule-free": Contender(
        "Schedule-free AdamW",
        optax.contrib.schedule_free_adamw,
        (2.5e-3, 1e-3, 5e-3, 0.01, 0.02),
        customary="constant",
    ),
    "momo": Contender(
        "MoMo-Adam", optax.contrib.momo_adam, (0.01, 1e-3, 3e-3, 0.03, 0.1)
    ),
}
"""The defaults are Optax's; of Adam, AdamW and Muon, which have none, the authors'."""

WARMED: Mapping[str, str] = {
    name: f"warmed-{name}" for name in ("adamw", "muon", "muon-decay", "soap")
}
"""Rivals that run in `adaptive_warmup` too, at their defaults: by what name."""

CONTENDERS: Mapping[str, Contender] = {
    **RIVALS,
    **{
        warmed: RIVALS[name]._replace(
            label=f"{RIVALS[name].label} in adaptive_warmup",
            rates=RIVALS[name].rates[:1],
            warmed=True,
        )
        for name, warmed in WARMED.items()
    },
}


def setting_name(name: str, schedule: str, rate: float) -> str:
    """The optimizer in the records: "adam cosine 0.003"."""
    return f"{name} {schedule} {rate:g}"
