"""Tests run in 64 bits, to compare with NumPy, and promote no dtype silently.

The doctests of the library run as a user would, in 32 bits. Compiling takes the most
time: pytest's cache keeps what XLA made, and unless `XLA_FLAGS` is set, be it to
nothing, XLA doesn't optimise.
"""

import gc
import os
from collections.abc import Iterator

import jax
import pytest

QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if jax.__version_info__ < (0, 11):
    # The newer emitters of code take more time than all else together. Later versions
    # have no others, and end at a flag that they don't know.
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(50_000)  # tracing makes many objects, few of them in cycles
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    # What takes less is compiled as fast as it is read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def as_users_run_it(strict_and_64_bit: None) -> Iterator[None]:
    """32 bits and JAX's own promotion, as Flax and the benchmarks need them."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield
