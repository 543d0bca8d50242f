"""The table of what a gradient in parts costs."""

import numpy as np
import pytest

from benchmarks.speed import gradients_in_parts

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_memory_is_flat_and_errors_are_roundings():
    table = gradients_in_parts.measure(batches=(4, 16), repeats=1)
    assert list(table["rows"].unique()) == [3 * 256 + 200, 15 * 256 + 200]
    in_parts = table["method"] != "one call"
    assert (table.loc[in_parts, "error"] < 8 * np.finfo(np.float32).eps).all()
    temp_bytes = table.pivot(index="batches", columns="method", values="temp_bytes")
    growth = temp_bytes.loc[16] / temp_bytes.loc[4]
    assert growth["microbatched"] == pytest.approx(1, rel=0.01)
    assert growth["streamed"] == 1
    assert growth["one call"] > 3
    assert (table.loc[table["method"] == "one call", "ratio"] == 1).all()
