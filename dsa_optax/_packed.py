"""Few arrays in place of many leaves: what compilers and steps pay for is operations.

    small leaves    one vector for those of each dtype
    large ones      one array for those of each shape, along a new first axis
    of every leaf   values of which there is one are a vector, too

All that an optimizer does between is elementwise, or a sum over a leaf or over all: so
it sees a few arrays, whatever the number of leaves. Which ones follows from the shapes
and dtypes of the leaves alone: a state has one structure wherever the params lie.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax import _checks
from dsa_optax._trees import widest_of

SMALL = 2**14
"""What has more entries goes to no vector: of params that are spread over devices no
more than this is gathered for each leaf."""

Stored: TypeAlias = Any
"""What a state keeps of a `Packed`: its arrays by name, a plain dict."""


class Run(NamedTuple):
    """Leaves of one shape, next to each other in an array.

    Attributes:
      array: the name of the array.
      leaves: their numbers, in the order of the tree.
      shape: of each.
      begin: where the first begins in a vector; None where the array has a first axis
        for them.
      first: the place of the first along that axis.
    """

    array: str
    leaves: tuple[int, ...]
    shape: tuple[int, ...]
    begin: int | None
    first: int = 0

    @property
    def size(self) -> int:
        """The number of entries of each leaf."""
        return math.prod(self.shape)

    def of(self, array: jax.Array) -> jax.Array:
        """These leaves, along a new first axis."""
        count = len(self.leaves)
        if self.begin is None:
            return array[self.first : self.first + count]
        part = array[self.begin : self.begin + count * self.size]
        return part.reshape(count, *self.shape)

    def part(self, place: int, count: int) -> "Run":
        """Some of the leaves, from a place on."""
        leaves = self.leaves[place : place + count]
        if self.begin is None:
            return self._replace(leaves=leaves, first=place)
        return self._replace(leaves=leaves, begin=self.begin + place * self.size)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every leaf of a tree is, once it is packed.

    Attributes:
      structure: of the tree.
      shapes: of its leaves.
      shardings: of its leaves, where their types say it, else None.
      runs: the leaves in the order in which they lie in the arrays.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    shardings: tuple[Any, ...]
    runs: tuple[Run, ...]

    def arrays(self) -> dict[str, list[Run]]:
        """The name and the runs of every array."""
        runs: dict[str, list[Run]] = {}
        for run in self.runs:
            runs.setdefault(run.array, []).append(run)
        return runs

    def pack(self, tree: Any) -> "Packed":
        """A tree like the params, packed; of leaves of several dtypes the widest."""
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        arrays = {}
        for name, runs in self.arrays().items():
            if runs[0].begin is None:
                arrays[name] = _stacked([leaves[i] for i in runs[0].leaves])
            else:
                small = [_gathered(leaves[i]) for run in runs for i in run.leaves]
                arrays[name] = joined([leaf.ravel() for leaf in small])
        return Packed(arrays, self)

    def unpack(self, packed: "Packed") -> Any:
        """The tree again."""
        leaves: list[Any] = [None] * len(self.shapes)
        for name, runs in self.arrays().items():
            array = packed.arrays[name]
            if sum(len(run.leaves) for run in runs) > 1:
                array = _worked_out_once(array)
            for run in runs:
                for place, i in enumerate(run.leaves):
                    leaves[i] = _as_typed(_cut(run, array, place), self.shardings[i])
        return jax.tree.unflatten(self.structure, leaves)

    def of_state(self, stored: Stored) -> "Packed":
        """What a state kept."""
        return Packed(stored if isinstance(stored, dict) else {}, self)

    def sums(self, packed: "Packed") -> jax.Array:
        """The sum over every leaf, shape (number of leaves,), in the widest dtype."""
        parts = []
        for run in self.runs:
            rows = run.of(packed.arrays[run.array])
            parts.append(jnp.sum(rows, axis=tuple(range(1, rows.ndim))))
        return _taken(joined(parts), np.argsort(self._order()))

    def of_leaves(self, values: jax.Array) -> "Packed":
        """A value of every leaf, in the shape of its entries or to be broadcast so."""
        values = _taken(values, self._order())
        arrays: dict[str, Any] = {}
        done = 0
        for name, runs in self.arrays().items():
            parts = []
            for run in runs:
                count = len(run.leaves)
                each = values[done : done + count]
                done += count
                if run.begin is None:  # which any sharding of the leaves goes with
                    arrays[name] = each.reshape(count, *[1] * len(run.shape))
                else:
                    rows = jnp.broadcast_to(each[:, None], (count, run.size))
                    parts.append(rows.ravel())
            if parts:
                arrays[name] = joined(parts)
        return Packed(arrays, self)

    def of_one(self, value: jax.Array) -> "Packed":
        """One value for all entries, to be broadcast."""
        return Packed(dict.fromkeys(self.arrays(), value), self)

    def sizes(self) -> np.ndarray:
        """The number of entries of every leaf."""
        return np.array([math.prod(shape) for shape in self.shapes], np.int64)

    def like(self, packed: "Packed") -> Any:
        """The tree with numbers of no use, for their shapes and dtypes."""
        names = {i: run.array for run in self.runs for i in run.leaves}
        leaves = [
            np.broadcast_to(np.zeros((), packed.arrays[names[i]].dtype), shape)
            for i, shape in enumerate(self.shapes)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def tree(self, values: jax.Array) -> Any:
        """A value of every leaf as a tree of scalars."""
        values = _worked_out_once(values)
        run = Run("", tuple(range(len(values))), (), 0)
        leaves = [_cut(run, values, i) for i in run.leaves]
        return jax.tree.unflatten(self.structure, leaves)

    def _order(self) -> np.ndarray:
        """The leaves' numbers in the order in which they lie in the arrays."""
        return np.array([i for run in self.runs for i in run.leaves], np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed tree: a tree itself, of few leaves.

    Attributes:
      arrays: by name.
      layout: where everything is.
    """

    arrays: dict[str, jax.Array]
    layout: Layout = dataclasses.field(metadata={"static": True})


def for_state(x: Any) -> Stored:
    """What a state keeps of a `Packed`: nothing but arrays, for any checkpoint to know.

    Anything else it keeps as it is.
    """
    if not isinstance(x, Packed):
        return x
    # For params without leaves a scalar, as which optax.tree_map_params, whose params
    # are a placeholder, takes the place of what it can't map.
    return x.arrays or jnp.zeros([])


def layout_of(params: Any, *, stacks: bool = True) -> Layout:
    """How params are packed.

    Args:
      params: any tree of arrays.
      stacks: whether large leaves of one shape share an array. If not, each has one of
        its own, and is never copied.
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    vectors: dict[str, dict[tuple[int, ...], list[int]]] = {}
    runs = []
    for i, leaf in enumerate(leaves):
        shapes = vectors.setdefault(_name(leaf, None if stacks else i), {})
        shapes.setdefault(leaf.shape, []).append(i)
    for name, shapes in vectors.items():
        begin = 0
        for shape, numbers in shapes.items():
            run = Run(name, tuple(numbers), shape, begin)
            large = run.size > SMALL
            runs.append(run._replace(begin=None) if large else run)
            begin += len(numbers) * run.size
    return Layout(
        structure=structure,
        shapes=tuple(leaf.shape for leaf in leaves),
        shardings=tuple(map(_explicit_sharding, leaves)),
        runs=tuple(runs),
    )


def _name(leaf: jax.Array, number: int | None) -> str:
    """Of the array that a leaf goes to."""
    if leaf.size <= SMALL:
        return leaf.dtype.name
    axes = "x".join(map(str, leaf.shape))
    return f"{leaf.dtype.name}_{axes}" + ("" if number is None else f"_{number}")


def joined(parts: Sequence[jax.Array]) -> jax.Array:
    """Vectors behind each other, in their widest dtype."""
    parts = _of_one_dtype(parts)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _of_one_dtype(parts: Sequence[jax.Array]) -> Sequence[jax.Array]:
    if len({part.dtype for part in parts}) == 1:
        return parts
    dtype = widest_of(parts)
    return [part.astype(dtype) for part in parts] or [jnp.zeros(0, dtype)]


def _stacked(leaves: Sequence[jax.Array]) -> jax.Array:
    first = _explicit_sharding(leaves[0])
    leaves = [_as_typed(leaf, first) for leaf in _of_one_dtype(leaves)]
    return leaves[0][None] if len(leaves) == 1 else jnp.stack(leaves)


def _gathered(leaf: jax.Array) -> jax.Array:
    """A leaf whose type is that of an array that no device has only a part of."""
    sharding = _explicit_sharding(leaf)
    if sharding is None:
        return leaf
    return _as_typed(leaf, jax.NamedSharding(sharding.mesh, jax.P()))


def _explicit_sharding(leaf: jax.Array) -> Any:
    sharding = jax.typeof(leaf).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if explicit else None


def _as_typed(leaf: jax.Array, sharding: Any) -> jax.Array:
    return leaf if sharding is None else jax.sharding.reshard(leaf, sharding)


def on_one_device() -> bool:
    """Whether no array can be spread over devices, whatever hides it."""
    return jax.device_count() == 1


def _worked_out_once(x: jax.Array) -> jax.Array:
    """The same, which XLA won't work out anew in everything that is cut from it."""
    if x.size < 2:
        return x

    def on_cpu(x: jax.Array) -> jax.Array:
        # There it drops barriers before it decides so. What it can't see through is a
        # condition: here one that is always true.
        if x.ndim > 1 and not on_one_device():
            return x  # it may be spread, and its first entry on one device alone
        first = x[(0,) * x.ndim].astype(jnp.float32)
        bits = jax.lax.bitcast_convert_type(first, jnp.int32)
        return jax.lax.cond((bits | 1) != 0, lambda x: x, jnp.negative, x)

    return jax.lax.platform_dependent(
        x, cpu=on_cpu, default=jax.lax.optimization_barrier
    )


def _cut(run: Run, array: jax.Array, place: int) -> jax.Array:
    """The leaf that has a place in a run."""
    if run.begin is not None:
        part = _part(array, run.begin + place * run.size, run.size)
    elif _may_be_ravelled(array):
        part = _part(array.ravel(), place * run.size, run.size)
    else:
        part = array[place]  # which stays spread as it is
    return part.reshape(run.shape)


def _may_be_ravelled(array: jax.Array) -> bool:
    """Whether it has a place for every entry in int32, and no axis is spread."""
    few = len(array) > 1 and array.size <= np.iinfo(np.int32).max
    return few and on_one_device() and _explicit_sharding(array) is None


def _part(vector: jax.Array, begin: int, size: int) -> jax.Array:
    """A part of a vector, as a gather.

    XLA compiles one program for all gathers of a size, whose places are data, but one
    for every slice: a hundredth of a second for each leaf.
    """
    # One place alone would become a slice again.
    pieces = next((q for q in range(2, 1000) if size % q == 0), 2 if size < 2 else 1)
    if size in (0, len(vector)) or pieces == 1:
        return vector[begin : begin + size]
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


def packing(params: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How to pack trees like the params, and back, for states that are such trees.

    Of large leaves none is copied. Nothing is packed where there are several devices,
    as nothing should be gathered, nor outside a trace, which an operation costs little.
    """
    traced = any(isinstance(p, jax.core.Tracer) for p in jax.tree.leaves(params))
    if not traced or not on_one_device():
        return lambda tree: tree, lambda tree: tree
    layout = layout_of(params, stacks=False)
    return layout.pack, layout.unpack


# The border ---------------------------------------------------------------------------


def packed(
    inner: optax.GradientTransformationExtraArgs, *, passes_on: bool = True
) -> optax.GradientTransformationExtraArgs:
    """A transformation of trees, made of one of packed trees; as `optax.flatten`.

    Both are jitted here, so that JAX compiles one program where users call `update`
    without a jit of their own, and not one for every operation; but not where an extra
    argument is a function.

    Args:
      inner: the transformation of packed trees. Its `update` is given the params.
      passes_on: whether it wants other extra arguments than `value`.
    """

    @partial(jax.jit, inline=True)
    def begun(params: optax.Params) -> Any:
        return inner.init(layout_of(params).pack(params))

    def init(params: optax.Params) -> Any:
        params = jax.tree.map(jnp.asarray, params)
        _checks.real_floating("params", params)
        return begun(params)

    def moved(
        updates: optax.Updates, state: Any, params: optax.Params, extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        layout = layout_of(params)
        steps, state = inner.update(
            layout.pack(updates), state, layout.pack(params), **extra_args
        )
        return layout.unpack(steps), state

    jitted = jax.jit(moved, inline=True)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError(_checks.MISSING_PARAMS_TO_ADAPT)
        _checks.gradient("updates (the gradient)", updates, params)
        if not passes_on:
            extra_args = {k: v for k, v in extra_args.items() if k == "value"}
        arrays = all(map(_is_array, jax.tree.leaves(extra_args)))
        return (jitted if arrays else moved)(updates, state, params, extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_array(x: Any) -> bool:
    """Whether it crosses `jit`: a function, as `grad_fn` is, does not."""
    return isinstance(x, jax.Array | np.ndarray | np.generic | int | float)
