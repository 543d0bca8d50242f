"""BFGS's direction is that of its formula, in the units of the params."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsa_optax._bfgs import bfgs_direction
from tests.problems import of_trees
from tests.reference_adapt import bfgs_directions
from tests.test_lbfgs import MIXED, POSITIVE, directions_of, walk


def directions(thetas, grads):
    found, state = directions_of(of_trees(bfgs_direction()), thetas, grads)
    return found, state.inner


def units_of(start):
    """The root mean square of each leaf, for its every entry."""
    parts = np.split(start, [3, 7])
    return np.concatenate(
        [np.full(len(p), np.sqrt(np.mean(np.square(p)))) for p in parts]
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("curvatures", [POSITIVE, MIXED], ids=["positive", "mixed"])
def test_it_is_the_formulas(curvatures, scale):
    """Pairs without a positive curvature are left out."""
    thetas, grads = walk(30, scale * curvatures)
    found, _ = directions(thetas, grads)
    expected = bfgs_directions(thetas, grads, units_of(thetas[0]))
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, expected / largest, atol=1e-7)


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_first_pair_of_many_parameters_scales_it_down_as_well(repeats):
    curvatures = np.tile(POSITIVE, repeats)
    random = np.random.default_rng(1)
    steps = random.normal(size=(12, len(curvatures)))
    thetas = np.cumsum(steps, axis=0)
    grads = 1e3 * curvatures * thetas
    tx, state = of_trees(bfgs_direction()), None
    found = []
    for theta, grad in zip(thetas, grads, strict=True):
        theta, grad = jnp.asarray(theta), jnp.asarray(grad)
        state = tx.init(theta) if state is None else state
        direction, state = tx.update(grad, state, theta)
        found.append(np.asarray(direction))
    unit = np.full(len(curvatures), np.sqrt(np.mean(thetas[0] ** 2)))
    expected = bfgs_directions(thetas, grads, unit)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_it_is_newtons_once_it_has_met_every_curvature():
    tx, curvatures = of_trees(bfgs_direction()), jnp.asarray([1.0, 3.0, 20.0])
    w = jnp.asarray([1.0, -2.0, 0.5])
    state = tx.init(w)
    for _ in range(4):
        g = curvatures * w
        d, state = tx.update(g, state, w)
        w = w - (d @ g) / (d @ (curvatures * d) + 1e-300) * d  # the exact line search
    np.testing.assert_allclose(w, 0, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_params_change_nothing(unit):
    thetas, grads = walk(12, POSITIVE)
    plain, _ = directions(thetas, grads)
    scaled, _ = directions(thetas * unit, grads / unit)
    np.testing.assert_allclose(scaled / unit, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
def test_what_spoils_the_matrix_makes_it_begin_again(bad):
    thetas, grads = walk(9, POSITIVE)
    grads[4] = bad
    found, state = directions(thetas, grads)
    np.testing.assert_array_equal(found[4], 0)
    assert np.isfinite(found).all()
    assert (np.sum(found[5:] * grads[5:], axis=1) < 0).all()
    assert np.isfinite(state.inverse).all()


def test_a_gradient_of_zero_forgets_nothing():
    thetas, grads = walk(9, POSITIVE)
    grads[8] = 0
    _, state = directions(thetas, grads)
    assert state.sound


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_those_of_the_gradient_and_stay(dtype):
    tx = of_trees(bfgs_direction())
    params = {"a": jnp.ones((2, 2), dtype), "b": jnp.ones((), dtype)}
    state = jax.eval_shape(tx.init, params)
    found, after = jax.eval_shape(tx.update, params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(found) == types(params)
    assert types(after) == types(state)
    assert state.inner.inverse.dtype == ("float64" if dtype == "float64" else "float32")
    assert state.inner.inverse.shape == (5, 5)


def test_several_dtypes_have_one_matrix():
    tx = of_trees(bfgs_direction())
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    state = tx.init(params)
    for _ in range(2):
        found, state = tx.update(params, state, params)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, params)
