"""The Flax helpers, on linen and nnx: one batch, one dropout mask, statistics once."""

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

import dsa_optax
import dsa_optax.linen
import dsa_optax.nnx

LOG2_LR, DECREASE, INCREASE = -4.0, 0.6, 0.3
STEPS = 4
X = np.stack([np.linspace(-1, 1, 16), np.cos(3 * np.arange(16.0))], 1, dtype=np.float32)
Y = np.sin(2 * X[:, :1]) + 0.5 * X[:, 1:]

# nnx steps run both ways.
MODES = {"jit": nnx.jit, "eager": lambda step: step}

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


# Each optimizer and what it is compared with is made once: to compile takes the time.
@functools.cache
def make_tx(clip=False):
    tx = dsa_optax.dsa(LOG2_LR, DECREASE, INCREASE)
    return optax.chain(optax.clip(0.1), tx) if clip else tx


def mse(prediction, target):
    return jnp.mean((prediction - target) ** 2)


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        nnx.to_pure_dict(actual) if isinstance(actual, nnx.State) else actual,
        nnx.to_pure_dict(expected) if isinstance(expected, nnx.State) else expected,
    )


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(not np.allclose(a, b, atol=1e-4) for a, b in pairs)


def first_update_by_hand(params, grads, grad_at):
    """The params after Algorithm 1's first update."""
    sign = lambda tree: jax.tree.map(np.sign, jax.device_get(tree))
    move = lambda log2_lr, s: -(2.0**log2_lr) * s
    signs = sign(grads)
    params = jax.device_get(params)
    probe = jax.tree.map(lambda p, s: p + move(LOG2_LR, s), params, signs)

    def leaf(param, s, probe_s):
        drift = (INCREASE - DECREASE) / 2
        log2_lr = LOG2_LR + (INCREASE + DECREASE) / 2 * s * probe_s + drift
        return param + move(log2_lr, s)

    return jax.tree.map(leaf, params, signs, sign(grad_at(probe)))


# A plain network, in linen and in nnx, with the same names.
class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="out")(jnp.tanh(nn.Dense(4, name="hidden")(x)))


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def mlp_loss(params, x, y):
    return mse(LinenMLP().apply({"params": params}, x), y)


@functools.cache
def mlp_params():
    return jax.jit(LinenMLP().init)(jax.random.key(0), X)["params"]


def nnx_mlp():
    model = NnxMLP(nnx.Rngs(0))
    nnx.update(model, mlp_params())
    return model


def model_loss(model, x, y):
    return mse(model(x), y)


def plain_trajectory(tx, loss, params):
    """The params after a few updates without any helper."""
    grad, state = jax.grad(loss), tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad(params), state, params, grad_fn=grad)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params


@functools.cache
def mlp_trajectory(tx):
    return plain_trajectory(tx, lambda params: mlp_loss(params, X, Y), mlp_params())


def test_importing_the_package_does_not_import_flax():
    code = "import sys, dsa_optax; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_plain_pytree_needs_no_flax():
    params = [(jnp.ones((2, 3)), jnp.zeros(3)), (jnp.ones((3, 1)), None)]

    def loss(params, x, y):
        (kernel, bias), (readout, _) = params
        return mse(jnp.tanh(x @ kernel + bias) @ readout, y)

    tx = make_tx()
    expected = plain_trajectory(tx, lambda params: loss(params, X, Y), params)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    state = tx.init(params)
    for _ in range(STEPS):
        params, state, _ = step(params, state, X, Y)
    assert_close(params, expected)


# ---------------------------------------------------------------- linen


def linen_state(tx, params=None, kind=dsa_optax.linen.TrainState, **fields):
    params = mlp_params() if params is None else params
    return kind.create(apply_fn=LinenMLP().apply, params=params, tx=tx, **fields)


@jax.jit
def linen_step(state, x, y):
    grad_fn = dsa_optax.make_grad_fn(mlp_loss, x, y)
    return state.apply_gradients(grads=grad_fn(state.params), grad_fn=grad_fn)


