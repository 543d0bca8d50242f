"""The optimizers that the benchmarks compare, at PyTorch's default settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import optax

import dsa_optax
from benchmarks.shared.optimizers import torch_optim


@dataclass(frozen=True)
class Optimizer:
    """A plot label, a factory, and the gradients that one step evaluates."""

    label: str
    make: Callable[..., optax.GradientTransformation]
    gradients_per_step: int = 1


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer("SGD", partial(optax.sgd, 0.01)),
    "momentum": Optimizer("Momentum", partial(optax.sgd, 0.01, momentum=0.9)),
    "rmsprop": Optimizer(
        "RMSprop", partial(optax.rmsprop, 0.01, decay=0.99, eps_in_sqrt=False)
    ),
    "adadelta": Optimizer("Adadelta", partial(optax.adadelta, 1.0)),
    "adagrad": Optimizer("Adagrad", torch_optim.adagrad),
    "adam": Optimizer("Adam", partial(optax.adam, 1e-3)),
    "adamw": Optimizer("AdamW", partial(optax.adamw, 1e-3, weight_decay=0.01)),
    "adamax": Optimizer("Adamax", partial(optax.adamax, 2e-3)),
    "dsa": Optimizer("DSA", dsa_optax.dsa, gradients_per_step=2),
    "rprop": Optimizer("Rprop", torch_optim.rprop),
    "irprop-minus": Optimizer("iRprop⁻", torch_optim.irprop_minus),
}

SCHEDULED: Mapping[str, Optimizer] = {
    "adamax-cosine": Optimizer(
        "Adamax, cosine",
        lambda steps: optax.adamax(optax.cosine_decay_schedule(2e-3, steps)),
    ),
}
"""What the paper leaves out: rates that fade. `make` takes the number of steps."""

WITH_SCHEDULED: Mapping[str, Optimizer] = {**OPTIMIZERS, **SCHEDULED}

PAPER_OPTIMIZERS = tuple(OPTIMIZERS)[:9]
