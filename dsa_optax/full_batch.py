"""The gradient of a whole data set that is too large for one call of its loss.

The mean over all rows is the mean over each part, weighted by its rows, so parts of any
sizes add up to the whole batch's value and gradient. They are not added up by
`optax.microbatching`: it refuses a short last part, XLA keeps a copy of the batch that
it reshapes, so that memory grows with the rows, and the oldest Optax admitted lacks it.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["microbatched_value_and_grad", "streamed_value_and_grad"]

Batch = Any
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]
ValueAndGrad = tuple[jax.Array, optax.Updates]


def microbatched_value_and_grad(
    loss_fn: Callable[..., jax.Array], microbatch_size: int
) -> Callable[..., ValueAndGrad]:
    r"""A whole batch's value and gradient, a few rows at a time, on the device.

    Equal to `jax.value_and_grad(loss_fn)` up to rounding, in the memory that
    `microbatch_size` rows need, however many there are. For a loss that is a mean,

    .. math::
      L(\theta) = \frac{1}{n} \sum_{i=1}^n \ell(\theta, x_i) + R(\theta)
      = \sum_k \frac{n_k}{n} L_k(\theta),

    where :math:`L_k` is the same loss on :math:`n_k` of the n rows. Each :math:`n_k`
    is `microbatch_size` but for the last, which may be smaller.

    Args:
      loss_fn: `loss_fn(params, *batch)`, a scalar: **a mean over the rows** (axis 0 of
        every array of the batch), plus terms without rows, such as weight decay. What
        is a sum over the rows, or couples them (batch normalisation), comes out wrong.
        Pass what has no rows by a closure, and a random key as one for each row,
        `jax.random.split(key, rows)`.
      microbatch_size: how many rows at a time. Where the rows are spread over devices,
        each slice is gathered from them, unless this stands inside `jax.shard_map`:
        then it counts a device's own rows (and the loss takes `jax.lax.pmean`).

    Returns:
      `value_and_grad(params, *batch)`, jitted, for use inside `jax.jit` as well. It
      sums in float32 at least, and returns the dtypes of `jax.value_and_grad`.

    Raises:
      ValueError: `microbatch_size` is not positive, or, when called, the batch has no
        rows, or arrays of different numbers of them.
      TypeError: `microbatch_size` is not an integer.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> def loss(w, x, y):
      ...     return jnp.mean((x @ w - y) ** 2)
      >>> x, y = jnp.ones((1000, 2)), jnp.arange(1000.0)
      >>> value_and_grad = dsa_optax.full_batch.microbatched_value_and_grad(loss, 64)
      >>> tx = dsa_optax.dsa()
      >>> @jax.jit
      ... def step(w, state, x, y):
      ...     grad_fn = lambda w: value_and_grad(w, x, y)[1]
      ...     value, grads = value_and_grad(w, x, y)
      ...     updates, state = tx.update(grads, state, w, grad_fn=grad_fn)
      ...     return optax.apply_updates(w, updates), state, value
      >>> w = jnp.zeros(2)
      >>> w, state, value = step(w, tx.init(w), x, y)
      >>> bool(jnp.allclose(value, loss(jnp.zeros(2), x, y)))
      True

    References:
      Algorithm 1, lines 2 and 4 (Appendix B): both gradients are the whole data set's.
    """
    _check_size(microbatch_size)
    value_and_grad = jax.value_and_grad(loss_fn)

    def whole(params: optax.Params, *batch: Batch) -> ValueAndGrad:
        rows = batch_rows("batch", batch)
        size = min(microbatch_size, rows)

        def part(start: Any, size: int) -> ValueAndGrad:
            return value_and_grad(params, *_slice(batch, start, size))

        like = jax.eval_shape(partial(part, size=size), 0)
        # Slices of the batch, not the batch reshaped: XLA would copy all of it.
        so_far = jax.lax.fori_loop(
            0,
            rows // size,
            lambda i, so_far: _add(so_far, part(i * size, size), size),
            _zero(like),
        )
        if rest := rows % size:
            so_far = _add(so_far, part(rows - rest, rest), rest)
        return _mean(so_far, rows, like)

    return jax.jit(whole)


def streamed_value_and_grad(
    loss_fn: Callable[..., jax.Array], batches: Batches
) -> Callable[[optax.Params], ValueAndGrad]:
    """A whole data set's value and gradient, streamed from the host batch by batch.

    Each batch counts by its rows, so the last one may be short, and the result is that
    of one batch of them all, up to rounding, in device memory for two batches: one is
    on its way while the other is computed on. The host's own work, such as reading a
    file, overlaps as well. It compiles once for every shape of a batch.

    It loops in Python, so neither it nor a `tx.update` that is given it can stand
    inside `jax.jit`; the loss is compiled all the same.

    Args:
      loss_fn: as in `microbatched_value_and_grad`: **a mean over the rows** (axis 0 of
        every array of a batch), plus terms without rows.
      batches: what gives the same batches at every pass (DSA makes two for an update):
        a list, a data loader, or a function without arguments that returns an iterator.
        A batch is a tuple or a list, `loss_fn(params, *batch)`, or else, as a dict is,
        one argument, `loss_fn(params, batch)`. Its leaves are NumPy arrays, or what
        NumPy can convert. Shuffling is harmless, random augmentation is not.

    Returns:
      `value_and_grad(params)`.

    Raises:
      TypeError: `batches` can be read only once, as a generator, or is an array; or,
        when called, the params are traced.
      ValueError: when called, there are no batches, or one has no rows, or arrays of
        different numbers of them.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax, dsa_optax
      >>> def loss(w, x, y):
      ...     return jnp.mean((x @ w - y) ** 2)
      >>> def batches():  # or a list, or a data loader
      ...     for rows in (64, 64, 22):
      ...         yield np.ones((rows, 2), np.float32), np.full(rows, rows, np.float32)
      >>> value_and_grad = dsa_optax.full_batch.streamed_value_and_grad(loss, batches)
      >>> tx = dsa_optax.dsa()
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> for _ in range(3):
      ...     value, grads = value_and_grad(w)
      ...     updates, state = tx.update(
      ...         grads, state, w, grad_fn=lambda w: value_and_grad(w)[1]
      ...     )
      ...     w = optax.apply_updates(w, updates)
      >>> int(state.count)
      3

    References:
      Algorithm 1, lines 2 and 4 (Appendix B): both gradients are the whole data set's.
    """
    _check_batches(batches)
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn))

    # Once here, not at every call, so that it is compiled once.
    @partial(jax.jit, donate_argnums=0)
    def add(so_far: _Sum, params: optax.Params, batch: tuple[Batch, ...]) -> _Sum:
        part = value_and_grad(params, *batch)
        return _add(so_far, part, batch_rows("batches", batch))

    def whole(params: optax.Params) -> ValueAndGrad:
        _check_concrete(params)
        so_far, rows = None, 0
        for batch in _on_host(batches):
            rows += batch_rows("batches", batch)
            batch = jax.device_put(batch)
            if so_far is None:
                like = jax.eval_shape(value_and_grad, params, *batch)
                so_far = _zero(like)
            # JAX runs ahead of the device: without waiting, all batches would be there.
            jax.block_until_ready((so_far, batch))
            so_far = add(so_far, params, batch)
        if so_far is None:
            raise ValueError(
                "`batches` gave no batch: pass a list, or a function that returns a "
                "fresh iterator at every call, streamed_value_and_grad(loss, "
                "lambda: read_batches())."
            )
        return _mean(so_far, rows, like)

    return whole


# Sums weighted by rows ------------------------------------------------------------


class _Sum(NamedTuple):
    """A compensated sum (Kahan's), as exact for thousands of parts as for one.

    DSA looks at signs alone, and where gradients are small rounding decides them.
    """

    total: ValueAndGrad
    """In float32 at least: a sum in bfloat16 would soon stand still."""

    excess: ValueAndGrad
    """What rounding has added to it so far, to be taken off the next part."""


def _zero(like: ValueAndGrad) -> _Sum:
    def zeros(leaf: Any) -> jax.Array:
        return jnp.zeros_like(leaf, np.promote_types(leaf.dtype, np.float32))

    return _Sum(jax.tree.map(zeros, like), jax.tree.map(zeros, like))


def _add(so_far: _Sum, part: ValueAndGrad, rows: int) -> _Sum:
    def weighted(part: jax.Array, excess: jax.Array) -> jax.Array:
        return part.astype(excess.dtype) * float(rows) - excess

    def excess(new: jax.Array, old: jax.Array, term: jax.Array) -> jax.Array:
        rounding = (new - old) - term
        return jnp.where(jnp.isfinite(rounding), rounding, 0)  # inf stays inf

    terms = jax.tree.map(weighted, part, so_far.excess)
    total = jax.tree.map(jnp.add, so_far.total, terms)
    return _Sum(total, jax.tree.map(excess, total, so_far.total, terms))


def _mean(so_far: _Sum, rows: int, like: ValueAndGrad) -> ValueAndGrad:
    def mean(total: jax.Array, like: Any) -> jax.Array:
        return (total / float(rows)).astype(like.dtype)

    return jax.tree.map(mean, so_far.total, like)


# Batches --------------------------------------------------------------------------


def _slice(batch: Batch, start: Any, size: int) -> Batch:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), batch
    )


def _on_host(batches: Batches) -> Iterator[tuple[Batch, ...]]:
    """The batches of one pass, as the arguments of the loss."""
    for batch in batches() if callable(batches) else batches:
        args = tuple(batch) if _is_args(batch) else (batch,)
        yield jax.tree.map(_own, args)


def _is_args(batch: Batch) -> bool:
    """Whether a batch is several arguments; a NamedTuple is one, as a dict is."""
    return type(batch) in (tuple, list)


def _own(leaf: Any) -> Any:
    """An array in memory of its own: the loader may fill its own with the next batch.

    On the CPU `jax.device_put` shares the memory of a NumPy array that begins at a
    multiple of 64 bytes, with `may_alias=False` as well (seen on JAX 0.10 and 0.12).
    """
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def batch_rows(name: str, batch: tuple[Batch, ...]) -> int:
    """How many rows a batch has, the same for all its arrays."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    rows = {shape[0] if shape else None for shape in shapes}
    if len(rows) != 1 or not (number := rows.pop()):
        raise ValueError(
            f"`{name}` must be arrays with the same number of rows, one at least, on "
            f"axis 0, but the shapes are {shapes}; pass what has no rows by a closure, "
            "lambda params, x, y: loss(params, x, y, temperature)."
        )
    return number


# Checks ---------------------------------------------------------------------------


def _check_size(size: Any) -> None:
    mend = "for example microbatch_size=256."
    if not isinstance(size, int | np.integer):
        raise TypeError(f"`microbatch_size` must be an integer, got {size!r}; {mend}")
    if size < 1:
        raise ValueError(f"`microbatch_size` must be positive, got {size}; {mend}")


def _check_batches(batches: Any) -> None:
    if isinstance(batches, Iterator):
        raise TypeError(
            f"`batches` can be read only once, being a {type(batches).__name__}, but "
            "every gradient is a pass over them all: pass the function that makes it, "
            "streamed_value_and_grad(loss, lambda: read_batches()), or a list."
        )
    if isinstance(batches, np.ndarray | jax.Array) or not (
        callable(batches) or hasattr(batches, "__iter__")
    ):
        raise TypeError(
            "`batches` must be an iterable of batches, or a function that returns one, "
            f"got a {type(batches).__name__}; for example [(x[:64], y[:64]), "
            "(x[64:], y[64:])]."
        )


def _check_concrete(params: optax.Params) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
        raise TypeError(
            "`params` are traced: streamed batches come from the host, so neither this "
            "function nor a `tx.update` that is given it can stand inside jax.jit, "
            "jax.grad, jax.vmap or jax.lax's loops and conditionals. Take those away, "
            "or, where the data fits on the device, use\n"
            "    dsa_optax.full_batch.microbatched_value_and_grad(loss, 256)"
        )
