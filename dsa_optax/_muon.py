"""The direction of Muon, of packed params: matrices of one shape as one batch."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dsa_optax._packed import Core, Packed, joined

Numbers: TypeAlias = optax.contrib.MuonDimensionNumbers

# Written out, they are iterated in a loop, whose body is compiled once.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


class _Part(NamedTuple):
    """Some of an array: leaves that Muon takes for matrices, or for others.

    Attributes:
      array: the name of the array.
      begin: where it begins in a vector.
      end: where it ends there; None for the whole of a leaf that isn't packed.
      shape: of what Muon is given; all others of a vector become one vector.
      numbers: the axes of its matrices, or None.
    """

    array: str
    begin: int
    end: int | None
    shape: tuple[int, ...]
    numbers: Numbers | None

    @property
    def name(self) -> str:
        return self.array if self.numbers is None else f"{self.array} {self.begin}"


def muon_direction(weight_dimension_numbers: Any | None = None) -> Core:
    """Optax's Muon at a rate of 1.

    Args:
      weight_dimension_numbers: as `auto_dsa` has them.
    """

    def parts_of(params: Packed) -> list[_Part]:
        return list(_parts(params, _of_each_leaf(params, weight_dimension_numbers)))

    def muon(parts: Sequence[_Part]) -> optax.GradientTransformationExtraArgs:
        return optax.contrib.muon(
            1.0,
            ns_coeffs=NEWTON_SCHULZ,
            # Beside its eps of 1e-8 this is nothing, and a root of zero has no
            # derivative.
            adam_eps_root=1e-30,
            muon_weight_dimension_numbers={part.name: part.numbers for part in parts},
        )

    def init(params: Packed) -> Any:
        parts = parts_of(params)
        # Without leaves a scalar, see `Packed.held`.
        return muon(parts).init(_cut(params, parts)) if parts else jnp.zeros([])

    def update(
        updates: Packed, state: Any, params: Packed, **extra_args: Any
    ) -> tuple[Packed, Any]:
        del extra_args
        parts = parts_of(params)
        if not parts:
            return updates, state
        directions, state = muon(parts).update(
            _cut(updates, parts), state, _cut(params, parts)
        )
        return _mended(directions, parts, params), state

    return Core(init, update)


def _of_each_leaf(params: Packed, numbers: Any) -> list[Numbers | None]:
    """What is a matrix: by default every leaf of two axes."""
    tree = params.layout.like(params)
    if numbers is None:
        # Not those without rows, of which Muon divides by zero.
        leaves = jax.tree.leaves(tree)
        return [Numbers() if x.ndim == 2 and x.size else None for x in leaves]
    numbers = numbers(tree) if callable(numbers) else numbers

    def is_leaf(node: Any) -> bool:
        return node is None or isinstance(node, optax.contrib.MuonDimensionNumbers)

    full = jax.tree.broadcast(numbers, tree, is_leaf=is_leaf)
    return jax.tree.leaves(full, is_leaf=is_leaf)


def _parts(params: Packed, numbers: Sequence[Numbers | None]) -> Iterator[_Part]:
    for array, runs in params.layout.vectors:
        for run in runs:
            begin = run.begin
            for kind, leaves in itertools.groupby(run.leaves, numbers.__getitem__):
                shape = (len(list(leaves)), *run.shape)
                size = (run.end - run.begin) // len(run.leaves)
                end = begin + shape[0] * size
                axes = None if kind is None else _after_one(kind, len(run.shape))
                yield _Part(array, begin, end, shape, axes)
                begin = end
    for array, i in params.layout.kept:
        yield _Part(array, 0, None, params.layout.shapes[i], numbers[i])


def _after_one(numbers: Numbers, axes: int) -> Numbers:
    """The same axes behind a new first one."""

    def moved(axis: int | Sequence[int]) -> tuple[int, ...]:
        each = (axis,) if isinstance(axis, int) else axis
        return tuple(a % axes + 1 for a in each)

    return Numbers(moved(numbers.reduction_axis), moved(numbers.output_axis))


def _cut(packed: Packed, parts: Sequence[_Part]) -> dict[str, jax.Array]:
    pieces: dict[str, Any] = {}
    for part in parts:
        array = packed.arrays[part.array]
        piece = array if part.end is None else array[part.begin : part.end]
        if part.numbers is None and part.end is not None:
            pieces.setdefault(part.name, []).append(piece)
        else:
            pieces[part.name] = piece.reshape(part.shape)
    return {
        name: joined(piece) if isinstance(piece, list) else piece
        for name, piece in pieces.items()
    }


def _mended(
    pieces: dict[str, jax.Array], parts: Sequence[_Part], like: Packed
) -> Packed:
    arrays: dict[str, Any] = {}
    taken = dict.fromkeys(pieces, 0)
    for part in parts:
        piece = pieces[part.name]
        if part.end is None:
            arrays[part.array] = piece
            continue
        size = part.end - part.begin
        if part.numbers is None:
            begin = taken[part.name]
            taken[part.name] += size
            piece = piece[begin : begin + size]
        arrays.setdefault(part.array, []).append(piece.ravel())
    return Packed(
        {
            name: joined(array) if isinstance(array, list) else array
            for name, array in arrays.items()
        },
        like.layout,
    )
