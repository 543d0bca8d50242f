"""The optimizer that needs no argument."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._bfgs import bfgs_direction
from dsa_optax._blend import summed
from dsa_optax._lbfgs import lbfgs_direction
from dsa_optax._matrices import matrices
from dsa_optax._muon import muon_direction
from dsa_optax._packed import Packed
from dsa_optax._rates import Options, adapted
from dsa_optax._reach import reaching
from dsa_optax._step_back import guarded, unless_back

FEW = 1000
"""Up to so many parameters the inverse Hessian is kept as a matrix."""


def auto_dsa(
    memory_size: int = 30,
    *,
    muon_weight_dimension_numbers: Any | None = matrices,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Three directions, each with rates that adapt themselves: nothing to tune.

    The step is the sum of

    1. the sign of the gradient, with one rate for every parameter (the paper's DSA, but
       for the probe);
    2. the direction of Muon (matrices orthogonalised, other tensors by AdamW), with one
       rate for every tensor;
    3. the direction of BFGS (for up to 1,000 parameters) or L-BFGS (for more), with one
       rate for all and a reach (the longest step of any tensor) in place of its line
       search.

    Each rate follows the slope of the loss along its own direction, as `adapt` says, so
    that the direction that serves the problem carries the step. A step across a wall, a
    pole, or to where the gradient isn't finite is taken back, and tried shorter. Give
    `update` the loss, as `value`: so is then a step onto a plateau, which slopes don't
    tell, and up to 1,000 parameters the reach finds itself. Without it (leave it out
    where the loss rises on purpose) no step exceeds a fifth of any tensor. Rates
    and bounds are relative to the size that each tensor begins with, so that the units
    of the params (in float32 from 1e-18 to 1e18) don't matter. (L-BFGS, above 1,000
    parameters, is slower where the units of two tensors are far apart.) An update costs
    one gradient.

    For full-batch training. For mini-batches there is `adaptive_warmup`, around Muon
    with its usual rate and schedule, and for the polishing after them `dsa`.

    Args:
      memory_size: pairs that L-BFGS remembers, each of two floats a parameter. The more
        there are, the fewer steps a badly conditioned problem takes. 0 leaves the third
        direction out: the light form, for models whose memory is scarce. Up to 1,000
        parameters any other number means BFGS, with a matrix of their number squared.
        On params that are spread over devices along their first axis L-BFGS's memory is
        spread as well; along another, every device holds all of it. (For
        `optax.inject_hyperparams` it is one of the `static_args`.)
      muon_weight_dimension_numbers: what Muon's direction takes for matrices, as
        `optax.contrib.muon` has it: a tree like the params (or a function that makes
        one of them) of `optax.contrib.MuonDimensionNumbers`, or None for AdamW's
        direction. By default what `matrices` says: leaves of two axes and the kernels
        of convolutions; None is Optax's default, leaves of two axes alone. Layers that
        are stacked for a scan, (L, D, D), need `MuonDimensionNumbers(1, 2)`, and their
        biases, (L, D), None.
      state_dtype: dtype of the rates. None is float32, whatever the params' dtype.

    Returns:
      A transformation whose `update` needs the gradient, the state and the params. Its
      state is a `StepBackState` around a `BlendState`, packed as that of `adapt`; that
      of its third part is a `ReachState`.

    Raises:
      TypeError: if `memory_size` is not an integer, or traced by JAX.
      ValueError: if it is negative.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> def loss(w):  # Rosenbrock's valley
      ...     return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
      >>> tx = dsa_optax.auto_dsa()
      >>> w = jnp.array([-1.2, 1.0])
      >>> state = tx.init(w)
      >>> step = dsa_optax.make_train_step(loss, tx)
      >>> for _ in range(120):
      ...     w, state, value = step(w, state)
      >>> bool(value < 1e-6)
      True

    References:
      Differentiable Self-Adaptive Learning Rate, Eqs. 6 and 7, for the first direction;
      Jordan, `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024; Byrd, Nocedal
      and Schnabel, 1994, for L-BFGS's.
    """
    if isinstance(memory_size, jax.core.Tracer):
        raise TypeError(
            "`memory_size` must be known beforehand: in optax.inject_hyperparams name "
            'it, as static_args="memory_size".'
        )
    _checks.count("memory_size", memory_size, 30)
    options = Options(state_dtype=state_dtype)
    muon = unless_back(muon_direction(muon_weight_dimension_numbers))
    parts = [
        adapted(_descend_by_sign(), "parameter", options),
        adapted(muon, "tensor", options),
    ]
    if memory_size:
        parts.append(reaching(_quasi_newton(memory_size), FEW, state_dtype))
    return guarded(summed(*parts), passes_on=False)


def _quasi_newton(memory_size: int) -> optax.GradientTransformationExtraArgs:
    """BFGS's direction where there are few parameters, else L-BFGS's."""
    dense, limited = unless_back(bfgs_direction()), lbfgs_direction(memory_size)
    # For the placeholder of optax.tree_map_params a scalar, see `for_state`.
    none = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros([]), lambda updates, state, *_, **__: (updates, state)
    )

    def fit_for(params: Packed) -> optax.GradientTransformationExtraArgs:
        count = sum(params.layout.sizes())
        if not count:
            return none
        return dense if count <= FEW else limited

    def update(
        updates: Packed, state: Any, params: Packed, **extra_args: Any
    ) -> tuple[Packed, Any]:
        return fit_for(params).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(
        lambda params: fit_for(params).init(params), update
    )


def _descend_by_sign() -> optax.GradientTransformationExtraArgs:
    sign = optax.stateless(
        lambda updates, _: jax.tree.map(lambda g: -jnp.sign(g), updates)
    )
    return optax.with_extra_args_support(sign)
