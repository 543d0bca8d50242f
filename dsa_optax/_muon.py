"""The direction of Muon, of packed trees: matrices of one shape as one batch."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax._matrices import Numbers
from dsa_optax._packed import Packed, Run, Stored, for_state, joined
from dsa_optax._trees import widest_of, zeros_like

DECAY, ADAM_DECAY = 0.95, 0.9
"""Of the mean of the gradients, for matrices and for others."""

SQUARES_DECAY = 0.999
EPS = 1e-8

# Beside EPS this is nothing, and a root of zero has no derivative.
EPS_ROOT = 1e-30

# Written out, they are iterated in a loop, whose body is compiled once.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


class MuonState(NamedTuple):
    """State of `muon_direction`.

    Attributes:
      count: number of updates so far, an int32 scalar.
      means: the exponential mean of the gradients, packed.
      squares: that of their squares, of every array that has others than matrices.
    """

    count: jax.Array  # type: ignore[assignment]
    means: Stored
    squares: Stored


def muon_direction(
    weight_dimension_numbers: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Optax's Muon at a rate of 1, of packed trees.

    The means are worked out for all leaves at once; the matrices are Optax's to
    orthogonalise, all of one shape together.

    Args:
      weight_dimension_numbers: as `auto_dsa` has them.
    """

    def kinds_of(packed: Packed) -> list[Numbers | None]:
        return _of_each_leaf(packed, weight_dimension_numbers)

    def init(params: Packed) -> MuonState:
        parts = _parts(params, kinds_of(params))
        others = {part.run.array for part in parts if part.numbers is None}
        squares = {name: params.arrays[name] for name in sorted(others)}
        return MuonState(
            count=jnp.zeros([], jnp.int32),
            means=for_state(zeros_like(params)),
            squares=for_state(zeros_like(Packed(squares, params.layout))),
        )

    def update(
        updates: Packed, state: MuonState, params: Packed, **extra_args: Any
    ) -> tuple[Packed, MuonState]:
        del params, extra_args
        kinds, layout = kinds_of(updates), updates.layout
        count = optax.safe_increment(state.count)
        is_matrix = layout.of_leaves(jnp.array([kind is not None for kind in kinds]))
        scales = _Scales.at(count, widest_of(updates.arrays.values()))
        ahead, means = {}, {}
        for name, before in layout.of_state(state.means).arrays.items():
            ahead[name], means[name] = _ahead(
                updates.arrays[name], before, scales, is_matrix.arrays[name]
            )
        others, squares = {}, {}
        for name, before in layout.of_state(state.squares).arrays.items():
            squares[name] = _mean(updates.arrays[name] ** 2, before, SQUARES_DECAY)
            others[name] = _adam(ahead[name], squares[name], scales)
        arrays = _with_matrices(others, ahead, _parts(updates, kinds))
        return Packed(arrays, layout), MuonState(
            count,
            for_state(Packed(means, layout)),
            for_state(Packed(squares, layout)),
        )

    return optax.GradientTransformationExtraArgs(init, update)


# The means ----------------------------------------------------------------------------


class _Scales(NamedTuple):
    """By what means are divided so that they aren't biased towards their zero start.

    Attributes:
      now: by the decay of a mean, at this update.
      ahead: at the next one.
    """

    now: dict[float, jax.Array]
    ahead: dict[float, jax.Array]

    @classmethod
    def at(cls, count: jax.Array, dtype: Any) -> "_Scales":
        decays = (DECAY, ADAM_DECAY, SQUARES_DECAY)
        counts = jnp.stack([count, optax.safe_increment(count)]).astype(dtype)
        # By one operation: to compile a number takes as long as to compile a vector.
        rows = 1 - jnp.array([decays], dtype) ** counts[:, None]
        return cls(*(dict(zip(decays, row, strict=True)) for row in rows))


