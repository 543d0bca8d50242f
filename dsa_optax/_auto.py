"""The optimizer that needs no argument."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._blend import summed
from dsa_optax._lbfgs import lbfgs_direction
from dsa_optax._matrices import matrices
from dsa_optax._muon import muon_direction
from dsa_optax._packed import Packed
from dsa_optax._rates import Options, adapted
from dsa_optax._reach import reaching
from dsa_optax._self_scaled import self_scaled_direction
from dsa_optax._step_back import guarded, unless_back

BLOCK = 1 / 2
"""Where one matrix would be too large, each is of this share of the most."""

MANY = 40
"""Of so many times the parameters of one matrix none is kept, nor blocks of it."""


def auto_dsa(
    memory_size: int = 30,
    *,
    matrix_size: int = 2500,
    muon_weight_dimension_numbers: Any | None = matrices,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Three directions, each with rates that adapt themselves: nothing to tune.

    The step is the sum of

    1. the sign of the gradient, with one rate for every parameter (the paper's DSA, but
       for the probe);
    2. the direction of Muon (matrices orthogonalised, other tensors by AdamW), with one
       rate for every tensor;
    3. a quasi-Newton direction, with one rate for all and a reach (the longest step of
       any tensor) in place of its line search. Its matrix scales itself (of the
       self-scaled Broyden family): one matrix for up to 2,500 parameters, one for each
       block of neurons for up to 100,000, and beyond that L-BFGS.

    Each rate follows the slope of the loss along its own direction, as `adapt` says, so
    that the direction that serves the problem carries the step. A step across a wall, a
    pole, or to where the gradient isn't finite is taken back, and tried shorter. Give
    `update` the loss, as `value`: so is then a step onto a plateau, which slopes don't
    tell, and up to 100,000 parameters the reach finds itself. Without it (leave it out
    where the loss rises on purpose) no step exceeds a fifth of any tensor. Rates
    and bounds are relative to the size that each tensor begins with, so that the units
    of the params (in float32 from 1e-18 to 1e18) don't matter. (L-BFGS, above 100,000
    parameters, is slower where the units of two tensors are far apart.) An update costs
    one gradient.

    For full-batch training. For mini-batches there is `adaptive_warmup`, around Muon
    with its usual rate and schedule, and for the polishing after them `dsa`.

    Args:
      memory_size: pairs that L-BFGS remembers, each of two floats a parameter. The more
        there are, the fewer steps a badly conditioned problem takes. 0 leaves the third
        direction out: the light form, for models whose memory is scarce. On params
        that are spread over devices along their first axis L-BFGS's memory is spread
        as well; along another, every device holds all of it. (For
        `optax.inject_hyperparams` this and `matrix_size` are `static_args`.)
      matrix_size: the most parameters of one matrix, whose square takes 50 MB in
        float64 by default, and half of that in float32. Up to 40 times as many
        parameters are cut into blocks of half as many, whose matrices take 10 kB a
        parameter (1 GB at the most), or half of that; a step reads them twice and
        writes them once. More parameters, and 0 any, are left to L-BFGS, of half a kB
        a parameter: its steps are the cheaper ones, and many more. With a matrix on
        any device every device holds all of it.
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
      TypeError: if `memory_size` or `matrix_size` is not an integer, or traced by JAX.
      ValueError: if one is negative.

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
      Jordan, `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024; Urbán,
      Stefanou and Pons, `Unveiling the optimization process of physics informed neural
      networks <https://arxiv.org/abs/2405.04230>`_, 2025, for the matrix.
    """
    for name, given, usual in (
        ("memory_size", memory_size, 30),
        ("matrix_size", matrix_size, 2500),
    ):
        if isinstance(given, jax.core.Tracer):
            raise TypeError(
                f"`{name}` must be known beforehand: in optax.inject_hyperparams name "
                'both, as static_args=("memory_size", "matrix_size").'
            )
        _checks.count(name, given, usual)
    options = Options(state_dtype=state_dtype)
    muon = unless_back(muon_direction(muon_weight_dimension_numbers))
    parts = [
        adapted(_descend_by_sign(), "parameter", options),
        adapted(muon, "tensor", options),
    ]
    if memory_size:
        size = int(matrix_size)  # to inject_hyperparams a number is an array
        direction = _quasi_newton(memory_size, size)
        parts.append(reaching(direction, MANY * size, state_dtype))
    return guarded(summed(*parts), passes_on=False)


def _quasi_newton(
    memory_size: int, matrix_size: int
) -> optax.GradientTransformationExtraArgs:
    """By one matrix where there are few parameters, by blocks or by L-BFGS."""
    whole = self_scaled_direction(matrix_size)
    blocks = self_scaled_direction(math.ceil(BLOCK * matrix_size))
    limited = lbfgs_direction(memory_size)
    # For the placeholder of optax.tree_map_params a scalar, see `for_state`.
    none = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros([]), lambda updates, state, *_, **__: (updates, state)
    )

    def fit_for(params: Packed) -> optax.GradientTransformationExtraArgs:
        count = sum(params.layout.sizes())
        if not count:
            return none
        if count <= matrix_size:
            return whole
        return blocks if count <= MANY * matrix_size else limited

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
