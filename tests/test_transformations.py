"""The transformations of JAX, around an update of DSA and inside its `grad_fn`.

What needs more than one device is in the `on_8_devices_*` functions. They run in a
process of their own, which is this file as a script: the number of CPU devices is fixed
when JAX starts. There, as for users, the defaults of JAX hold: 32 bits.
"""

import functools
import math
import os
import re
import subprocess
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P

import dsa_optax
from dsa_optax._packed import SMALL

FACTORIES = {
    "dsa": dsa_optax.dsa,
    "softened": partial(dsa_optax.dsa, eps=1e-3, weight_decay=0.1),
    "basic_dsa": partial(dsa_optax.paper.basic_dsa, 0.01, 0.01),
    "adapt": lambda: dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "parameter"),
    "warmup": lambda: dsa_optax.adaptive_warmup(optax.sgd(0.1, momentum=0.9), 3),
}


@functools.cache
def optimizer(name):
    """One for all checks, so that what they share is compiled once."""
    return FACTORIES[name]()


@pytest.fixture(params=FACTORIES)
def tx(request):
    return optimizer(request.param)


def make_params(seed=0):
    random = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(random.normal(size=(4, 16)), jnp.float32),
        "b": jnp.asarray(random.normal(size=16), jnp.float32),
        "scale": jnp.asarray(1, jnp.float32),
    }


def make_data(seed=1):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.normal(size=(8, 4)), jnp.float32)


def loss(params, x):
    """Of a model whose columns don't meet before the loss sums them up."""
    hidden = jnp.tanh(params["scale"] * (x @ params["w"]) + params["b"])
    return jnp.mean(jnp.sum((hidden - 0.5) ** 2, axis=-1))


def update(tx, params, state, grad_fn):
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return optax.apply_updates(params, updates), state


def run(tx, params, x, steps=5):
    """Params and state after some updates."""
    step = lambda _, carry: update(tx, *carry, dsa_optax.make_grad_fn(loss, x))
    return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))


compiled_run = jax.jit(run, static_argnums=0, static_argnames="steps")


def row(tree, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], tree)


# One device -----------------------------------------------------------------------


def test_params_and_state_are_donated_from_the_first_step_on(tx):
    """A buffer that appears twice could not be donated; scalars are the risk."""
    params = {str(i): jnp.asarray(i / 10, jnp.float32) for i in range(10)}
    grad_fn = jax.grad(lambda p: sum((leaf - 1) ** 2 for leaf in p.values()))
    step = jax.jit(lambda p, s: update(tx, p, s, grad_fn), donate_argnums=(0, 1))
    state = tx.init(params)
    for _ in range(3):
        given = (params, state[1])  # the rates; what an update doesn't read, stays
        params, state = step(params, state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    jax.block_until_ready((params, state))


def test_vmap_over_params_and_data_is_one_by_one(tx):
    """As for an ensemble: `init` and `update` are both below the vmap."""
    ensemble = [(make_params(i), make_data(i)) for i in range(3)]
    one = partial(compiled_run, tx)
    together = jax.vmap(one)(*jax.tree.map(lambda *rows: np.stack(rows), *ensemble))
    for i, member in enumerate(ensemble):
        chex.assert_trees_all_close(
            row(together, i), one(*member), rtol=1e-5, atol=1e-6
        )


def test_vmap_over_seeds_as_in_a_benchmark():
    """The state of all seeds is one state, whose every leaf has a leading axis."""

    def by_seed(seed):
        key = jax.random.key(seed)
        w = jax.random.normal(key, (4, 16), jnp.float32)
        return run(dsa_optax.dsa(), {**make_params(), "w": w}, make_data())

    params, state = jax.jit(jax.vmap(by_seed))(np.arange(4))
    assert {leaf.shape[0] for leaf in jax.tree.leaves((params, state))} == {4}
    rates = jax.jit(jax.vmap(dsa_optax.learning_rates))(state)
    alone = jax.jit(dsa_optax.learning_rates)(row(state, 2))
    chex.assert_trees_all_close(row(rates, 2), alone, rtol=1e-6)
    assert len(np.unique(row(params, slice(None))["w"][:, 0, 0])) == 4


def test_a_loop_of_jax_is_the_loop_of_python(tx):
    params, x = make_params(), make_data()
    looped = compiled_run(tx, params, x)
    step = jax.jit(lambda p, s: update(tx, p, s, dsa_optax.make_grad_fn(loss, x)))
    carry = params, tx.init(params)
    for _ in range(5):
        carry = step(*carry)
    chex.assert_trees_all_close(looped, carry, rtol=1e-5, atol=1e-6)


def test_eval_shape_of_init_and_update(tx):
    """From `ShapeDtypeStruct`s alone, as for restoring a checkpoint."""
    params, x = jax.eval_shape(make_params), jax.eval_shape(make_data)
    state = jax.eval_shape(tx.init, params)
    after = jax.eval_shape(partial(run, tx), params, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, (params, state))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(make_params()))


