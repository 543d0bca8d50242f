"""Fractional max-pooling against Graham's definition, in explicit loops."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import dsa_optax.nnx
from benchmarks.shared.models.fractional_pool import (
    FractionalMaxPool,
    fractional_max_pool,
    pool_regions,
    pooling_sequence,
)

LAWS = settings(max_examples=30, deadline=None, derandomize=True)
KINDS = ("pseudorandom", "random")
MODES = tuple(itertools.product(KINDS, (True, False)))

modes = pytest.mark.parametrize(("sequence", "overlapping"), MODES)
overlaps = pytest.mark.parametrize("overlapping", [True, False])


def reachable(n_out, overlapping):
    """The input sizes that can be pooled to `n_out`, smallest and largest."""
    return (n_out + 1, 2 * n_out + 1) if overlapping else (n_out, 2 * n_out)


@st.composite
def sizes(draw):
    """(n_in, n_out, overlapping) within reach."""
    n_out, overlapping = draw(st.sampled_from([1, 5])), draw(st.booleans())
    low, high = reachable(n_out, overlapping)
    return (
        draw(st.sampled_from([low, high - 2 if n_out > 1 else low, high])),
        n_out,
        overlapping,
    )


@functools.cache
def drawer(n_in, n_out, kind, overlapping):
    """Draws a sequence from a key, compiled once for each of the few sizes."""
    options = {"sequence": kind, "overlapping": overlapping}
    return jax.jit(lambda key: pooling_sequence(key, n_in, n_out, **options))


def keys():
    return st.integers(0, 2**32 - 1).map(jax.random.key)


def regions(a, overlapping):
    """The pixels of each region, counted from 1, as Graham writes them."""
    a = [int(value) for value in a]
    return [
        list(range(before, after + 1 if overlapping else after))
        for before, after in itertools.pairwise(a)
    ]


def maxima(x, a, b, overlapping):
    """For each image, region and channel: the maximum and where it is first."""
    rows, columns = regions(a, overlapping), regions(b, overlapping)
    values = np.empty((len(x), len(rows), len(columns), x.shape[-1]), x.dtype)
    places = {}
    for n, c in itertools.product(range(len(x)), range(x.shape[-1])):
        for (i, p), (j, q) in itertools.product(enumerate(rows), enumerate(columns)):
            pixels = [(n, k - 1, m - 1, c) for k in p for m in q]
            best = pixels[np.argmax([x[pixel] for pixel in pixels])]
            values[n, i, j, c], places[n, i, j, c] = x[best], best
    return values, places


def gradient(x, a, b, overlapping, g):
    """The gradient of the pooled images' product with g."""
    grad = np.zeros_like(x)
    for output, place in maxima(x, a, b, overlapping)[1].items():
        grad[place] += g[output]
    return grad


def images(shape=(2, 9, 8, 3), seed=0, levels=None):
    """Random images, of distinct values or of a few levels."""
    rng = np.random.default_rng(seed)
    if levels:
        return rng.integers(levels, size=shape).astype(float)
    return rng.permutation(math.prod(shape)).reshape(shape) / 7.0


FIXED = {
    True: (np.array([1, 3, 4, 6, 8, 9]), np.array([1, 2, 4, 6, 8])),
    False: (np.array([1, 3, 5, 6, 8, 10]), np.array([1, 2, 3, 5, 7, 9])),
}
"""Sequences a and b for images of 9×8."""


# The sequences. -----------------------------------------------------------------------


@LAWS
@given(sizes(), keys(), st.sampled_from(KINDS))
def test_sequences_start_at_1_step_by_1_or_2_and_end_with_the_input(size, key, kind):
    n_in, n_out, overlapping = size
    a = np.asarray(drawer(n_in, n_out, kind, overlapping)(key))
    increments = np.diff(a)
    end = n_in if overlapping else n_in + 1
    assert (a[0], a[-1], len(a)) == (1, end, n_out + 1)
    assert set(increments) <= {1, 2}
    assert (increments == 2).sum() == end - 1 - n_out
    assert (increments == 1).sum() == 2 * n_out - (end - 1)
    covered = itertools.chain.from_iterable(regions(a, overlapping))
    assert sorted(set(covered)) == list(range(1, n_in + 1))


@overlaps
@pytest.mark.parametrize(("n_in", "n_out"), [(25, 18), (10, 7), (13, 8), (12, 9)])
def test_pseudorandom_sequences_are_grahams_ceilings(n_in, n_out, overlapping):
    """Those of a fine grid of u in (0, 1), as far as they start at 1; no others."""
    alpha = ((n_in if overlapping else n_in + 1) - 1) / n_out
    graham = {
        tuple(math.ceil(alpha * (i + u)) for i in range(n_out + 1))
        for u in (np.arange(4000) + 0.5) / 4000
        if alpha * u < 1
    }
    draw = lambda key: pooling_sequence(key, n_in, n_out, overlapping=overlapping)
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 500))
    assert {tuple(a) for a in drawn.tolist()} == graham


