"""Bad input gets one error that names the argument and shows the mend."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MISSING_PARAMS = (
    "`params` are missing: DSA needs them to reach its probe point. Write\n"
    "    updates, state = tx.update(grads, state, params, grad_fn=jax.grad(loss))"
)

MISSING_PARAMS_TO_ADAPT = (
    "`params` are missing: they bound the length of a step, and tell what it moved. "
    "Write\n"
    "    updates, state = tx.update(grads, state, params)"
)

MISSING_VALUE = (
    "`params` or `value` are missing: keep_best needs the params and the loss at them. "
    "Write\n"
    "    value, grads = jax.value_and_grad(loss)(params)\n"
    "    updates, state = tx.update(grads, state, params, value=value)\n"
    "or let dsa_optax.make_train_step(loss, tx) do it. (Where a library passes no "
    "`value` on, keep the best outside.)"
)

MISSING_GRAD_FN = (
    "`grad_fn` is missing: DSA evaluates a second gradient at its probe point. Pass "
    "the function that gives the gradient (or the loss, as `value_fn`), on the same "
    "batch and with the same random keys as the first gradient:\n"
    "    JAX    tx.update(grads, state, params, grad_fn=jax.grad(loss))\n"
    "           tx.update(grads, state, params, "
    "grad_fn=dsa_optax.make_grad_fn(loss, batch))\n"
    "    linen  state.apply_gradients(grads=grads, grad_fn=grad_fn)\n"
    "           (a dsa_optax.linen.TrainState: Flax's own does not hand it on)\n"
    "    nnx    value, grads, grad_fn = "
    "dsa_optax.nnx.value_and_grad(loss)(model, batch)\n"
    "           optimizer.update(model, grads, grad_fn=grad_fn)\n"
    "or let dsa_optax.make_train_step(loss, tx) do it. Where a library can't pass one "
    "on (as NumPyro, GPJax, BlackJAX, NetKet and jinns), give it dsa_optax.auto_dsa(), "
    "or dsa_optax.adapt around any optimizer: these need no `grad_fn`."
)

COMPLEX = (
    "Write\n"
    "    tx = optax.contrib.split_real_and_imaginary(dsa_optax.auto_dsa())\n"
    "    updates, state = tx.update(jax.tree.map(jnp.conj, grads), state, params)\n"
    "(jax.grad gives the conjugate of the direction in which a loss grows; dsa and its "
    "kind can't stand there, as their `grad_fn` is not passed on)."
)

MASKED = (
    "DSA stands below optax.masked or optax.partition here, and sees only a part of "
    "the params, but the loss wants them all. Write\n"
    "    tx.update(grads, state, params, "
    "value_fn=lambda p: loss(dsa_optax.unmask(p, params)))"
)


def schedule(name: str, value: Any, example: int | float) -> None:
    """Checks a non-negative hyper-parameter, unless it is a schedule."""
    if not callable(value):
        scalar(name, value, example, low=0)


def scalar(
    name: str, value: Any, example: int | float, low: int | float = -math.inf
) -> None:
    """Checks one finite hyper-parameter, unless it is traced by JAX."""
    if isinstance(value, jax.core.Tracer):
        return
    mend = f"for example {name}={example}"
    if callable(value):
        raise TypeError(f"`{name}` can't be a schedule, only a number; {mend}.")
    if np.asarray(value).dtype.kind not in "fiuV":  # V: bfloat16 and its like
        raise TypeError(f"`{name}` must be a number, got {value!r}; {mend}.")
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"`{name}` must be one number, got an array of shape {jnp.shape(value)}; "
            f"{mend}, and jax.vmap over a function that builds the optimizer for many."
        )
    number = float(value)
    if not (math.isfinite(number) and low <= number):
        bounds = "finite" if low == -math.inf else f"finite and at least {low:g}"
        raise ValueError(f"`{name}` must be {bounds}, got {number:g}; {mend}.")


def count(name: str, value: Any, example: int) -> None:
    """Checks a number of updates, unless it is traced by JAX."""
    if isinstance(value, jax.core.Tracer):
        return
    if np.asarray(value).dtype.kind not in "iu":
        raise TypeError(
            f"`{name}` must be an integer, got {value!r}; for example {name}={example}."
        )
    scalar(name, value, example, low=0)


def ordered(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Checks low <= high, unless one of the two is traced by JAX."""
    if any(isinstance(bound, jax.core.Tracer) for bound in (low, high)):
        return
    if float(low) > float(high):
        raise ValueError(
            f"`{low_name}` ({float(low):g}) must not be above `{high_name}` "
            f"({float(high):g}); lower the first or raise the second."
        )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks an option that is a word."""
    if value not in allowed:
        words = " or ".join(f'{name}="{word}"' for word in allowed)
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}: {words}.")


def floating_dtype(name: str, dtype: Any) -> None:
    """Checks a dtype in which rates can be kept; None is the default one."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be a floating dtype (of dsa and exponential_dsa also "
            f"jnp.int8 or jnp.int16), got {jnp.dtype(dtype).name}; for example "
            f"{name}=jnp.float32."
        )


