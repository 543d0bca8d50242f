"""The paper's MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class TorchDense(nn.Module):
    """A fully connected layer, initialised as PyTorch does: all U(±1/√fan_in)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def uniform(
            key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
        ) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return nn.Dense(self.features, kernel_init=uniform, bias_init=uniform)(x)


class MLP(nn.Module):
    """Five fully connected layers: 32, 64, 256, 128, classes (Sec. 3.1).

    Sigmoid after the first and the third, PReLU (one scalar, from 0.25 as in PyTorch)
    after the second and the fourth. Returns logits, shape (batch, n_classes).
    """

    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.sigmoid(TorchDense(32)(x))
        x = nn.PReLU(negative_slope_init=0.25)(TorchDense(64)(x))
        x = nn.sigmoid(TorchDense(256)(x))
        x = nn.PReLU(negative_slope_init=0.25)(TorchDense(128)(x))
        return TorchDense(self.n_classes)(x)
