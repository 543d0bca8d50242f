"""Who takes part in the race: each optimizer at its default and over a grid."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dsa_optax
from benchmarks.shared.optimizers import scipy_minimizers, torch_optim
from benchmarks.shared.optimizers.scipy_minimizers import Objective
from benchmarks.shared.optimizers.soap import soap

Evaluations = Callable[[Any], jax.Array]
"""From the state after an update to the gradients that the update evaluated."""


class Contender(NamedTuple):
    """An optimizer in the race.

    Attributes:
      label: for tables and figures.
      make: from a setting to the optimizer; the setting may be traced.
      settings: the default first, and then the others of its grid.
      tuned: what the setting is.
      evaluations: gradients that an update evaluated, from the state after it.
      least: gradients that an update evaluates at the least.
      at_first: gradients evaluated before the first update; above 0 for a line search,
        whose state then hands on the value and the gradient that it ended with.
      ours: whether it is this package's own, and so sets no target.
    """

    label: str
    make: Callable[[Any], optax.GradientTransformation]
    settings: Sequence[float] = (0.0,)
    tuned: str = "nothing"
    evaluations: Evaluations = lambda state: jnp.asarray(1)
    least: int = 1
    at_first: int = 0
    ours: bool = False


class HostContender(NamedTuple):
    """An optimizer in the race that is a loop on the host, as SciPy's are.

    Attributes:
      label: for tables and figures.
      minimize: from an objective, a start and a setting to nothing; what it evaluates
        is what it is judged by. It is called again, from the lowest point, where it
        stops early.
      settings: the default first, and then the others of its grid.
      tuned: what the setting is.
      ours: whether it is this package's own, and so sets no target.
    """

    label: str
    minimize: Callable[[Objective, np.ndarray, float], None]
    settings: Sequence[float] = (0.0,)
    tuned: str = "nothing"
    ours: bool = False


AnyContender = Contender | HostContender


def _line_search_evaluations(state: Any) -> jax.Array:
    """Every trial of the line search evaluates a gradient; the last one is kept."""
    return optax.tree.get(state, "num_linesearch_steps")


def _lbfgs(curv_rtol: Any) -> optax.GradientTransformationExtraArgs:
    """Optax's, with the tolerance of its line search as the setting."""
    search = optax.scale_by_zoom_linesearch(
        max_linesearch_steps=20, initial_guess_strategy="one", curv_rtol=curv_rtol
    )
    return optax.lbfgs(linesearch=search)


def rate(label: str, make: Callable[[Any], Any], *settings: float) -> Contender:
    """A contender whose setting is its learning rate."""
    return Contender(label, make, settings, "learning rate")


muon = partial(optax.contrib.muon, muon_weight_dimension_numbers=dsa_optax.matrices)
"""As its users have it, with the kernels of convolutions as matrices."""

RIVALS: Mapping[str, AnyContender] = {
    "momentum": rate(
        "SGD, momentum", partial(optax.sgd, momentum=0.9), 0.01, 1e-3, 0.1, 0.3, 1.0
    ),
    "adam": rate("Adam", optax.adam, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "adamax": rate("Adamax", optax.adamax, 2e-3, 5e-3, 0.02, 0.05, 0.2),
    "adagrad": rate("Adagrad", torch_optim.adagrad, 0.01, 0.03, 0.1, 0.3, 1.0),
    "rmsprop": rate(
        "RMSprop",
        partial(optax.rmsprop, decay=0.99, eps_in_sqrt=False),
        *(0.01, 1e-3, 3e-3, 0.03, 0.1),
    ),
    "lion": rate("Lion", optax.lion, 1e-4, 3e-4, 1e-3, 3e-3, 0.01),
    "muon": rate("Muon", muon, 0.02, 3e-3, 0.01, 0.05, 0.1),
    "soap": rate("SOAP", soap, 3e-3, 1e-3, 0.01, 0.03, 0.1),
    "prodigy": rate("Prodigy", optax.contrib.prodigy, 1.0, 0.1, 0.3, 3.0, 10.0),
    "dog": rate("DoG", optax.contrib.dog, 1.0, 0.1, 0.3, 3.0, 10.0),
    "rprop": rate("Rprop", torch_optim.rprop, 0.01, 1e-4, 1e-3, 0.1, 1.0),
    "irprop-minus": rate(
        "iRprop⁻", torch_optim.irprop_minus, 0.01, 1e-4, 1e-3, 0.1, 1.0
    ),
    "lbfgs": Contender(
        "L-BFGS",
        _lbfgs,
        (0.9, 0.1, 0.3, 0.7, 0.97),
        "curvature tolerance",
        _line_search_evaluations,
        at_first=1,
    ),
    "scipy-lbfgs": HostContender(
        "L-BFGS-B, SciPy", scipy_minimizers.lbfgs, (10, 5, 20, 40, 80), "memory"
    ),
    "scipy-bfgs": HostContender(
        "BFGS, SciPy",
        scipy_minimizers.bfgs,
        (0.9, 0.1, 0.3, 0.7, 0.97),
        "curvature tolerance",
    ),
    "scipy-cg": HostContender(
        "CG, SciPy",
        scipy_minimizers.cg,
        (0.4, 0.05, 0.1, 0.2, 0.6),
        "curvature tolerance",
    ),
    "dsa": Contender(
        "DSA",
        dsa_optax.dsa,
        (-12.0, -16.0, -9.0, -6.0, -3.0),
        "η₀",
        lambda state: jnp.asarray(2),
        least=2,
    ),
}

OURS: Mapping[str, Contender] = {
    "auto-dsa": Contender("auto_dsa", lambda _: dsa_optax.auto_dsa(), ours=True),
    "auto-dsa-light": Contender(
        "auto_dsa, light", lambda _: dsa_optax.auto_dsa(0), ours=True
    ),
}
"""This package's own, with nothing to set; the first is the main one."""

CONTENDERS: Mapping[str, AnyContender] = {**RIVALS, **OURS}
