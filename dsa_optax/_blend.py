"""Several directions at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax._packed import Packed
from dsa_optax._step_back import core_of, guarded
from dsa_optax._trees import inner_products, norm


class BlendState(NamedTuple):
    """State of the sum in `blend`, within a `StepBackState`.

    Attributes:
      parts: the states of the transformations, in their order.
      lengths: the Euclidean norm of the update of each, at the last step: shape
        (number of transformations,), float32. Zeros before the first.
    """

    parts: tuple[optax.OptState, ...]
    lengths: jax.Array


def blend(
    *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""The sum of the updates of several optimizers.

    With an `adapt` around each, every direction finds its own rate while the others are
    there: Eq. 7 holds for several at once, and for
    :math:`\theta' = \theta + \sum_k 2^{\eta_k} d_k` the slope along :math:`\eta_k` has
    the sign of :math:`\langle \nabla L(\theta'), d_k \rangle`. A sum that leads too
    far is taken back as `adapt` says, as one step.

    Args:
      *transforms: at least one; each is given the gradient, the params and every extra
        argument.

    Returns:
      A transformation whose `update` needs the params. Its state is a `StepBackState`
      around a `BlendState`, which has all of theirs.

    Raises:
      ValueError: if there is no transformation; in `update` for missing `params`, or a
        gradient or a state that isn't shaped like the params.
      TypeError: for params that aren't real floating arrays.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum((w - 1) ** 2)
      >>> tx = dsa_optax.blend(
      ...     dsa_optax.adapt(optax.sgd(1.0), "global"),
      ...     dsa_optax.adapt(optax.adam(1.0), "tensor"),
      ... )
      >>> w = jnp.zeros(3)
      >>> state = tx.init(w)
      >>> for _ in range(60):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> bool(loss(w) < 1e-6)
      True
      >>> state.inner.lengths.shape
      (2,)

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 7 (Appendix A).
    """
    if not transforms:
        raise ValueError(
            "`transforms` are missing: dsa_optax.blend(first, second) sums the updates "
            "of two optimizers."
        )
    return guarded(summed(*map(core_of, transforms)))


def summed(
    *parts: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """What `blend` is of packed trees, below `stepping_back`."""

    def init(params: Packed) -> BlendState:
        return BlendState(
            parts=tuple(part.init(params) for part in parts),
            lengths=jnp.zeros(len(parts), jnp.float32),
        )

    def update(
        updates: Packed, state: BlendState, params: Packed, **extra_args: Any
    ) -> tuple[Packed, BlendState]:
        results = [
            part.update(updates, inner, params, **extra_args)
            for part, inner in zip(parts, state.parts, strict=True)
        ]
        steps, inners = zip(*results, strict=True)
        products = inner_products(*steps)
        lengths = jnp.stack([norm(row[i]) for i, row in enumerate(products)])
        back = extra_args["verdict"].back
        return jax.tree.map(lambda *s: sum(s), *steps), BlendState(
            inners, jnp.where(back, state.lengths, lengths.astype(jnp.float32))
        )

    return optax.GradientTransformationExtraArgs(init, update)
