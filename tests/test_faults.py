"""What goes wrong in a real run: non-finite numbers, exceptions, kills, float16.

What one update makes of a non-finite number is in `test_exactness.py`; here are runs.
"""

import functools
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import dsa_optax

FACTORIES = {
    "dsa": partial(dsa_optax.dsa, -6.0),
    "softened": partial(dsa_optax.dsa, -6.0, eps=1e-6, weight_decay=1e-4),
    "parameterwise_dsa": partial(dsa_optax.paper.parameterwise_dsa, 0.01, 1e-5),
    "basic_dsa": partial(dsa_optax.paper.basic_dsa, 0.01, 1e-5),
}


@functools.cache
def optimizer(name):
    """One for all tests, so that what they share is compiled once."""
    return FACTORIES[name]()


@pytest.fixture(params=FACTORIES)
def tx(request):
    return optimizer(request.param)


def make_params(dtype=jnp.float32):
    w, b = np.array([[1.0, -2.0, 0.5]] * 2), np.zeros(3)
    return {"w": jnp.asarray(w, dtype), "b": jnp.asarray(b, dtype)}


def loss(params):
    w = params["w"] + params["b"]
    return jnp.sum((w - 1) ** 2 + 0.1 * w**4)


@functools.cache
def train_step(tx, objective):
    return dsa_optax.make_train_step(objective, tx, donate=False)


def run(tx, params, state, steps, objective=loss, *args):
    """A run in which every step is a call of one compiled program."""
    step = train_step(tx, objective)
    for _ in range(steps):
        params, state, _ = step(params, state, *args)
    return params, state


# Non-finite numbers -----------------------------------------------------------------


def poisoned(tree, bad, everywhere, now):
    """`bad` at the first coordinate of `w`, or everywhere, if it is time."""
    first = {"w": jnp.zeros((2, 3), bool).at[0, 0].set(True), "b": jnp.zeros(3, bool)}
    return jax.tree.map(
        lambda leaf, at: jnp.where(now & (at | everywhere), bad, leaf), tree, first
    )


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, None, None))
def poisoned_runs(tx, bad, in_gradient, in_probe, everywhere):
    """Params, states and losses of 80 steps; the 5th to 8th and every 20th are spoilt.

    What is spoilt is an argument: all ways go through one compiled program.
    """
    params = make_params()

    def step(carry, i):
        params, state = carry
        now = ((i >= 5) & (i < 9)) | (i % 20 == 0)
        spoil = partial(poisoned, bad=bad, everywhere=everywhere)
        grads = spoil(jax.grad(loss)(params), now=now & in_gradient)
        probe_grad = lambda p: spoil(jax.grad(loss)(p), now=now & in_probe)
        updates, state = tx.update(grads, state, params, grad_fn=probe_grad)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state, loss(params))

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(80))[1]


@functools.cache
def losses_without_faults(tx):
    """At the start, and after 80 steps."""
    start = make_params()
    state, step = tx.init(start), train_step(tx, loss)
    ends = (start, state), run(tx, start, state, 80)
    return [float(step(*end)[2]) for end in ends]


@pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("where", ["gradient", "probe", "both"])
def test_a_run_recovers_from_non_finite_gradients(tx, where, everywhere):
    kinds = np.array([np.nan, np.inf, -np.inf], np.float32)
    spoilt = (where in ("gradient", "both"), where in ("probe", "both"), everywhere)
    params, state, values = jax.device_get(poisoned_runs(tx, kinds, *spoilt))
    chex.assert_tree_all_finite((params, state))
    start, healthy = losses_without_faults(tx)
    assert np.all(values[:, -1] < healthy + 0.2 * (start - healthy))
    if where != "probe" and everywhere:
        for i in (5, 6, 7, 8):  # nothing moves: neither the params nor their rates
            pick = lambda i: jax.tree.map(lambda leaf: leaf[:, i], (params, state[1]))
            chex.assert_trees_all_equal(pick(i), pick(i - 1))


# Exceptions -----------------------------------------------------------------------


class BrokenLossError(Exception):
    pass


def broken_loss(params):
    raise BrokenLossError("no such batch")


def test_an_exception_of_grad_fn_reaches_the_user_and_harms_nothing(tx):
    params = make_params()
    state, grads = tx.init(params), jax.grad(loss)(params)
    expected = tx.update(grads, state, params, value_fn=loss)
    for extra in ({"grad_fn": broken_loss}, {"value_fn": broken_loss}):
        with pytest.raises(BrokenLossError, match="no such batch"):
            tx.update(grads, state, params, **extra)
    found = tx.update(grads, state, params, value_fn=loss)
    chex.assert_trees_all_equal(found, expected)


