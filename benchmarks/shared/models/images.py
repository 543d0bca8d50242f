"""The paper's convolution nets, as pairs of plain functions (Sec. 3.1, Appendix D)."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.shared.models.fractional_pool import fractional_max_pool

Layer = Mapping[str, jax.Array]
Params = dict[str, dict[str, jax.Array]]
Shape = tuple[int, int, int]


class ImageModel(NamedTuple):
    """A net that classifies images.

    Attributes:
      init: from a random key to the params, {layer: {"kernel", "bias", "slope"}}.
      apply: from the params, images of shape (batch, height, width, channels) and a
        random key to logits, shape (batch, n_classes).
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array, jax.Array], jax.Array]


def dnn(input_shape: Shape, n_classes: int) -> ImageModel:
    """A light net in the manner of LeNet-5, the paper's DNN.

    Two blocks of a 5×5 convolution (without padding; 6 and 16 channels), PReLU and 2×2
    max-pooling; then fully connected layers of 120, 84 and n_classes, with PReLU after
    the first two. It has 44,430 parameters for 28×28×1 images and 62,010 for 32×32×3,
    with 10 classes.

    The paper names LeNet, Fukushima's and Behnke's nets as its references and "a small
    value" as its channel size, and nothing more. The sizes here are LeNet-5's. PReLU
    (one scalar for a layer, from 0.25) is what the paper's two other nets have.

    Args:
      input_shape: height, width and channels of an image.
      n_classes: how many classes.

    Returns:
      The net. It ignores its `apply`'s key, as it draws nothing.

    Raises:
      ValueError: if the images are too small, under 16×16.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> model = dnn((28, 28, 1), 10)
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> images, key = jnp.zeros((2, 28, 28, 1)), jax.random.key(1)
      >>> jax.jit(model.apply)(params, images, key).shape
      (2, 10)

    References:
      Sec. 3.1; LeCun et al., `Gradient-based learning applied to document recognition
      <https://doi.org/10.1109/5.726791>`_, 1998, Fig. 2
    """
    height, width, channels = input_shape
    rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(f"input_shape must be 16×16 or larger, is {input_shape}")

    shapes = {
        "conv_1": (5, 5, channels, 6),
        "conv_2": (5, 5, 6, 16),
        "linear_1": (rows * columns * 16, 120),
        "linear_2": (120, 84),
        "linear_3": (84, n_classes),
    }

    def apply(params: Params, x: jax.Array, key: jax.Array) -> jax.Array:
        del key
        for name in ("conv_1", "conv_2"):
            x = _halve(_prelu(params[name], _convolve_few(params[name], x)))
        x = x.reshape(x.shape[0], -1)
        for name in ("linear_1", "linear_2"):
            x = _prelu(params[name], _linear(params[name], x))
        return _linear(params["linear_3"], x)

    return ImageModel(lambda key: _initial(key, shapes), apply)


def fmp(input_shape: Shape, n_classes: int, width: int = 32) -> ImageModel:
    """The fractional max-pooling net, the paper's FMP.

    Six blocks of a 2×2 convolution (without padding), PReLU and fractional max-pooling
    (overlapping, pseudorandom) by √2; then one fully connected layer. Block n has
    n·width channels. An image of 28×28 comes down to 19, 13, 8, 5, 3 and 1, and one of
    32×32 to 22, 15, 10, 6, 4 and 2. At the width of 32 it has 289,456 parameters for
    28×28×1 images and 295,472 for 32×32×3, with 10 classes.

    The paper has the six blocks, what is in them, and the one linear block. The rest is
    Graham's: his net for MNIST is (32nC2-FMP√2)₆-C2-C1-output, where n is the block.

    Args:
      input_shape: height, width and channels of an image.
      n_classes: how many classes.
      width: channels of the first block, 32 in Graham's net.

    Returns:
      The net. Its `apply`'s key draws the pooling regions of all blocks, shared by the
      batch: give both gradients of a DSA step the same one. Graham draws at test time
      too, and averages the predictions of several passes.

    Raises:
      ValueError: if the images are too small, under 26×26.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> model = fmp((28, 28, 1), 10, width=4)
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> images, key = jnp.zeros((2, 28, 28, 1)), jax.random.key(1)
      >>> jax.jit(model.apply)(params, images, key).shape
      (2, 10)

    References:
      Sec. 3.1 and Fig. 7; Graham, `Fractional Max-Pooling
      <https://arxiv.org/abs/1412.6071>`_, 2014, Sec. 4
    """
    height, columns, channels = input_shape
    sizes = list(zip(_fmp_sizes(height), _fmp_sizes(columns), strict=True))
    if min(sizes[-1]) < 1:
        raise ValueError(f"input_shape must be 26×26 or larger, is {input_shape}")

    blocks = [f"conv_{n}" for n in range(1, 7)]
    widths = [channels, *(n * width for n in range(1, 7))]
    shapes: dict[str, tuple[int, ...]] = {
        name: (2, 2, *widths[n : n + 2]) for n, name in enumerate(blocks)
    }
    shapes["linear"] = (math.prod(sizes[-1]) * widths[-1], n_classes)

    def apply(params: Params, x: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(blocks))
        for name, size, block_key in zip(blocks, sizes, keys, strict=True):
            x = _prelu(params[name], _convolve(params[name], x))
            x = fractional_max_pool(x, size, block_key)
        return _linear(params["linear"], x.reshape(x.shape[0], -1))

    return ImageModel(lambda key: _initial(key, shapes), apply)