def test_the_gradient_through_updates_is_finite(tx):
    """With respect to the params, the data, and whatever of the state is a float."""
    params, x = make_params(), make_data()

    def after(params, x, rates):
        state, grad_fn = tx.init(params), jax.grad(lambda p: loss(p, x))
        state = jax.tree.map(lambda a, b: a + b.astype(a.dtype), state, rates)
        step = lambda _, carry: update(tx, *carry, grad_fn)
        params, _ = jax.lax.fori_loop(0, 2, step, (params, state))
        return loss(params, x)

    state = jax.eval_shape(tx.init, params)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), state)
    gradient = jax.jit(jax.grad(after, argnums=(0, 1, 2)))
    chex.assert_tree_all_finite(gradient(params, x, zeros))
    # tanh(0) - 0.5 with no input: the gradient of w is exactly zero
    chex.assert_tree_all_finite(gradient(params, np.zeros_like(x), zeros))


def test_what_the_gradient_through_an_update_is():
    """An update of `dsa` is, to JAX, a constant plus the params and their rates.

    The sign's derivative is zero and the rates move by signs, so nothing flows through
    either gradient: that of the loss after an update is the loss's gradient there, and
    a rate η gets -ln 2·2^η·sign(g) of it (hyper-gradients of `init_log2_lr` are right).
    """
    w, tx = jnp.asarray([1.0, -3.0, 0.2], jnp.float32), dsa_optax.dsa(-4.0)
    objective = lambda w: jnp.sum(w**4 - w)

    def after(w, shift):
        state = tx.init(w)
        state = state._replace(log2_lr=state.log2_lr + shift)
        return update(tx, w, state, jax.grad(objective))

    zero, gradient = np.float32(0), jax.jit(jax.grad(objective))
    through = jax.jit(jax.grad(lambda *a: objective(after(*a)[0]), (0, 1)))
    by_w, by_shift = through(w, zero)
    reached, state = jax.jit(after)(w, zero)
    there, first = np.asarray(gradient(reached)), np.asarray(gradient(w))
    chex.assert_trees_all_close(by_w, there, rtol=1e-6)
    slope = -math.log(2) * 2.0 ** np.asarray(state.log2_lr) * np.sign(first)
    chex.assert_trees_all_close(by_shift, np.sum(slope * there), rtol=1e-5)


def test_a_complex_parameter_as_a_pair_of_reals(tx):
    """Refused as it is (tested elsewhere), and this is the way round."""
    target = jnp.asarray([1 + 2j, -0.5j], jnp.complex64)
    params = {"re": jnp.zeros(2, jnp.float32), "im": jnp.zeros(2, jnp.float32)}
    objective = lambda p: jnp.sum(
        jnp.abs(jax.lax.complex(p["re"], p["im"]) - target + 1e-3j) ** 2
    )
    state, start = tx.init(params), objective(params)
    step = jax.jit(lambda p, s: update(tx, p, s, jax.grad(objective)))
    for _ in range(50):
        params, state = step(params, state)
    assert objective(params) < start / 2


