"""`auto_dsa` and `adapt` take params of any kind: dtypes, shapes, bounds, stacks."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax._packed import layout_of

pytestmark = pytest.mark.usefixtures("as_users_run_it")

FORMS = {
    "dense": dsa_optax.auto_dsa(2),
    "light": dsa_optax.auto_dsa(0),
    "global": dsa_optax.adapt(optax.sgd(1.0), "global"),
    "tensor": dsa_optax.adapt(optax.sgd(1.0), "tensor"),
    "parameter": dsa_optax.adapt(optax.sgd(1.0), "parameter"),
}

SIZES = [("dense", 600), *((form, 2) for form in FORMS)]
"""Of many parameters the third direction has a memory, of few a matrix."""

TOGETHER = {
    "dense": FORMS["dense"],
    "rates": dsa_optax.blend(*(FORMS[g] for g in ("global", "tensor", "parameter"))),
}
"""The same in fewer programs to compile: all rates, and all directions."""


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def three_updates(tx, params):
    """Params and state, from a gradient that points away from the params."""
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(("form", "rows"), [("dense", 600), ("dense", 2), ("rates", 2)])
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_params_of_two_dtypes_keep_their_state(form, rows, wide):
    """`lax.scan` refuses a carry whose dtypes change."""
    with jax.enable_x64(wide == "float64"):
        params = {"a": np.ones((rows, 2), jnp.bfloat16), "b": np.ones(3, wide)}
        tx = TOGETHER[form]

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            assert types(updates) == types(params)
            return (optax.apply_updates(params, updates), state), state.inner.lengths

        run = lambda params: jax.lax.scan(step, (params, tx.init(params)), length=12)
        (after, _), lengths = jax.jit(run)(params)
    assert np.all(np.max(lengths, axis=0) > 0)
    assert all(np.all(np.asarray(leaf, float) < 1) for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(("form", "rows"), SIZES)
def test_no_rank_is_promoted(form, rows):
    params = {"a": jnp.ones((rows, 2)), "b": jnp.ones(3)}
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(partial(three_updates, FORMS[form]), params)


@pytest.mark.parametrize("form", TOGETHER)
def test_python_numbers_and_matrices_without_rows_are_params_too(form):
    params = {"a": 1.5, "none": jnp.zeros((0, 3)), "w": jnp.ones((2, 2))}
    after, state = three_updates(TOGETHER[form], params)
    assert np.all(np.asarray(state.inner.lengths) > 0)
    assert after["a"] < 1.5
    assert after["none"].shape == (0, 3)
    chex.assert_tree_all_finite((after, state))


@pytest.mark.parametrize("form", FORMS)
def test_a_leaf_that_comes_later_is_named(form):
    tx, params = FORMS[form], {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    more = params | {"c": jnp.ones(1)}
    with pytest.raises(ValueError, match=r"`state.*make a new state"):
        tx.update(more, state, more)
    longer = {"a": jnp.ones(2), "b": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"`state.*\(5,\).*\(6,\).*make a new state"):
        tx.update(longer, state, longer)
    other = {"a": jnp.ones(2), "c": jnp.ones(3)}
    if form != "global":  # which keeps nothing that has the params' structure
        with pytest.raises(ValueError, match=r"`state.*make a new state"):
            tx.update(other, state, other)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_that_changes_is_named(form):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    masked = lambda which: optax.masked(FORMS[form], which)
    state = masked({"a": True, "b": False}).init(params)
    with pytest.raises(ValueError, match=r"`state.*make a new state"):
        masked({"a": True, "b": True}).update(params, state, params)


def test_an_array_for_a_rate_is_copied_before_it_is_donated():
    start = jnp.float32(-5.0)
    tx = dsa_optax.blend(
        *(
            dsa_optax.adapt(optax.sgd(1.0), granularity, init_log2_lr=start)
            for granularity in ("parameter", "tensor", "global")
        )
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    loss = lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 2)
    dsa_optax.make_train_step(loss, tx)(params, tx.init(params))
    assert float(start) == -5


@pytest.mark.parametrize(("form", "rows"), SIZES)
def test_a_state_is_mapped_beside_its_params(form, rows):
    """`optax.tree_map_params` makes the state of a placeholder without leaves."""
    tx = FORMS[form]
    state = tx.init({"a": jnp.ones((rows, 2)), "b": jnp.ones(3)})
    mapped = optax.tree_map_params(tx, lambda leaf: leaf + 0, state)
    chex.assert_trees_all_equal(mapped, state)


# Derivatives. -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tx", "rows"),
    [
        (FORMS["dense"], 2),
        (FORMS["dense"], 600),
        # Whose AdamW, for what is no matrix, stands for optax.adam as well.
        (dsa_optax.adapt(optax.contrib.muon(1.0, adam_eps_root=1e-30), "global"), 2),
    ],
    ids=["dense", "memory", "muon"],
)
def test_derivatives_through_updates_are_finite_where_a_gradient_is_zero(tx, rows):
    def after_three(scale):
        params = {
            "w": scale * jnp.ones((rows, 2)),
            "unused": scale * jnp.ones((rows, 3)),
            "b": scale * jnp.arange(3.0),
        }
        loss = lambda p: jnp.mean(p["w"] ** 2) + jnp.sum(p["b"][:2] ** 2)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=3)
        return loss(params)

    slope = jax.jit(jax.grad(after_three))(1.0)
    assert np.isfinite(slope)
    assert slope > 0


# Stacks and bounds. -------------------------------------------------------------------


def stacked_net(layers=3, width=8):
    """A residual net whose layers lie in one array, and the same as separate leaves."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(40, width)), jnp.float32)
    y = jnp.sin(2 * x)
    stacked = {
        "w": jnp.asarray(random.normal(size=(layers, width, width)), jnp.float32) / 4,
        "b": jnp.zeros((layers, width), jnp.float32),
    }

    def loss(params):
        def layer(h, p):
            return h + jnp.tanh(h @ p["w"] + p["b"]), None

        return jnp.mean((jax.lax.scan(layer, x, params)[0] - y) ** 2)

    return stacked, loss


