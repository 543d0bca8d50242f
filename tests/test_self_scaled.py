"""The self-scaled direction is that of the papers' formulas, in units of the params."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_optax._self_scaled import _changed, _Pair, self_scaled_direction
from tests.problems import of_trees
from tests.reference_adapt import bfgs, self_scaled, self_scaled_directions
from tests.test_lbfgs import MIXED, POSITIVE, directions_of, walk

DENSE = of_trees(self_scaled_direction(100))


def directions(thetas, grads, tx=DENSE):
    found, state = directions_of(tx, thetas, grads)
    return found, state.inner


def units_of(start):
    """The root mean square of each leaf, for its every entry."""
    parts = np.split(start, [3, 7])
    return np.concatenate(
        [np.full(len(p), np.sqrt(np.mean(np.square(p)))) for p in parts]
    )


def assert_close(found, expected, atol=1e-7):
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, expected / largest, atol=atol)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("curvatures", [POSITIVE, MIXED], ids=["positive", "mixed"])
def test_it_is_the_formulas(curvatures, scale):
    """Over a hundred steps; pairs without a positive curvature are left out."""
    thetas, grads = walk(100, scale * curvatures)
    found, _ = directions(thetas, grads)
    assert_close(found, self_scaled_directions(thetas, grads, units_of(thetas[0])))


@pytest.mark.parametrize("curvatures", [POSITIVE, MIXED], ids=["positive", "mixed"])
def test_blocks_learn_for_themselves(curvatures):
    """Those of b (2, 2) by columns, and those of a (3) and c."""
    thetas, grads = walk(60, curvatures)
    tx = of_trees(self_scaled_direction(4))
    found, state = directions(thetas, grads, tx)
    assert state.inverse.shape == (2, 4, 4)
    blocks = np.split(np.array([3, 5, 4, 6, 0, 1, 2, 7]), 2)
    expected = self_scaled_directions(thetas, grads, units_of(thetas[0]), blocks)
    assert_close(found, expected, atol=1e-6)


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_first_pair_of_many_parameters_scales_it_down_as_well(repeats):
    curvatures = np.tile(POSITIVE, repeats)
    random = np.random.default_rng(1)
    steps = random.normal(size=(12, len(curvatures)))
    thetas = np.cumsum(steps, axis=0)
    grads = 1e3 * curvatures * thetas

    @jax.jit
    def run(thetas, grads):
        step = lambda state, now: DENSE.update(now[1], state, now[0])[::-1]
        return jax.lax.scan(step, DENSE.init(thetas[0]), (thetas, grads))[1]

    unit = np.full(len(curvatures), np.sqrt(np.mean(thetas[0] ** 2)))
    expected = self_scaled_directions(thetas, grads, unit)
    found = run(jnp.asarray(thetas), jnp.asarray(grads))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


# Laws of one update -------------------------------------------------------------------


def a_pair(seed, n):
    """A positive definite H, g, a step along −Hg, and the change of g over it."""
    random = np.random.default_rng(seed)
    half = random.normal(size=(n, n))
    h, g = half @ half.T + 0.1 * np.eye(n), random.normal(size=n)
    curved = random.normal(size=(n, n))
    s = -np.exp(random.normal()) * h @ g
    return h, g, s, (curved @ curved.T + 1e-3 * np.eye(n)) @ s


@jax.jit
def updated(h, g, s, y):
    """H after the pair, by the library's parts."""
    rows = [jnp.asarray(x)[None] for x in (s, y, h @ y, g, h @ g)]
    pair = _Pair.of(*rows)
    change = _changed(pair, jnp.array([False]), len(s))
    across = jnp.stack([s, h @ y])
    return change.scale[0] * h + across.T @ change.inner[0] @ across


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**20), st.sampled_from([11, 12, 20]))
def test_along_its_own_direction_it_is_the_papers_update(seed, n):
    """There b is what B would say."""
    h, g, s, y = a_pair(seed, n)
    b = s @ np.linalg.solve(h, s) / (s @ y)
    expected = self_scaled(h, s, y, b)
    size = np.abs(expected).max()
    np.testing.assert_allclose(updated(h, g, s, y) / size, expected / size, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**20), st.sampled_from([11, 12, 20]), st.floats(-3, 3))
def test_it_stays_positive_definite_whatever_the_step_was(seed, n, turned):
    h, g, s, _ = a_pair(seed, n)
    random = np.random.default_rng(seed + 1)
    s = s + turned * np.linalg.norm(s) * random.normal(size=n)
    curved = random.normal(size=(n, n))
    y = (curved @ curved.T + 1e-2 * np.eye(n)) @ s
    after = np.asarray(updated(h, g, s, y))
    np.testing.assert_allclose(after @ y, s, atol=1e-6 * np.abs(after).max())
    least, greatest = np.linalg.eigvalsh((after + after.T) / 2)[[0, -1]]
    assert least > -1e-9 * greatest


def test_without_a_scale_it_is_bfgs():
    """b = 1, where the step is Newton's in the metric of H."""
    h, g = np.diag([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 2.0])
    s = -h @ g
    y = np.linalg.solve(h, s)
    y = y + 0.1 * np.cross(s, [1.0, 2.0, 3.0])  # the same curvature along s
    np.testing.assert_allclose(updated(h, g, s, y), bfgs(h, s, y), atol=1e-9)


def test_it_is_newtons_once_it_has_met_every_curvature():
    curvatures = jnp.asarray([1.0, 3.0, 20.0])
    w = jnp.asarray([1.0, -2.0, 0.5])
    state = DENSE.init(w)
    for _ in range(4):
        g = curvatures * w
        d, state = DENSE.update(g, state, w)
        w = w - (d @ g) / (d @ (curvatures * d) + 1e-300) * d  # the exact line search
    np.testing.assert_allclose(w, 0, atol=1e-9)


# Units, faults, dtypes ----------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_params_change_nothing(unit):
    thetas, grads = walk(12, POSITIVE)
    plain, _ = directions(thetas, grads)
    scaled, _ = directions(thetas * unit, grads / unit)
    np.testing.assert_allclose(scaled / unit, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e-3])
def test_units_of_the_loss_change_nothing_once_the_matrix_has_begun(unit):
    """A loss whose gradient is short begins with a matrix that is as much longer."""
    thetas, grads = walk(12, 1e-3 * POSITIVE)
    grads = 1e-3 * grads
    plain, _ = directions(thetas, grads)
    scaled, _ = directions(thetas, grads * unit)
    np.testing.assert_allclose(scaled, plain, rtol=1e-6, atol=1e-9)


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
    assert state.sound.all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_those_of_the_gradient_and_stay(dtype):
    params = {"a": jnp.ones((2, 2), dtype), "b": jnp.ones((), dtype)}
    state = jax.eval_shape(DENSE.init, params)
    found, after = jax.eval_shape(DENSE.update, params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(found) == types(params)
    assert types(after) == types(state)
    assert state.inner.inverse.dtype == ("float64" if dtype == "float64" else "float32")
    assert state.inner.inverse.shape == (1, 5, 5)


def test_several_dtypes_have_one_matrix():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    state = DENSE.init(params)
    for _ in range(2):
        found, state = DENSE.update(params, state, params)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, params)