@pytest.mark.parametrize("clip", [False, True])
def test_linen_trajectory_is_that_of_the_optimizer(clip):
    tx = make_tx(clip)
    state, compilations = linen_state(tx), linen_step._cache_size()
    for _ in range(STEPS):
        state = linen_step(state, X, Y)
    assert_close(state.params, mlp_trajectory(tx))
    assert state.step == STEPS
    assert state.tx is tx
    # Once for the step that is a Python int, once for the array that it becomes.
    assert linen_step._cache_size() <= compilations + 2
    assert_close(
        jax.tree.map(jnp.shape, dsa_optax.learning_rates(state.opt_state)),
        jax.tree.map(jnp.shape, state.params),
    )


def test_linen_value_fn_in_place_of_grad_fn():
    state = linen_state(make_tx())
    loss = lambda params: mlp_loss(params, X, Y)

    @jax.jit
    def both(state):
        grads = jax.grad(loss)(state.params)
        return [
            state.apply_gradients(grads=grads, **fn).params
            for fn in ({"value_fn": loss}, {"grad_fn": jax.grad(loss)})
        ]

    assert_close(*both(state))


def test_linen_adam_is_as_with_flax():
    tx = optax.adam(1e-2)
    ours, flaxs = linen_state(tx), linen_state(tx, kind=train_state.TrainState)
    grad_fn = dsa_optax.make_grad_fn(mlp_loss, X, Y)

    @jax.jit
    def step(ours, flaxs):
        flaxs = flaxs.apply_gradients(grads=grad_fn(flaxs.params))
        return ours.apply_gradients(grads=grad_fn(ours.params), grad_fn=grad_fn), flaxs

    for _ in range(STEPS):
        ours, flaxs = step(ours, flaxs)
    for field in ("params", "opt_state", "step"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(ours, field), getattr(flaxs, field)
        )
    assert ours.tx is tx


def test_linen_line_search_gets_its_arguments():
    tx, params = optax.lbfgs(), mlp_params()
    state = linen_state(tx)
    loss = lambda params: mlp_loss(params, X, Y)

    @jax.jit
    def both(state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads}
        updates, _ = tx.update(grads, state.opt_state, params, value_fn=loss, **extra)
        state = state.apply_gradients(grads=grads, value_fn=loss, extra_args=extra)
        return state.params, optax.apply_updates(params, updates)

    assert_close(*both(state))


def test_linen_missing_grad_fn_shows_the_line_to_write():
    state = linen_state(make_tx())
    with pytest.raises(ValueError, match="`grad_fn` is missing") as error:
        state.apply_gradients(grads=state.params)
    assert "linen  state.apply_gradients(" in str(error.value)


def test_linen_unknown_field_is_refused():
    state = linen_state(optax.sgd(0.1))
    with pytest.raises(TypeError, match="gradfn"):
        state.apply_gradients(grads=state.params, gradfn=jax.grad(mlp_loss))


@pytest.mark.parametrize("name", ["grad_fn", "value_fn"])
def test_linen_overwrites_with_the_gradient(name):
    """FP8 scales take their gradient's value, and the optimizer never sees them."""
    params = {"params": {"w": jnp.ones(2)}, OVERWRITE_WITH_GRADIENT: jnp.array(2.0)}

    def loss(params):
        return jnp.sum(params["params"]["w"] ** 2 * params[OVERWRITE_WITH_GRADIENT])

    fn = {"grad_fn": jax.grad(loss), "value_fn": loss}[name]
    grads, tx = jax.grad(loss)(params), make_tx()
    state = linen_state(tx, params).apply_gradients(grads=grads, **{name: fn})
    expected = first_update_by_hand(
        params["params"],
        grads["params"],
        lambda rest: jax.grad(loss)(params | {"params": rest})["params"],
    )
    assert_close(state.params["params"], expected)
    assert state.params[OVERWRITE_WITH_GRADIENT] == grads[OVERWRITE_WITH_GRADIENT]


class LinenNoisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(6, use_bias=False)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=False)(jnp.tanh(x)))


class NoisyState(dsa_optax.linen.TrainState):
    batch_stats: dict


