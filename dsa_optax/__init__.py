"""Differentiable self-adaptive learning rates (DSA) for Optax."""

from dsa_optax._adapt import adapt
from dsa_optax._auto import auto_dsa
from dsa_optax._best import Best, KeepBestState, best, keep_best
from dsa_optax._blend import BlendState, blend
from dsa_optax._diagnostics import RateSummary, learning_rates, summary
from dsa_optax._dsa import basic_dsa, dsa, exponential_dsa, parameterwise_dsa
from dsa_optax._full_batch import (
    microbatched_value_and_grad,
    streamed_value_and_grad,
)
from dsa_optax._gradients import make_grad_fn, unmask
from dsa_optax._minimize import Minimized, MinimizeState, Reason, minimize
from dsa_optax._plots import plot_learning_rates, plot_step_lengths
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
    "basic_dsa",
    "best",
    "blend",
    "dsa",
    "exponential_dsa",
    "keep_best",
    "learning_rates",
    "make_grad_fn",
    "make_train_step",
    "microbatched_value_and_grad",
    "minimize",
    "parameterwise_dsa",
    "plot_learning_rates",
    "plot_step_lengths",
    "streamed_value_and_grad",
    "summary",
    "two_stage",
    "unmask",
]
