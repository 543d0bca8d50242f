"""Tests run in 64 bits, to compare with NumPy, and promote no dtype silently.

The doctests of the library run as a user would, in 32 bits. Compiling takes the most
time: pytest's cache keeps what XLA made, and XLA optimises for the tests alone that
compare bits and roundings (`optimised`), and for the doctests.
"""

from collections.abc import Iterator

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def optimised(strict_and_64_bit: None) -> None:
    """XLA's optimisations, as users have them."""
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def as_users_run_it(strict_and_64_bit: None) -> Iterator[None]:
    """32 bits and JAX's own promotion, as Flax and the benchmarks need them."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield
