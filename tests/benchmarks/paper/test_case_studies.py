"""The case studies, in short real runs, against the library and closed forms."""

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.image
import numpy as np
import optax
import pandas as pd
import pytest

import dsa_optax
from benchmarks.paper import case_studies, track_figures
from benchmarks.paper.case_studies import CASES, GENTLE_VALLEY, STABLE_LR, STEEP_VALLEY
from benchmarks.shared.figures import DSA_COLOR
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.records import Records

CHOSEN = ["sgd", "momentum", "dsa", "irprop-minus"]
SEEDS, EPOCHS = 2, 60

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def path(as_users_run_it, tmp_path_factory):
    """The CSV file of one run, of which the other tests read or copy."""
    path = tmp_path_factory.mktemp("results") / "case_studies.csv.gz"
    names = list(run(path))
    assert names == [" ".join(unit) for unit in case_studies.units(CHOSEN)]
    return path


@pytest.fixture(scope="module")
def records(path):
    return pd.read_csv(path)


def run(path, optimizers=CHOSEN, seeds=SEEDS):
    return case_studies.run(Records(path), optimizers, seeds=seeds, epochs=EPOCHS)


def of(records, dataset, optimizer, seed=0):
    chosen = (records["dataset"] == dataset) & (records["optimizer"] == optimizer)
    return records[chosen & (records["seed"] == seed)].set_index("epoch")


def plain_loop(problem, tx, seed):
    """Losses and weights of a loop as a user writes it: no scan, no vmap."""
    w = problem.init(jax.random.key(seed))
    state, step = tx.init(w), jax.jit(tx.update, static_argnames="grad_fn")
    grad_fn = jax.grad(problem.loss)
    losses, weights = [], []
    for _ in range(EPOCHS + 1):
        losses.append(float(problem.loss(w)))
        weights.append(np.asarray(w))
        updates, state = step(grad_fn(w), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
    return np.array(losses), np.array(weights)


@pytest.mark.parametrize(
    ("dataset", "seed"),
    [("sum-of-four", 0), ("sum-of-four", 1), ("valley", 0), ("valley-b95", 0)],
)
def test_records_of_dsa_are_those_of_a_plain_loop(dataset, seed, records):
    problem = CASES[dataset].problem()
    losses, weights = plain_loop(problem, dsa_optax.dsa(), seed)
    recorded = of(records, dataset, "dsa", seed)
    columns = [f"w{i + 1}" for i in range(weights.shape[1])]
    np.testing.assert_allclose(recorded[columns], weights, rtol=1e-5, atol=1e-6)
    assert recorded["train_loss"].iloc[0] == pytest.approx(losses[0], rel=1e-5)
    np.testing.assert_allclose(recorded["train_loss"], losses, rtol=1e-3, atol=1e-6)


def test_records_are_complete(records):
    runs = records.groupby(["dataset", "optimizer", "seed"])
    assert (runs["epoch"].agg(list).map(lambda e: e == [*range(EPOCHS + 1)])).all()
    gradients = records["epoch"] * np.where(records["optimizer"] == "dsa", 2, 1)
    assert records["gradient_evaluations"].equals(gradients)
    assert set(records["experiment"]) == {case_studies.EXPERIMENT}
    seeds = records.groupby("dataset")["seed"].nunique()
    assert dict(seeds) == {"sum-of-four": SEEDS, "valley": 1, "valley-b95": 1}


def test_units_are_all_runs():
    assert len(case_studies.units(list(OPTIMIZERS))) == 11 + 13 + 3
    assert case_studies.units(["sgd"]) == [
        ("sum-of-four", "sgd"),
        ("valley", "sgd"),
        ("valley", "sgd lr=0.00095"),
        ("valley-b95", "sgd"),
    ]


def test_the_best_weights_for_the_sum_are_all_ones_and_no_others():
    loss = case_studies.sum_of_four().loss
    best = jnp.ones(4)
    assert loss(best) < 1e-12
    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-6)
    assert np.linalg.eigvalsh(jax.hessian(loss)(best)).min() > 0.1


def test_the_sum_starts_as_pytorchs_linear_layer(records):
    init = case_studies.sum_of_four().init
    starts = jax.vmap(init)(jax.vmap(jax.random.key)(np.arange(500, dtype=np.uint32)))
    assert starts.shape == (500, 4)
    assert -0.5 <= starts.min() < -0.49
    assert 0.49 < starts.max() <= 0.5
    first = of(records, "sum-of-four", "dsa", 1).loc[0, ["w1", "w2", "w3", "w4"]]
    np.testing.assert_allclose(first.astype(float), starts[1], rtol=1e-5)


def test_dsa_finds_the_ones(records):
    for seed in range(SEEDS):
        last = of(records, "sum-of-four", "dsa", seed).iloc[-1]
        np.testing.assert_allclose(
            last[["w1", "w2", "w3", "w4"]].astype(float), 1, atol=0.01
        )


@pytest.mark.parametrize(
    ("dataset", "optimizer", "lr", "valley"),
    [
        ("valley", f"sgd lr={STABLE_LR}", STABLE_LR, STEEP_VALLEY),
        ("valley-b95", "sgd", 0.01, GENTLE_VALLEY),
    ],
)
def test_sgd_calms_down_by_a_tenth_a_step(dataset, optimizer, lr, valley, records):
    """w₂ changes sign at every step; both valleys have the same 1 - 2·b·lr = -0.9."""
    recorded = of(records, dataset, optimizer)
    t = recorded.index.to_numpy()
    for column, start, curvature in zip(
        ("w1", "w2"), valley.start, (1, valley.b), strict=True
    ):
        expected = start * (1 - 2 * curvature * lr) ** t
        np.testing.assert_allclose(recorded[column], expected, rtol=2e-4)


