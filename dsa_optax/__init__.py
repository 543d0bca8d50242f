"""Optax optimizers that find their own learning rates.

`auto_dsa()` has nothing to tune and spends one gradient on a step; `minimize` is the
loop around it, which ends by itself and returns the best parameters that it saw:

    >>> import jax.numpy as jnp, dsa_optax
    >>> x = jnp.linspace(0, 1, 20)
    >>> def loss(params, x, y):
    ...     return jnp.mean((params["slope"] * x + params["level"] - y) ** 2)
    >>> start = {"slope": jnp.array(0.0), "level": jnp.array(0.0)}
    >>> fit = dsa_optax.minimize(loss, start, x, 3 * x - 1)
    >>> print(f"{fit.params['slope']:.3f}")
    3.000

`adapt` gives rates that adapt themselves to any optimizer of Optax, `dsa` is the
algorithm of the paper *Differentiable Self-Adaptive Learning Rate*.

Beside what is here: `dsa_optax.paper` (the paper's other three algorithms),
`dsa_optax.plots`, `dsa_optax.full_batch` (gradients of batches of any size), and, to be
imported by themselves, `dsa_optax.linen`, `dsa_optax.nnx` and `dsa_optax.training`.
"""

from importlib.metadata import version

from dsa_optax import full_batch, paper, plots
from dsa_optax._adapt import adapt
from dsa_optax._auto import auto_dsa
from dsa_optax._best import Best, KeepBestState, best, keep_best
from dsa_optax._blend import BlendState, blend
from dsa_optax._diagnostics import RateSummary, learning_rates, summary
from dsa_optax._dsa import dsa
from dsa_optax._gradients import make_grad_fn, unmask
from dsa_optax._matrices import matrices
from dsa_optax._minimize import Minimized, MinimizeState, Reason, minimize
from dsa_optax._state import (
    AdaptState,
    DSAState,
    LinearDSAState,
    ReachState,
    StepBackState,
)
from dsa_optax._train_step import make_train_step
from dsa_optax._two_stage import TwoStageState, two_stage
from dsa_optax._warmup import AdaptiveWarmupState, adaptive_warmup

__version__ = version("dsa-optax")

__all__ = [
    "AdaptState",
    "AdaptiveWarmupState",
    "Best",
    "BlendState",
    "DSAState",
    "KeepBestState",
    "LinearDSAState",
    "MinimizeState",
    "Minimized",
    "RateSummary",
    "ReachState",
    "Reason",
    "StepBackState",
    "TwoStageState",
    "adapt",
    "adaptive_warmup",
    "auto_dsa",
    "best",
    "blend",
    "dsa",
    "full_batch",
    "keep_best",
    "learning_rates",
    "make_grad_fn",
    "make_train_step",
    "matrices",
    "minimize",
    "paper",
    "plots",
    "summary",
    "two_stage",
    "unmask",
]
