"""What many and large leaves cost: to compile a step and to take it, its operations."""

import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.timing import seconds
from benchmarks.speed import steps
from benchmarks.speed.steps import ENTRANTS

# Nets ---------------------------------------------------------------------------------


class Net(NamedTuple):
    """Params, what the loss takes beside them, and the loss."""

    params: Any
    data: tuple[jax.Array, ...]
    loss: Any


def _normal(random: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(random.standard_normal(shape, np.float32))


def shallow() -> Net:
    """Six leaves, no two of one shape: layers of 32 and 24 units on 600 rows."""
    random = np.random.default_rng(0)
    widths = (10, 32, 24, 1)
    params = [
        {"w": _normal(random, rows, columns) / rows**0.5, "b": jnp.zeros(columns)}
        for rows, columns in itertools.pairwise(widths)
    ]

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return jnp.mean((x @ params[-1]["w"] + params[-1]["b"] - y) ** 2)

    return Net(params, (_normal(random, 600, 10), _normal(random, 600, 1)), loss)


def deep(layers: int) -> Net:
    """A net with skip connections, 31 units wide, on 200 rows."""
    size = steps.Size(31**2 * layers, layers, 200)
    params, x, y = steps.net(size)
    return Net(params, (x, y), steps.loss)


def apart(leaves: int) -> Net:
    """Four parameters in each leaf, and a loss that compiles in seconds."""
    params = [jnp.full(4, 1 + i % 7, jnp.float32) for i in range(leaves)]
    return Net(params, (), lambda params: optax.tree.norm(params, squared=True))


def matrices(layers: int, width: int = 256) -> Net:
    """Nothing but large square matrices, with skip connections, on 32 rows."""
    random = np.random.default_rng(0)
    params = [_normal(random, width, width) / width**0.5 for _ in range(layers)]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x
        for w in params:
            y = y + jnp.tanh(y @ w) / layers
        return jnp.mean((y - 1) ** 2)

    return Net(params, (_normal(random, 32, width),), loss)


class _Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(num_heads=8)
        x = x + attention(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(hidden)


class _Transformer(nn.Module):
    layers: int
    width: int
    symbols: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        places = jnp.arange(tokens.shape[-1])
        x = nn.Embed(self.symbols, self.width)(tokens)
        x = x + nn.Embed(len(places), self.width)(places)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = _Block(self.width)(x, mask)
        return nn.Dense(self.symbols)(nn.LayerNorm()(x))


def transformer(layers: int = 12, width: int = 256) -> Net:
    """By Flax's linen: 198 leaves, 74 of them large, on two rows of 64 symbols."""
    model = _Transformer(layers, width, symbols=65)
    random = np.random.default_rng(0)
    tokens = jnp.asarray(random.integers(0, 65, (2, 64)))
    params = jax.jit(model.init)(jax.random.key(0), tokens)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = jnp.asarray(model.apply(params, tokens))
        crossed = optax.softmax_cross_entropy_with_integer_labels
        return crossed(logits[:, :-1], tokens[:, 1:]).mean()

    return Net(params, (tokens,), loss)


NETS: Mapping[str, Callable[[], Net]] = {
    "6 leaves": shallow,
    "42 leaves": lambda: deep(21),
    "160 leaves": lambda: deep(80),
    "1,000 leaves": lambda: apart(1000),
    "6 of 256×256": lambda: matrices(6),
    "25 of 256×256": lambda: matrices(25),
    "100 of 256×256": lambda: matrices(100),
    "transformer": transformer,
}


# What they cost -----------------------------------------------------------------------

NAMES = (
    "sgd",
    "adam",
    "muon",
    "lbfgs",
    "dsa",
    "warmup-muon",
    "adapt-global",
    "adapt-parameter",
    "auto-light",
    "auto",
)

LEFT_OUT = {("lbfgs", net) for net in ("1,000 leaves", "100 of 256×256", "transformer")}
"""They take XLA many minutes."""

BEST_OF = 3
"""Turns to compile a step, of which the fastest counts, where one takes seconds."""


def leaves(
    nets: Sequence[str] = tuple(NETS), names: Sequence[str] = NAMES
) -> pd.DataFrame:
    """A train step's compilation and run, by the leaves of the net.

    Returns:
      A row an optimizer and net: "optimizer", "net", "leaves" (their number),
      "init_seconds" (to make the state), "compile_seconds" (to trace and compile the
      step), "milliseconds" (a step, the fastest of nine turns), "operations" (of the
      compiled step, those inside its fusions too), "temporary_bytes" (what a step needs
      beside what it is given and returns).
    """
    rows = []
    _measured(names[0], nets[0])  # warms what all of them use
    for net in nets:
        for name in names:
            if (name, net) not in LEFT_OUT:
                rows.append({"optimizer": name, "net": net} | _measured(name, net))
    return pd.DataFrame(rows)


def _measured(name: str, net: str) -> dict[str, float]:
    params, data, loss = NETS[net]()
    init_seconds, compile_seconds = [], []
    for _ in range(BEST_OF):
        jax.clear_caches()
        tx = ENTRANTS[name].make()
        begun = time.perf_counter()
        state = jax.block_until_ready(tx.init(params))
        made = time.perf_counter()
        step = dsa_optax.make_train_step(loss, tx)
        compiled = step.lower(params, state, *data).compile()  # type: ignore[attr-defined]
        init_seconds.append(made - begun)
        compile_seconds.append(time.perf_counter() - made)
        if compile_seconds[-1] > 5:
            break

    # A state may share an array with the params, and none is donated twice.
    carry = jax.tree.map(jnp.copy, (params, state))
    number = len(jax.tree.leaves(params))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    turns, calls = [], max(1, min(2000 // number, int(1e7 / size)))
    for _ in range(9):

        def several() -> Any:
            nonlocal carry
            for _ in range(calls):
                *carry, _ = compiled(*carry, *data)
            return carry

        turns.append(seconds(several) / calls)
    return {
        "leaves": number,
        "init_seconds": min(init_seconds),
        "compile_seconds": min(compile_seconds),
        "milliseconds": 1e3 * min(turns),
        "operations": operations(compiled.as_text()),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def operations(program: str) -> int:
    """How many a compiled program has."""
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", program, re.MULTILINE))
