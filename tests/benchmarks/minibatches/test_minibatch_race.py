"""The mini-batch race, in short real runs on scikit-learn's digits and on text."""

import hashlib

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pandas as pd
import pytest

from benchmarks import __main__ as cli
from benchmarks.minibatches import contenders, page, runs, tasks
from benchmarks.minibatches.contenders import CONTENDERS, RIVALS, SCHEDULES
from benchmarks.shared.records import Records
from tests.benchmarks.minibatches.digits import BATCH, TRAINED, digits_task

CHOSEN = {
    name: RIVALS[name]._replace(rates=(3e-3, 0.01))
    for name in ("adam", "schedule-free")
}
EPOCHS = 4

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def digits(as_users_run_it):
    return digits_task(EPOCHS, looks=2)


def run(path, digits, chosen=CHOSEN, seeds=2):
    return runs.run(Records(path), [digits], chosen, seeds=seeds)


@pytest.fixture(scope="module")
def path(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "minibatch_race.csv.gz"
    assert list(run(path, digits)) == [f"{name}, mlp on mnist" for name in CHOSEN]
    return path


@pytest.fixture(scope="module")
def records(path):
    return pd.read_csv(path)


def test_the_text_is_the_same_everywhere():
    text = tasks.unicode_names()
    assert len(text) == 332937
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789- \n")
    assert hashlib.sha256(text.encode()).hexdigest()[:8] == "cc7db327"


def test_the_attention_nets_labels_are_the_next_characters():
    task = tasks.names_task()
    (inputs, labels), (test, _) = task.train, task.test
    assert inputs.shape == labels.shape == (32 * tasks.BATCH_SIZE, tasks.CONTEXT)
    np.testing.assert_array_equal(inputs[:, 1:], labels[:, :-1])
    np.testing.assert_array_equal(inputs[1:, 0], labels[:-1, -1])
    # So that no character is in both.
    assert len(inputs) + len(test) < len(tasks.unicode_names()) // tasks.CONTEXT
    assert task.steps == 32 * 5


def test_batches_cover_every_example_once():
    epochs = [runs.batches(jax.random.key(seed), 96, 32) for seed in (0, 1)]
    for epoch in epochs:
        assert epoch.shape == (3, 32)
        assert sorted(epoch.ravel().tolist()) == list(range(96))
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("blocks", [1, 2])
def test_attention_sees_no_later_character(blocks):
    init, logits = tasks.attention(5, context=8, width=16, blocks=blocks)
    params, logits = jax.jit(init)(jax.random.key(0)), jax.jit(logits)
    text = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2]])
    before, after = logits(params, text), logits(params, text.at[0, 5].set(3))
    assert before.shape == (1, 8, 5)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert (jnp.abs(before[:, 5:] - after[:, 5:]).max(axis=-1) > 1e-3).all()
    part = logits(params, text[:, :3])
    np.testing.assert_allclose(part, before[:, :3], atol=1e-6)


def test_schedules_begin_and_end_where_they_say():
    factors = {name: schedule(200) for name, schedule in SCHEDULES.items()}
    assert all(f.shape == (200,) and (f <= 1).all() for f in factors.values())
    assert (factors["constant"] == 1).all()
    exact = optax.cosine_decay_schedule(1.0, 200)(np.arange(200))
    np.testing.assert_allclose(factors["cosine"], exact, atol=1e-6)
    wsd = factors["wsd"]
    np.testing.assert_allclose(wsd[:11], [*(np.arange(1, 11) / 10), 1])
    np.testing.assert_allclose(wsd[9:161], 1)
    np.testing.assert_allclose(wsd[160:], np.arange(40, 0, -1) / 40)


def test_grids_have_five_rates_and_the_default_first():
    for contender in RIVALS.values():
        assert len(set(contender.rates)) >= 5
        assert min(contender.rates) < contender.rates[0] < max(contender.rates)
        assert contender.customary in SCHEDULES
    for name, warmed in contenders.WARMED.items():
        assert CONTENDERS[warmed].rates == RIVALS[name].rates[:1]


def test_training_improves(records):
    names = ["adam cosine 0.01", "schedule-free constant 0.01"]
    chosen = records[records["optimizer"].isin(names)]
    first, last = (chosen[chosen["epoch"] == epoch] for epoch in (2, EPOCHS))
    assert last["train_loss"].max() < first["train_loss"].min()
    assert (last["test_accuracy"] > 85).all()


