"""The sensitivity analysis: one call for all settings, and what it says."""

import jax
import matplotlib.image
import numpy as np
import optax
import pandas as pd
import pytest

import dsa_optax
from benchmarks.paper import sensitivity, track_figures
from benchmarks.paper.case_claims import SENSITIVITY_CLAIMS
from benchmarks.paper.case_studies import GENTLE_VALLEY
from benchmarks.paper.sensitivity import DEFAULTS, SWEEPS

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def path(as_users_run_it, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "new" / "sensitivity.csv.gz"
    assert len(list(sensitivity.run(path))) == sensitivity.UNITS
    return path


@pytest.fixture(scope="module")
def records(path):
    return pd.read_csv(path)


def plain_loop(setting, epochs):
    tx, grad_fn = dsa_optax.dsa(*setting), jax.grad(GENTLE_VALLEY.loss)
    w = GENTLE_VALLEY.init()
    state, step = tx.init(w), jax.jit(tx.update, static_argnames="grad_fn")
    weights = [np.asarray(w)]
    for _ in range(epochs):
        updates, state = step(grad_fn(w), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
        weights.append(np.asarray(w))
    return np.array(weights)


@pytest.mark.parametrize("row", [0, 6, 10, 13, 20])
def test_a_row_of_all_together_is_a_run_of_its_own(row, records):
    setting = sensitivity.settings().loc[row]
    chosen = records.iloc[row * 201 : (row + 1) * 201]
    same = chosen[["varied", *DEFAULTS]].drop_duplicates()
    assert same.to_numpy().tolist() == [setting.tolist()]
    weights = plain_loop([float(setting[name]) for name in DEFAULTS], 60)
    np.testing.assert_allclose(
        chosen[["w1", "w2"]].iloc[:61], weights, rtol=1e-5, atol=1e-6
    )
    loss = chosen["w1"] ** 2 + 95 * chosen["w2"] ** 2
    np.testing.assert_allclose(chosen["train_loss"], loss, rtol=2e-5, atol=1e-30)


def test_all_settings_are_traced_once(monkeypatch):
    traces = []
    dsa = dsa_optax.dsa

    def spy(*setting):
        traces.append(setting)
        return dsa(*setting)

    monkeypatch.setattr(dsa_optax, "dsa", spy)
    losses, weights = sensitivity.trajectories(np.tile([-12, 0.6, 0.3], (5, 1)), 3)
    assert len(traces) == 1
    assert losses.shape == (5, 4)
    assert weights.shape == (5, 4, 2)
    np.testing.assert_allclose(losses[:, 0], 96)


def test_one_hyper_parameter_varies_at_a_time(records):
    assert len(records) == 201 * sum(map(len, SWEEPS.values()))
    for varied, values in SWEEPS.items():
        sweep = records[records["varied"] == varied]
        assert tuple(sweep[varied].unique()) == values
        assert DEFAULTS[varied] in values
        for other in set(DEFAULTS) - {varied}:
            assert set(sweep[other]) == {DEFAULTS[other]}
    assert records["gradient_evaluations"].equals(2 * records["epoch"])
    assert set(records["optimizer"]) == {"dsa"}


def test_run_replaces_the_file_in_one_move(path, records, tmp_path):
    again = tmp_path / path.name
    again.write_text("old")
    assert list(sensitivity.run(again, epochs=2)) == ["sensitivity"]
    assert [file.name for file in tmp_path.iterdir()] == [again.name]
    short = pd.read_csv(again)
    expected = records[records["epoch"] <= 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, expected, rtol=1e-5)


def made_up(losses_by_increase):
    """Records in which only the losses matter."""
    return pd.concat(
        pd.DataFrame(
            {"varied": "increase", **DEFAULTS, "increase": increase}
            | {"epoch": range(len(losses)), "train_loss": losses}
        )
        for increase, losses in losses_by_increase.items()
    )


def test_summary_of_made_up_losses():
    made = made_up({0.6: [10, 0.05, 1e-8], 0.3: [10, 5, 0.05], 0.1: [10, 9, 8]})
    table = sensitivity.summary(made)
    assert table["increase"].tolist() == [0.6, 0.3, 0.1]
    assert table["epochs to 1e-2"].tolist() == [1, 2, np.inf]
    assert table["epochs to 1e-8"].tolist() == [2, np.inf, np.inf]
    assert table["last loss"].tolist() == [1e-8, 0.05, 8]
    assert sensitivity.beginning(made, "increase").to_dict() == {
        0.1: np.inf,
        0.3: 2,
        0.6: 1,
    }
    assert sensitivity.end(made, "increase").to_dict() == {
        0.1: np.inf,
        0.3: np.inf,
        0.6: 1,
    }


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [([9, 7, 7, 3], True), ([9, 7, 8, 3], False), ([5, 5], True), ([np.inf, 2], True)],
)
def test_never_rises(epochs, expected):
    assert sensitivity.never_rises(pd.Series(epochs)) == expected


@pytest.mark.parametrize("claim", SENSITIVITY_CLAIMS, ids=lambda claim: claim.text)
def test_the_papers_claims_can_fail(claim, records):
    """They are judged by the speeds: turned around, no claim holds."""
    by_epoch = claim.judge(records, "epoch")
    rises_once = "β₁" in claim.text  # from 0.075 to 0.15
    assert by_epoch.verdict == ("in part" if rises_once else "holds")
    assert claim.judge(records, "gradient_evaluations").measured != by_epoch.measured
    mirrored = records.assign(
        **{
            name: records[name].map(dict(zip(values, values[::-1], strict=True)))
            for name, values in SWEEPS.items()
        }
    )
    assert claim.judge(mirrored, "epoch").verdict == "does not hold"


def test_figure(records, tmp_path):
    [file] = track_figures.sensitivity(records, tmp_path)
    assert list(tmp_path.iterdir()) == [file]
    image = matplotlib.image.imread(file)
    assert min(image.shape[:2]) > 800
    saturation = np.ptp(image[..., :3], axis=-1)
    assert np.mean(saturation > 0.3) > 0.005
