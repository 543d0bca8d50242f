"""The paper's MLP on a table, as a problem."""

import jax
import jax.numpy as jnp
import optax

from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.models.mlp import MLP
from benchmarks.shared.runner import Problem


def classification(dataset: Dataset) -> Problem:
    """The MLP on a data set: cross-entropy over the training part, test predictions."""
    model = MLP(dataset.n_classes)
    x_train, x_test = jnp.asarray(dataset.x_train), jnp.asarray(dataset.x_test)
    y_train = jnp.asarray(dataset.y_train)

    def loss(params: optax.Params) -> jax.Array:
        logits = model.apply(params, x_train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y_train)
        return jnp.mean(losses)

    def predict(params: optax.Params) -> jax.Array:
        logits = jnp.asarray(model.apply(params, x_test))
        return jnp.argmax(logits, axis=-1).astype(jnp.int8)

    return Problem(lambda key: model.init(key, x_train[:1]), loss, predict)
