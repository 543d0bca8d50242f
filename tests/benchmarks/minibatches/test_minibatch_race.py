"""The mini-batch division, in short real runs on scikit-learn's digits and on text."""

import hashlib

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from benchmarks import __main__ as cli
from benchmarks.minibatches import page, runs, tasks
from benchmarks.minibatches.contenders import RIVALS
from benchmarks.shared.records import Records

CHOSEN = {name: RIVALS[name] for name in ("adam", "schedule-free")}
SIZES, EPOCHS = (32, 128), 4
TRAINED = 1024

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def digits(as_users_run_it):
    """A small net on real digits of 8×8, under the name of MNIST."""
    pixels, labels = load_digits(return_X_y=True)
    images = jnp.asarray((pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1))
    labels = jnp.asarray(labels.astype(np.int32))
    train, test = slice(TRAINED), slice(TRAINED, None)
    net = tasks.mlp((64, 32, 10))
    examples = ((images[part], labels[part]) for part in (train, test))
    return tasks.Task("mnist", "mlp", net, *examples)


def run(path, digits, contenders=CHOSEN, seeds=2):
    chosen = {"batch_sizes": SIZES, "epochs": EPOCHS}
    return runs.run(Records(path), [digits], contenders, seeds=seeds, **chosen)


@pytest.fixture(scope="module")
def path(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "minibatch_race.csv"
    assert list(run(path, digits)) == [
        f"{name}, mlp on mnist, batch {size}" for size in SIZES for name in CHOSEN
    ]
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
    task = tasks.attention_task()
    (inputs, labels), (test, _) = task.train, task.test
    windows = tasks.TRAIN_EXAMPLES["attention"]
    assert inputs.shape == labels.shape == (windows, tasks.CONTEXT)
    np.testing.assert_array_equal(inputs[:, 1:], labels[:, :-1])
    np.testing.assert_array_equal(inputs[1:, 0], labels[:-1, -1])
    # So that no character is in both.
    assert len(inputs) + len(test) < len(tasks.unicode_names()) // tasks.CONTEXT


@pytest.mark.parametrize("size", runs.BATCH_SIZES)
def test_training_sets_are_whole_numbers_of_batches(size):
    for examples in tasks.TRAIN_EXAMPLES.values():
        assert examples % size == 0


def test_batches_cover_every_example_once():
    epochs = [runs.batches(jax.random.key(seed), 96, 32) for seed in (0, 1)]
    for epoch in epochs:
        assert epoch.shape == (3, 32)
        assert sorted(epoch.ravel().tolist()) == list(range(96))
    assert (epochs[0] != epochs[1]).any()


def test_attention_sees_no_later_character():
    init, logits = tasks.attention(5, context=8, width=16)
    params, logits = jax.jit(init)(jax.random.key(0)), jax.jit(logits)
    text = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2]])
    before, after = logits(params, text), logits(params, text.at[0, 5].set(3))
    assert before.shape == (1, 8, 5)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert (jnp.abs(before[:, 5:] - after[:, 5:]).max(axis=-1) > 1e-3).all()


def test_a_short_text_gets_the_logits_of_its_first_characters():
    init, logits = tasks.attention(5, context=8, width=16)
    params, text = (
        jax.jit(init)(jax.random.key(0)),
        jnp.array([[0, 1, 2, 3, 4, 0, 1, 2]]),
    )
    part = logits(params, text[:, :3])
    np.testing.assert_allclose(part, logits(params, text)[:, :3], atol=1e-6)


def test_training_improves(records):
    chosen = records["optimizer"].isin(["adam 0.01", "schedule-free 0.01"])
    small = records[chosen & (records["model"] == "mlp batch 32")]
    first, last = (small[small["epoch"] == epoch] for epoch in (1, EPOCHS))
    assert last["train_loss"].max() < 0.5 * first["train_loss"].min()
    assert (last["test_accuracy"] > 85).all()


def test_records_are_complete(records):
    runs = records.groupby(["model", "optimizer", "seed"])
    assert len(runs) == len(SIZES) * 2 * 4 * 2
    assert runs["epoch"].agg(list).map(lambda e: e == [1, 2, 3, 4]).all()
    assert runs["seconds"].agg(lambda s: s.is_monotonic_increasing).all()
    assert set(records["contender"]) == set(CHOSEN)
    assert set(records["train_examples"]) == {TRAINED}


