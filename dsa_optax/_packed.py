"""Small leaves as one vector: operations per leaf are what compilers and steps pay for.

    pack    a tree of any leaves  →  one vector for the small ones of each dtype, those
            of one shape next to each other; every other leaf stays as it is
    tensors values of which there is one for every leaf are a vector too
    unpack  the tree again

All that an optimizer does between is elementwise, or a sum over a leaf or over all: so
it sees a few arrays, whatever the number of leaves.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax._state import widest_of

SMALL = 2**14
"""What has more entries is not packed: there copies cost more than they save."""

Held: TypeAlias = Any
"""What a state keeps of a `Packed`: its arrays by name, a plain dict."""


class Run(NamedTuple):
    """Leaves of one shape, next to each other in a vector.

    Attributes:
      leaves: their numbers, in the order of the tree.
      shape: of each.
      begin: where the first begins.
      end: where the last ends.
    """

    leaves: tuple[int, ...]
    shape: tuple[int, ...]
    begin: int
    end: int

    def rows(self, vector: jax.Array) -> jax.Array:
        """The part of a vector, a leaf to a row."""
        return vector[self.begin : self.end].reshape(
            len(self.leaves), math.prod(self.shape)
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every leaf of a tree is, once it is packed.

    Attributes:
      structure: of the tree.
      shapes: of its leaves.
      vectors: the name and the runs of every vector.
      kept: the name and the number of every leaf that stays as it is.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    vectors: tuple[tuple[str, tuple[Run, ...]], ...]
    kept: tuple[tuple[str, int], ...]

    def pack(self, tree: Any) -> "Packed":
        """A tree like the params, packed; of leaves of several dtypes the widest."""
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        arrays = {
            name: joined([leaves[i].ravel() for run in runs for i in run.leaves])
            for name, runs in self.vectors
        }
        return Packed(arrays | {name: leaves[i] for name, i in self.kept}, self)

    def unpack(self, packed: "Packed") -> Any:
        """The tree again."""
        leaves: list[Any] = [None] * len(self.shapes)
        for name, i in self.kept:
            leaves[i] = packed.arrays[name]
        for name, runs in self.vectors:
            vector = packed.arrays[name]
            if sum(len(run.leaves) for run in runs) > 1:
                vector = _worked_out_once(vector)
            for run in runs:
                begin, size = run.begin, math.prod(run.shape)
                for i in run.leaves:
                    leaves[i] = _cut(vector, begin, size).reshape(run.shape)
                    begin += size
        return jax.tree.unflatten(self.structure, leaves)

    def held(self, arrays: Held) -> "Packed":
        """What a state kept."""
        return Packed(arrays if isinstance(arrays, dict) else {}, self)

    def sums(self, packed: "Packed") -> jax.Array:
        """The sum over every leaf, shape (number of leaves,), in the widest dtype."""
        parts = [
            jnp.sum(run.rows(packed.arrays[name]), axis=1)
            for name, runs in self.vectors
            for run in runs
        ]
        parts += [jnp.sum(packed.arrays[name])[None] for name, _ in self.kept]
        return _taken(joined(parts), np.argsort(self._order()))

    def spread(self, values: jax.Array) -> "Packed":
        """A value of every leaf for all its entries, or a scalar where it is kept."""
        values = _taken(values, self._order())
        arrays, done = {}, 0
        for name, runs in self.vectors:
            parts = []
            for run in runs:
                each = values[done : done + len(run.leaves), None]
                done += len(run.leaves)
                rows = (len(run.leaves), math.prod(run.shape))
                parts.append(jnp.broadcast_to(each, rows).ravel())
            arrays[name] = joined(parts)
        for name, _ in self.kept:
            arrays[name] = values[done]  # a scalar, which any sharding goes with
            done += 1
        return Packed(arrays, self)

    def every(self, value: jax.Array) -> "Packed":
        """One value for all."""
        names = [name for name, _ in (*self.vectors, *self.kept)]
        return Packed(dict.fromkeys(names, value), self)

    def sizes(self) -> np.ndarray:
        """The number of entries of every leaf."""
        return np.array([math.prod(shape) for shape in self.shapes], np.int64)

    def like(self, packed: "Packed") -> Any:
        """The tree with numbers of no use, for their shapes and dtypes."""
        names = {i: name for name, i in self.kept}
        for name, runs in self.vectors:
            names |= {i: name for run in runs for i in run.leaves}
        leaves = [
            np.broadcast_to(np.zeros((), packed.arrays[names[i]].dtype), shape)
            for i, shape in enumerate(self.shapes)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def tree(self, values: jax.Array) -> Any:
        """A value of every leaf as a tree of scalars."""
        values = _worked_out_once(values)
        leaves = [_cut(values, i, 1).reshape(()) for i in range(len(values))]
        return jax.tree.unflatten(self.structure, leaves)

    def _order(self) -> np.ndarray:
        """The leaves' numbers in the order in which they lie in the arrays."""
        packed = [i for _, runs in self.vectors for run in runs for i in run.leaves]
        return np.array([*packed, *(i for _, i in self.kept)], np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed tree: a tree itself, of few leaves.

    Attributes:
      arrays: the vectors and the leaves that stay as they are, by name.
      layout: where everything is.
    """

    arrays: dict[str, jax.Array]
    layout: Layout = dataclasses.field(metadata={"static": True})

    def held(self) -> Held:
        """What a state keeps: nothing but arrays, for any checkpoint to know."""
        # For params without leaves a scalar, as which optax.tree_map_params, whose
        # params are a placeholder, takes the place of what it can't map.
        return self.arrays or jnp.zeros([])


def layout_of(params: Any, kept: Held | None = None) -> Layout:
    """How params are packed.

    Args:
      params: any tree of arrays.
      kept: what a state keeps, for the layout that it was made with. None decides
        anew: what is large, or spread over devices (as far as it is known), is kept.
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    names = set(kept) if isinstance(kept, dict) else set()
    alone, groups = [], {}  # type: ignore[var-annotated]
    for i, leaf in enumerate(leaves):
        if _stays(leaf) if kept is None else str(i) in names:
            alone.append((str(i), i))
        else:
            shapes = groups.setdefault(leaf.dtype.name, {})
            shapes.setdefault(leaf.shape, []).append(i)
    return Layout(
        structure=structure,
        shapes=tuple(leaf.shape for leaf in leaves),
        vectors=tuple((name, _runs(shapes)) for name, shapes in groups.items()),
        kept=tuple(alone),
    )


def _runs(shapes: Mapping[tuple[int, ...], list[int]]) -> tuple[Run, ...]:
    runs, begin = [], 0
    for shape, leaves in shapes.items():
        end = begin + len(leaves) * math.prod(shape)
        runs.append(Run(tuple(leaves), shape, begin, end))
        begin = end
    return tuple(runs)


def _stays(leaf: jax.Array) -> bool:
    return leaf.size > SMALL or _is_spread(leaf)


def _is_spread(leaf: jax.Array) -> bool:
    """Whether each device has a part, or may have its own value, of an array."""
    if not isinstance(leaf, jax.core.Tracer):
        return not leaf.sharding.is_fully_replicated
    sharding = jax.typeof(leaf).sharding
    if set(sharding.mesh.axis_types) == {jax.sharding.AxisType.Explicit}:
        return any(axis is not None for axis in sharding.spec)
    # What is being traced may hide it, and there is nothing to hide on one device.
    return jax.device_count() > 1


def joined(parts: Sequence[jax.Array]) -> jax.Array:
    """Vectors behind each other, in their widest dtype."""
    if len({part.dtype for part in parts}) != 1:
        dtype = widest_of(parts)
        parts = [part.astype(dtype) for part in (*parts, jnp.zeros(0, dtype))]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _worked_out_once(x: jax.Array) -> jax.Array:
    """The same, which XLA won't work out anew in everything that is cut from it."""
    if x.size < 2:
        return x
    # On a CPU it drops barriers before it decides so. What it can't see through is a
    # condition: here one that is always true.
    bits = jax.lax.bitcast_convert_type(x[0].astype(jnp.float32), jnp.int32)
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: jax.lax.cond((bits | 1) != 0, lambda x: x, jnp.negative, x),
        default=jax.lax.optimization_barrier,
    )


