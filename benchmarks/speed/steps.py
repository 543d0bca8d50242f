"""A step of each optimizer beside the least that it could cost.

Where the gradient dominates, that is the gradient: two for those that look ahead, and
the step of SGD for the others. Where the update dominates, it is the time in which the
memory moves the bytes that the update must read and write.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.timing import Step, paired

MOST_STATE = 4e9
"""A state of more bytes is left out."""


class Entrant(NamedTuple):
    """An optimizer to be timed.

    Attributes:
      label: for tables.
      make: makes it.
      gradients: how many a step evaluates.
      matrices: whether it multiplies matrices of the params' shapes.
    """

    label: str
    make: Callable[[], optax.GradientTransformation]
    gradients: int = 1
    matrices: bool = False


def by_sign() -> optax.GradientTransformation:
    """The direction of DSA, without a rate."""
    return optax.stateless(lambda grads, _: jax.tree.map(lambda g: -jnp.sign(g), grads))


def _sam() -> optax.GradientTransformation:
    return optax.contrib.sam(
        optax.sgd(1e-3),
        optax.chain(optax.contrib.normalize(), optax.sgd(1e-3)),
        opaque_mode=True,
    )


ENTRANTS: Mapping[str, Entrant] = {
    "sgd": Entrant("SGD", lambda: optax.sgd(1e-3)),
    "adam": Entrant("Adam", lambda: optax.adam(1e-3)),
    "muon": Entrant("Muon", lambda: optax.contrib.muon(1e-3), matrices=True),
    "lbfgs": Entrant(
        "L-BFGS, memory 10, no line search",
        lambda: optax.lbfgs(1e-3, memory_size=10, linesearch=None),
    ),
    "sam": Entrant("SAM", _sam, 2),
    "dsa": Entrant("`dsa()`", dsa_optax.dsa, 2),
    "dsa-bfloat16": Entrant(
        "`dsa(state_dtype=jnp.bfloat16)`",
        lambda: dsa_optax.dsa(state_dtype=jnp.bfloat16),
        2,
    ),
    "dsa-int8": Entrant(
        "`dsa(state_dtype=jnp.int8)`", lambda: dsa_optax.dsa(state_dtype=jnp.int8), 2
    ),
    "warmup-muon": Entrant(
        "`adaptive_warmup(optax.contrib.muon(1e-3), 100)`",
        lambda: dsa_optax.adaptive_warmup(optax.contrib.muon(1e-3), 100),
        matrices=True,
    ),
    "adapt-global": Entrant(
        '`adapt(optax.sgd(1.0), "global")`',
        lambda: dsa_optax.adapt(optax.sgd(1.0), "global"),
    ),
    "adapt-parameter": Entrant(
        '`adapt(sign, "parameter")`', lambda: dsa_optax.adapt(by_sign(), "parameter")
    ),
    "adapt-muon": Entrant(
        "`adapt(optax.contrib.muon(1.0))`",
        lambda: dsa_optax.adapt(optax.contrib.muon(1.0)),
        matrices=True,
    ),
    "auto-light": Entrant(
        "`auto_dsa(memory_size=0)`", lambda: dsa_optax.auto_dsa(0), matrices=True
    ),
    "auto": Entrant("`auto_dsa()`", dsa_optax.auto_dsa, matrices=True),
}


# Nets ---------------------------------------------------------------------------------


class Size(NamedTuple):
    """A net to be timed.

    Attributes:
      parameters: about how many.
      layers: each a square matrix and a vector.
      rows: of the data.
    """

    parameters: float
    layers: int
    rows: int


FEW, MANY = 2, 25
SIZES = tuple(
    Size(parameters, layers, rows)
    for parameters, rows in ((1e4, 8192), (1e6, 1024), (1e8, 32))
    for layers in (FEW, MANY)
)


def _width(size: Size) -> int:
    return round((size.parameters / size.layers) ** 0.5)


def net(size: Size) -> tuple[optax.Params, jax.Array, jax.Array]:
    """The params of a net with skip connections, and random data for it."""
    width = _width(size)
    random = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    params = [
        {"w": normal(width, width) / width**0.5, "b": jnp.zeros(width)}
        for _ in range(size.layers)
    ]
    return params, normal(size.rows, width), normal(size.rows, width)


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of such a net."""
    for layer in params:
        x = x + jnp.tanh(x @ layer["w"] + layer["b"]) / len(params)
    return jnp.mean((x - y) ** 2)


def count(params: Any) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def parameters_of(size: Size) -> int:
    """How many its net has."""
    return count(shapes(size))


def shapes(size: Size) -> Any:
    """The shapes of its params."""
    # Without the net, whose numbers NumPy would draw.
    width = _width(size)
    w, b = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((width, width), (width,))
    )
    return [{"w": w, "b": b}] * size.layers


def state_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """What the state takes."""
    return _bytes(jax.eval_shape(tx.init, params))


def _fits(entrant: Entrant, size: Size) -> bool:
    """Not a state of many gigabytes, nor minutes of Newton and Schulz's iterations."""
    small = state_bytes(entrant.make(), shapes(size)) <= MOST_STATE
    return small and not (entrant.matrices and size.parameters > 1e7)


# Where the gradient dominates ---------------------------------------------------------