def test_an_epoch_is_what_a_plain_loop_makes_of_it(digits, records):
    init_key, key = jax.random.split(jax.random.key(1))
    params, tx = digits.net.init(init_key), CHOSEN["adam"].make(3e-3)
    state, losses = tx.init(params), []
    value_and_grad, update = (
        jax.jit(jax.value_and_grad(digits.loss)),
        jax.jit(tx.update),
    )
    for rows in runs.batches(jax.random.fold_in(key, 1), TRAINED, 32):
        inputs, labels = (part[rows] for part in digits.train)
        loss, grads = value_and_grad(params, inputs, labels)
        updates, state = update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        losses.append(float(loss))
    inputs, labels = digits.test
    accuracy = jnp.mean(digits.net.logits(params, inputs).argmax(axis=1) == labels)
    row = records[
        (records["model"] == "mlp batch 32")
        & (records["optimizer"] == "adam 0.003")
        & (records["seed"] == 1)
    ].iloc[0]
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert row["test_accuracy"] == pytest.approx(100 * float(accuracy), abs=0.5)


def test_what_is_there_is_not_run_again(path, digits, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    again = tmp_path / path.name
    again.write_text(path.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(runs, "Trainer", refuse)
        assert len(list(run(again, digits))) == len(SIZES) * len(CHOSEN)
    assert again.read_text() == path.read_text()
    list(run(again, digits, {"adam": CHOSEN["adam"]}, seeds=3))
    more = pd.read_csv(again)
    assert len(more) - len(pd.read_csv(path)) == len(SIZES) * 4 * EPOCHS


def made_up(curves):
    """Records of accuracies by epoch, {(contender, setting): …}, alike at two seeds."""
    rows = [
        {
            "experiment": runs.EXPERIMENT,
            "dataset": "mnist",
            "model": "mlp batch 128",
            "optimizer": f"{name} {setting:g}",
            "contender": name,
            "setting": setting,
            "seed": seed,
            "epoch": epoch,
            "test_accuracy": accuracy + seed,
            "train_examples": 1024,
            "test_examples": 100,
            "device": "cpu",
        }
        for (name, setting), accuracies in curves.items()
        for seed in range(2)
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    return pd.DataFrame(rows)


def test_the_table_of_made_up_records():
    made = made_up(
        {
            ("adam", 1e-3): (50, 60, 70, 80),
            ("adam", 1e-2): (60, 85, 88, 90),
            ("muon", 0.02): (70, 80, 85, 86),
            ("muon", 0.01): (89, 70, 60, 50),
        }
    )
    table = page.table(made).set_index("optimizer")["MLP, MNIST"]
    assert table.to_dict() == {
        "Adam, default": "80.5 ± 0.7 (–)",
        "Adam, best": "90.5 ± 0.7 (3) at 0.01",
        "Muon, default": "86.5 ± 0.7 (–)",
        "Muon, best": "86.5 ± 0.7 (–) at 0.02",
    }


def test_the_page_has_a_table_a_batch_size_and_a_figure(records, tmp_path):
    text = "\n\n".join(page.sections(records))
    assert "## Batches of 32" in text
    assert "## Batches of 128" in text
    assert f"MLP, MNIST {TRAINED:,} and 773" in text
    for row in ("Adam, default", "Adam, best", "Schedule-free AdamW, best"):
        assert text.count(f"| {row} ") == len(SIZES)
    page.figure(records, tmp_path / page.FIGURE)
    height, width, _ = matplotlib.image.imread(tmp_path / page.FIGURE).shape
    assert min(height, width) > 300


def test_the_command_line(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "mlp-mnist", lambda data_dir: digits)
    arguments = "minibatch-race --tasks mlp-mnist --optimizers adam --seeds 1 --output"
    assert cli.main([*arguments.split(), str(tmp_path)]) == 0
    assert "Adam, best" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "minibatch_race.csv")
    assert set(frame["contender"]) == {"adam"}
    assert (tmp_path / page.FIGURE).stat().st_size > 10_000