def test_records_are_complete(records):
    each = records.groupby(["optimizer", "seed"])
    assert len(each) == 2 * len(SCHEDULES) * 2 * 2
    assert each["epoch"].agg(list).map(lambda e: e == [2, 4]).all()
    assert each["seconds"].agg(lambda s: s.is_monotonic_increasing).all()
    assert set(records["contender"]) == set(CHOSEN)
    assert set(records["steps"]) == {TRAINED // BATCH * EPOCHS}
    assert np.isfinite(records["test_loss"]).all()


def test_a_run_is_what_a_plain_loop_makes_of_it(digits, records):
    init_key, key = jax.random.split(jax.random.key(1))
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, digits.steps))
    params = digits.net.init(init_key)
    state, step = tx.init(params), jax.jit(jax.value_and_grad(digits.loss))
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for rows in runs.batches(jax.random.fold_in(key, epoch), TRAINED, BATCH):
            inputs, labels = (part[rows] for part in digits.train)
            loss, grads = step(params, inputs, labels)
            updates, state = jax.jit(tx.update)(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            losses.append(float(loss))
    inputs, labels = digits.test
    logits = digits.net.logits(params, inputs)
    row = records[
        (records["optimizer"] == "adam cosine 0.003")
        & (records["seed"] == 1)
        & (records["epoch"] == EPOCHS)
    ].iloc[0]
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    test_loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert row["test_loss"] == pytest.approx(float(test_loss), rel=1e-3)
    accuracy = 100 * float(jnp.mean(logits.argmax(axis=1) == labels))
    assert row["test_accuracy"] == pytest.approx(accuracy, abs=0.5)


def test_a_warm_up_raises_a_rate_that_is_far_too_low(digits):
    longer = digits._replace(epochs=10)
    losses = [
        runs.Trainer(longer, contender).train("constant", 1e-4, seed=0)["test_loss"]
        for contender in (RIVALS["adamw"], RIVALS["adamw"]._replace(warmed=True))
    ]
    assert losses[1].iloc[-1] < 0.8 * losses[0].iloc[-1]


def test_what_is_there_is_not_run_again(path, digits, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    again = tmp_path / path.name
    again.write_bytes(path.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(runs, "Trainer", refuse)
        assert len(list(run(again, digits))) == len(CHOSEN)
    assert again.read_bytes() == path.read_bytes()
    list(run(again, digits, {"adam": CHOSEN["adam"]}, seeds=3))
    more = pd.read_csv(again)
    assert len(more) - len(pd.read_csv(path)) == len(SCHEDULES) * 2 * 2


def test_of_a_screened_task_other_seeds_run_what_matters(digits, tmp_path):
    screened = digits._replace(screened=True, epochs=1, looks=1)
    chosen = {"adam": RIVALS["adam"]._replace(rates=(3e-3, 0.01, np.nan))}
    path = tmp_path / "minibatch_race.csv.gz"
    for _ in range(2):  # the second finds everything there
        list(runs.run(Records(path), [screened], chosen, seeds=2))
    records = pd.read_csv(path)
    first, second = (records[records["seed"] == seed] for seed in (0, 1))
    assert len(first) == 3 * len(SCHEDULES)
    best = first.loc[first.groupby("schedule")["test_loss"].idxmin(), "optimizer"]
    default = [contenders.setting_name("adam", each, 3e-3) for each in SCHEDULES]
    assert sorted(second["optimizer"]) == sorted({*best, *default})


def made_up(ends, dataset="mnist"):
    """Records of accuracies at the end, by (contender, schedule, rate)."""
    rows = [
        {
            "experiment": runs.EXPERIMENT,
            "dataset": dataset,
            "model": "mlp",
            "optimizer": contenders.setting_name(name, schedule, rate),
            "contender": name,
            "schedule": schedule,
            "rate": rate,
            "seed": seed,
            "epoch": epoch,
            "steps": 400,
            "test_accuracy": end + seed - 5 * (2 - epoch),
            "test_loss": end / 50 + seed,
            "train_examples": 1024,
            "test_examples": 100,
            "device": "cpu",
        }
        for (name, schedule, rate), end in ends.items()
        for seed in range(2)
        for epoch in (1, 2)
    ]
    return pd.DataFrame(rows)


ENDS = {
    ("adam", "constant", 1e-3): 80,
    ("adam", "cosine", 1e-3): 85,
    ("adam", "cosine", 1e-2): 90,
    ("muon", "cosine", 0.02): 89.95,
    ("muon", "wsd", 0.01): 88,
    ("warmed-muon", "cosine", 0.02): 91,
    ("warmed-muon", "wsd", 0.02): 70,
}


def test_the_tables_of_made_up_records():
    made = made_up(ENDS)
    table = page.table(made).set_index("optimizer")["MLP on MNIST"]
    assert table.to_dict() == {
        "Adam, default": "85.50 ± 0.71",
        "Adam, best": "90.50 ± 0.71 (cosine, 0.01)",
        "Muon, default": "90.45 ± 0.71",
        "Muon, best": "90.45 ± 0.71 (cosine, 0.02)",
        "Muon in adaptive_warmup, default": "91.50 ± 0.71",
        "Muon in adaptive_warmup, best": "91.50 ± 0.71 (cosine, 0.02)",
    }
    schedules = page.schedules_table(made).set_index("optimizer")["MLP on MNIST"]
    assert schedules["Adam"] == "80.50 / 90.50"
    gaps = page.gaps_table(made).set_index("optimizer")["MLP on MNIST"]
    plain, ours = (page.CONTENDERS[name].line for name in ("muon", "warmed-muon"))
    assert gaps.loc[[plain, ours]].tolist() == ["0.05", "-1.00"]
    assert set(gaps.drop([plain, ours])) == {"–"}
    both = page.warmup_table(made).set_index("optimizer")["MLP on MNIST"]
    assert both.to_dict() == {"Muon at 0.02, cosine": "90.45 → 91.50"}


def test_a_rate_that_lacks_seeds_is_not_the_best():
    made = made_up(ENDS)
    assert "ran every rate" not in "".join(page.sections(made))
    lucky = (made["optimizer"] == "adam cosine 0.01") & (made["seed"] == 1)
    short = made[~lucky]
    table = page.table(short).set_index("optimizer")["MLP on MNIST"]
    assert table["Adam, best"] == "85.50 ± 0.71 (cosine, 0.001)"
    assert "For MLP on MNIST the first seed ran every rate" in "".join(
        page.sections(short)
    )


def test_the_verdict_says_who_is_nearest_to_the_best_tuned_rival():
    text = made_up(ENDS, "shakespeare")  # a loss: 70 is the least
    verdict = page.verdict(pd.concat([made_up(ENDS), text]))
    plain, ours = (page.CONTENDERS[name].line for name in ("muon", "warmed-muon"))
    assert verdict.startswith(
        "**Who wins: tuned to the task, rate and schedule, Adam on 2 of 2 tasks; "
        "of the lines that tune nothing the nearest to that is "
        f"{plain} and {ours} on 1 of 2 tasks.** "
    )
    assert verdict.endswith(f"{plain} on 1, {ours} on 1.")
    behind = made_up({("adam", "wsd", 1e-3): 90, ("adamw", "cosine", 1e-3): 80})
    verdict = page.verdict(behind)
    assert "that is AdamW at 0.001 with a cosine on 1 of 1 tasks.**" in verdict
    assert verdict.endswith("none of the lines, on any task.")


def test_the_page_has_tables_and_a_figure(records, tmp_path):
    text = "\n\n".join(page.sections(records))
    assert f"MLP on MNIST {TRAINED:,} and 773" in text
    for row in ("Adam, best", "Schedule-free AdamW, best"):
        assert text.count(f"| {row} ") == 1
    page.figure(records, tmp_path / page.FIGURE)
    height, width, _ = matplotlib.image.imread(tmp_path / page.FIGURE).shape
    assert min(height, width) > 300


def test_the_command_line(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "mlp-mnist", lambda data_dir: digits)
    arguments = "minibatch-race --tasks mlp-mnist --optimizers adam --seeds 1 --output"
    assert cli.main([*arguments.split(), str(tmp_path)]) == 0
    assert "Adam, best" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "minibatch_race.csv.gz")
    assert set(frame["contender"]) == {"adam"}
    assert (tmp_path / page.FIGURE).stat().st_size > 10_000