def noisy_loss(params, batch_stats, key, x, y):
    prediction, updated = LinenNoisy().apply(
        {"params": params, "batch_stats": batch_stats},
        x,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    return mse(prediction, y), updated["batch_stats"]


@jax.jit
def noisy_step(state, key, x, y):
    args = (state.batch_stats, key, x, y)
    grads, batch_stats = jax.grad(noisy_loss, has_aux=True)(state.params, *args)
    grad_fn = dsa_optax.make_grad_fn(noisy_loss, *args, has_aux=True)
    return state.apply_gradients(grads=grads, grad_fn=grad_fn, batch_stats=batch_stats)


def test_linen_one_dropout_mask_and_statistics_once():
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(LinenNoisy().init)(keys, X)
    params, stats = variables["params"], variables["batch_stats"]
    key = jax.random.key(2)
    start = linen_state(kind=NoisyState, tx=make_tx(), **variables)
    state = noisy_step(start, key, X, Y)

    @jax.jit
    def grad_at(params, stats, key):
        return jax.grad(noisy_loss, has_aux=True)(params, stats, key, X, Y)

    grads, stats_after = grad_at(params, stats, key)
    same_mask = lambda params: grad_at(params, stats, key)[0]
    other_mask = lambda params: grad_at(params, stats, jax.random.key(3))[0]
    assert_close(state.params, first_update_by_hand(params, grads, same_mask))
    assert differ(state.params, first_update_by_hand(params, grads, other_mask))
    # A second pass over the statistics would have moved them on.
    assert_close(state.batch_stats, stats_after)
    assert differ(stats_after, grad_at(params, stats_after, key)[1])


# ------------------------------------------------------------------ nnx


@functools.cache
def nnx_step(loss_fn, compiled, wrt=nnx.Param):
    def step(model, optimizer, *args):
        evaluate = dsa_optax.nnx.value_and_grad(loss_fn, wrt=wrt)
        value, grads, grad_fn = evaluate(model, *args)
        optimizer.update(model, grads, grad_fn=grad_fn)
        return value

    return compiled(step)


@pytest.mark.parametrize("clip", [False, True])
def test_nnx_trajectory_is_that_of_linen(compiled, clip):
    tx = make_tx(clip)
    model = nnx_mlp()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx_step(model_loss, compiled)
    for _ in range(STEPS):
        step(model, optimizer, X, Y)
    assert_close(nnx.state(model, nnx.Param), mlp_trajectory(tx))
    assert optimizer.step[...] == STEPS


class NnxNoisy(nnx.Module):
    """Its arrays have shapes of `NnxMLP`'s, whose eager operations are compiled."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x, rngs=None):
        hidden = jnp.tanh(self.norm(self.hidden(x)))
        return self.out(self.dropout(hidden, rngs=rngs))


def pure_noisy_loss(graphdef):
    """The loss of `NnxNoisy` as a pure function, with what it leaves behind."""

    def loss(params, rest):
        model = nnx.merge(graphdef, params, rest, copy=True)
        value = model_loss(model, X, Y)
        return value, nnx.as_pure(nnx.split(model, nnx.Param, ...)[2])

    return loss


def test_nnx_one_dropout_mask_and_statistics_and_counters_once(compiled):
    model = NnxNoisy(nnx.Rngs(1))
    graphdef, params, rest = nnx.as_pure(nnx.split(model, nnx.Param, ...))
    loss = pure_noisy_loss(graphdef)
    optimizer = nnx.Optimizer(model, make_tx(), wrt=nnx.Param)
    value = nnx_step(model_loss, compiled)(model, optimizer, X, Y)

    evaluate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (expected_value, rest_after), grads = evaluate(params, rest)
    same_mask = lambda params: evaluate(params, rest)[1]
    other_mask = lambda params: evaluate(params, rest_after)[1]
    trained = nnx.as_pure(nnx.state(model, nnx.Param))
    assert_close(value, expected_value)
    assert_close(trained, first_update_by_hand(params, grads, same_mask))
    assert differ(trained, first_update_by_hand(params, grads, other_mask))
    assert model.dropout.rngs.count[...] == 1
    statistics = nnx.as_pure(nnx.state(model, nnx.BatchStat))
    assert_close(statistics["norm"]["mean"], rest_after["norm"]["mean"])
    assert_close(statistics["norm"]["var"], rest_after["norm"]["var"])
    (_, again), _ = evaluate(params, rest_after)
    assert differ(statistics["norm"], again["norm"])


@functools.cache
def noisy_trajectory():
    """Params and the rest of `NnxNoisy` after a few updates in plain JAX."""
    model, tx = NnxNoisy(nnx.Rngs(0)), make_tx()
    graphdef, params, rest = nnx.as_pure(nnx.split(model, nnx.Param, ...))
    loss, state = pure_noisy_loss(graphdef), tx.init(params)

    @jax.jit
    def step(params, rest, state):
        grad_fn = dsa_optax.make_grad_fn(loss, rest, has_aux=True)
        grads, rest = jax.grad(loss, has_aux=True)(params, rest)
        updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), rest, state

    for _ in range(STEPS):
        params, rest, state = step(params, rest, state)
    return params, rest


def test_nnx_noisy_trajectory_is_that_of_plain_jax(compiled):
    model = NnxNoisy(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, make_tx(), wrt=nnx.Param)
    step = nnx_step(model_loss, compiled)
    for _ in range(STEPS):
        step(model, optimizer, X, Y)
    params, rest = noisy_trajectory()
    assert_close(nnx.as_pure(nnx.state(model, nnx.Param)), params)
    assert_close(
        nnx.as_pure(nnx.state(model, nnx.BatchStat))["norm"],
        {name: rest["norm"][name] for name in ("mean", "var")},
    )
    assert model.dropout.rngs.count[...] == STEPS


def test_nnx_random_keys_may_be_an_argument_of_the_loss(compiled):
    """The same model and the same keys: the same step, wherever the keys sit."""
    inside, outside = NnxNoisy(nnx.Rngs(0)), NnxNoisy(nnx.Rngs(0))
    rngs = nnx.Rngs(dropout=nnx.clone(inside.dropout.rngs))

    def loss_with_keys(model, x, y, rngs):
        return mse(model(x, rngs=rngs), y)

    for model, loss, *more in (
        (inside, model_loss),
        (outside, loss_with_keys, rngs),
    ):
        optimizer = nnx.Optimizer(model, make_tx(), wrt=nnx.Param)
        nnx_step(loss, compiled)(model, optimizer, X, Y, *more)
    assert_close(nnx.state(inside, nnx.Param), nnx.state(outside, nnx.Param))
    assert rngs.dropout.count[...] == 1


def test_nnx_trains_only_what_wrt_selects(compiled):
    wrt, model = nnx.All(nnx.Param, nnx.PathContains("out")), nnx_mlp()
    frozen = mlp_params()["hidden"]
    optimizer = nnx.Optimizer(model, make_tx(), wrt=wrt)
    step = nnx_step(model_loss, compiled, wrt)
    for _ in range(STEPS):
        step(model, optimizer, X, Y)

    def loss(out):
        return mlp_loss({"hidden": frozen, "out": out}, X, Y)

    expected = plain_trajectory(make_tx(), loss, mlp_params()["out"])
    trained = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_close(trained, {"hidden": frozen, "out": expected})


def test_nnx_aux_and_keyword_arguments_are_as_in_nnx():
    model = nnx_mlp()

    def loss(model, x, y):
        prediction = model(x)
        return mse(prediction, y), prediction

    evaluate = dsa_optax.nnx.value_and_grad(loss, has_aux=True)
    result, grads, grad_fn = evaluate(model, X, y=Y)
    expected = nnx.value_and_grad(loss, has_aux=True)(model, X, y=Y)
    jax.tree.map(np.testing.assert_array_equal, (result, grads), expected)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, grad_fn(params), nnx.as_pure(grads))


def test_nnx_missing_grad_fn_shows_the_lines_to_write():
    model = nnx_mlp()
    optimizer = nnx.Optimizer(model, make_tx(), wrt=nnx.Param)
    grads = nnx.grad(model_loss)(model, X, Y)
    with pytest.raises(ValueError, match="`grad_fn` is missing") as error:
        optimizer.update(model, grads)
    assert "dsa_optax.nnx.value_and_grad(loss)(model, batch)" in str(error.value)


def test_nnx_plain_optimizer_in_its_place():
    ours, flaxs = nnx_mlp(), nnx_mlp()
    tx = optax.with_extra_args_support(optax.adam(1e-2))
    optimizer = nnx.Optimizer(ours, tx, wrt=nnx.Param)
    nnx_step(model_loss, nnx.jit)(ours, optimizer, X, Y)
    optimizer = nnx.Optimizer(flaxs, optax.adam(1e-2), wrt=nnx.Param)
    optimizer.update(flaxs, nnx.grad(model_loss)(flaxs, X, Y))
    assert_close(nnx.state(ours, nnx.Param), nnx.state(flaxs, nnx.Param))


def test_nnx_rates_are_readable():
    model = nnx_mlp()
    optimizer = nnx.Optimizer(model, make_tx(), wrt=nnx.Param)
    nnx_step(model_loss, nnx.jit)(model, optimizer, X, Y)
    state = nnx.as_pure(optimizer.opt_state)
    rates = dsa_optax.learning_rates(state)
    expected = linen_step(linen_state(make_tx()), X, Y).opt_state
    assert_close(rates, dsa_optax.learning_rates(expected))
    summary = dsa_optax.summary(state)
    quantiles = summary["out"]["kernel"].quantiles
    assert_close(quantiles[0], rates["out"]["kernel"].min())
    # The state as nnx keeps it: the same rates, as nnx variables.
    variables = dsa_optax.learning_rates(optimizer.opt_state)
    assert_close(nnx.as_pure(variables), rates)


# Below optax.partition: only DSA's part goes to the probe, the helpers refill the rest.
LABELS = {"hidden": "dsa", "out": "adam"}


@functools.cache
def partitioned():
    return optax.partition({"dsa": make_tx(), "adam": optax.adam(0.1)}, LABELS)


@functools.cache
def partitioned_trajectory():
    params, tx = mlp_params(), partitioned()
    state, step = tx.init(params), dsa_optax.make_train_step(mlp_loss, tx, donate=False)
    for _ in range(STEPS):
        params, state, _ = step(params, state, X, Y)
    return params


@pytest.mark.parametrize("by", ["grad_fn", "value_fn"])
def test_linen_below_partition(by):
    state = dsa_optax.linen.TrainState.create(
        apply_fn=None, params=mlp_params(), tx=partitioned()
    )
    value_fn = lambda params: mlp_loss(params, X, Y)
    given = {by: value_fn if by == "value_fn" else jax.grad(value_fn)}
    step = jax.jit(
        lambda s: s.apply_gradients(grads=jax.grad(value_fn)(s.params), **given)
    )
    for _ in range(STEPS):
        state = step(state)
    assert_close(state.params, partitioned_trajectory())


def test_nnx_below_partition(compiled):
    model = nnx_mlp()
    labels = nnx.State(LABELS)
    tx = optax.partition({"dsa": make_tx(), "adam": optax.adam(0.1)}, labels)
    optimizer = nnx.Optimizer(model, optax.with_extra_args_support(tx), wrt=nnx.Param)

    @compiled
    def step(model, optimizer):
        _, grads, grad_fn = dsa_optax.nnx.value_and_grad(model_loss)(model, X, Y)
        optimizer.update(model, grads, grad_fn=grad_fn)

    for _ in range(STEPS):
        step(model, optimizer)
    assert_close(nnx.state(model, nnx.Param), partitioned_trajectory())


# ---------------------------------------------------------------- adapt


@functools.cache
def make_adapted():
    return dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "tensor", init_log2_lr=-6.0)


@pytest.mark.parametrize("kind", [train_state.TrainState, dsa_optax.linen.TrainState])
def test_adapt_needs_no_helper_in_linen(kind):
    """One gradient a step: Flax's own `TrainState` will do."""
    tx = make_adapted()
    state = linen_state(tx, kind=kind)
    step = jax.jit(
        lambda s: s.apply_gradients(grads=jax.grad(mlp_loss)(s.params, X, Y))
    )
    for _ in range(STEPS):
        state = step(state)
    assert_close(state.params, mlp_trajectory(tx))


def test_adapt_needs_no_helper_in_nnx(compiled):
    model = nnx_mlp()
    optimizer = nnx.Optimizer(model, make_adapted(), wrt=nnx.Param)

    def step(model, optimizer):
        optimizer.update(model, nnx.grad(model_loss)(model, X, Y))

    step = compiled(step)
    for _ in range(STEPS):
        step(model, optimizer)
    assert_close(nnx.state(model, nnx.Param), mlp_trajectory(make_adapted()))