def _fmp_sizes(size: int) -> list[int]:
    """What six blocks make of an image's height or width; 0 where it is used up."""
    sizes = []
    for _ in range(6):
        size = round((size - 1) / math.sqrt(2)) if size > 2 else 0
        sizes.append(size)
    return sizes


def _initial(key: jax.Array, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """PyTorch's initialisation: all U(±1/√fan_in), and a PReLU's one slope 0.25.

    The last layer has no PReLU. All numbers are drawn at once: drawing them layer by
    layer takes XLA several times longer to compile.
    """
    sizes = [math.prod(shape) + shape[-1] for shape in shapes.values()]
    draws = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1, 1)
    params, start = {}, 0
    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        values = draws[start : start + size] * math.prod(shape[:-1]) ** -0.5
        start += size
        kernel, bias = values[: -shape[-1]], values[-shape[-1] :]
        params[name] = {"kernel": kernel.reshape(shape), "bias": bias}
        if start < draws.size:
            params[name]["slope"] = jnp.full((), 0.25, jnp.float32)
    return params


def _convolve(layer: Layer, x: jax.Array) -> jax.Array:
    """A convolution without padding, as a product with all patches.

    Inside a loop, as a scan over mini-batches is, XLA's own convolution falls back to
    a path on the CPU that takes several times as long.
    """
    rows, columns, channels, out = layer["kernel"].shape
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifts = itertools.product(range(rows), range(columns))
    patches = [x[:, i : i + height, j : j + width] for i, j in shifts]
    kernel = layer["kernel"].reshape(rows * columns * channels, out)
    return jnp.concatenate(patches, axis=-1) @ kernel + layer["bias"]


def _convolve_few(layer: Layer, x: jax.Array) -> jax.Array:
    """A convolution without padding, as a product of pieces of rows with a band.

    With few channels and a large kernel patches are slow, as they copy every pixel for
    every place in the kernel. A piece has what four or five columns of the output see,
    and the band is zero where a column doesn't see a pixel of the piece.
    """
    kernel, (batch, height, width, channels) = layer["kernel"], x.shape
    rows, columns, _, out = kernel.shape
    new_height, new_width = height - rows + 1, width - columns + 1
    pieces = max(new_width // 4, 1)
    wide = -(-new_width // pieces)
    sees = wide + columns - 1
    # One at (j, v, w) where kernel column j puts a piece's column w into its output v.
    places = jnp.stack([jnp.eye(wide, sees, k=j) for j in range(columns)])
    band = jnp.einsum("jvw,rjco->rwcvo", places.astype(kernel.dtype), kernel)
    beyond = pieces * wide - new_width
    x = jnp.pad(x, [(0, 0), (0, 0), (0, beyond), (0, 0)])
    starts = range(0, pieces * wide, wide)
    cut = jnp.stack([x[:, :, start : start + sees] for start in starts], axis=2)
    cut = cut.reshape(batch, height, pieces, sees * channels)
    stacks = jnp.concatenate([cut[:, i : i + new_height] for i in range(rows)], axis=-1)
    x = stacks @ band.reshape(rows * sees * channels, wide * out)
    x = x.reshape(batch, new_height, pieces * wide, out)[:, :, :new_width]
    return x + layer["bias"]


def _halve(x: jax.Array) -> jax.Array:
    """2×2 max-pooling; its gradient is several times faster than that of max_pool."""
    batch, rows, columns, channels = x.shape
    rows, columns = rows // 2, columns // 2
    x = x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def _linear(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _prelu(layer: Layer, x: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, layer["slope"] * x)
