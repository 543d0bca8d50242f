"""Records: complete at every moment, each with the code that it was run by."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shared.records import (
    RUN,
    Records,
    by_the_code,
    code,
    code_hash,
    read,
    write,
)

KEY = dict(zip(RUN, ("tabular", "iris", "mlp", "dsa"), strict=True))


def test_a_shorter_run_takes_nothing_from_a_longer_one(tmp_path):
    records = Records(tmp_path / "records.csv.gz")
    records.put(KEY, pd.DataFrame({"seed": 0, "epoch": [0, 5, 10], "loss": 1.0}))
    records.put(KEY, pd.DataFrame({"seed": 0, "epoch": [0, 3], "loss": 2.0}))
    stored = Records(tmp_path / "records.csv.gz").run(KEY).sort_values("epoch")
    assert stored["epoch"].tolist() == [0, 3, 5, 10]
    assert stored["loss"].tolist() == [2, 2, 1, 1]
    assert records.has(KEY, 1, (0, 10))
    assert not records.has(KEY, 2, (0, 10))
    assert not records.has(KEY, 1, (0, 7))


def test_records_survive_a_crash_while_writing(tmp_path, monkeypatch):
    path = tmp_path / "records.csv.gz"
    records = Records(path)
    rows = pd.DataFrame({"seed": [0], "epoch": [1]})
    records.put(KEY, rows)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):  # noqa: PT011
        records.put({**KEY, "optimizer": "sgd"}, rows)
    assert path.read_bytes() == before


def test_a_unit_without_seeds_takes_the_place_of_what_there_was(tmp_path):
    records = Records(tmp_path / "records.csv.gz", ("problem", "solver"))
    unit = {"problem": "bowl", "solver": "adam"}
    records.put(unit, pd.DataFrame({"setting": [0.1, 0.2], "loss": [1.0, 2.0]}))
    records.put({**unit, "solver": "sgd"}, pd.DataFrame({"loss": [7.0]}))
    records.put(unit, pd.DataFrame({"setting": [0.3], "loss": [3.0]}))
    frame = read(records.path)
    assert frame["loss"].tolist() == [7, 3]
    assert list(frame) == ["problem", "solver", "setting", "loss", "code"]
    assert set(frame["code"]) == {code()}


@given(st.floats(-1e300, 1e300, allow_subnormal=False), st.sampled_from([4, 10, 15]))
def test_what_is_read_and_written_again_stays_as_it_is(
    tmp_path_factory, number, digits
):
    path = tmp_path_factory.mktemp("records") / "records.csv.gz"
    write(path, pd.DataFrame({"x": [number, np.inf]}), digits)
    first = path.read_bytes()
    write(path, read(path), digits)
    assert path.read_bytes() == first


def test_comments_and_docstrings_are_no_code(tmp_path):
    def hashed(text):
        (tmp_path / "module.py").write_text(text, encoding="utf-8")
        return code_hash(tmp_path)

    one = hashed('"""About."""\n\ndef f(x):\n    """Adds."""\n    return x + 1\n')
    assert hashed("def f(x):\n    # Why.\n    return (x\n        + 1)\n") == one
    assert hashed("def f(x):\n    return x + 2\n") != one


def test_a_page_names_every_code():
    def said(*codes):
        return by_the_code(pd.DataFrame({"code": codes}))

    assert said("1+a", "1+a") == "Run by dsa_optax 1+a."
    assert said("1+a", "1+a", "2+b") == "Run by dsa_optax 1+a (2 rows), 2+b (1 rows)."
    assert by_the_code(pd.DataFrame({"loss": [1.0]})) == ""
