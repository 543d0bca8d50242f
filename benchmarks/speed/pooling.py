"""How long fractional max-pooling takes beside Flax's ordinary max-pooling."""

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pandas as pd

from benchmarks.shared.models.fractional_pool import fractional_max_pool
from benchmarks.shared.timing import seconds

Layer = Callable[[jax.Array, jax.Array], jax.Array]

SIZE, HALF, ROOT = 28, 14, 20
"""The input, the output of ordinary pooling, and the output of pooling by √2."""

LAYERS: Mapping[str, Layer] = {
    "max_pool": lambda x, key: nn.max_pool(x, (2, 2), (2, 2)),
    **{
        f"{kind}, to {size}": partial(
            lambda x, key, size, overlapping: fractional_max_pool(
                x, size, key, overlapping=overlapping
            ),
            size=size,
            overlapping=kind == "overlapping",
        )
        for kind in ("disjoint", "overlapping")
        for size in (HALF, ROOT)
    },
}
"""Each takes images and a key. The disjoint one to 14 computes what max_pool does."""


def speed(batch: int = 64, channels: int = 32, repeats: int = 21) -> pd.DataFrame:
    """Times each layer on float32 images of 28×28, forward and backward.

    The layers take turns, so that what else the machine does falls on all of them, and
    the ratio is the median of the turns' own ratios. Compilation is not counted. The
    time includes the draw of the regions; that of the backward pass also includes the
    part of the forward pass that tells where the maxima are.

    Args:
      batch: how many images.
      channels: how many channels.
      repeats: how many turns.

    Returns:
      A row for each layer and pass: "layer", "pass" ("forward" or "backward"),
      "milliseconds" (the median) and "ratio", to `flax.linen.max_pool`'s.
    """
    x = jax.random.normal(jax.random.key(0), (batch, SIZE, SIZE, channels), jnp.float32)
    rows = []
    for name, calls in (("forward", _forward(x)), ("backward", _backward(x))):
        turns = [
            {layer: seconds(call) for layer, call in calls.items()}
            for _ in range(repeats)
        ]
        rows += [_row(layer, name, turns) for layer in calls]
    return pd.DataFrame(rows)


def _forward(x: jax.Array) -> dict[str, Callable[[], jax.Array]]:
    key = jax.random.key(1)
    return {name: _compiled(layer, x, key) for name, layer in LAYERS.items()}


def _backward(x: jax.Array) -> dict[str, Callable[[], jax.Array]]:
    key = jax.random.key(1)
    calls = {}
    for name, layer in LAYERS.items():
        g = jnp.ones_like(layer(x, key))
        calls[name] = _compiled(partial(_gradient, layer), x, key, g)
    return calls


def _gradient(layer: Layer, x: jax.Array, key: jax.Array, g: jax.Array) -> jax.Array:
    return jax.vjp(lambda x: layer(x, key), x)[1](g)[0]


def _compiled(
    function: Callable[..., jax.Array], *args: jax.Array
) -> Callable[[], jax.Array]:
    call = partial(jax.jit(function), *args)
    jax.block_until_ready(call())
    return call


def _row(layer: str, name: str, turns: list[dict[str, float]]) -> dict[str, object]:
    return {
        "layer": layer,
        "pass": name,
        "milliseconds": 1000 * statistics.median(turn[layer] for turn in turns),
        "ratio": statistics.median(turn[layer] / turn["max_pool"] for turn in turns),
    }
