"""What fractional max-pooling costs, beside ordinary pooling."""

import pytest

from benchmarks.speed import pooling

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_speed_reports_a_ratio_to_ordinary_pooling(monkeypatch):
    layers = dict(list(pooling.LAYERS.items())[:2])
    monkeypatch.setattr(pooling, "LAYERS", layers)
    table = pooling.speed(batch=2, channels=2, repeats=2)
    assert list(table["layer"]) == 2 * ["max_pool", "disjoint, to 14"]
    assert list(table["pass"]) == 2 * ["forward"] + 2 * ["backward"]
    assert (table[["milliseconds", "ratio"]] > 0).all(axis=None)
    assert (table["ratio"][table["layer"] == "max_pool"] == 1).all()