@pytest.mark.parametrize("leaf", [np.arange(3), np.ones(2, bool), 1, 1j])
def test_leaves_that_are_not_real_floats_are_refused_under_jit(tx, leaf):
    params = {"fine": jnp.ones(2, jnp.float32), "x": leaf}
    with pytest.raises(TypeError, match=r"real floating arrays.*\['x'\]"):
        jax.jit(tx.init)(params)


@pytest.mark.parametrize(
    "params",
    [
        np.float32(2.0),
        np.zeros((0, 3), np.float32),
        {},
        (np.float32(2.0), [None, np.zeros(0, np.float32)], {"a": {}}),
        optax.TraceState(trace=np.full(3, 2.0, np.float32)),
    ],
    ids=["scalar", "empty leaf", "no leaf", "nested", "NamedTuple"],
)
def test_trees_of_any_kind(tx, params):
    grad_fn = jax.grad(lambda p: sum(jnp.sum(a**2) for a in jax.tree.leaves(p)) * 1.0)
    step = jax.jit(lambda p, s: update(tx, p, s, grad_fn))
    after, state = step(params, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
    chex.assert_tree_all_finite((after, state))


@pytest.mark.slow
def test_a_thousand_leaves():
    """They compile in seconds; 10,000 took XLA five minutes on two cores."""
    params = [np.full(2, 1 + i % 7, np.float32) for i in range(1000)]
    tx, grad_fn = dsa_optax.dsa(), lambda params: params
    step = jax.jit(lambda p, s: update(tx, p, s, grad_fn))
    after, state = step(params, tx.init(params))
    assert len(jax.tree.leaves(state.log2_lr)) == 1000
    np.testing.assert_allclose(after[6], 7 - 2**-11.7, rtol=1e-6)


# Eight devices ----------------------------------------------------------------------

COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
SPECS = {"w": P(None, "x"), "b": P("x"), "scale": P()}


def make_mesh(axis_type=jax.sharding.AxisType.Auto):
    return jax.make_mesh((8,), ("x",), axis_types=(axis_type,))


def sharded(mesh, params=None):
    shardings = {k: jax.NamedSharding(mesh, spec) for k, spec in SPECS.items()}
    return jax.device_put(make_params() if params is None else params, shardings)


def rates_of(state):
    """What is a tree like the params; None where there is none (one for all)."""
    state = state.inner if isinstance(state, dsa_optax.StepBackState) else state
    fields = ("log2_lr", "lr", "log2_scale")
    rates = next(getattr(state, name) for name in fields if hasattr(state, name))
    return rates if isinstance(rates, dict) else None


def specs(tree):
    return jax.tree.map(lambda leaf: leaf.sharding.spec, tree)


def packs(tx):
    """Whether it packs small leaves: then those that are spread are gathered."""
    return isinstance(tx.init(make_params()), dsa_optax.StepBackState)


def collectives(program):
    """The collective operations of a program, and the entries of each result."""
    found = re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})", program)
    return [
        (name, math.prod(int(n) for n in shape.split(",") if n))
        for kind, name in found
        for shape in re.findall(r"\[([\d,]*)\]", kind)
    ]


def on_8_devices_the_rates_have_the_sharding_of_the_params(tx):
    mesh = make_mesh()
    params, x, state = sharded(mesh), make_data(), tx.init(sharded(mesh))
    if packs(tx) or rates_of(state) is None:
        return
    assert specs(rates_of(state)) == SPECS
    assert specs(rates_of(jax.jit(tx.init)(params))) == SPECS
    step = dsa_optax.make_train_step(loss, tx)
    for _ in range(2):
        params, state, _ = step(params, state, x)
        assert specs(rates_of(state)) == SPECS
        assert specs(params) == SPECS


def on_8_devices_nothing_is_gathered(tx):
    params = sharded(make_mesh())
    step = dsa_optax.make_train_step(loss, tx)
    program = step.lower(params, tx.init(params), make_data()).compile().as_text()
    assert "all-reduce" in program  # the loss's own
    assert packs(tx) or not collectives(program)


