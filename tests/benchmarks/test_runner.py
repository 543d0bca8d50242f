"""The runner, the records, and the tables on the paper's MLP."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import dsa_optax
from benchmarks import data, paper, tables, tabular
from benchmarks.models import MLP
from benchmarks.optimizers import OPTIMIZERS, Optimizer
from benchmarks.records import RUN, Records
from benchmarks.runner import Problem, train

KEY = dict(zip(RUN, ("tabular", "iris", "mlp", "dsa"), strict=True))

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def iris():
    return data.load("iris")


def count_params(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_mlp_is_the_papers_with_pytorchs_initialisation(iris):
    model = MLP(3)
    params = model.init(jax.random.key(0), iris.x_train[:1])["params"]
    widths = (4, 32, 64, 256, 128, 3)
    layers = [params[f"TorchDense_{i}"]["Dense_0"] for i in range(5)]
    for layer, n_in, n_out in zip(layers, widths[:-1], widths[1:], strict=True):
        assert layer["kernel"].shape == (n_in, n_out)
        for leaf in (layer["kernel"], layer["bias"]):
            largest = float(jnp.max(jnp.abs(leaf))) * n_in**0.5
            assert 0.5 < largest <= 1  # U(±1/√fan_in)
    slopes = [params[f"PReLU_{i}"]["negative_slope"] for i in range(2)]
    assert [float(slope) for slope in slopes] == [0.25, 0.25]
    dense = sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))
    assert count_params(params) == dense + 2


def quadratic() -> Problem:
    return Problem(
        init=lambda key: jax.random.uniform(key, (2,)),
        loss=lambda w: jnp.sum(w**2),
        observe=lambda w: w,
    )


def test_train_equals_a_plain_loop_for_every_seed():
    problem, tx = quadratic(), dsa_optax.dsa(-3.0)
    history = train(problem, tx, seeds=(3, 5), observe_at=(0, 2, 7))
    assert history.losses.shape == (2, 8)
    assert history.observed.shape == (2, 3, 2)
    for i, seed in enumerate((3, 5)):
        w = problem.init(jax.random.key(seed))
        state = tx.init(w)
        for epoch in range(8):
            np.testing.assert_allclose(
                history.losses[i, epoch], problem.loss(w), rtol=1e-5, atol=1e-7
            )
            if epoch in (0, 2, 7):
                where = (0, 2, 7).index(epoch)
                np.testing.assert_allclose(history.observed[i, where], w, atol=1e-6)
            grads = jax.grad(problem.loss)(w)
            updates, state = tx.update(grads, state, w, value_fn=problem.loss)
            w = optax.apply_updates(w, updates)


def test_train_evaluates_two_gradients_a_step_for_dsa_and_one_for_sgd():
    calls = []
    problem = quadratic()._replace(
        loss=lambda w: (
            jax.debug.callback(lambda: calls.append(1)),
            jnp.sum(w**2),
        )[1]
    )
    for name, per_step in (("sgd", 1), ("dsa", 2)):
        calls.clear()
        train(problem, OPTIMIZERS[name].make(), seeds=(0,), observe_at=(9,))
        jax.effects_barrier()
        assert len(calls) == 10 * per_step
        assert OPTIMIZERS[name].gradients_per_step == per_step


def test_scores_are_per_cent_and_macro_averaged():
    labels = np.array([0, 0, 0, 1])
    scores = tabular.scores(labels, np.zeros(4, int))
    assert scores == pytest.approx(
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
    frame = run_tabular(tmp_path / "tabular.csv", iris)
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
    path = tmp_path / "tabular.csv"
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


def test_a_shorter_run_takes_nothing_from_a_longer_one(tmp_path):
    records = Records(tmp_path / "records.csv")
    records.put(KEY, pd.DataFrame({"seed": 0, "epoch": [0, 5, 10], "loss": 1.0}))
    records.put(KEY, pd.DataFrame({"seed": 0, "epoch": [0, 3], "loss": 2.0}))
    stored = Records(tmp_path / "records.csv").run(KEY).sort_values("epoch")
    assert stored["epoch"].tolist() == [0, 3, 5, 10]
    assert stored["loss"].tolist() == [2, 2, 1, 1]
    assert records.has(KEY, 1, (0, 10))
    assert not records.has(KEY, 2, (0, 10))
    assert not records.has(KEY, 1, (0, 7))


def test_records_survive_a_crash_while_writing(tmp_path, monkeypatch):
    path = tmp_path / "records.csv"
    records = Records(path)
    rows = pd.DataFrame({"seed": [0], "epoch": [1]})
    records.put(KEY, rows)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):  # noqa: PT011
        records.put({**KEY, "optimizer": "sgd"}, rows)
    assert path.read_bytes() == before


def test_scores_table_shows_mean_deviation_and_the_papers_figure():
    rows = [
        {**KEY, "seed": seed, "epoch": 100, "accuracy": accuracy, "train_loss": 0.5}
        | {"f1": 1.0, "recall": 2.0, "precision": 3.0}
        for seed, accuracy in enumerate((90.0, 100.0))
    ]
    table = tables.scores_table(pd.DataFrame(rows), paper.TABLE_7["iris"])
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
    frame = run_tabular(tmp_path / "t.csv", iris, epochs=100, names=("sgd", "dsa"))
    final = tables.at(frame, "epoch", 100).set_index("optimizer")["accuracy"]
    assert (final["sgd"] == 20).all()  # Table 7, to the digit
    assert (final["dsa"] >= 95).all()


def test_variants_are_optimizers_that_step():
    from benchmarks.ablations import VARIANTS

    problem = quadratic()
    for name, variant in VARIANTS.items():
        assert isinstance(variant, Optimizer)
        history = train(problem, variant.make(), seeds=(0,), observe_at=(1,))
        assert history.losses[0, 1] != history.losses[0, 0], name