OTHER_PARAMS = "this is the state of other params: make a new state, tx.init(params)."


def real_floating(name: str, tree: Any) -> None:
    """Checks that every leaf can take a step of real length."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            mend = "Convert it, or pass it to the loss as an argument of its own."
            if jnp.issubdtype(dtype, jnp.complexfloating):
                mend = COMPLEX
            raise TypeError(
                f"`{name}` must be real floating arrays, but {at(path)} is of "
                f"{dtype.name}. {mend}"
            )


def gradient(name: str, grads: Any, params: Any) -> None:
    """Checks that a gradient has the structure and the shapes of the params."""
    _like_params(
        name,
        grads,
        params,
        structure_mend="pass grad_fn=jax.grad(loss), or value_fn=loss, not "
        "jax.value_and_grad or the loss as grad_fn; for a loss that also returns aux, "
        "grad_fn=dsa_optax.make_grad_fn(loss, *batch, has_aux=True).",
        shape_mend="differentiate with respect to the params that you pass to "
        "`update`, and average over the batch inside the loss.",
    )


def same_shapes(name: str, arrays: Any, those_of_params: Any) -> None:
    """Checks that what a state keeps is of the same params, as they are packed."""
    got, wanted = (
        {key: jnp.shape(array) for key, array in each.items()}
        for each in (arrays, those_of_params)
    )
    if got != wanted:
        raise ValueError(
            f"`{name}` must be that of `params`, but has arrays of {got} where they "
            f"make {wanted}: {OTHER_PARAMS}"
        )


def rates(name: str, tree: Any, params: Any) -> None:
    """Checks that the rates in a state are those of the params, or one for them all."""
    if jax.tree_util.all_leaves([tree]) and jnp.ndim(tree) == 0:
        return
    _like_params(
        name, tree, params, structure_mend=OTHER_PARAMS, shape_mend=OTHER_PARAMS
    )


def _like_params(
    name: str, tree: Any, params: Any, structure_mend: str, shape_mend: str
) -> None:
    got: Any = jax.tree.structure(tree)
    wanted: Any = jax.tree.structure(params)
    if got != wanted:
        raise ValueError(
            f"`{name}` must have the structure of `params`, {wanted}, but has {got}: "
            f"{structure_mend}"
        )
    for (path, leaf), param in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves(params), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(param):
            raise ValueError(
                f"`{name}` must have the shapes of `params`, but {at(path)} is of "
                f"shape {jnp.shape(leaf)} where the parameter is of "
                f"{jnp.shape(param)}: {shape_mend}"
            )


def at(path: tuple[Any, ...]) -> str:
    """A leaf, in a sentence."""
    return f"the leaf {jax.tree_util.keystr(path)}" if path else "it"