def test_every_order_of_random_increments_comes_about_equally_often():
    draw = lambda key: pooling_sequence(key, 7, 4, sequence="random")
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 3000))
    orders, counts = np.unique(np.diff(drawn), axis=0, return_counts=True)
    assert len(orders) == math.comb(4, 2)
    np.testing.assert_allclose(counts, 500, atol=100)


@modes
def test_rows_and_columns_are_drawn_independently(sequence, overlapping):
    """Pooling a row index and a column index shows where the regions end."""
    row, column = np.mgrid[:20, :20]
    x = jnp.asarray(np.stack([row, column], axis=-1))
    options = {"sequence": sequence, "overlapping": overlapping}
    pool = lambda key: fractional_max_pool(x, 14, key, **options)
    pooled = jax.jit(jax.vmap(pool))(jax.random.split(jax.random.key(0), 50))
    a, b = np.asarray(pooled[:, :, 0, 0]), np.asarray(pooled[:, 0, :, 1])
    same = (a == b).all(axis=1)
    assert same.mean() < 0.5
    assert min(len(np.unique(ends, axis=0)) for ends in (a, b)) > 5


# The maxima and their gradient. -------------------------------------------------------


compiled_pool_regions = jax.jit(pool_regions, static_argnames="overlapping")


@overlaps
@pytest.mark.parametrize("levels", [None, 3])
def test_maxima_and_gradient_are_those_of_the_definition(overlapping, levels):
    """With a few levels most regions have ties, and the first maximum counts."""
    x, (a, b) = images(levels=levels), FIXED[overlapping]
    pool = lambda x: compiled_pool_regions(x, a, b, overlapping=overlapping)
    pooled, vjp = jax.vjp(pool, jnp.asarray(x))
    g = images(pooled.shape, seed=1)
    np.testing.assert_array_equal(pooled, maxima(x, a, b, overlapping)[0])
    expected = gradient(x, a, b, overlapping, g)
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], expected, rtol=1e-15)


@functools.cache
def pooler(kind, overlapping):
    """From images and a key to the maxima and the sequences, compiled once."""
    options = {"sequence": kind, "overlapping": overlapping}

    @jax.jit
    def pool(x, key):
        row_key, column_key = jax.random.split(key)
        a = pooling_sequence(row_key, 9, 6, **options)
        b = pooling_sequence(column_key, 8, 5, **options)
        return fractional_max_pool(x, (6, 5), key, **options), a, b

    return pool


@LAWS
@given(keys(), st.sampled_from(KINDS), st.booleans(), st.integers(0, 99))
def test_drawn_regions_are_pooled_by_the_definition(key, kind, overlapping, seed):
    x = images(seed=seed)
    pooled, a, b = pooler(kind, overlapping)(jnp.asarray(x), key)
    np.testing.assert_array_equal(pooled, maxima(x, a, b, overlapping)[0])
    assert pooled.max() == x.max()


@modes
def test_jit_and_vmap_change_nothing(sequence, overlapping):
    x, drawn = jnp.asarray(images((4, 9, 8, 3))), jax.random.split(jax.random.key(0), 4)

    def loss(image, key):
        pooled = fractional_max_pool(
            image, (6, 5), key, sequence=sequence, overlapping=overlapping
        )
        return jnp.sum(jnp.sin(pooled)), pooled

    gradient_of = jax.grad(loss, has_aux=True)
    one_by_one = [gradient_of(*each) for each in zip(x, drawn, strict=True)]
    at_once = jax.jit(jax.vmap(gradient_of))(x, drawn)
    for i, expected in enumerate(one_by_one):
        for got, wanted in zip(at_once, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-12, atol=1e-14)


def test_another_key_does_not_recompile():
    pool = jax.jit(lambda x, key: fractional_max_pool(x, 5, key))
    x = jnp.asarray(images((1, 8, 8, 1)))
    pooled = {pool(x, jax.random.key(seed)).tobytes() for seed in range(10)}
    assert pool._cache_size() == 1
    assert len(pooled) > 1


def test_all_images_and_channels_of_a_call_share_the_regions():
    x = jnp.broadcast_to(jnp.asarray(images((1, 9, 9, 1))), (3, 9, 9, 4))
    pooled = fractional_max_pool(x, 6, jax.random.key(0), sequence="random")
    np.testing.assert_array_equal(
        pooled, jnp.broadcast_to(pooled[:1, ..., :1], pooled.shape)
    )


@modes
def test_gradient_is_that_of_finite_differences(sequence, overlapping):
    x = jnp.asarray(images((1, 6, 7, 2)))

    def loss(x):
        pooled = fractional_max_pool(
            x, (4, 5), jax.random.key(3), sequence=sequence, overlapping=overlapping
        )
        return jnp.sum(jnp.sin(pooled))

    check_grads(jax.jit(loss), (x,), order=1, modes=["rev"])