def train_step(entrant: Entrant, size: Size) -> Step:
    """A whole step of training."""
    params, x, y = net(size)
    tx = optax.with_extra_args_support(entrant.make())

    def step(carry: Any, x: jax.Array, y: jax.Array) -> Any:
        params, state = carry
        grads = jax.grad(loss)(params, x, y)
        # SAM's has a second argument, the number of the gradient.
        grad_fn = lambda probe, *_: jax.grad(loss)(probe, x, y)
        updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    return Step(step, (params, tx.init(params)), x, y)


def gradients(number: int, size: Size) -> Step:
    """So many gradients one after the other, and nothing else."""
    params, x, y = net(size)

    def step(carry: Any, x: jax.Array, y: jax.Array) -> Any:
        params, _ = carry
        grads = jax.grad(loss)(params, x, y)
        for _ in range(number - 1):
            # One that waits for the first, and goes where it says, as a probe does. The
            # probe is returned, lest XLA work it out anew inside the products.
            params = optax.tree.add_scale(params, -1e-6, grads)
            grads = jax.grad(loss)(params, x, y)
        return params, grads

    return Step(step, (params, optax.tree.zeros_like(params)), x, y)


def steps(sizes: tuple[Size, ...] = SIZES, budget: float = 1.0) -> pd.DataFrame:
    """Times steps of training against their floor and against SGD's step.

    Returns:
      A row an entrant and size: "optimizer", "parameters", "leaves", "rows",
      "milliseconds", "to_gradients" (the ratio to as many gradients as it evaluates),
      "to_sgd" (to a step of SGD), "state_bytes" (a parameter).
    """
    rows = []
    for size in sizes:
        floors = {number: gradients(number, size) for number in (1, 2)}
        sgd = train_step(ENTRANTS["sgd"], size)
        for name, entrant in ENTRANTS.items():
            if not _fits(entrant, size):
                continue
            step = train_step(entrant, size)
            floor = paired(step, floors[entrant.gradients], budget=budget)
            rows.append(
                unit(name, size)
                | {
                    "rows": size.rows,
                    "milliseconds": floor.milliseconds,
                    "to_gradients": floor.ratio,
                    "to_sgd": paired(step, sgd, budget=budget).ratio,
                    "state_bytes": state_bytes(entrant.make(), shapes(size))
                    / parameters_of(size),
                }
            )
            del step
            jax.clear_caches()
    return pd.DataFrame(rows)


def unit(name: str, size: Size) -> dict[str, Any]:
    """What a row of a table begins with."""
    return {
        "optimizer": name,
        "parameters": parameters_of(size),
        "leaves": len(jax.tree.leaves(shapes(size))),
    }


# Where the update dominates -----------------------------------------------------------

ROWS = 8
"""So few that an update takes about as long as its gradient."""

ELEMENTWISE = tuple(
    name
    for name, entrant in ENTRANTS.items()
    if not entrant.matrices and name != "lbfgs"
)
"""Entrants whose update looks at every number of its arrays once."""


def moved(entrant: Entrant, params: Any) -> int:
    """Bytes that an update can't but read and write: each of its arrays once.

    A probe is not among them: that it is written is counted with the second gradient.
    """
    return (entrant.gradients + 2) * _bytes(params) + 2 * state_bytes(
        entrant.make(), params
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def copy_of(bytes_moved: int) -> Step:
    """What the memory needs for as many bytes: two arrays read, and one written."""
    size = max(1, bytes_moved // 12)
    add = lambda x, y: x + y
    return Step(add, jnp.ones(size, jnp.float32), jnp.ones(size, jnp.float32))


def updates(sizes: tuple[Size, ...] = SIZES, budget: float = 1.0) -> pd.DataFrame:
    """What updates add to their gradients, against the bytes that they must move.

    Returns:
      A row an entrant and size: "optimizer", "parameters", "leaves", "nanoseconds" (a
      parameter, a step's less its gradients'), "bytes" (a parameter that must be
      moved), "gigabytes_per_second", "to_bytes" (the ratio to moving them),
      "state_bytes" and "peak_bytes" (a parameter, of a whole step).
    """
    rows = []
    for size in sizes:
        size = size._replace(rows=ROWS)
        params, number = shapes(size), parameters_of(size)
        floors = {count: gradients(count, size) for count in (1, 2)}
        for name in ELEMENTWISE:
            entrant = ENTRANTS[name]
            step, bytes_moved = train_step(entrant, size), moved(entrant, params)
            # A turn of a millisecond at least, for small ones.
            calls = max(1, int(3e5 / number))
            timed = partial(paired, step, calls=calls, budget=budget)
            whole = timed(floors[entrant.gradients])
            added = whole.milliseconds - whole.beside
            copied = timed(copy_of(bytes_moved)).beside
            rows.append(
                unit(name, size)
                | {
                    "nanoseconds": 1e6 * added / number,
                    "bytes": bytes_moved / number,
                    "gigabytes_per_second": bytes_moved / added / 1e6,
                    "to_bytes": added / copied,
                    "state_bytes": state_bytes(entrant.make(), params) / number,
                    "peak_bytes": peak(step) / number,
                }
            )
            del step
            jax.clear_caches()
    return pd.DataFrame(rows)


def peak(step: Step) -> int:
    """The most memory that a step takes at once, by XLA's own plan."""
    memory = step.memory
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