def test_an_exception_while_a_donating_step_is_traced_donates_nothing(tx):
    params = make_params()
    state = tx.init(params)
    step = dsa_optax.make_train_step(broken_loss, tx)
    with pytest.raises(BrokenLossError, match="no such batch"):
        step(params, state)
    leaves = jax.tree.leaves((params, state))
    assert not any(leaf.is_deleted() for leaf in leaves)
    run(tx, params, state, 1)


def test_an_exception_while_a_compiled_update_runs_leaves_its_arguments(tx):
    """As raised by a data loader or simulator behind `jax.pure_callback`."""
    params, healthy = make_params(), True

    def simulate(value):
        if not healthy:
            raise BrokenLossError("the simulator is down")
        return np.ones((), np.float32)

    def grad_fn(params):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        one = jax.pure_callback(simulate, shape, params["b"][0])
        return jax.tree.map(lambda g: g * one, jax.grad(loss)(params))

    update = jax.jit(partial(tx.update, grad_fn=grad_fn))
    state, grads = tx.init(params), jax.grad(loss)(params)
    expected = jax.block_until_ready(update(grads, state, params))
    healthy = False
    with pytest.raises(Exception, match="the simulator is down"):
        jax.block_until_ready(update(grads, state, params))
    healthy = True
    chex.assert_trees_all_equal(update(grads, state, params), expected)


# Messages -------------------------------------------------------------------------


def complex_loss(params):
    return jnp.sum(jnp.abs(params["z"] - jnp.asarray([1 + 2j, -3j])) ** 2)


@pytest.mark.parametrize("make", [dsa_optax.dsa, dsa_optax.auto_dsa])
def test_the_error_for_complex_params_shows_what_works(make):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        params = {"z": jnp.zeros(2, complex)}
        with pytest.raises(TypeError, match=r"leaf \['z'\] is of complex64") as error:
            make().init(params)
        *_, made, updated, _ = str(error.value).splitlines()
        names = {"optax": optax, "dsa_optax": dsa_optax, "jax": jax, "jnp": jnp}
        exec(made.strip(), names)

        @jax.jit
        def step(params, state):
            grads = jax.grad(complex_loss)(params)
            here = {"grads": grads, "params": params, "state": state}
            exec(updated.strip(), names, here)
            return optax.apply_updates(params, here["updates"]), here["state"]

        end, state = params, names["tx"].init(params)
        for _ in range(60):
            end, state = step(end, state)
        assert complex_loss(end) < 1e-3 * complex_loss(params)


def test_the_error_for_whole_numbers_says_nothing_of_complex_ones():
    with pytest.raises(TypeError, match=r"is of int64\. Convert it, or pass") as error:
        dsa_optax.auto_dsa().init({"n": jnp.ones(2, jnp.int64)})
    assert "split_real" not in str(error.value)


def test_a_missing_grad_fn_names_what_needs_none():
    params = make_params()
    tx = dsa_optax.dsa()
    with pytest.raises(ValueError, match=r"give it dsa_optax\.auto_dsa\(\), or"):
        tx.update(params, tx.init(params), params)


def test_annotations_say_what_is_passed():
    """For those who check types when they run: to these an int is no float."""
    annotated = dsa_optax._checks.scalar.__annotations__
    assert annotated["low"] == annotated["example"] == int | float


# Checkpoints ----------------------------------------------------------------------


def abstract(tx, params):
    return jax.eval_shape(lambda: {"params": params, "state": tx.init(params)})


def save(folder, params, state):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, {"params": params, "state": state})


def restore(folder, tx, params):
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder, abstract(tx, params))
    return restored["params"], restored["state"]


def assert_bit_for_bit(found, expected):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_run_resumed_from_an_orbax_checkpoint_is_the_run_that_went_on(tx, tmp_path):
    start = make_params()
    params, state = run(tx, start, tx.init(start), 10)
    save(tmp_path / "10", params, state)
    expected = run(tx, params, state, 10)
    resumed = restore(tmp_path / "10", tx, start)
    assert type(resumed[1]) is type(state)
    assert_bit_for_bit(run(tx, *resumed, 10), expected)


