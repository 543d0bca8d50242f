"""Tests run in 64 bits, so that float64 is there to compare with, and promote no dtype
silently. The doctests of the library run as a user would, in 32.
"""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield
