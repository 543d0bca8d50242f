"""SOAP, which Optax does not have."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Rotated(NamedTuple):
    """What SOAP keeps of one tensor.

    Attributes:
      momentum: mean of the gradients.
      squares: mean of their squares in the bases.
      covariances: a matrix a dimension, mean of the gradients' outer products.
      bases: of the matrices' eigenvectors, about; both are empty for a vector.
    """

    momentum: jax.Array
    squares: jax.Array
    covariances: tuple[jax.Array, ...]
    bases: tuple[jax.Array, ...]


class SoapState(NamedTuple):
    """Gradients so far, and a `Rotated` for every tensor."""

    step: jax.Array
    tensors: optax.Params


def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    precondition_frequency: int = 10,
) -> optax.GradientTransformation:
    r"""Adam in the eigenbasis of Shampoo's preconditioner, as in the authors' code.

    With a matrix's gradient :math:`G_t`, and with :math:`Q_L, Q_R` the eigenvectors of
    the means of :math:`G_t G_t^T` and :math:`G_t^T G_t`, of decay :math:`\beta_2`:

    .. math::
        M_t &= \beta_1 M_{t-1} + (1 - \beta_1) G_t \\
        V_t &= \beta_2 V_{t-1} + (1 - \beta_2) (Q_L^T G_t Q_R)^2 \\
        W_t &= W_{t-1} - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} Q_L
          \frac{Q_L^T M_t Q_R}{\sqrt{V_t} + \epsilon} Q_R^T

    The first gradient gives the first bases and moves nothing. Then a step of power
    iteration takes them after the matrices, every few updates and after the params. A
    tensor of more dimensions has a basis each, a vector none: that is Adam's.

    Args:
      learning_rate: The rate :math:`\gamma`, a float or a schedule.
      b1: Decay of the mean gradient.
      b2: Decay of the mean squares, and of the matrices.
      eps: The :math:`\epsilon` that keeps the division finite.
      precondition_frequency: Updates from one refresh of the bases to the next.

    Returns:
      The gradient transformation; it has no weight decay, whose default in the authors'
      code is 0.01.

    References:
      Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024
    """

    def init(params: optax.Params) -> SoapState:
        return SoapState(jnp.zeros((), jnp.int32), jax.tree.map(_nothing, params))

    def begin(
        grads: optax.Updates, state: SoapState
    ) -> tuple[optax.Updates, SoapState]:
        def first(grad: jax.Array, tensor: Rotated) -> Rotated:
            covariances = _averaged(tensor.covariances, grad, b2)
            bases = tuple(jnp.linalg.eigh(c)[1][:, ::-1] for c in covariances)
            return tensor._replace(covariances=covariances, bases=bases)

        tensors = jax.tree.map(first, grads, state.tensors)
        return optax.tree.zeros_like(grads), SoapState(state.step + 1, tensors)

    def go_on(
        grads: optax.Updates, state: SoapState
    ) -> tuple[optax.Updates, SoapState]:
        refresh = state.step % precondition_frequency == 0

        def momenta(grad: jax.Array, tensor: Rotated) -> Rotated:
            rotated = _rotate(grad, tensor.bases)
            return tensor._replace(
                momentum=b1 * tensor.momentum + (1 - b1) * grad,
                squares=b2 * tensor.squares + (1 - b2) * rotated**2,
            )

        def step(grad: jax.Array, tensor: Rotated) -> jax.Array:
            t = state.step.astype(grad.dtype)
            unbiased = jnp.sqrt(1 - b2**t) / (1 - b1**t)
            rotated = _rotate(tensor.momentum, tensor.bases)
            adams = unbiased * rotated / (jnp.sqrt(tensor.squares) + eps)
            return _rotate(adams, tuple(basis.T for basis in tensor.bases))

        def preconditioner(grad: jax.Array, tensor: Rotated) -> Rotated:
            covariances = _averaged(tensor.covariances, grad, b2)
            tensor = tensor._replace(covariances=covariances)
            return jax.lax.cond(refresh, _refreshed, lambda same: same, tensor)

        tensors = jax.tree.map(momenta, grads, state.tensors)
        updates = jax.tree.map(step, grads, tensors)
        tensors = jax.tree.map(preconditioner, grads, tensors)
        return updates, SoapState(state.step + 1, tensors)

    def update(
        grads: optax.Updates, state: SoapState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SoapState]:
        del params
        return jax.lax.cond(state.step == 0, begin, go_on, grads, state)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


def _nothing(param: jax.Array) -> Rotated:
    sizes = param.shape if param.ndim > 1 else ()
    square = tuple(jnp.zeros((size, size), param.dtype) for size in sizes)
    return Rotated(jnp.zeros_like(param), jnp.zeros_like(param), square, square)


def _averaged(
    covariances: tuple[jax.Array, ...], grad: jax.Array, decay: float
) -> tuple[jax.Array, ...]:
    """With the gradient's outer product along each dimension."""

    def outer(axis: int) -> jax.Array:
        rows = jnp.moveaxis(grad, axis, 0).reshape(grad.shape[axis], -1)
        return rows @ rows.T

    return tuple(
        decay * covariance + (1 - decay) * outer(axis)
        for axis, covariance in enumerate(covariances)
    )


def _rotate(tensor: jax.Array, bases: tuple[jax.Array, ...]) -> jax.Array:
    """Each dimension along the columns of its basis."""
    for basis in bases:
        # The first dimension goes last, so that all are in order in the end.
        tensor = jnp.tensordot(tensor, basis, axes=((0,), (0,)))
    return tensor


def _refreshed(tensor: Rotated) -> Rotated:
    """One step of power iteration, the largest eigenvalue first."""
    squares, bases = tensor.squares, []
    for axis, (covariance, basis) in enumerate(
        zip(tensor.covariances, tensor.bases, strict=True)
    ):
        values = jnp.sum(basis * (covariance @ basis), axis=0)
        order = jnp.argsort(-values)
        squares = jnp.take(squares, order, axis=axis)
        bases.append(jnp.linalg.qr(covariance @ basis[:, order])[0])
    return tensor._replace(squares=squares, bases=tuple(bases))
