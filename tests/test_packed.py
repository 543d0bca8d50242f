"""Packed leaves: nothing is lost, and nothing but the number of operations changes."""

import functools
import math
import pickle
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax
from dsa_optax import _packed
from dsa_optax._packed import SMALL, for_state, layout_of

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SHAPES = st.lists(
    st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5
)
DTYPES = st.sampled_from(["float32", "bfloat16"])


def tree_of(shapes, dtypes, seed=0):
    random = np.random.default_rng(seed)
    return {
        f"leaf {i}": random.normal(size=shape).astype(jnp.dtype(dtype))
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    }


LIMITS = st.sampled_from([-1, 3, SMALL])


@settings(max_examples=16, deadline=None)
@given(SHAPES, LIMITS, st.booleans(), st.data())
def test_what_is_packed_comes_back(shapes, limit, stacks, data):
    dtypes = data.draw(st.lists(DTYPES, min_size=len(shapes), max_size=len(shapes)))
    tree = tree_of(shapes, dtypes)
    with mock.patch.object(_packed, "SMALL", limit):
        layout = layout_of(tree, stacks=stacks)
    packed = jax.jit(layout.pack)(tree)
    large = [
        (*kind, None if stacks else i)
        for i, kind in enumerate(zip(shapes, dtypes, strict=True))
        if math.prod(kind[0]) > limit
    ]
    assert len(packed.arrays) <= len(set(large)) + len(set(dtypes))
    chex.assert_trees_all_equal(jax.jit(layout.unpack)(packed), tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(layout.like(packed), tree)
    assert layout.of_state(for_state(packed)).arrays == packed.arrays


@settings(max_examples=16, deadline=None)
@given(SHAPES, LIMITS)
def test_sums_and_values_of_leaves_are_in_the_order_of_the_tree(shapes, limit):
    tree = tree_of(shapes, ["float32"] * len(shapes))
    with mock.patch.object(_packed, "SMALL", limit):
        layout = layout_of(tree)
    values = np.arange(1.0, len(tree) + 1, dtype=np.float32)

    @jax.jit  # eagerly each of its operations would be compiled, for every shape
    def worked_out(tree, values):
        packed = layout.pack(tree)
        of_entries = jax.tree.map(
            lambda value, array: jnp.broadcast_to(value, array.shape),
            layout.of_leaves(values),
            packed,
        )
        return layout.sums(packed), of_entries, layout.tree(values)

    sums, of_entries, scalars = worked_out(tree, values)
    # On its own: in one program with them jaxlib 0.10.2 aborts in compiling it, where
    # the leaves are a scalar and an empty one.
    of_leaves = jax.jit(layout.unpack)(of_entries)
    leaves = [np.asarray(tree[name], np.float64) for name in sorted(tree)]
    np.testing.assert_allclose(sums, [x.sum() for x in leaves], atol=1e-5)
    for leaf, value in zip(jax.tree.leaves(of_leaves), values, strict=True):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, value))
    np.testing.assert_array_equal(np.stack(jax.tree.leaves(scalars)), values)


@pytest.mark.parametrize("form", ["parameter", "tensor", "global", "light", "dense"])
def test_the_state_of_no_leaves_is_not_that_of_some(form):
    tx, params = FORMS[form](), {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"`state.*make a new state"):
        tx.update(params, tx.init({}), params)


def test_large_leaves_of_one_shape_are_stacked():
    large, small = jnp.zeros(SMALL + 1), jnp.zeros(SMALL)
    tree = {"a": small, "b": large, "c": jnp.zeros((2, 3)), "d": large}
    shapes = {n: a.shape for n, a in layout_of(tree).pack(tree).arrays.items()}
    assert shapes == {"float32": (SMALL + 6,), "float32_16385": (2, SMALL + 1)}
    apart = layout_of(tree, stacks=False).pack(tree)
    assert [a.shape[0] for a in apart.arrays.values()] == [SMALL + 6, 1, 1]


# An optimizer with packed leaves and without. -----------------------------------------


def make_params(dtype):
    random = np.random.default_rng(0)
    shapes = {"a": (4, 5), "b": (5,), "c": (5, 5), "d": (5,), "e": (5, 5), "f": ()}
    return {n: jnp.asarray(random.normal(size=s), dtype) for n, s in shapes.items()}


