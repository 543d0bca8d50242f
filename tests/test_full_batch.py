"""The gradient of a whole data set, part by part: that of one call, in less memory."""

import logging
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import P

import dsa_optax
from dsa_optax.full_batch import microbatched_value_and_grad, streamed_value_and_grad

TINY = 1e-12


def make_params(dtype=np.float64):
    random = np.random.default_rng(0)
    return {
        "w": jnp.asarray(random.normal(size=(3, 4)), dtype),
        "b": jnp.asarray(random.normal(size=4), dtype),
        "scale": jnp.asarray(1, dtype),
    }


def make_data(rows, dtype=np.float64):
    random = np.random.default_rng(1)
    return (
        random.normal(size=(rows, 3)).astype(dtype),
        random.normal(size=rows).astype(dtype),
    )


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    decay = jnp.sum(params["w"] ** 2)  # a term without rows
    return jnp.mean((params["scale"] * hidden.sum(1) - y) ** 2) + decay / 8


def parts(data, *sizes):
    """Host batches of these sizes, and one of the rest."""
    splits = np.cumsum(sizes)
    splits = splits[splits < len(data[0])]
    return list(zip(*(np.split(array, splits) for array in data), strict=True))


def in_equal_parts(data, size):
    return parts(data, *[size] * (len(data[0]) // size))


def microbatched(data, size, loss=loss):
    value_and_grad = microbatched_value_and_grad(loss, size)
    return lambda params: value_and_grad(params, *data)


def streamed(data, size, loss=loss):
    return streamed_value_and_grad(loss, in_equal_parts(data, size))


METHODS = pytest.mark.parametrize("method", [microbatched, streamed])


in_one_call = jax.jit(jax.value_and_grad(loss))


def whole(data):
    return lambda params: in_one_call(params, *data)


# The whole batch's value and gradient -----------------------------------------------


@METHODS
@settings(max_examples=5, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 45))
def test_any_sizes_give_the_whole_batch(method, rows, size):
    data = make_data(rows)
    got = method(data, size)(make_params())
    chex.assert_trees_all_close(got, whole(data)(make_params()), rtol=TINY, atol=TINY)


@METHODS
@pytest.mark.parametrize(("rows", "size"), [(8192, 4), (4096, 256), (4100, 256)])
def test_float32_is_as_exact_as_one_call(method, rows, size):
    """Against the same float32 data, differentiated in float64."""
    data, params = make_data(rows, np.float32), make_params(np.float32)
    widen = partial(jax.tree.map, np.float64)
    exact = whole(widen(data))(widen(params))
    got = method(data, size)(params)
    chex.assert_trees_all_equal_dtypes(got, jax.eval_shape(whole(data), params))
    ulps = 2 * np.finfo(np.float32).eps
    # Elements near zero are sums of terms that are not: theirs is the ulp of the leaf.
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        error = np.abs(np.asarray(leaf) - np.asarray(wanted))
        assert error.max() <= ulps * np.abs(wanted).max()


@METHODS
def test_bfloat16_is_summed_in_float32(method):
    """In bfloat16, 8 + 8 + 8 + … stops at 2,048."""
    mean = lambda w, x, y: jnp.mean(x @ w)
    ones = jnp.ones(3, jnp.bfloat16)
    data = jax.tree.map(np.ones_like, make_data(4096, jnp.bfloat16))
    got = method(data, 8, mean)(ones)
    chex.assert_trees_all_equal(got, (jnp.asarray(3, jnp.bfloat16), ones))


@METHODS
def test_infinities_stay(method):
    x, y = make_data(12)
    x[3, 0] = np.inf
    params = np.zeros(3)
    sums = lambda params, x, y: jnp.mean(x.sum(1) + x @ (params + 1))
    got = method((x, y), 4, sums)(params)
    wanted = jax.value_and_grad(sums)(params, x, y)
    assert np.isposinf(got[0])
    chex.assert_trees_all_close(got, wanted, rtol=TINY)


@METHODS
def test_traced_once_per_shape_and_compiled_once(method, request):
    traces = []

    def counted(params, x, y):
        traces.append(x.shape)
        return loss(params, x, y)

    data = make_data(22)
    if method is microbatched:
        whole_data = microbatched_value_and_grad(counted, 8)
        value_and_grad = lambda params: whole_data(params, *data)
    else:
        value_and_grad = streamed_value_and_grad(counted, in_equal_parts(data, 8))
    params = make_params()
    jax.block_until_ready(value_and_grad(params))
    assert {shape[0] for shape in traces} == {8, 6}
    if method is streamed:
        assert len(traces) == 2
    traces.clear()
    messages = compilations(lambda: value_and_grad(params))
    assert not traces
    assert not messages


def compilations(call):
    """What JAX logs while it compiles."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            jax.block_until_ready(call())
    finally:
        logger.removeHandler(handler)
    return [record for record in records if "ompil" in record]


# With DSA ----------------------------------------------------------------------------


def trajectory(value_and_grad, *, jitted, tx=None, steps=30):
    tx = tx or dsa_optax.dsa(-6.0)
    params = make_params()
    state = tx.init(params)

    def step(params, state):
        value, grads = value_and_grad(params)
        updates, state = tx.update(
            grads, state, params, grad_fn=lambda params: value_and_grad(params)[1]
        )
        return optax.apply_updates(params, updates), state, value

    if jitted:
        step = jax.jit(step)
    values = []
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
    return params, dsa_optax.learning_rates(state), values


def test_dsa_follows_the_whole_batch():
    data = make_data(50)
    wanted = trajectory(whole(data), jitted=True)
    inside_jit = trajectory(microbatched(data, 8), jitted=True)
    outside_jit = trajectory(streamed(data, 8), jitted=False)
    chex.assert_trees_all_close(inside_jit, wanted, rtol=TINY)
    chex.assert_trees_all_close(outside_jit, wanted, rtol=TINY)
    assert wanted[2][-1] < wanted[2][0] / 2


def test_two_stage_streams_in_its_second_stage():
    data = make_data(20)
    tx = dsa_optax.two_stage(optax.sgd(0.01), dsa_optax.dsa(), switch_step=2)
    wanted = trajectory(whole(data), jitted=True, tx=tx, steps=5)
    got = trajectory(streamed(data, 8), jitted=False, tx=tx, steps=5)
    chex.assert_trees_all_close(got, wanted, rtol=1e-9)


# Microbatches on the device ----------------------------------------------------------


@pytest.mark.parametrize("rest", [0, 3])
def test_memory_does_not_grow_with_the_rows(rest):
    value_and_grad = microbatched_value_and_grad(loss, 64)

    def temporary(parts):
        data = make_data(64 * parts + rest)
        compiled = jax.jit(value_and_grad).lower(make_params(), *data).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(1000) <= temporary(10) + 64
    one_call = jax.jit(whole(make_data(64_000))).lower(make_params()).compile()
    assert temporary(1000) < one_call.memory_analysis().temp_size_in_bytes / 50


def test_microbatches_of_dicts_and_of_random_keys():
    def noisy(params, batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return loss(params, batch["x"] + noise, batch["y"])

    x, y = make_data(11)
    args = {"x": x, "y": y}, jax.random.split(jax.random.key(0), 11)
    got = microbatched_value_and_grad(noisy, 4)(make_params(), *args)
    wanted = jax.jit(jax.value_and_grad(noisy))(make_params(), *args)
    chex.assert_trees_all_close(got, wanted, rtol=TINY)


def test_loss_may_close_over_what_is_traced():
    data = make_data(10)

    @jax.jit
    def build_and_call(params, shift):
        shifted = lambda params, x, y: loss(params, x + shift, y)
        return microbatched_value_and_grad(shifted, 4)(params, *data)

    got = build_and_call(make_params(), 0.5)
    wanted = whole((data[0] + 0.5, data[1]))(make_params())
    chex.assert_trees_all_close(got, wanted, rtol=TINY)


def test_microbatches_inside_vmap_and_under_a_sharded_mesh():
    data, size = make_data(20), 8
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), make_params())
    got = jax.vmap(microbatched(data, size))(params)
    chex.assert_trees_all_close(got, jax.vmap(whole(data))(params), rtol=TINY)

    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    mean = lambda *args: jax.lax.pmean(loss(*args), "rows")
    spread = jax.shard_map(
        microbatched_value_and_grad(mean, size),
        mesh=mesh,
        in_specs=(P(), P("rows"), P("rows")),
        out_specs=P(),
    )
    got = jax.jit(spread)(make_params(), *data)
    chex.assert_trees_all_close(got, whole(data)(make_params()), rtol=TINY)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "must be positive, got 0; for example microbatch_size=256"),
        (2.5, TypeError, "must be an integer, got 2.5"),
    ],
)
def test_bad_microbatch_size_is_refused(size, error, message):
    with pytest.raises(error, match=message):
        microbatched_value_and_grad(loss, size)


BAD_BATCHES = pytest.mark.parametrize(
    "batch",
    [
        (np.ones((4, 3)), np.ones(5)),
        (np.ones((4, 3)), np.float64(1)),
        (np.ones((0, 3)), np.ones(0)),
        (),
    ],
    ids=["unequal", "without rows", "no rows", "no arrays"],
)


@BAD_BATCHES
def test_microbatches_of_unequal_or_no_rows_are_refused(batch):
    value_and_grad = microbatched_value_and_grad(loss, 2)
    with pytest.raises(ValueError, match="`batch` must be arrays with the same number"):
        value_and_grad(make_params(), *batch)


# Batches from the host ---------------------------------------------------------------


def test_batches_of_any_kind_and_sizes():
    data = make_data(21)
    wanted = whole(data)(make_params())
    batches = parts(data, 5, 9, 2)  # and 5
    for kind in (batches, tuple(batches), lambda: iter(batches), map_lists(batches)):
        got = streamed_value_and_grad(loss, kind)(make_params())
        chex.assert_trees_all_close(got, wanted, rtol=TINY)
    dicts = [{"x": x, "y": y} for x, y in batches]
    by_dict = lambda params, batch: loss(params, batch["x"], batch["y"])
    got = streamed_value_and_grad(by_dict, dicts)(make_params())
    chex.assert_trees_all_close(got, wanted, rtol=TINY)


def map_lists(batches):
    """Batches as PyTorch's loaders give them: lists."""
    return [list(batch) for batch in batches]


def aligned(*shape):
    """An array at a multiple of 64 bytes, whose memory JAX would share."""
    memory = np.empty(8 * np.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 8 * np.prod(shape)].view(float).reshape(shape)


def test_a_loader_may_fill_the_same_memory_again():
    data = make_data(64)
    x, y = aligned(8, 3), aligned(8)

    def batches():
        for start in range(0, 64, 8):
            x[:], y[:] = (array[start : start + 8] for array in data)
            yield x, y
            used = {a.unsafe_buffer_pointer() for a in jax.live_arrays()}
            assert not used & {x.ctypes.data, y.ctypes.data}
            x[:], y[:] = np.nan, np.nan

    got = streamed_value_and_grad(loss, batches)(make_params())
    chex.assert_trees_all_close(got, whole(data)(make_params()), rtol=TINY)


def test_two_batches_are_on_the_device_at_most():
    rows = 1357  # a shape of no other array

    def batches():
        for _ in range(10):
            alive.append(sum(a.shape == (rows, 3) for a in jax.live_arrays()))
            yield make_data(rows)

    alive = []
    value_and_grad = streamed_value_and_grad(loss, batches)
    jax.block_until_ready(value_and_grad(make_params()))
    assert max(alive) <= 1  # and the next one, which is about to be made
    assert not any(a.shape == (rows, 3) for a in jax.live_arrays())


def test_params_are_not_donated():
    params, data = make_params(), make_data(20)
    value_and_grad = streamed(data, 8)
    chex.assert_trees_all_equal(value_and_grad(params), value_and_grad(params))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            (pair for pair in [make_data(4)]),
            "being a generator",
        ),
        (zip(*make_data(4), strict=True), "being a zip"),
        (np.ones((4, 3)), "got a ndarray"),
        (None, "got a NoneType; for example"),
    ],
)
def test_what_cannot_be_read_twice_is_refused(batches, message):
    with pytest.raises(TypeError, match=message):
        streamed_value_and_grad(loss, batches)


def test_an_exhausted_iterator_behind_a_function_is_refused():
    once = iter([make_data(4)])
    value_and_grad = streamed_value_and_grad(loss, lambda: once)
    value_and_grad(make_params())
    with pytest.raises(ValueError, match="gave no batch: pass a list, or a function"):
        value_and_grad(make_params())


@BAD_BATCHES
def test_host_batches_of_unequal_or_no_rows_are_refused(batch):
    value_and_grad = streamed_value_and_grad(loss, [make_data(4), batch])
    with pytest.raises(ValueError, match="`batches` must be arrays with the same num"):
        value_and_grad(make_params())


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_traced_params_are_refused(transform):
    params = jax.tree.map(lambda leaf: leaf[None], make_params())
    with pytest.raises(
        TypeError, match="`params` are traced: streamed batches come from"
    ):
        transform(streamed(make_data(4), 2))(params)