def test_sgd_at_the_papers_rate_diverges_in_the_steep_valley(records):
    """1 - 2·1000·0.01 = -19, which the file keeps as it came."""
    for name in ("sgd", "momentum"):
        recorded = of(records, "valley", name)
        assert recorded["train_loss"].iloc[5] > 1e8
        assert not np.isfinite(recorded["train_loss"].iloc[-1])
    losses = of(records, "valley", "sgd")["train_loss"]
    np.testing.assert_allclose(losses.iloc[5], 1e-3 * 19.0**10, rtol=1e-3)
    assert np.isinf(losses).any()


def test_dsa_goes_straight_only_because_it_starts_on_the_diagonal(records):
    gentle, steep = (of(records, name, "dsa") for name in ("valley-b95", "valley"))
    np.testing.assert_allclose(gentle["w1"], -gentle["w2"])
    turn = (steep["w2"].abs() < 1e-4).idxmax()
    assert steep["w1"][turn] < -0.05


def test_a_second_start_trains_nothing(path, monkeypatch):
    written = path.stat().st_mtime_ns
    monkeypatch.setattr(case_studies, "train", None)
    assert len(list(run(path))) == len(case_studies.units(CHOSEN))
    assert path.stat().st_mtime_ns == written


def test_a_second_start_trains_what_is_missing(path, tmp_path, monkeypatch):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    trained = []
    train = case_studies.train

    def spy(problem, tx, seeds, observe_at):
        trained.append(len(seeds))
        return train(problem, tx, seeds, observe_at)

    monkeypatch.setattr(case_studies, "train", spy)
    assert len(list(run(copy, ["sgd"], seeds=SEEDS + 1))) == 4
    assert trained == [SEEDS + 1]
    assert len(pd.read_csv(copy)) == len(pd.read_csv(path)) + EPOCHS + 1


def test_epochs_to():
    losses = pd.Series([4.0, 5.0, 0.3, 0.5, 1e-3])
    assert case_studies.epochs_to(losses, 0.1) == 2
    assert case_studies.epochs_to(losses, 1e-3) == 4
    assert case_studies.epochs_to(losses, 1e-9) == float("inf")


def test_detour_and_overshoot():
    straight = np.array([[-1.0, 1.0], [-0.5, 0.5], [0.0, 0.0]])
    assert case_studies.detour(straight) == pytest.approx(1)
    assert case_studies.overshoot(straight, 0.0) == 0
    bounced = np.array([[-3.0, 4.0], [0.0, -2.0], [0.5, 0.0], [0.0, 0.0]])
    length = np.sqrt(9 + 36) + np.sqrt(0.25 + 4) + 0.5
    assert case_studies.detour(bounced) == pytest.approx(length / 5)
    assert case_studies.overshoot(bounced, 0.0) == 0.5  # the second weight, -2 of 4
    assert case_studies.overshoot(np.array([[0.0], [1.5]]), 1.0) == 0.5
    gone = np.array([[1.0], [np.inf], [np.nan]])
    assert case_studies.detour(gone) == case_studies.overshoot(gone, 0.0) == np.inf


def test_summary(records):
    table = case_studies.summary(records, "valley")
    stable = [f"sgd lr={STABLE_LR}", f"momentum lr={STABLE_LR}"]
    assert list(table.index) == [*CHOSEN, *stable]
    assert (
        table.loc["dsa", "gradients to 1e-8"] == 2 * table.loc["dsa", "epochs to 1e-8"]
    )
    assert table.loc["sgd", "last loss"] == np.inf
    losses = of(records, "valley", "dsa")["train_loss"]
    assert table.loc["dsa", "epochs to 1e-2"] == losses.lt(losses[0] / 100).idxmax()


def share_of_color(image, color):
    distance = np.abs(image[..., :3] - matplotlib.colors.to_rgb(color)).max(axis=-1)
    return float(np.mean(distance < 0.02))


def test_figures_show_dsa(records, tmp_path):
    files = track_figures.case_studies(records, tmp_path / "new")
    assert [file.name for file in files] == [
        "fig5_sum_of_four.png",
        "fig6_tracks_b95.png",
        "fig6_tracks.png",
        "fig9_tracks.png",
        "fig6_valley_loss.png",
        "fig6_strides.png",
    ]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    for file in files:
        image = matplotlib.image.imread(file)
        assert min(image.shape[:2]) > 400
        assert share_of_color(image, DSA_COLOR) > 3e-4
        assert share_of_color(image, "white") < 0.97


def test_figures_without_dsa(records, tmp_path):
    files = track_figures.case_studies(
        records[records["optimizer"] == "irprop-minus"], tmp_path
    )
    names = ["fig5_sum_of_four.png", "fig9_tracks.png", "fig6_valley_loss.png"]
    assert [file.name for file in files] == names


@pytest.mark.parametrize("name", ["sgd", f"sgd lr={STABLE_LR}"])
def test_legend_tells_what_diverged(name, records):
    run = of(records.replace(np.inf, np.nan), "valley", name)
    diverged = track_figures.legend_label(name, run).endswith("(diverged)")
    assert diverged == (name == "sgd")
