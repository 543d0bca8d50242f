"""Who takes part in the mini-batch race, each at its default and over a grid."""

from collections.abc import Mapping
from functools import partial

import optax

import dsa_optax
from benchmarks.shared.optimizers.contenders import OURS as FULL_BATCH
from benchmarks.shared.optimizers.contenders import Contender, rate

RIVALS: Mapping[str, Contender] = {
    "adam": rate("Adam", optax.adam, 1e-3, 3e-3, 0.01, 0.03),
    "adamw": rate(
        "AdamW", partial(optax.adamw, weight_decay=0.01), 1e-3, 3e-3, 0.01, 0.03
    ),
    "muon": rate("Muon", optax.contrib.muon, 0.02, 5e-3, 0.01, 0.05),
    "prodigy": rate("Prodigy", optax.contrib.prodigy, 1.0, 0.3, 0.5, 2.0),
    "schedule-free": rate(
        "Schedule-free AdamW",
        optax.contrib.schedule_free_adamw,
        *(2.5e-3, 1e-3, 5e-3, 1e-2),
    ),
}
"""The defaults are Optax's; of Adam, AdamW and Muon, which have none, the authors'."""

OURS: Mapping[str, Contender] = {
    "adapted-muon": Contender(
        "adapt(Muon)",
        lambda _: dsa_optax.adapt(
            optax.contrib.muon(1.0), init_log2_lr=-5.0, min_log2_lr=-12.0, decrease=0.5
        ),
        ours=True,
    ),
    "auto-dsa": FULL_BATCH["auto-dsa"],
}
"""The form for mini-batches, chosen on MNIST, and the one for full batches."""

CONTENDERS: Mapping[str, Contender] = {**RIVALS, **OURS}


def setting_name(name: str, contender: Contender, setting: float) -> str:
    """The optimizer in the records: "adam 0.003", or the name where nothing is set."""
    return f"{name} {setting:g}" if len(contender.settings) > 1 else name