def on_8_devices_large_leaves_are_neither_gathered_nor_moved(tx):
    """And what is gathered is at most 64 kB."""
    random = np.random.default_rng(0)
    large = {
        "w": jnp.asarray(random.normal(size=(4, 8192)), jnp.float32),
        "b": jnp.zeros(8192, jnp.float32),
        "scale": jnp.ones((), jnp.float32),
    }
    params, x = sharded(make_mesh(), large), make_data()
    step = dsa_optax.make_train_step(loss, tx)
    for init in (tx.init, jax.jit(tx.init)):
        program = step.lower(params, init(params), x).compile().as_text()
        assert all(entries <= SMALL for _, entries in collectives(program))
    state = tx.init(params)
    if packs(tx):  # somebody else's zeros too
        like_w = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4, 8192)]
        assert len(like_w) == 2  # the rates and the momentum
        assert all(leaf.sharding.spec == SPECS["w"] for leaf in like_w)
    for _ in range(2):
        params, state, _ = step(params, state, x)
        assert specs(params) == SPECS
        rates = rates_of(state)
        assert rates is None or specs(rates)["w"] == SPECS["w"]


def on_8_devices_an_update_alone_communicates_nothing(tx):
    params = sharded(make_mesh())
    state = tx.init(params)
    if packs(tx) or rates_of(state) is None:
        return  # the products of all params, or the lengths, are summed up
    grad_fn = lambda p: jax.tree.map(lambda leaf: leaf - 1, p)
    step = jax.jit(lambda p, s: update(tx, p, s, grad_fn))
    program = step.lower(params, tx.init(params)).compile().as_text()
    assert "all-reduce" not in program
    assert not collectives(program)


def on_8_devices_the_numbers_are_those_of_one(tx):
    mesh, x = make_mesh(), make_data()
    found = compiled_run(tx, sharded(mesh), x)
    expected = compiled_run(tx, make_params(), x)
    chex.assert_trees_all_close(
        jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-5
    )


def on_8_devices_explicit_sharding_keeps_its_types(tx):
    """The checks of `optax/_src/sharding_test.py`, which skips them on JAX 0.10."""
    mesh = make_mesh(jax.sharding.AxisType.Explicit)
    grad_fn = dsa_optax.make_grad_fn(loss, make_data())
    types = partial(jax.tree.map, jax.typeof)
    with jax.set_mesh(mesh):
        params = sharded(mesh)
        state = tx.init(params)
        assert types(jax.jit(tx.init)(params)) == types(state)
        step = partial(update, tx, grad_fn=grad_fn)
        assert types(step(params, state)) == types((params, state))
        assert types(jax.jit(step)(params, state)) == types((params, state))


def on_8_devices_shard_map_with_the_mean_of_the_gradients(tx):
    """Data-parallel: each device has a part of the batch, all have all the params."""

    def body(params, x):
        grad_fn = lambda p: jax.lax.pmean(jax.grad(loss)(p, x), "x")
        return update(tx, params, tx.init(params), grad_fn)

    mapped = jax.shard_map(
        body, mesh=make_mesh(), in_specs=(P(), P("x")), out_specs=P(), check_vma=False
    )
    assert_one_full_batch_update(tx, jax.jit(mapped)(make_params(), make_data()))


def on_8_devices_shard_map_with_the_mean_of_the_loss(tx):
    """As above, where JAX knows what varies and sums the gradients up itself."""

    def body(params, x):
        grad_fn = jax.grad(lambda p: jax.lax.pmean(loss(p, x), "x"))
        return update(tx, params, tx.init(params), grad_fn)

    mapped = jax.shard_map(
        body, mesh=make_mesh(), in_specs=(P(), P("x")), out_specs=P()
    )
    assert_one_full_batch_update(tx, jax.jit(mapped)(make_params(), make_data()))


def many_rows():
    return np.concatenate([make_data(seed) for seed in range(4)])


