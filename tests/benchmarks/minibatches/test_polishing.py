"""Polishing, in short real runs on scikit-learn's digits."""

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import dsa_optax
from benchmarks import __main__ as cli
from benchmarks.minibatches import polishing, polishing_page, tasks
from benchmarks.minibatches.polishing import FIRST, LONGER, SECOND
from benchmarks.minibatches.runs import Trainer
from benchmarks.shared.records import Records
from tests.benchmarks.minibatches.digits import digits_task

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SOME = {name: SECOND[name] for name in ("dsa", "auto-dsa-light")}


@pytest.fixture(scope="module")
def digits(as_users_run_it):
    return digits_task(epochs=1)


@pytest.fixture(scope="module")
def path(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "polishing.csv.gz"
    one = {"adamax": FIRST["adamax"]}
    done = polishing.run(Records(path), [digits], seeds=1, first=one, second=SOME)
    assert list(done) == ["adamax, mlp on mnist"]
    return path


@pytest.fixture(scope="module")
def records(path):
    return pd.read_csv(path).set_index(["second", "epoch"])


def test_all_begin_where_the_first_stage_ended(digits, records):
    trainer = Trainer(digits._replace(epochs=polishing.FIRST_EPOCHS), FIRST["adamax"])
    *_, (params, _, _) = trainer.epochs("constant", 2e-3, 0)
    at_switch = float(digits.loss(params, *digits.train))
    for name in SOME:
        found = records.loc[(name, 0), "train_loss"]
        assert found == pytest.approx(at_switch, rel=1e-5)
    assert LONGER not in records.xs(0, level="epoch").index


def test_everyone_spends_the_same_and_dsa_two_gradients_an_update(digits, records):
    trainer = Trainer(digits._replace(epochs=polishing.FIRST_EPOCHS), FIRST["adamax"])
    *_, (params, _, _) = trainer.epochs("constant", 2e-3, 0)
    tx = dsa_optax.dsa()
    step = dsa_optax.make_train_step(digits.loss, tx, donate=False)
    state = tx.init(params)
    for _ in range(polishing.EVALUATIONS // 2):
        params, state, _ = step(params, state, *digits.train)
    expected = float(digits.loss(params, *digits.train))
    last = records.xs(polishing.EVALUATIONS, level="epoch")
    assert last.loc["dsa", "train_loss"] == pytest.approx(expected, rel=1e-4)
    assert set(last.index) == {*SOME, LONGER}
    before = records.loc[("auto-dsa-light", 0), "train_loss"]
    assert last.loc["auto-dsa-light", "train_loss"] < before


def test_a_second_start_trains_nothing(path, digits, monkeypatch):
    monkeypatch.setattr(polishing, "Trainer", None)
    before = path.read_bytes()
    one = {"adamax": FIRST["adamax"]}
    list(polishing.run(Records(path), [digits], seeds=1, first=one, second=SOME))
    assert path.read_bytes() == before


def test_the_page_says_where_it_helps(path, tmp_path):
    text = "\n\n".join(polishing_page.sections(pd.read_csv(path)))
    assert "**Of 1 pairs" in text
    assert "| Adamax " in text
    records = pd.read_csv(path)
    records.loc[records["second"] == LONGER, "test_accuracy"] = 0.0
    records.loc[records["second"] == LONGER, "train_loss"] = 0.0
    verdict = polishing_page.verdict(records)
    assert "DSA on 1 and 0" in verdict
    assert "auto_dsa, light on 1 and 0" in verdict
    assert "auto_dsa on 0 and 0" in verdict  # it isn't there
    polishing_page.figure(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_command_line(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "dnn-mnist", lambda data_dir: digits)
    monkeypatch.setattr(polishing, "EVALUATIONS", 10)
    monkeypatch.setattr(polishing_page, "EVALUATIONS", 10)
    for table, left in ((FIRST, {"adamw"}), (SECOND, {"dsa", "irprop-minus"})):
        for name in set(table) - left:
            monkeypatch.delitem(table, name)
    arguments = "polishing --tasks dnn-mnist --seeds 1 --output"
    assert cli.main([*arguments.split(), str(tmp_path)]) == 0
    assert "MLP on MNIST" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "polishing.csv.gz")
    assert set(frame["first"]) == set(FIRST)
    assert set(frame["second"]) == {*SECOND, LONGER}
    assert np.isfinite(frame["test_loss"]).all()
    assert (tmp_path / "polishing.md").exists()


def test_optimizers_of_the_first_stage_are_what_people_use():
    params = {"w": jnp.ones((2, 2))}
    for contender in FIRST.values():
        tx = contender.make(optax.constant_schedule(contender.rates[0]))
        tx.update(params, tx.init(params), params)