def as_tree(stored, params):
    layout = layout_of(params)
    return layout.unpack(layout.of_state(stored))


def loss_after(tx, params, loss, steps):
    state, update, grad = tx.init(params), jax.jit(tx.update), jax.jit(jax.grad(loss))
    for _ in range(steps):
        updates, state = update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
    return float(loss(params))


def program_of(tx, params):
    state = jax.eval_shape(tx.init, params)
    return jax.jit(tx.update).lower(params, state, params).as_text()


def test_layers_stacked_for_a_scan_are_as_many_matrices():
    """Muon's direction of a stack is that of each matrix, with their numbers named."""
    params, loss = stacked_net()
    numbers = {"w": optax.contrib.MuonDimensionNumbers(1, 2), "b": None}
    grads = jax.jit(jax.grad(loss))(params)
    first = dsa_optax.auto_dsa(0, muon_weight_dimension_numbers=numbers)
    state = jax.jit(first.update)(grads, first.init(params), params)[1]
    seen = as_tree(state.inner.parts[1].compass, params)["w"]
    apart = {str(i): params["w"][i] for i in range(3)}
    alone = FORMS["light"]
    each = {str(i): grads["w"][i] for i in range(3)}
    state = jax.jit(alone.update)(each, alone.init(apart), apart)[1]
    lone = as_tree(state.inner.parts[1].compass, apart)
    for i in range(3):
        direction = lambda c: c / np.linalg.norm(c)
        np.testing.assert_allclose(
            direction(seen[i]), direction(lone[str(i)]), rtol=1e-4, atol=1e-5
        )
    named = loss_after(first, params, loss, 60)
    assert named < loss_after(alone, params, loss, 60)
    by_function = dsa_optax.auto_dsa(0, muon_weight_dimension_numbers=lambda _: numbers)
    assert program_of(by_function, params) == program_of(first, params)


@pytest.mark.parametrize(
    "tx",
    [FORMS["dense"], FORMS["light"], FORMS["tensor"]],
    ids=["dense", "light", "tensor"],
)
def test_bounds_by_projection_with_the_gradient_of_an_active_one_zeroed(tx):
    """As the docs show: without that line the rates of what is held run away."""
    low, high = jnp.asarray([-9.0, -9.0, 0.5]), jnp.asarray([1.0, 9.0, 9.0])
    curvatures = jnp.asarray([[2.0, 0.9, 0.0], [0.9, 3.0, 0.5], [0.0, 0.5, 1.0]])
    loss = lambda w: 0.5 * (w - 2) @ curvatures @ (w - 2) + 3 * w[2]
    optimum = np.array([1.0, 2.55, 0.5])

    @jax.jit
    def step(w, state):
        grads = jax.grad(loss)(w)
        held = (w <= low) & (grads > 0) | (w >= high) & (grads < 0)
        updates, state = tx.update(jnp.where(held, 0, grads), state, w)
        return jnp.clip(optax.apply_updates(w, updates), low, high), state

    w = jnp.asarray([0.3, 0.4, 3.0])
    state = tx.init(w)
    for _ in range(400):
        w, state = step(w, state)
    np.testing.assert_allclose(w, optimum, atol=1e-3)
