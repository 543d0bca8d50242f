"""The paper's convolution nets: their sizes, their start, and that they learn."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsa_optax
from benchmarks.shared.models.fractional_pool import fractional_max_pool
from benchmarks.shared.models.images import dnn, fmp

GREY, COLOUR = (28, 28, 1), (32, 32, 3)


def parameter_count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def output_of(model, x):
    """Shape and dtype of the logits, nothing computed."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    return jax.eval_shape(model.apply, params, x, jax.random.key(1))


def noise(*shape):
    return jax.random.normal(jax.random.key(2), shape, jnp.float32)


@pytest.mark.parametrize(
    ("model", "shape", "n_classes", "count"),
    [
        # conv (156 + 2,416), linear (256 inputs: 30,840 + 10,164 + 850), 4 slopes
        (dnn, GREY, 10, 44_430),
        # conv (456 + 2,416), linear (400 inputs: 48,120 + 10,164 + 850), 4 slopes
        (dnn, COLOUR, 10, 62_010),
        (dnn, COLOUR, 100, 62_010 + 90 * 85),
        # conv (160 + 8,256 + 24,672 + 49,280 + 82,080 + 123,072), linear (192 inputs:
        # 1,930), 6 slopes
        (fmp, GREY, 10, 289_456),
        # conv (416 + …), linear (2·2·192 inputs: 7,690), 6 slopes
        (fmp, COLOUR, 10, 295_472),
        (fmp, COLOUR, 100, 295_472 + 90 * 769),
    ],
)
def test_parameter_counts(model, shape, n_classes, count):
    assert parameter_count(model(shape, n_classes)) == count


@pytest.mark.parametrize("shape", [GREY, COLOUR, (26, 30, 2)])
@pytest.mark.parametrize("model", [dnn, fmp])
def test_logits_have_a_row_for_each_image_and_are_float32(model, shape):
    found = output_of(model(shape, 7), noise(3, *shape))
    assert (found.shape, found.dtype) == ((3, 7), jnp.float32)


def test_initialisation_is_pytorchs():
    """Kernels and biases fill ±1/√fan_in, the slopes are 0.25."""
    params = jax.jit(fmp(COLOUR, 100).init)(jax.random.key(0))
    for layer in params.values():
        bound = math.prod(layer["kernel"].shape[:-1]) ** -0.5
        assert layer.get("slope", 0.25) == 0.25
        for values in (layer["kernel"], layer["bias"]):
            assert jnp.abs(values).max() <= bound
            assert jnp.abs(values).max() > 0.9 * bound
        assert layer["kernel"].std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert "slope" not in params["linear"]


def test_another_seed_is_another_net():
    model = dnn(GREY, 10)
    one, other = (model.init(jax.random.key(seed)) for seed in (0, 1))
    assert (one["linear_3"]["kernel"] != other["linear_3"]["kernel"]).all()


def test_the_dnn_is_the_same_net_in_flax():
    """Built anew from Flax's layers, with the same parameters."""
    params, x = dnn(GREY, 10).init(jax.random.key(0)), noise(2, *GREY)

    def layer(name, x):
        layer = params[name]
        weights = {"params": {"kernel": layer["kernel"], "bias": layer["bias"]}}
        features = layer["bias"].size
        if name.startswith("conv"):
            return nn.Conv(features, (5, 5), padding="VALID").apply(weights, x)
        return nn.Dense(features).apply(weights, x)

    def prelu(name, x):
        slope = {"params": {"negative_slope": params[name]["slope"]}}
        return nn.PReLU().apply(slope, x)

    h = x
    for name in ("conv_1", "conv_2"):
        h = nn.max_pool(prelu(name, layer(name, h)), (2, 2), (2, 2))
    h = h.reshape(2, -1)
    for name in ("linear_1", "linear_2"):
        h = prelu(name, layer(name, h))
    expected = layer("linear_3", h)
    found = dnn(GREY, 10).apply(params, x, jax.random.key(1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_fmp_pools_each_block_to_the_documented_sizes(monkeypatch):
    sizes = []

    def spy(x, size, key):
        sizes.append((x.shape[1], size[0]))
        return fractional_max_pool(x, size, key)

    monkeypatch.setattr("benchmarks.shared.models.images.fractional_max_pool", spy)
    output_of(fmp(GREY, 10), noise(1, *GREY))
    assert sizes == [(27, 19), (18, 13), (12, 8), (7, 5), (4, 3), (2, 1)]
    sizes.clear()
    output_of(fmp(COLOUR, 10), noise(1, *COLOUR))
    assert sizes == [(31, 22), (21, 15), (14, 10), (9, 6), (5, 4), (3, 2)]


def test_the_key_chooses_the_regions_of_fmp_and_nothing_in_dnn():
    x, keys = noise(2, *GREY), [jax.random.key(seed) for seed in (0, 1)]
    for model, draws in ((dnn(GREY, 10), False), (fmp(GREY, 10, width=2), True)):
        apply = jax.jit(partial(model.apply, jax.jit(model.init)(keys[0])))
        one, same, other = (apply(x, key) for key in (keys[0], *keys))
        np.testing.assert_array_equal(one, same)
        assert bool((one != other).any()) == draws


@pytest.mark.parametrize(
    "model",
    [
        dnn,
        pytest.param(lambda *args: fmp(*args, width=4), marks=pytest.mark.slow),
    ],
)
def test_dsa_trains_them(model):
    """Eight images of noise are learnt, with one key for both gradients of a step."""
    model = model(GREY, 2)
    x, labels = noise(8, *GREY), jnp.arange(8) % 2

    def loss(params, key):
        log_p = jax.nn.log_softmax(model.apply(params, x, key))
        return -jnp.mean(log_p[jnp.arange(8), labels])

    tx = dsa_optax.dsa()
    step = dsa_optax.make_train_step(loss, tx)
    params = jax.jit(model.init)(jax.random.key(0))
    state = tx.init(params)
    first = float(jax.jit(loss)(params, jax.random.key(0)))
    for _ in range(30):
        params, state, value = step(params, state, jax.random.key(0))
    assert float(value) < first / 10


@pytest.mark.parametrize(
    ("model", "size", "message"), [(dnn, 15, "16×16"), (fmp, 25, "26×26")]
)
def test_small_images_are_refused(model, size, message):
    for shape in ((size, 40, 1), (40, size, 1)):
        with pytest.raises(ValueError, match=f"input_shape must be {message}"):
            model(shape, 10)
    smallest = (size + 1, size + 1, 1)
    assert output_of(model(smallest, 10), noise(1, *smallest)).shape == (1, 10)
