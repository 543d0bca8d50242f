"""A small net on scikit-learn's digits."""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.minibatches import tasks

TRAINED, BATCH = 1024, 32


def digits_task(epochs, looks=1):
    """Real digits of 8×8, under the name of MNIST."""
    pixels, labels = load_digits(return_X_y=True)
    images = jnp.asarray((pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1))
    labels = jnp.asarray(labels.astype(np.int32))
    train, test = slice(TRAINED), slice(TRAINED, None)
    examples = ((images[part], labels[part]) for part in (train, test))
    net = tasks.mlp((64, 32, 10))
    return tasks.Task("mnist", "mlp", net, *examples, epochs, looks, BATCH)