def loss(params):
    x = jnp.linspace(-1, 1, 28, dtype=params["a"].dtype).reshape(7, 4)
    x = jnp.tanh(x @ params["a"] + params["b"])
    x = jnp.tanh(x @ params["c"] + params["d"]) @ params["e"]
    return jnp.mean((x * params["f"] - 0.3) ** 2)


def sign():
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: -jnp.sign(x), g))


FORMS = {
    "parameter": lambda: dsa_optax.adapt(sign(), "parameter"),
    "tensor": lambda: dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "tensor"),
    "global": lambda: dsa_optax.adapt(optax.adam(1.0), "global"),
    "light": lambda: dsa_optax.auto_dsa(0),
    "dense": lambda: dsa_optax.auto_dsa(5),
}
WHOLE = [form for form in FORMS if form != "light"]  # which is a part of the dense one


@functools.cache
def trajectory(form, small=SMALL):
    """In 64 bits: params and rates of every step, and the last state."""
    with jax.enable_x64(True), mock.patch.object(_packed, "SMALL", small):
        tx, params, rows = FORMS[form](), make_params("float64"), []
        state = tx.init(params)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            return params, state, dsa_optax.learning_rates(state)

        for _ in range(12):
            params, state, rates = step(params, state)
            rows.append((params, rates))
    return rows, state


@pytest.mark.parametrize("form", WHOLE)
def test_the_trajectory_is_that_of_leaves_apart(form):
    """Up to the order in which sums are taken, which Muon's iterations enlarge."""
    packed, state = trajectory(form)
    assert len(state.before) == 1
    apart, state = trajectory(form, small=-1)
    assert {name: len(array) for name, array in state.before.items()} == {
        "float64_": 1,
        "float64_4x5": 1,
        "float64_5": 2,
        "float64_5x5": 2,
    }
    chex.assert_trees_all_close(packed, apart, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", WHOLE)
def test_a_state_is_of_plain_arrays_for_any_checkpoint(form):
    serialization = pytest.importorskip("flax.serialization")
    _, state = trajectory(form)
    with jax.enable_x64(True):
        fresh = FORMS[form]().init(make_params("float64"))
        kept = serialization.to_bytes(state)
        chex.assert_trees_all_equal(serialization.from_bytes(fresh, kept), state)
        chex.assert_trees_all_equal(pickle.loads(pickle.dumps(state)), state)


@pytest.mark.parametrize("form", FORMS)
def test_an_update_has_few_operations_a_leaf(form):
    """Where every leaf is one more only to be packed and cut out again."""

    def operations(leaves):
        params = [np.ones((3, 2), np.float32)] * leaves
        tx = FORMS[form]()
        if form in ("tensor", "global"):  # whose inner optimizers see every leaf
            tx = dsa_optax.adapt(sign(), form)
        state = jax.eval_shape(tx.init, params)
        program = jax.jit(tx.update).lower(params, state, params).as_text()
        return program.count("stablehlo.")

    few, many = (operations(n) for n in (10, 30))
    assert (many - few) / 20 < 24


def test_leaves_that_are_cut_out_are_programs_of_one_kind():
    """What takes XLA time is another program for each of them."""
    params = [jnp.ones(n % 3 + 2) for n in range(60)]
    layout = layout_of(params)

    def cut(vector):
        return layout.unpack(layout.of_state({"float32": vector}))

    vector = jnp.arange(sum(math.prod(s) for s in layout.shapes), dtype=jnp.float32)
    program = jax.jit(cut).lower(vector).compile().as_text()
    assert program.count(" gather(") == 60
    assert program.count(" slice(") < 60


def test_no_place_in_a_stack_overflows():
    """More entries than int32 counts: seen in the program alone."""
    leaf = jax.ShapeDtypeStruct((2**14, 2**14), jnp.bfloat16)
    both = lambda tree: layout_of(tree).unpack(layout_of(tree).pack(tree))
    program = jax.make_jaxpr(both)([leaf] * 9)
    assert "gather" not in str(program)


def test_a_mesh_of_one_device_with_explicit_axes():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        large = jax.device_put(
            jnp.ones((256, 128)), jax.NamedSharding(mesh, jax.P("x"))
        )
        params = {"a": large, "b": large + 1}
        tx = dsa_optax.adapt(optax.sgd(1.0))
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, params)