def victim(folder):
    """Saves every 5th step to `folder`, and is killed in the 13th of its steps."""
    tx, params = optimizer("dsa"), make_params()
    state = tx.init(params)
    for i in range(1, 20):
        params, state = run(tx, params, state, 1)
        if i % 5 == 0:
            save(Path(folder) / str(i), params, state)
        if i == 13:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_killed_and_resumed_is_the_run_that_was_not(tmp_path):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, timeout=120
    )
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "5"]
    tx, start = optimizer("dsa"), make_params()
    resumed = run(tx, *restore(tmp_path / "10", tx, start), 10)
    assert_bit_for_bit(resumed, run(tx, start, tx.init(start), 20))


OTHERS = {
    "a leaf less": ({"w": np.ones((2, 3), np.float32)}, r"params\.b"),
    "a leaf more": (
        {**make_params(), "c": np.ones(2, np.float32)},
        r"'c'\) not found",
    ),
    "another shape": (
        {**make_params(), "w": np.ones((2, 2), np.float32)},
        r"\(2, 2\) is not compatible with the stored shape: \(2, 3\)",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_structure_is_refused_by_orbax(other, tx, tmp_path):
    params, message = OTHERS[other]
    save(tmp_path / "0", make_params(), tx.init(make_params()))
    with pytest.raises(ValueError, match=message):
        restore(tmp_path / "0", tx, params)


def test_a_checkpoint_of_another_optimizer_is_refused_by_orbax(tx, tmp_path):
    params = make_params()
    save(tmp_path / "0", params, optax.adam(1e-3).init(params))
    with pytest.raises(ValueError, match=r"Structure mismatch|do not match"):
        restore(tmp_path / "0", tx, params)


@pytest.mark.parametrize("name", ["dsa", "parameterwise_dsa"])
def test_a_state_of_other_params_is_refused_even_if_it_broadcasts(name):
    tx = {
        "dsa": dsa_optax.dsa(),
        "parameterwise_dsa": dsa_optax.paper.parameterwise_dsa(0.1, 0.1),
    }[name]
    params = {"w": jnp.ones((2, 3))}
    for other in ({"w": jnp.ones(3)}, {"v": jnp.ones((2, 3))}):
        with pytest.raises(ValueError, match=r"`state .* other params.*tx.init"):
            tx.update(params, tx.init(other), params, grad_fn=lambda p: p)


@pytest.mark.parametrize("chained", [False, True])
def test_the_state_survives_flax_serialization_and_pickle(tx, chained):
    serialization = pytest.importorskip("flax.serialization")
    if chained:
        tx = optax.chain(optax.clip_by_global_norm(1.0), tx)
    params, state = run(tx, make_params(), tx.init(make_params()), 3)
    by_flax = serialization.from_bytes(tx.init(params), serialization.to_bytes(state))
    for restored in (by_flax, pickle.loads(pickle.dumps(state))):
        assert_bit_for_bit(restored, state)
        assert_bit_for_bit(run(tx, params, restored, 3), run(tx, params, state, 3))


def test_flax_serialization_refuses_the_state_of_another_optimizer(tx):
    serialization = pytest.importorskip("flax.serialization")
    params = make_params()
    saved = serialization.to_bytes(optax.adam(1e-3).init(params))
    with pytest.raises(ValueError, match="do not match"):
        serialization.from_bytes(tx.init(params), saved)


# float16 --------------------------------------------------------------------------


def scaled_loss(params, scale):
    return loss(params) * scale


@pytest.mark.parametrize("exponent", [-4, 3, 8])
def test_a_loss_scaled_by_a_power_of_two_trains_the_same_float16(exponent):
    """DSA sees the signs only, so a scaled gradient needs no unscaling."""
    tx, params = optimizer("dsa"), make_params(jnp.float16)
    found = run(tx, params, tx.init(params), 40, scaled_loss, np.float16(2.0**exponent))
    expected = run(tx, params, tx.init(params), 40)
    assert_bit_for_bit(found, expected)


def test_loss_scaling_saves_float16_gradients_that_underflow():
    """The recipe of docs/getting_started.md: multiply the loss by a power of two."""
    tiny = lambda p: jnp.sum(((p["w"] - 1) * jnp.float16(2.0**-14)) ** 2)
    scaled = lambda p: jnp.float16(2.0**15) * tiny(p)
    tx, params = optimizer("dsa"), make_params(jnp.float16)
    still, _ = run(tx, params, tx.init(params), 40, tiny)
    moved, _ = run(tx, params, tx.init(params), 40, scaled)
    chex.assert_trees_all_equal(still, params)
    np.testing.assert_allclose(moved["w"], 1, atol=0.01)


if __name__ == "__main__":
    victim(sys.argv[1])
