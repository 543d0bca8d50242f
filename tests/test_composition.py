"""DSA with Optax's wrappers: the table of docs/wrappers.md."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import dsa_optax

X = jnp.asarray(np.linspace(-1, 1, 8).reshape(4, 2), jnp.float32)


pytestmark = pytest.mark.usefixtures("as_users_run_it")


def make_params():
    return {
        "w": jnp.asarray([0.4, -0.3], jnp.float32),
        "b": jnp.asarray(0.5, jnp.float32),
    }


def loss(params):
    return jnp.mean((X @ params["w"] + params["b"] - 2.0) ** 2)


def run(tx, steps=10, params=None, value_fn=lambda p, _: loss(p)):
    """The trajectory of the params; `value_fn` is of the masked and the full params."""
    params = make_params() if params is None else params
    state, tracks = tx.init(params), []

    @jax.jit  # eagerly each of some hundred operations would be compiled
    def step(params, state):
        updates, state = tx.update(
            jax.grad(loss)(params),
            state,
            params,
            value_fn=lambda p: value_fn(p, params),
        )
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        tracks.append(params)
    return tracks, state


def unmasked(masked, params):
    return loss(dsa_optax.unmask(masked, params))


@pytest.fixture(scope="module")
def alone(as_users_run_it):
    return run(dsa_optax.dsa(-6.0))[0]


TRANSPARENT = {
    "chain": lambda tx: optax.chain(tx),
    "clip": lambda tx: optax.chain(optax.clip(1e-3), tx),
    "clip_by_global_norm": lambda tx: optax.chain(optax.clip_by_global_norm(1e-3), tx),
    "zero_nans": lambda tx: optax.chain(optax.zero_nans(), tx),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "named_chain": lambda tx: optax.named_chain(("dsa", tx)),
    "inject_hyperparams": lambda _: optax.inject_hyperparams(dsa_optax.dsa)(-6.0),
    "inject_hyperparams, a mask": lambda _: optax.inject_hyperparams(
        dsa_optax.dsa, static_args="weight_decay_mask"
    )(-6.0, weight_decay_mask=lambda params: {"w": True, "b": False}),
    "conditionally_transform": lambda tx: optax.conditionally_transform(
        tx, should_transform_fn=lambda step, **_: step >= 0
    ),
    "masked, everything": lambda tx: optax.masked(tx, {"w": True, "b": True}),
    "MultiSteps, of one": lambda tx: optax.MultiSteps(tx, every_k_schedule=1),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_changes_no_sign_changes_no_step(name, alone):
    tracks, state = run(TRANSPARENT[name](dsa_optax.dsa(-6.0)))
    chex.assert_trees_all_close(tracks, alone, rtol=1e-6)
    assert set(dsa_optax.learning_rates(state)) == {"w", "b"}


def test_zero_nans_before_dsa_turns_a_nan_into_a_zero_product():
    tx = optax.chain(optax.zero_nans(), dsa_optax.dsa(-6.0))
    params = make_params()
    grads = {"w": np.float32([np.nan, 1.0]), "b": np.float32(1.0)}
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, value_fn=loss))
    _, state = update(grads, tx.init(params), params)
    drifted = optax.tree.get(state, "log2_lr")["w"][0]
    assert float(drifted) == pytest.approx(-6.15)


def only_w_moves(tracks):
    start = make_params()
    assert all(params["b"] == start["b"] for params in tracks)
    assert not jnp.array_equal(tracks[-1]["w"], start["w"])


def test_masked_moves_its_part_and_passes_the_rest_on():
    tx = optax.masked(dsa_optax.dsa(-6.0), {"w": True, "b": False})
    frozen = optax.chain(tx, optax.masked(optax.set_to_zero(), {"w": False, "b": True}))
    tracks, _ = run(frozen, value_fn=unmasked)
    only_w_moves(tracks)


def test_partition_gives_each_part_its_own_trajectory():
    """DSA's part is as if the other's were a constant of the loss at each step."""
    tx = optax.partition(
        {"dsa": dsa_optax.dsa(-6.0), "sgd": optax.sgd(0.1)}, {"w": "dsa", "b": "sgd"}
    )
    tracks, state = run(tx, value_fn=unmasked)
    params, dsa = make_params(), dsa_optax.dsa(-6.0)
    dsa_state = dsa.init(params["w"])

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        part = lambda w: loss({"w": w, "b": params["b"]})
        update, state = dsa.update(grads["w"], state, params["w"], value_fn=part)
        params = {"w": params["w"] + update, "b": params["b"] - 0.1 * grads["b"]}
        return params, state

    for track in tracks:
        params, dsa_state = step(params, dsa_state)
        chex.assert_trees_all_close(track, params, rtol=1e-6)
    rates = dsa_optax.learning_rates(state)
    chex.assert_trees_all_close(rates["w"], dsa_optax.learning_rates(dsa_state))


def test_partition_with_frozen_parts():
    tx = optax.partition(
        {"dsa": dsa_optax.dsa(-6.0), "frozen": optax.set_to_zero()},
        {"w": "dsa", "b": "frozen"},
    )
    only_w_moves(run(tx, value_fn=unmasked)[0])


@pytest.mark.parametrize("argument", ["grad_fn", "value_fn"])
def test_masked_params_in_a_loss_that_wants_them_all_show_the_mend(argument):
    tx = optax.masked(dsa_optax.dsa(), {"w": True, "b": False})
    params = make_params()
    fn = jax.grad(loss) if argument == "grad_fn" else loss
    with pytest.raises(TypeError) as error:
        tx.update(jax.grad(loss)(params), tx.init(params), params, **{argument: fn})
    assert "dsa_optax.unmask(p, params)" in "".join(error.value.__notes__)


def test_train_step_needs_no_unmask():
    tx = optax.partition(
        {"dsa": dsa_optax.dsa(-6.0), "sgd": optax.sgd(0.1)}, {"w": "dsa", "b": "sgd"}
    )
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    params, state = make_params(), tx.init(make_params())
    for expected in run(tx, value_fn=unmasked)[0]:
        params, state, _ = step(params, state)
        chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_train_step_takes_multi_steps(alone):
    tx = optax.MultiSteps(dsa_optax.dsa(-6.0), every_k_schedule=1)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    params, state = make_params(), tx.init(make_params())
    for expected in alone:
        params, state, _ = step(params, state)
        chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_unmask_returns_full_params_as_they_are():
    params = make_params()
    chex.assert_trees_all_equal(dsa_optax.unmask(params, {"w": 0, "b": 0}), params)
    masked = {"w": optax.MaskedNode(), "b": params["b"]}
    chex.assert_trees_all_equal(dsa_optax.unmask(masked, params), params)


def test_multi_steps_probes_with_the_last_micro_batch_alone():
    """The hazard: `grad_fn` sees one micro-batch, the gradient is the mean of all."""
    tx = optax.MultiSteps(dsa_optax.dsa(-6.0), every_k_schedule=2)
    params = make_params()
    state = tx.init(params)

    @jax.jit
    def update(state, sign):
        batch_loss = lambda p: sign * loss(p)
        return tx.update(jax.grad(loss)(params), state, params, value_fn=batch_loss)

    for sign in (1.0, -1.0):  # the second wants the opposite of the mean of both
        updates, state = update(state, sign)
    assert jnp.all(updates["w"] != 0)
    log2_lr = state.inner_opt_state.log2_lr
    assert jnp.all(log2_lr["w"] < -6)  # though the mean's two gradients agree


def test_schedule_free_moves_its_own_iterate():
    tx = optax.contrib.schedule_free(dsa_optax.dsa(-6.0), learning_rate=1.0, b1=0.9)
    tracks, state = run(tx, steps=60)
    final = optax.contrib.schedule_free_eval_params(state, tracks[-1])
    assert loss(final) < 0.1 * loss(make_params())


def test_flatten_flattens_the_probe_too(alone):
    def value_fn(flat, params):
        return loss(ravel_pytree(params)[1](flat))

    tracks, _ = run(optax.flatten(dsa_optax.dsa(-6.0)), value_fn=value_fn)
    chex.assert_trees_all_close(tracks, alone, rtol=1e-6)


def test_split_real_and_imaginary_drops_grad_fn_and_so_is_refused():
    tx = optax.contrib.split_real_and_imaginary(dsa_optax.dsa())
    tx = optax.with_extra_args_support(tx)
    params = {"z": jnp.asarray(1 + 2j)}
    with pytest.raises(ValueError, match="`grad_fn` is missing"):
        tx.update(params, tx.init(params), params, grad_fn=lambda p: p)


def test_lookahead_drops_grad_fn_and_so_is_refused():
    tx = optax.with_extra_args_support(optax.lookahead(dsa_optax.dsa(), 5, 0.5))
    params = optax.LookaheadParams.init_synced(make_params())
    with pytest.raises(ValueError, match="`grad_fn` is missing"):
        tx.update(make_params(), tx.init(params), params, grad_fn=jax.grad(loss))


# Those that look at the last step: auto_dsa, adapt, blend -------------------------

LOOKING_BACK = {
    "parameter": dsa_optax.adapt(optax.sgd(1.0), "parameter"),
    "global": dsa_optax.adapt(optax.sgd(1.0), "global"),
    "auto_dsa": dsa_optax.auto_dsa(),
}
THAT_ASK_NOTHING = {
    **{name: wrap for name, wrap in TRANSPARENT.items() if "inject" not in name},
    "clip": lambda tx: optax.chain(optax.clip(1e3), tx),
    "clip_by_global_norm": lambda tx: optax.chain(optax.clip_by_global_norm(1e3), tx),
}


@pytest.fixture(scope="module")
def adapt_alone(as_users_run_it):
    return run(LOOKING_BACK["parameter"])[0]


@pytest.mark.parametrize("name", THAT_ASK_NOTHING)
def test_around_adapt_what_changes_no_gradient_changes_no_step(name, adapt_alone):
    tracks, state = run(THAT_ASK_NOTHING[name](LOOKING_BACK["parameter"]))
    chex.assert_trees_all_close(tracks, adapt_alone, rtol=1e-5)
    assert set(dsa_optax.learning_rates(state)) == {"w", "b"}


WORKING = {
    "clip": lambda tx: optax.chain(optax.clip(0.1), tx),
    "clip_by_global_norm": lambda tx: optax.chain(optax.clip_by_global_norm(0.1), tx),
    "partition": lambda tx: optax.partition(
        {"ours": tx, "sgd": optax.sgd(0.1)}, {"w": "ours", "b": "sgd"}
    ),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "flatten": optax.flatten,
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
}


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.parametrize("optimizer", LOOKING_BACK)
def test_what_works_without_a_grad_fn(optimizer, name):
    tx = WORKING[name](LOOKING_BACK[optimizer])
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    params, state = make_params(), tx.init(make_params())
    for _ in range(80):
        params, state, _ = step(params, state)
    assert loss(params) < 1e-3 * loss(make_params())
    dsa_optax.learning_rates(state)


@pytest.mark.parametrize("optimizer", LOOKING_BACK)
def test_schedule_free_moves_its_own_iterate_by_adapt(optimizer):
    tx = optax.contrib.schedule_free(LOOKING_BACK[optimizer], 1.0, b1=0.9)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    params, state = make_params(), tx.init(make_params())
    for _ in range(80):
        params, state, _ = step(params, state)
    final = optax.contrib.schedule_free_eval_params(state, params)
    assert loss(final) < 1e-3 * loss(make_params())


@pytest.mark.parametrize("optimizer", LOOKING_BACK)
def test_lookahead_works_without_a_grad_fn(optimizer):
    tx = optax.lookahead(LOOKING_BACK[optimizer], 5, 0.5)
    params = optax.LookaheadParams.init_synced(make_params())
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params.fast), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(300):
        params, state = step(params, state)
    assert loss(params.slow) < 1e-3 * loss(make_params())


@pytest.mark.parametrize("optimizer", LOOKING_BACK)
def test_masked_needs_no_value_fn(optimizer):
    tx = optax.masked(LOOKING_BACK[optimizer], {"w": True, "b": False})
    frozen = optax.chain(tx, optax.masked(optax.set_to_zero(), {"w": False, "b": True}))
    params, state = make_params(), frozen.init(make_params())
    update = jax.jit(frozen.update)
    for _ in range(3):
        updates, state = update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    only_w_moves([params])


def test_hyper_parameters_of_adapt_and_auto_dsa_are_injected():
    inject = optax.inject_hyperparams
    injected = inject(dsa_optax.adapt)(optax.sgd(1.0), "global", init_log2_lr=-6.0)
    expected = run(dsa_optax.adapt(optax.sgd(1.0), "global", init_log2_lr=-6.0))[0]
    chex.assert_trees_all_close(run(injected)[0], expected, rtol=1e-6)
    static = ("memory_size", "matrix_size")
    injected = inject(dsa_optax.auto_dsa, static_args=static)()
    expected = run(LOOKING_BACK["auto_dsa"])[0]
    chex.assert_trees_all_close(run(injected)[0], expected, rtol=1e-6)
