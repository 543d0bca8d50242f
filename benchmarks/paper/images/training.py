"""One training run of a net on images, from the seed to its records."""

import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from benchmarks.paper.scores import scores
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.data.images import to_inputs
from benchmarks.shared.models.images import ImageModel
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, WITH_SCHEDULED
from benchmarks.shared.records import Records
from dsa_optax.training import fit

MICROBATCH = {"cpu": 100, "gpu": 2000, "tpu": 2000}
"""Images at once, in a gradient of the full batch and in an evaluation.

On a CPU they are what a core's caches hold: a thousand take half as long again. An
accelerator waits for its host between small parts.
"""

CHECKPOINT_EVERY = 5
"""Epochs; on an accelerator writing one takes as long as an epoch."""

Images = tuple[jax.Array, jax.Array]
"""Images as bytes, and their labels."""


class Stages(NamedTuple):
    """What trains, and for how long.

    Attributes:
      minibatch: a name of `WITH_SCHEDULED`, for the epochs of mini-batches.
      minibatch_epochs: how many.
      batch_size: images in a mini-batch.
      full_batch: a name of `OPTIMIZERS`, for the full-batch updates after them.
      full_batch_updates: how many.
    """

    minibatch: str
    minibatch_epochs: int
    batch_size: int = 64
    full_batch: str = "dsa"
    full_batch_updates: int = 0

    def gradients(self, epoch: int) -> int:
        """Gradient evaluations up to an epoch, in passes over the training set."""
        first = min(epoch, self.minibatch_epochs)
        a_minibatch = WITH_SCHEDULED[self.minibatch].gradients_per_step
        a_full_batch = OPTIMIZERS[self.full_batch].gradients_per_step
        return a_minibatch * first + a_full_batch * (epoch - first)

    def first_optimizer(self, rows: int) -> optax.GradientTransformation:
        """The optimizer of the mini-batches of so many rows."""
        make = WITH_SCHEDULED[self.minibatch].make
        if self.minibatch in OPTIMIZERS:
            return make()
        return make(self.minibatch_epochs * -(-rows // self.batch_size))


class Trainer:
    """A net and the images that it is trained and tested on."""

    def __init__(self, model: ImageModel, dataset: Dataset) -> None:
        """Puts the images on the device, as bytes; they become floats in batches."""
        self.model = model
        self.labels = dataset.y_test
        self.train = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
        test_images = jnp.asarray(dataset.x_test)
        # Arguments of the jitted function: constants would be compiled into it.
        self._predict = partial(jax.jit(self._predictions), self.train, test_images)

    def loss(
        self, params: optax.Params, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Cross-entropy, a mean over the images."""
        logits = self.model.apply(params, to_inputs(images), key)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def evaluate(self, params: optax.Params, key: jax.Array) -> dict[str, float]:
        """The mean training loss, and the scores on the test images."""
        loss, predictions = self._predict(params, key)
        return {"train_loss": float(loss), **scores(self.labels, predictions)}

    def _predictions(
        self,
        train: Images,
        test_images: jax.Array,
        params: optax.Params,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """The mean training loss, and the predicted labels of the test images."""

        def logits(image: jax.Array) -> jax.Array:
            return self.model.apply(params, to_inputs(image[None]), key)[0]

        def row_loss(row: Images) -> jax.Array:
            image, label = row
            return optax.softmax_cross_entropy_with_integer_labels(logits(image), label)

        over = partial(jax.lax.map, batch_size=MICROBATCH[jax.default_backend()])
        losses = over(row_loss, train)
        predicted = over(lambda image: jnp.argmax(logits(image)), test_images)
        return jnp.mean(losses), predicted


def train(
    trainer: Trainer, stages: Stages, seed: int, checkpoint_dir: Path | None = None
) -> pd.DataFrame:
    """Trains one seed, and looks at it after every epoch.

    Args:
      trainer: the net and the images.
      stages: what trains, and for how long.
      seed: of the initialisation, the order of the images, and the net's own draws.
      checkpoint_dir: where a killed run is taken up again.

    Returns:
      A row an epoch; epoch 0 is the untrained net. Its gradient evaluations are counted
      in passes over the training set, and its seconds are those of training alone, the
      compilation included.
    """
    init_key, draws_key, key = jax.random.split(jax.random.key(seed), 3)
    params = jax.jit(trainer.model.init)(init_key)
    evaluate = partial(trainer.evaluate, key=draws_key)
    untrained = {"epoch": 0, "seconds": 0.0, **evaluate(params)}
    trained = fit(
        trainer.loss,
        params,
        trainer.train,
        key,
        first=stages.first_optimizer(len(trainer.train[1])),
        first_epochs=stages.minibatch_epochs,
        batch_size=stages.batch_size,
        second=OPTIMIZERS[stages.full_batch].make(),
        second_epochs=stages.full_batch_updates,
        microbatch_size=MICROBATCH[jax.default_backend()],
        evaluate=evaluate,
        checkpoint_dir=checkpoint_dir,
        checkpoint_every=CHECKPOINT_EVERY,
        progress=False,
    )
    rows = pd.DataFrame([untrained, *trained.history]).drop(columns="loss")
    rows["epoch"] = rows["epoch"].astype(int)
    seconds = np.cumsum(rows.pop("seconds"))
    return rows.assign(
        seed=seed,
        gradient_evaluations=rows["epoch"].map(stages.gradients),
        seconds=seconds,
        train_images=len(trainer.train[1]),
        test_images=len(trainer.labels),
        device=jax.devices()[0].device_kind,
    )


def train_once(
    records: Records, unit: dict[str, str], trainer: Trainer, stages: Stages, seed: int
) -> None:
    """Trains what the records lack; what was killed goes on from its last epoch."""
    if records.has_seed(unit, seed):
        return
    name = "_".join([*unit.values(), str(seed)]).translate(str.maketrans(" /", "--"))
    checkpoints = records.path.parent / "checkpoints" / name
    records.put(unit, train(trainer, stages, seed, checkpoints))
    shutil.rmtree(checkpoints)
