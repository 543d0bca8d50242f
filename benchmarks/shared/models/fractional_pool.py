"""Fractional max-pooling: max-pooling by any ratio between 1 and 2 (Graham, 2014).

Graham writes pixels from 1 on, and so does this module where it says a or b. An integer
sequence a, whose increments are ones and twos, cuts the rows into regions, and another
one, b, the columns. Region i has the rows

- [a_{i-1}, a_i] if regions overlap: two or three rows, the last of which is the next
  region's first;
- [a_{i-1}, a_i - 1] if they are disjoint: one or two rows.

His a runs from 1 to N_in. For overlapping regions that covers every row. For disjoint
regions it would leave out the last one, and 2×2 pooling, his example of the limit ratio
2, would not be a special case: so a disjoint a runs to N_in + 1 here, as it does in
TensorFlow.

References:
  Graham, `Fractional Max-Pooling <https://arxiv.org/abs/1412.6071>`_, 2014, Sec. 2
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

SequenceKind = Literal["pseudorandom", "random"]


def fractional_max_pool(
    x: jax.Array,
    output_size: int | tuple[int, int],
    key: jax.Array,
    *,
    sequence: SequenceKind = "pseudorandom",
    overlapping: bool = True,
) -> jax.Array:
    """Max-pools images to any size between about a half and the whole of theirs.

    The key draws one sequence for the rows and, independently, one for the columns. All
    images and channels of the call share them, as in Graham's own code (PyTorch draws
    anew for each image and channel). For regions of its own for each image, `vmap` over
    images and keys.

    The output size is static, the regions are not: another key never recompiles.

    As in `flax.linen.max_pool`, a region's gradient goes to its maximum, and to the
    first one, row by row, if there are several. A NaN makes its regions NaN. Unlike
    there, there is no forward-mode derivative (`jax.jvp`).

    Draw once for both gradients of a DSA step, that is, give both the same key: their
    signs are compared, and must come from one and the same loss.

    Args:
      x: images, shape (..., height, width, channels), of any real dtype.
      output_size: height and width of the output, or one number for both. From an
        input of n, disjoint regions make anything from n/2 to n, and overlapping ones
        from (n - 1)/2 to n - 1: the limits are ordinary pooling with stride 2 or 1.
      key: random key.
      sequence: "pseudorandom", where ones and twos are spread evenly and only the phase
        is drawn, or "random", where they are shuffled.
      overlapping: whether neighbouring regions share the pixels between them.

    Returns:
      The maxima, shape (..., output height, output width, channels).

    Raises:
      ValueError: if the input has no such axes, can't be pooled to `output_size`, or
        the `sequence` is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.arange(49.0).reshape(1, 7, 7, 1)
      >>> fractional_max_pool(x, 5, jax.random.key(0)).shape
      (1, 5, 5, 1)

      Regions of its own for each image:

      >>> x, keys = jnp.ones((8, 7, 7, 1)), jax.random.split(jax.random.key(0), 8)
      >>> pool = lambda image, key: fractional_max_pool(image, (5, 4), key)
      >>> jax.vmap(pool)(x, keys).shape
      (8, 5, 4, 1)

    References:
      Graham, `Fractional Max-Pooling <https://arxiv.org/abs/1412.6071>`_, 2014
    """
    if x.ndim < 3:
        raise ValueError(f"x must be (..., height, width, channels), is {x.shape}")
    height, width = _pair(output_size)
    row_key, column_key = jax.random.split(key)
    draw = partial(pooling_sequence, sequence=sequence, overlapping=overlapping)
    a = draw(row_key, x.shape[-3], height)
    b = draw(column_key, x.shape[-2], width)
    return pool_regions(x, a, b, overlapping=overlapping)


def pooling_sequence(
    key: jax.Array,
    n_in: int,
    n_out: int,
    *,
    sequence: SequenceKind = "pseudorandom",
    overlapping: bool = True,
) -> jax.Array:
    """Draws the integers a_0 = 1 < a_1 < … that bound the regions along one axis.

    Random increments are a random permutation of the right number of ones and twos.
    Pseudorandom sequences are a_i = ⌈α(i + u)⌉ with u uniform over those u in (0, 1)
    that start at 1, which are u ≤ 1/α. The ratio is α = (a_last - 1)/n_out: then the
    sequence ends where it must for every such u. It is computed in integers, so that no
    rounding moves a region.

    Args:
      key: random key.
      n_in: size of the input.
      n_out: size of the output.
      sequence: "pseudorandom" or "random".
      overlapping: whether a ends at n_in, or at n_in + 1 (see above).

    Returns:
      The sequence, shape (n_out + 1,), of integers counted from 1.

    Raises:
      ValueError: if no increments of 1 and 2 lead there, or `sequence` is unknown.

    Examples:
      >>> import jax
      >>> pooling_sequence(jax.random.key(0), 7, 3).tolist()
      [1, 3, 5, 7]
      >>> pooling_sequence(jax.random.key(0), 4, 4, overlapping=False).tolist()
      [1, 2, 3, 4, 5]
    """
    length = n_in - 1 if overlapping else n_in
    _check_size(n_in, n_out, length, overlapping)
    if sequence == "pseudorandom":
        # α(i + u) = (length·i + v)/n_out with v uniform in (0, n_out]. Of v, only
        # ⌈v⌉ = phase + 1 counts, as length·i is an integer; ⌈m/n⌉ is 1 + ⌊(m - 1)/n⌋.
        # The remainder is uniform to n_out in 2³²; randint would be exact.
        phase = (jax.random.bits(key, dtype=jnp.uint32) % n_out).astype(int)
        return 1 + (length * jnp.arange(n_out + 1) + phase) // n_out
    if sequence == "random":
        increments = 1 + (jnp.arange(n_out) < length - n_out).astype(int)
        shuffled = jax.random.permutation(key, increments)
        return jnp.cumulative_sum(shuffled, include_initial=True) + 1
    raise ValueError(f"sequence must be 'pseudorandom' or 'random', is {sequence!r}")


def pool_regions(
    x: jax.Array, a: jax.Array, b: jax.Array, *, overlapping: bool = True
) -> jax.Array:
    """The maxima over given regions: a bounds their rows, b their columns.

    Args:
      x: images, shape (..., height, width, channels).
      a: sequence for the rows, as from `pooling_sequence`.
      b: sequence for the columns.
      overlapping: whether a region reaches to a_i or to a_i - 1.

    Returns:
      The maxima, shape (..., len(a) - 1, len(b) - 1, channels).

    Examples:
      >>> import jax.numpy as jnp
      >>> x = jnp.arange(9).reshape(3, 3, 1)
      >>> a, b = jnp.array([1, 2, 3]), jnp.array([1, 3])
      >>> pool_regions(x, a, b)[..., 0]  # rows 1 to 2 and 2 to 3, columns 1 to 3
      Array([[5],
             [8]], dtype=int32)
    """
    # Columns first: among equal maxima, the first one of the first row is left.
    return _pool(_pool(x, b, -2, overlapping), a, -3, overlapping)


class FractionalMaxPool(nnx.Module):
    """`fractional_max_pool` as an nnx layer that draws new regions at every call.

    At evaluation too: Graham averages the predictions of several passes. For regions
    that don't change, give the call a key. `dsa_optax.nnx.value_and_grad` takes both
    gradients with the same regions.

    Args:
      output_size: height and width of the output, or one number for both.
      sequence: "pseudorandom" or "random".
      overlapping: whether neighbouring regions share the pixels between them.
      rngs: random streams; the layer forks the one named "pooling", or the default.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> pool = FractionalMaxPool(5, rngs=nnx.Rngs(pooling=0))
      >>> pool(jnp.ones((8, 7, 7, 3))).shape
      (8, 5, 5, 3)
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        *,
        rngs: nnx.Rngs,
        sequence: SequenceKind = "pseudorandom",
        overlapping: bool = True,
    ) -> None:
        self.output_size = output_size
        self.sequence: SequenceKind = sequence
        self.overlapping = overlapping
        self.rngs = rngs["pooling"].fork()

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Pools x, in the regions that `key` draws, or the layer's next key."""
        return fractional_max_pool(
            x,
            self.output_size,
            self.rngs() if key is None else key,
            sequence=self.sequence,
            overlapping=self.overlapping,
        )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _check_size(n_in: int, n_out: int, length: int, overlapping: bool) -> None:
    if n_out < 1 or not n_out <= length <= 2 * n_out:
        regions = "overlapping" if overlapping else "disjoint"
        smallest, largest = max(1, -(-length // 2)), length
        possible = (
            f"from {smallest} to {largest}" if smallest <= largest else "none at all"
        )
        raise ValueError(
            f"output_size {n_out} is out of reach: {regions} regions pool an input of "
            f"{n_in} to {possible}"
        )


def _pool(x: jax.Array, a: jax.Array, axis: int, overlapping: bool) -> jax.Array:
    """The maxima along one axis.

    A region is two or three slices of x at most, taken by index, as their places are
    known only at run time. Where it is smaller than that, one comes twice.
    """
    first, last = a[:-1] - 1, a[1:] - 1
    indices = (first, first + 1, last) if overlapping else (first, last - 1)
    best, *others = (_take(x, index, axis) for index in indices)
    for other in others:
        # jnp.maximum would split the gradient among equals. NaN is unequal to itself.
        best = jnp.where((other > best) | (other != other), other, best)
    return best


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _take(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The slices of x at a strictly increasing index along an axis counted from behind.

    As no slice is taken twice, the gradient takes slices too: each slice of x looks up
    which of those taken it is, if any. JAX's own gradient would be a scatter, several
    times slower on CPUs.
    """
    rest = (slice(None),) * (-axis - 1)
    return x.at[..., index, *rest].get(mode="promise_in_bounds")


def _take_forward(
    x: jax.Array, index: jax.Array, axis: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    places = jnp.arange(x.shape[axis], dtype=index.dtype)
    return _take(x, index, axis), (index, places)


def _take_backward(
    axis: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, None]:
    index, places = saved
    found = jnp.searchsorted(index, places, method="compare_all").clip(
        max=index.size - 1
    )
    taken = (index[found] == places).reshape(-1, *(1,) * (-axis - 1))
    return jnp.where(taken, _take(g, found, axis), 0), None


_take.defvjp(_take_forward, _take_backward)
