"""The baselines against their published formulas, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.shared.optimizers import torch_optim
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, PAPER_OPTIMIZERS
from tests.benchmarks.shared.torch_formulas import FORMULAS

STEPS = 300
START = np.array([0.5, 1.3, -2.0, 1.5, 0.7])
RPROPS = {"rprop": torch_optim.rprop, "irprop-minus": torch_optim.irprop_minus}


def waves(params, t):
    """Gradient of sum(c (x² / 2 - cos(3 x) / 2)): nonconvex, from idle to steep."""
    curvatures = np.array([0.0, 0.01, 1.0, 10.0, 60.0])
    return curvatures * (params + 1.5 * np.sin(3 * params))


def signals(scale):
    """Gradients of one size: none, constant, slow, fast, and alternating in sign."""
    return lambda params, t: (
        scale * np.array([0, 1, np.cos(0.05 * t), np.sin(2 * t), (-1) ** t])
    )


GRADIENTS = {"waves": waves} | {
    f"signals-{scale}": signals(scale) for scale in (1, 1e-4, 1e-7, 1e-8, 1e-10, 1e-12)
}


def expected_path(formula, gradient, params):
    """Gradients met and params reached on the NumPy statement's way."""
    state, grads, path = formula.init(params), [], []
    for t in range(STEPS):
        grads.append(gradient(params, t))
        params, state = formula.step(params, grads[-1], state)
        path.append(params)
    return np.array(grads), np.array(path)


def updates_for(tx, grads, params=0.0):
    """The updates that `tx` answers a sequence of gradients with."""
    grads = jnp.asarray(grads)
    params = jnp.broadcast_to(jnp.asarray(params, grads.dtype), grads.shape[1:])

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]


def assert_close(actual, expected, tolerance=1e-12):
    """Each coordinate's error, relative to its largest value on the way."""
    error = np.abs(actual - expected).max(axis=0)
    assert np.all(error <= tolerance * np.abs(expected).max(axis=0))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("name", FORMULAS)
def test_baseline_follows_its_published_formula(name, gradient):
    start = START if gradient == "waves" else np.zeros_like(START)
    grads, expected = expected_path(FORMULAS[name], GRADIENTS[gradient], start)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam powers float by int
        updates = updates_for(OPTIMIZERS[name].make(), grads, start)
    assert updates.dtype == jnp.float64
    assert_close(start + np.cumsum(updates, axis=0), expected)


@pytest.mark.parametrize("name", RPROPS)
def test_waves_exercise_sign_changes(name):
    grads, _ = expected_path(FORMULAS[name], waves, START)
    sign_changes = (np.sign(grads[1:]) * np.sign(grads[:-1]) < 0).sum(axis=0)
    assert not grads[:, 0].any()
    assert np.all(sign_changes[1:] > 3)


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (torch_optim.rprop(0.1), [-0.1, -0.12, -0.144, 0.144, -0.072]),
        (torch_optim.irprop_minus(0.1), [-0.1, -0.12, -0.144, 0.0, -0.072]),
    ],
    ids=RPROPS,
)
def test_rprop_on_gradients_worked_by_hand(tx, expected):
    np.testing.assert_allclose(updates_for(tx, [1.0, 1, 1, -1, 1]), expected)


def test_optax_rprop_answers_with_the_previous_update():
    """Why `torch_optim` has its own: when this fails, Optax has mended its Rprop."""
    updates = updates_for(optax.rprop(0.1), [1.0, 1, 1, -1, 1])
    np.testing.assert_allclose(updates, [0, -0.1, -0.12, 0, 0])


def test_optax_adagrad_has_eps_inside_the_root():
    """Why `torch_optim` has its own: the first updates differ for small gradients."""
    ours = updates_for(torch_optim.adagrad(), [1e-6])
    optaxs = updates_for(optax.adagrad(0.01, 0.0, 1e-10), [1e-6])
    np.testing.assert_allclose(ours, -0.01 / (1 + 1e-4))
    np.testing.assert_allclose(optaxs, -0.01 / np.sqrt(101))


@pytest.mark.parametrize("name", RPROPS)
def test_rprop_reads_signs_of_gradients_whose_product_underflows(name):
    grads = np.array([1.0, 1, 1, -1, 1, 1, -1, -1], np.float32)
    tx = RPROPS[name]()
    np.testing.assert_array_equal(
        updates_for(tx, np.float32(1e-30) * grads), updates_for(tx, grads)
    )


@pytest.mark.parametrize("name", RPROPS)
def test_rprop_keeps_step_sizes_within_bounds(name):
    tx = RPROPS[name](0.1, min_step_size=0.05, max_step_size=0.13)
    t = np.arange(20)
    sizes = np.abs(updates_for(tx, np.stack([t**0, (-1.0) ** t], axis=1)))
    np.testing.assert_allclose(sizes[-1, 0], 0.13)
    np.testing.assert_allclose(sizes[sizes > 0].min(), 0.05)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["adagrad", *RPROPS])
def test_updates_and_state_keep_the_dtype(name, dtype):
    tx = OPTIMIZERS[name].make()
    params = {"w": jnp.ones((2, 3), dtype), "b": jnp.zeros((), dtype)}
    state = tx.init(params)
    updates, new_state = jax.jit(tx.update)(params, state, params)
    for leaf in jax.tree.leaves((updates, new_state)):
        assert leaf.dtype == dtype
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@pytest.mark.parametrize("name", ["adagrad", *RPROPS])
def test_vmap_trains_as_one_by_one(name):
    tx = OPTIMIZERS[name].make()
    grads = np.cos(np.arange(60.0)).reshape(3, 20, 1)
    together = jax.vmap(lambda g: updates_for(tx, g))(grads)
    apart = np.stack([updates_for(tx, g) for g in grads])
    np.testing.assert_allclose(together, apart, rtol=1e-14)


def test_registry_lists_the_optimizers_in_the_order_of_the_reports():
    names = "sgd momentum rmsprop adadelta adagrad adam adamw adamax dsa"
    assert list(PAPER_OPTIMIZERS) == names.split()
    assert tuple(OPTIMIZERS) == (*PAPER_OPTIMIZERS, "rprop", "irprop-minus")
    assert set(FORMULAS) == set(OPTIMIZERS) - {"dsa"}


def test_only_dsa_evaluates_two_gradients_a_step():
    twice = [name for name, o in OPTIMIZERS.items() if o.gradients_per_step != 1]
    assert twice == ["dsa"]
    assert OPTIMIZERS["dsa"].gradients_per_step == 2
