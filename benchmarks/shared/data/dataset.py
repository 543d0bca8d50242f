"""What the loaders give."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A classification problem: features or images, and int32 labels from 0 up.

    Features are float32. Images are uint8 (NHWC): they stay bytes, a quarter of the
    size; `images.to_inputs` is for a batch of them.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    n_classes: int
