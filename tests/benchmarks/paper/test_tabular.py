"""The tabular experiment: its records, scores, tables and spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks.paper import published, tables, tabular
from benchmarks.paper.ablations import VARIANTS
from benchmarks.paper.scores import scores
from benchmarks.shared.data.tables import load
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, Optimizer
from benchmarks.shared.records import RUN, Records
from benchmarks.shared.runner import train

KEY = dict(zip(RUN, ("tabular", "iris", "mlp", "dsa"), strict=True))

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def iris():
    return load("iris")


def test_scores_are_per_cent_and_macro_averaged():
    labels = np.array([0, 0, 0, 1])
    found = scores(labels, np.zeros(4, int))
    assert found == pytest.approx(
        {"accuracy": 75, "f1": 100 * 3 / 7, "recall": 50, "precision": 37.5}
    )


def test_recorded_epochs_hold_what_the_tables_need():
    epochs = tabular.recorded_epochs(1000)
    assert {0, 30, 50, 60, 100, 500, 1000} <= set(epochs)
    assert tabular.recorded_epochs(7) == list(range(8))
    assert tabular.recorded_epochs(33)[-1] == 33


def run_tabular(path, iris, epochs=4, seeds=2, names=("sgd", "dsa")):
    records = Records(path)
    chosen = {name: OPTIMIZERS[name] for name in names}
    wanted = tabular.recorded_epochs(epochs)
    done = tabular.run(records, iris, chosen.items(), seeds=seeds, epochs=wanted)
    assert list(done) == list(names)
    return Records(path).frame


def test_tabular_records_are_tidy(tmp_path, iris):
    frame = run_tabular(tmp_path / "tabular.csv.gz", iris)
    assert set(frame.columns) >= {
        *RUN,
        *("seed", "epoch", "gradient_evaluations", "train_loss", "seconds"),
        *tables.METRICS,
    }
    assert len(frame) == 2 * 2 * 5  # optimizers, seeds, epochs 0 to 4
    per_epoch = frame["gradient_evaluations"] / frame["epoch"].replace(0, 1)
    assert set(per_epoch[(frame["optimizer"] == "dsa") & (frame["epoch"] > 0)]) == {2}
    untrained = frame[frame["epoch"] == 0].pivot(
        index="seed", columns="optimizer", values="train_loss"
    )
    assert (untrained["sgd"] == untrained["dsa"]).all()  # same initialisation
    assert untrained["sgd"].nunique() == 2  # of two seeds
    assert not list(tmp_path.glob("*.partial"))


def test_a_second_start_trains_only_what_is_missing(tmp_path, iris, monkeypatch):
    path = tmp_path / "tabular.csv.gz"
    first = run_tabular(path, iris, names=("sgd",))
    trained = []

    def spy(problem, tx, seeds, observe_at):
        trained.append(len(seeds))
        return train(problem, tx, seeds, observe_at)

    monkeypatch.setattr(tabular, "train", spy)
    both = run_tabular(path, iris)
    assert trained == [2]
    pd.testing.assert_frame_equal(both[both["optimizer"] == "sgd"], first)
    longer = run_tabular(path, iris, epochs=5, names=("sgd",))
    assert trained == [2, 2]
    assert longer[longer["optimizer"] == "sgd"]["epoch"].max() == 5
    assert len(longer[longer["optimizer"] == "dsa"]) == 10  # left as it was
    run_tabular(path, iris, epochs=3, seeds=1, names=("sgd",))  # there already
    assert trained == [2, 2]


def test_scores_table_shows_mean_deviation_and_the_papers_figure():
    rows = [
        {**KEY, "seed": seed, "epoch": 100, "accuracy": accuracy, "train_loss": 0.5}
        | {"f1": 1.0, "recall": 2.0, "precision": 3.0}
        for seed, accuracy in enumerate((90.0, 100.0))
    ]
    table = tables.scores_table(pd.DataFrame(rows), published.TABLE_7["iris"])
    [row] = table.to_dict("records")
    assert row["optimizer"] == "DSA"
    assert row["accuracy"] == "95.0 ± 7.1"
    assert row["paper: accuracy"] == "100.00"


def test_late_spikes_count_what_converged_and_left_again():
    losses = {0: [1, 1e-4, 0.2, 0], 1: [1, 1e-4, 0.05, 0], 2: [1, 0.5, 0.2, 0.3]}
    rows = [
        {"seed": seed, "epoch": epoch, "train_loss": loss}
        for seed, track in losses.items()
        for epoch, loss in enumerate(track)
    ]
    assert tables.late_spikes(pd.DataFrame(rows)) == (1, 2)


def test_at_takes_the_last_record_within_the_budget():
    rows = [
        {**KEY, "seed": 0, "epoch": epoch, "gradient_evaluations": 2 * epoch}
        for epoch in (0, 10, 24, 26)
    ]
    frame = pd.DataFrame(rows)
    assert tables.at(frame, "epoch", 100)["epoch"].tolist() == [26]
    assert tables.at(frame, "gradient_evaluations", 50)["epoch"].tolist() == [24]


def test_mlp_learns_iris_with_dsa_as_the_paper_says(iris, tmp_path):
    frame = run_tabular(tmp_path / "t.csv.gz", iris, epochs=100, names=("sgd", "dsa"))
    final = tables.at(frame, "epoch", 100).set_index("optimizer")["accuracy"]
    assert (final["sgd"] == 20).all()  # Table 7, to the digit
    assert (final["dsa"] >= 95).all()


def test_variants_are_optimizers_that_step():
    params, grad = jnp.ones(2), jax.grad(lambda params: jnp.sum(params**2))
    for name, variant in VARIANTS.items():
        assert isinstance(variant, Optimizer)
        tx = variant.make()
        updates, _ = tx.update(grad(params), tx.init(params), params, grad_fn=grad)
        assert (updates != 0).all(), name