def _mean(x: jax.Array, before: jax.Array, decay: float) -> jax.Array:
    return ((1 - decay) * x + decay * before).astype(before.dtype)


def _ahead(
    grad: jax.Array, before: jax.Array, scales: _Scales, is_matrix: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Nesterov's look ahead of the mean of the gradients, and the mean."""

    def by(decay: float) -> tuple[jax.Array, jax.Array]:
        mean = _mean(grad, before, decay)
        old = mean / scales.ahead[decay].astype(mean.dtype)
        new = grad / scales.now[decay].astype(grad.dtype)
        return decay * old + (1 - decay) * new, mean

    return jax.tree.map(partial(jnp.where, is_matrix), by(DECAY), by(ADAM_DECAY))


def _adam(ahead: jax.Array, square: jax.Array, scales: _Scales) -> jax.Array:
    square = square / scales.now[SQUARES_DECAY].astype(square.dtype)
    return -(ahead / (jnp.sqrt(square + EPS_ROOT) + EPS))


# The matrices -------------------------------------------------------------------------


class _Part(NamedTuple):
    """Leaves of one shape that are next to each other, and alike to Muon.

    Attributes:
      run: where they are.
      numbers: the axes of the matrices, or None.
    """

    run: Run
    numbers: Numbers | None


def _of_each_leaf(params: Packed, numbers: Any) -> list[Numbers | None]:
    """What is a matrix: where nothing is said, as to Optax, every leaf of two axes."""
    if numbers is None:
        # Not those without rows, of which Muon divides by zero.
        shapes = params.layout.shapes
        return [Numbers() if len(s) == 2 and all(s) else None for s in shapes]
    tree = params.layout.like(params)
    numbers = numbers(tree) if callable(numbers) else numbers

    def is_leaf(node: Any) -> bool:
        return node is None or isinstance(node, optax.contrib.MuonDimensionNumbers)

    full = jax.tree.broadcast(numbers, tree, is_leaf=is_leaf)
    return jax.tree.leaves(full, is_leaf=is_leaf)


def _parts(params: Packed, kinds: Sequence[Numbers | None]) -> list[_Part]:
    parts = []
    for run in params.layout.runs:
        place = 0
        for kind, group in itertools.groupby(run.leaves, kinds.__getitem__):
            count = len(list(group))
            parts.append(_Part(run.part(place, count), kind))
            place += count
    return parts


def _after_one(numbers: Numbers, axes: int) -> Numbers:
    """The same axes behind a new first one."""

    def moved(axis: int | Sequence[int]) -> tuple[int, ...]:
        each = (axis,) if isinstance(axis, int) else axis
        return tuple(a % axes + 1 for a in each)

    return Numbers(moved(numbers.reduction_axis), moved(numbers.output_axis))


def _with_matrices(
    others: dict[str, jax.Array], ahead: dict[str, jax.Array], parts: Sequence[_Part]
) -> dict[str, jax.Array]:
    """The directions of all: those of the others, and of the matrices Muon's."""
    arrays: dict[str, list[jax.Array]] = {}
    for run, numbers in parts:
        if numbers is None:
            leaves = run.of(others[run.array])
        else:
            leaves = _orthogonalized(run.of(ahead[run.array]), numbers)
        arrays.setdefault(run.array, []).append(
            leaves if run.begin is None else leaves.ravel()
        )
    mixed = {part.run.array for part in parts if part.numbers is not None}
    return others | {n: joined(cut) for n, cut in arrays.items() if n in mixed}


def _orthogonalized(matrices: jax.Array, numbers: Numbers) -> jax.Array:
    """Optax's Muon without a memory, of matrices along a first axis."""
    muon = optax.contrib.muon(
        1.0,
        ns_coeffs=NEWTON_SCHULZ,
        beta=0.0,
        nesterov=False,
        muon_weight_dimension_numbers=_after_one(numbers, matrices.ndim - 1),
    )

    return muon.update(matrices, muon.init(matrices), matrices)[0]