def _cut(vector: jax.Array, begin: int, size: int) -> jax.Array:
    """A part of a vector, as a gather.

    XLA compiles one program for all gathers of a size, whose places are data, but one
    for every slice: a hundredth of a second for each leaf.
    """
    if size in (0, len(vector)):
        return vector[:size]
    # One place alone would become a slice again.
    pieces = next((q for q in range(2, size + 1) if size % q == 0), 2)
    long = max(size // pieces, 1)
    places = begin + long * np.arange(pieces)
    places[places + long > len(vector)] = 0  # what comes after a scalar isn't needed
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(), start_index_map=(0,)
    )
    cut = jax.lax.gather(
        vector,
        places[:, None].astype(np.int32),
        numbers,
        slice_sizes=(long,),
        mode="promise_in_bounds",
    )
    return cut.ravel()[:size]


def _taken(values: jax.Array, order: np.ndarray) -> jax.Array:
    if np.array_equal(order, np.arange(len(order))):
        return values
    return values.at[order].get(unique_indices=True, mode="promise_in_bounds")


# Transformations ----------------------------------------------------------------------


class Core(NamedTuple):
    """An optimizer of packed params.

    Attributes:
      init: from `Packed` params to its state.
      update: as Optax's, of `Packed` gradients and params.
      opened: from a state as users have it, and the params, to what `update` takes.
      closed: from what `update` returned back to it.
      refuse: raises for what can't work, before the first `init`.
    """

    init: Callable[[Packed], Any]
    update: Callable[..., tuple[Packed, Any]]
    opened: Callable[[Any, Packed], Any] = lambda state, params: state
    closed: Callable[[Any, Layout], Any] = lambda state, layout: state
    refuse: Callable[[], None] = lambda: None


def on_trees(tx: optax.GradientTransformation) -> Core:
    """An optimizer of any other make, whose params and state are trees."""
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: Packed, state: Any, params: Packed, **extra_args: Any
    ) -> tuple[Packed, Any]:
        layout = params.layout
        steps, state = tx.update(
            layout.unpack(updates), state, layout.unpack(params), **extra_args
        )
        return layout.pack(steps), state

    return Core(lambda params: tx.init(params.layout.unpack(params)), update)


def on_packed(tx: optax.GradientTransformation) -> Core:
    """An optimizer to which packed params are a tree as any."""

    def update(
        updates: Packed, state: Any, params: Packed, **extra_args: Any
    ) -> tuple[Packed, Any]:
        del extra_args
        return tx.update(updates, state, params)

    return Core(tx.init, update)
