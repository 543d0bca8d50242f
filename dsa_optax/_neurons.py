"""In which order parameters are laid, so that those of a neuron are neighbours.

A matrix for all pairs of many parameters is too large; what couples most are those of
one neuron, and of the next ones of its layer. So the entries of a layer are laid by
its outputs: a column of the kernel with its bias, and then the next. Cut into blocks of
one size, that is one matrix for some neurons each.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dsa_optax._packed import Layout


class Blocks(NamedTuple):
    """A vector cut into blocks of one size.

    Attributes:
      order: the place in the vector of every entry of the blocks, (blocks, size); its
        length for those that are left over. None where there is one block, in order.
      size: of the vector.
    """

    order: np.ndarray | None
    size: int

    @classmethod
    def of(cls, layout: Layout, most: int) -> "Blocks":
        """Of all parameters, in as few blocks of at most so many as there may be."""
        size = int(layout.sizes().sum())
        count = math.ceil(size / most) if size else 1
        if count == 1:
            return cls(None, size)
        width = math.ceil(size / count)
        order = np.full(count * width, size, np.int32)
        order[:size] = by_neuron(layout)
        return cls(order.reshape(count, width), size)

    @property
    def shape(self) -> tuple[int, int]:
        """How many there are, and how large each is."""
        return (1, self.size) if self.order is None else self.order.shape

    def cut(self, vector: jax.Array) -> jax.Array:
        """The blocks of a vector; zero in what is left over."""
        if self.order is None:
            return vector[None]
        return vector.at[self.order].get(mode="fill", fill_value=0)

    def joined(self, blocks: jax.Array) -> jax.Array:
        """The vector again."""
        if self.order is None:
            return blocks[0]
        back = np.argsort(self.order.ravel(), kind="stable")[: self.size]
        return blocks.ravel()[back]


def by_neuron(layout: Layout) -> np.ndarray:
    """The places of all entries in the packed arrays behind each other, by neuron."""
    places = _places(layout)
    paths = jax.tree_util.tree_flatten_with_path(
        jax.tree.unflatten(layout.structure, places)
    )[0]
    layers: dict[str, list[tuple[str, np.ndarray]]] = {}
    for path, place in paths:
        layer = jax.tree_util.keystr(path[:-1])
        name = jax.tree_util.keystr(path[-1:])
        layers.setdefault(layer, []).append((name, place))
    laid = [_laid(leaves) for leaves in layers.values()]
    return np.concatenate([np.zeros(0, np.int32), *laid])


def _places(layout: Layout) -> list[Any]:
    """Where the entries of each leaf are, in its shape."""
    places: list[Any] = [None] * len(layout.shapes)
    begin = 0
    # As JAX takes the leaves of a dict.
    for _, runs in sorted(layout.arrays().items()):
        for run in runs:
            for leaf in run.leaves:
                end = begin + run.size
                whole = np.arange(begin, end, dtype=np.int32)
                places[leaf], begin = whole.reshape(run.shape), end
    return places


def _laid(leaves: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """The entries of leaves that are next to each other in the tree.

    One kernel, with more axes than all others, is laid by its outputs, and the biases
    of these go with them. Where there is none, or several, each leaf is on its own.
    """
    most = max(place.ndim for _, place in leaves)
    kernels = [leaf for leaf in leaves if leaf[1].ndim == most]
    if most < 2 or len(kernels) > 1:
        return np.concatenate([_by_output(leaf, ())[0].ravel() for leaf in leaves])
    others = [place for _, place in leaves if place.ndim < most]
    rows, outputs = _by_output(kernels[0], [place.shape for place in others])
    biases = [place for place in others if place.shape == outputs]
    rest = [place.ravel() for place in others if place.shape != outputs]
    columns = [place.reshape(len(rows), 1) for place in biases]
    return np.concatenate([np.hstack([rows, *columns]).ravel(), *rest])


def _by_output(
    kernel: tuple[str, np.ndarray], biases: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """A row an output with what comes into it, and the outputs' shape.

    The outputs are the axes that a bias has: the last ones, or the first ones where
    these alone fit, or the leaf is called a weight, as PyTorch and Equinox have it.
    Without a bias they are the last axis.
    """
    name, place = kernel
    if place.ndim < 2:
        return place.reshape(1, -1), ()
    for shape in sorted(biases, key=len, reverse=True):
        axes = len(shape)
        if not 0 < axes < place.ndim:
            continue
        first, last = place.shape[:axes] == shape, place.shape[-axes:] == shape
        if first and ("weight" in name or not last):
            return place.reshape(math.prod(shape), -1), shape
        if last:
            return place.reshape(-1, math.prod(shape)).T, shape
    if "weight" in name:
        return place.reshape(place.shape[0], -1), place.shape[:1]
    return place.reshape(-1, place.shape[-1]).T, place.shape[-1:]
