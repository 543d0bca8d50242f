"""Images that are there without a download."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import image_data

TRAINED = 500  # images, not a multiple of the batch size


@pytest.fixture(scope="session")
def digits():
    """Real digits of 8×8, enlarged to 24×24, under the name of MNIST."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    pixels = pixels.repeat(3, axis=1).repeat(3, axis=2)
    labels = labels.astype(np.int32)
    return image_data.ImageDataset(
        "mnist",
        pixels[:TRAINED],
        labels[:TRAINED],
        pixels[TRAINED:700],
        labels[TRAINED:700],
        10,
    )