def trained_on_one(tx):
    return jax.device_get(compiled_run(tx, make_params(), many_rows()))


def on_8_devices_params_and_rows_spread_over_all_train_as_on_one(tx):
    """Fully sharded data parallelism: no device has all of anything."""
    mesh = make_mesh()
    rows = jax.device_put(many_rows(), jax.NamedSharding(mesh, P("x")))
    found = compiled_run(tx, sharded(mesh), rows)
    assert {k: leaf.sharding.spec for k, leaf in found[0].items()} == SPECS
    chex.assert_trees_all_close(
        jax.device_get(found), trained_on_one(tx), rtol=1e-4, atol=1e-5
    )


def on_8_devices_minimize_leaves_the_params_where_they_lie(tx):
    """And the best of them, too."""
    mesh, x = make_mesh(), make_data()
    options = {"steps": 5, "tx": tx, "gtol": None, "ftol": None}
    found = dsa_optax.minimize(loss, sharded(mesh), x, **options, bounds=(-1, 1))
    assert specs(found.params) == specs(found.state.params) == SPECS
    alone = dsa_optax.minimize(loss, make_params(), x, **options, bounds=(-1, 1))
    np.testing.assert_allclose(found.history, alone.history, rtol=1e-4)


def on_8_devices_each_takes_its_own_rows_by_microbatches(tx):
    """A full batch that fits on no device: 4 rows each, 3 and 1 at a time."""

    def body(params, x):
        mean = lambda p, x: jax.lax.pmean(loss(p, x), "x")
        value_and_grad = dsa_optax.full_batch.microbatched_value_and_grad(mean, 3)
        grad_fn = lambda p: value_and_grad(p, x)[1]
        step = lambda _, carry: update(tx, *carry, grad_fn)
        return jax.lax.fori_loop(0, 5, step, (params, tx.init(params)))

    mapped = jax.shard_map(
        body, mesh=make_mesh(), in_specs=(P(), P("x")), out_specs=P()
    )
    found = jax.device_get(jax.jit(mapped)(make_params(), many_rows()))
    chex.assert_trees_all_close(found, trained_on_one(tx), rtol=1e-4, atol=1e-5)


def on_8_devices_pmap_with_the_mean_of_the_gradients(tx):
    @partial(jax.pmap, axis_name="x", in_axes=(None, 0))
    def mapped(params, x):
        grad_fn = lambda p: jax.lax.pmean(jax.grad(loss)(p, x), "x")
        return update(tx, params, tx.init(params), grad_fn)

    found = mapped(make_params(), make_data().reshape(8, 1, 4))
    chex.assert_trees_all_equal(row(found, 0), row(found, 7))
    assert_one_full_batch_update(tx, row(found, 0))


def assert_one_full_batch_update(tx, found):
    expected = compiled_run(tx, make_params(), make_data(), steps=1)
    found, expected = jax.device_get((found, expected))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


ON_8_DEVICES = {
    name: check for name, check in globals().items() if name.startswith("on_8_devices")
}


def main():
    """Runs every check with every optimizer, and prints a line for each that holds."""
    warnings.simplefilter("error")
    assert jax.device_count() == 8
    for name, check in ON_8_DEVICES.items():
        for of in FACTORIES:
            try:
                check(optimizer(of))
                print(f"{name}[{of}] holds", flush=True)
            except Exception:
                traceback.print_exc()


@pytest.fixture(scope="module")
def eight_devices():
    """What a process with eight CPU devices has to say."""
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=8",
        # XLA's pool has a thread a core. With fewer than two a device steps in flight
        # can hold all of them, each waiting for the others, until it ends the process.
        "NPROC": "16",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    return subprocess.run(
        [sys.executable, __file__],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("of", FACTORIES)
@pytest.mark.parametrize("name", ON_8_DEVICES)
def test_on_8_devices(name, of, eight_devices):
    assert f"{name}[{of}] holds" in eight_devices.stdout, eight_devices.stderr


if __name__ == "__main__":
    main()
