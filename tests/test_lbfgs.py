"""L-BFGS's direction is that of the two-loop recursion, and of Optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsa_optax._lbfgs import lbfgs_direction
from tests.problems import flatten_rows, of_trees
from tests.reference_adapt import lbfgs_directions

SHAPES = {"a": (3,), "b": (2, 2), "c": ()}
SIZE = 8


def as_tree(rows):
    """Rows of 8 as leaves with a leading axis of steps."""
    a, b, c = jnp.split(jnp.asarray(rows), [3, 7], axis=-1)
    return {"a": a, "b": b.reshape(-1, 2, 2), "c": c[:, 0]}


def directions(thetas, grads, memory_size):
    found, state = directions_of(of_trees(lbfgs_direction(memory_size)), thetas, grads)
    return found, state.inner


def directions_of(tx, thetas, grads):
    """The direction at each of the points, a row each, and the last state."""

    @jax.jit
    def run(thetas, grads):
        first = jax.tree.map(lambda leaf: leaf[0], thetas)
        step = lambda state, now: tx.update(now[1], state, now[0])[::-1]
        return jax.lax.scan(step, tx.init(first), (thetas, grads))

    state, found = run(as_tree(thetas), as_tree(grads))
    return flatten_rows(found), state


def walk(steps, curvatures, seed=0):
    """Points at random, and a quadratic's gradient at each."""
    random = np.random.default_rng(seed)
    thetas = np.cumsum(random.normal(size=(steps, SIZE)), axis=0)
    basis = np.linalg.qr(random.normal(size=(SIZE, SIZE)))[0]
    return thetas, thetas @ (basis * np.asarray(curvatures)) @ basis.T


POSITIVE = np.linspace(1, 20, SIZE)
MIXED = np.linspace(-6, 9, SIZE)


@pytest.mark.parametrize("memory_size", [1, 3, 10])
@pytest.mark.parametrize("curvatures", [POSITIVE, MIXED], ids=["positive", "mixed"])
def test_it_is_the_two_loop_recursion(memory_size, curvatures):
    """While the memory fills, and after it wraps round; left-out pairs included."""
    thetas, grads = walk(30, curvatures)
    found, state = directions(thetas, grads, memory_size)
    expected = lbfgs_directions(thetas, grads, memory_size)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    kept = np.sum(np.diff(thetas, axis=0) * np.diff(grads, axis=0), axis=1) > 0
    assert int(state.pairs) == kept.sum()
    assert kept.all() == (curvatures is POSITIVE)


def test_it_is_the_direction_of_optax():
    thetas, grads = walk(20, POSITIVE)
    found, _ = directions(thetas, grads, 5)
    optaxs = optax.scale_by_lbfgs(memory_size=5)
    with jax.numpy_dtype_promotion("standard"):  # Optax counts in mixed integers
        theirs, _ = directions_of(optax.chain(optaxs, optax.scale(-1)), thetas, grads)
    np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-10)


def test_it_is_newtons_once_the_memory_knows_every_curvature():
    """On a quadratic the conjugate steps make of H the inverse Hessian."""
    tx, curvatures = of_trees(lbfgs_direction(4)), jnp.asarray([1.0, 3.0, 20.0])
    w = jnp.asarray([1.0, -2.0, 0.5])
    state = tx.init(w)
    for _ in range(4):
        g = curvatures * w
        d, state = tx.update(g, state, w)
        w = w - (d @ g) / (d @ (curvatures * d) + 1e-300) * d  # the exact line search
    np.testing.assert_allclose(w, 0, atol=1e-9)


def test_scaling_the_loss_scales_the_first_direction_alone():
    """H shrinks as the gradient grows: from the first pair on steps have no unit."""
    thetas, grads = walk(12, POSITIVE)
    plain, _ = directions(thetas, grads, 4)
    scaled, _ = directions(thetas, 1024 * grads, 4)
    np.testing.assert_allclose(scaled[1:], plain[1:], rtol=1e-12)
    assert np.linalg.norm(plain[0]) == pytest.approx(1)


def test_the_first_direction_is_no_longer_than_one():
    tx, w = of_trees(lbfgs_direction(2)), jnp.ones(2)
    for g, expected in (([0.3, 0.4], [-0.3, -0.4]), ([30.0, 40.0], [-0.6, -0.8])):
        found, _ = tx.update(jnp.asarray(g), tx.init(w), w)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_no_descent_is_no_direction_and_no_harm_afterwards(bad):
    thetas, grads = walk(8, POSITIVE)
    grads[4] = bad
    found, state = directions(thetas, grads, 3)
    np.testing.assert_array_equal(found[4], 0)
    assert np.isfinite(found).all()
    assert (np.sum(found * np.nan_to_num(grads, posinf=0), axis=1)[5:] < 0).all()
    for kept in (state.inverse, state.turns_by_turns, state.steps, state.turns):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_those_of_the_gradient_and_stay(dtype):
    """The memory is in float32 at least: half a precision spoils scalar products."""
    tx = of_trees(lbfgs_direction(3))
    params = {key: jnp.ones(shape, dtype) for key, shape in SHAPES.items()}
    state = jax.eval_shape(tx.init, params)
    found, after = jax.eval_shape(tx.update, params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(found) == types(params)
    assert types(after) == types(state)
    assert state.inner.inverse.dtype == ("float64" if dtype == "float64" else "float32")


def test_params_without_leaves_and_of_several_dtypes():
    tx = of_trees(lbfgs_direction(2))
    mixed = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    for params in ({}, mixed):
        state = tx.init(params)
        for _ in range(2):
            found, state = tx.update(params, state, params)
        assert jax.tree.map(jnp.result_type, found) == jax.tree.map(
            jnp.result_type, params
        )
