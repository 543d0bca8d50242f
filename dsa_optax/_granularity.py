"""Rates by the parameter, by the tensor, or one for all."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._packed import Layout, Packed, joined
from dsa_optax._sizes import inner_product, root_mean_squares, size_of_all, sizes
from dsa_optax._state import filled_like

Granularity: TypeAlias = Literal["parameter", "tensor", "global"]


class Rates(NamedTuple):
    """How many rates there are, and what one of them stands for.

    Rates, and what there is one of for each, are `Packed` (with one a parameter), a
    vector (one a tensor), or a scalar.

    Attributes:
      sizes: from the params to the sizes of what has a start of its own.
      like: from the params and such starts to rates.
      product: the scalar products over what each rate is for.
      length: of packed directions, what a rate multiplies.
      each: from a value of every tensor to what such lengths are compared with.
      least: from a comparison of every length to the least for each rate.
      spread: from rates and the layout to one for every parameter.
      tree: from rates and the layout to the tree that users see.
      of_tree: back again, with the params.
    """

    sizes: Callable[[Packed], jax.Array]
    like: Callable[[Packed, jax.Array], Any]
    product: Callable[[Packed, Packed], Any]
    length: Callable[[Packed], Any]
    each: Callable[[jax.Array, Layout], Any]
    least: Callable[[Any], Any]
    spread: Callable[[Any, Layout], Packed]
    tree: Callable[[Any, Layout], Any]
    of_tree: Callable[[Any, Packed], Any]


def _as_it_is(x: Any, _: Layout | Packed | None = None) -> Any:
    return x


def _spread(values: jax.Array, layout: Layout) -> Packed:
    return layout.spread(values)


def _packed(rates: optax.Params, params: Packed) -> Packed:
    _checks.rates("state (its rates)", rates, params.layout.like(params))
    return params.layout.pack(rates)


def _vector(rates: Any, params: Packed) -> jax.Array:
    layout = params.layout
    scalars = jax.tree.unflatten(layout.structure, [0.0] * len(layout.shapes))
    _checks.rates("state (its rates)", rates, scalars)
    return joined([rate[None] for rate in jax.tree.leaves(rates)])


RATES: dict[Granularity, Rates] = {
    "parameter": Rates(
        sizes=sizes,
        like=lambda params, starts: jax.tree.map(
            filled_like, params, params.layout.spread(starts)
        ),
        product=partial(jax.tree.map, jnp.multiply),
        length=partial(jax.tree.map, jnp.abs),
        each=_spread,
        least=_as_it_is,
        spread=_as_it_is,
        tree=lambda rates, layout: layout.unpack(rates),
        of_tree=_packed,
    ),
    "tensor": Rates(
        sizes=sizes,
        like=lambda params, starts: jnp.array(starts),
        product=lambda x, y: x.layout.sums(jax.tree.map(jnp.multiply, x, y)),
        length=root_mean_squares,
        each=_as_it_is,
        least=_as_it_is,
        spread=_spread,
        tree=lambda rates, layout: layout.tree(rates),
        of_tree=_vector,
    ),
    "global": Rates(
        sizes=size_of_all,
        like=lambda params, start: jnp.array(start),
        product=inner_product,
        length=root_mean_squares,
        each=_as_it_is,
        least=partial(jnp.min, initial=jnp.inf),
        spread=lambda rate, layout: layout.every(rate),
        tree=_as_it_is,
        of_tree=_as_it_is,
    ),
}