@pytest.mark.parametrize(("size", "window"), [(8, 2), (9, 3)])
def test_ratio_2_is_ordinary_pooling(size, window):
    """Its values and its gradient, disjoint and overlapping, with ties."""
    x = jnp.asarray(images((2, size, size, 3), levels=3))
    pool = jax.jit(
        lambda x: fractional_max_pool(x, 4, jax.random.key(0), overlapping=window == 3)
    )
    flax_pool = lambda x: nn.max_pool(x, (window, window), (2, 2))
    pooled, vjp = jax.vjp(pool, x)
    expected, flax_vjp = jax.vjp(flax_pool, x)
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(vjp(pooled)[0], flax_vjp(pooled)[0])


def test_ratio_1_is_the_identity_or_pooling_with_stride_1():
    x, key = jnp.asarray(images((2, 5, 5, 3))), jax.random.key(0)

    @jax.jit
    def pooled(x):
        disjoint = fractional_max_pool(x, 5, key, overlapping=False)
        return disjoint, fractional_max_pool(x, 4, key)

    disjoint, overlapping = pooled(x)
    np.testing.assert_array_equal(disjoint, x)
    np.testing.assert_array_equal(overlapping, nn.max_pool(x, (2, 2), (1, 1)))


@overlaps
def test_infinities_and_nans_are_as_max_has_them(overlapping):
    x, (a, b) = images((1, 9, 8, 1)), FIXED[overlapping]
    x[0, :4, :5] = -np.inf
    x[0, 7, 2], x[0, 6, 6] = np.inf, np.nan
    pool = lambda x: compiled_pool_regions(x, a, b, overlapping=overlapping)
    pooled, vjp = jax.vjp(pool, jnp.asarray(x))
    # NumPy's argmax finds a NaN first, as its max does.
    np.testing.assert_array_equal(pooled, maxima(x, a, b, overlapping)[0])
    assert np.isneginf(pooled).any()
    assert np.isnan(pooled).any()
    g = images(pooled.shape, seed=1)
    expected = gradient(x, a, b, overlapping, g)
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8"])
def test_any_dtype_keeps_itself(dtype):
    x = jnp.asarray(images((1, 9, 8, 1), levels=100), dtype)
    a, b = map(jnp.asarray, FIXED[True])
    pooled = compiled_pool_regions(x, a, b)
    expected = maxima(np.asarray(x, float), a, b, True)[0]
    assert pooled.dtype == dtype
    np.testing.assert_array_equal(np.asarray(pooled, float), expected)


def test_an_image_without_a_batch_is_pooled_alike():
    x, pool = images(), jax.jit(lambda x: fractional_max_pool(x, 6, jax.random.key(0)))
    np.testing.assert_array_equal(pool(x[0]), np.asarray(pool(x))[0])


# What is refused. ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_in", "n_out", "overlapping", "message"),
    [
        (9, 9, True, "output_size 9 .* overlapping .* input of 9 to from 4 to 8"),
        (9, 3, True, "output_size 3 .* from 4 to 8"),
        (9, 10, False, "output_size 10 .* disjoint .* from 5 to 9"),
        (9, 4, False, "output_size 4 .* from 5 to 9"),
        (9, 0, False, "output_size 0 .* from 5 to 9"),
        (1, 1, True, "output_size 1 .* none at all"),
    ],
)
def test_sizes_out_of_reach_are_refused(n_in, n_out, overlapping, message):
    x = jnp.zeros((1, n_in, n_in, 1))
    with pytest.raises(ValueError, match=message):
        fractional_max_pool(x, n_out, jax.random.key(0), overlapping=overlapping)


def test_unknown_sequences_and_flat_inputs_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"sequence must be .* is 'quasirandom'"):
        fractional_max_pool(jnp.zeros((4, 4, 1)), 3, key, sequence="quasirandom")
    with pytest.raises(ValueError, match=r"x must be .* is \(4, 4\)"):
        fractional_max_pool(jnp.zeros((4, 4)), 3, key)


# The layer. ---------------------------------------------------------------------------


def test_the_layer_draws_anew_at_every_call_unless_it_gets_a_key():
    pool = FractionalMaxPool((6, 5), sequence="random", rngs=nnx.Rngs(pooling=0))
    x, key = jnp.asarray(images()), jax.random.key(7)
    first, second = pool(x), pool(x)
    assert first.shape == (2, 6, 5, 3)
    assert (first != second).any()
    expected = fractional_max_pool(x, (6, 5), key, sequence="random")
    np.testing.assert_array_equal(pool(x, key=key), expected)


def test_both_gradients_of_a_step_see_the_same_regions():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.ones((9, 8, 3)))
            self.pool = FractionalMaxPool(6, sequence="random", rngs=rngs)

        def __call__(self, x):
            return self.pool(x * self.scale[...])

    model, x = Model(nnx.Rngs(0)), jnp.asarray(images())
    loss = lambda model: jnp.sum(jnp.sin(model(x)))

    @nnx.jit
    def gradients(model):
        _, grads, grad_fn = dsa_optax.nnx.value_and_grad(loss)(model)
        probe = grad_fn(nnx.as_pure(nnx.state(model, nnx.Param)))
        return probe["scale"], grads["scale"][...]

    for _ in range(3):
        np.testing.assert_array_equal(*gradients(model))
