"""The training method on images, in short real runs on scikit-learn's digits."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from benchmarks import __main__ as cli
from benchmarks.paper.images import batch_sizes, runs, training
from benchmarks.paper.images.page import image_sections
from benchmarks.paper.images.training import Stages
from benchmarks.shared.data import images as data
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.models.images import dnn
from benchmarks.shared.records import Records

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SCHEDULE = runs.Schedule(batch_size=64, first=2, second=1)
NAME = "dnn 64/2/1"
TRAINED = 500  # images, not a multiple of the batch size


@pytest.fixture(scope="module")
def digits(as_users_run_it):
    """Real digits of 8×8, enlarged to 24×24, under the name of MNIST."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    pixels = pixels.repeat(3, axis=1).repeat(3, axis=2)
    labels = labels.astype(np.int32)
    return Dataset(
        "mnist",
        pixels[:TRAINED],
        labels[:TRAINED],
        pixels[TRAINED:700],
        labels[TRAINED:700],
        10,
    )


@pytest.fixture(scope="module")
def path(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "images.csv.gz"
    both = ["adamax", "dsa"]
    done = runs.run(Records(path), digits, "dnn", both, seeds=1, schedule=SCHEDULE)
    assert list(done) == ["adamax, seed 0", "dsa, seed 0"]
    return path


@pytest.fixture(scope="module")
def records(path):
    return pd.read_csv(path)


def of(records, optimizer):
    return records[records["optimizer"] == optimizer].reset_index()


def test_dsa_spends_two_gradients_a_full_batch_and_rivals_go_on_as_far(records):
    assert list(of(records, "dsa")["gradient_evaluations"]) == [0, 1, 2, 4]
    assert list(of(records, "adamax")["gradient_evaluations"]) == [0, 1, 2, 3, 4]


def test_the_first_stage_is_adamax(records):
    columns = ["train_loss", "accuracy", "f1"]
    first = slice(0, SCHEDULE.first)
    dsa, adamax = of(records, "dsa"), of(records, "adamax")
    pd.testing.assert_frame_equal(dsa.loc[first, columns], adamax.loc[first, columns])


def test_they_learn(records):
    adamax = of(records, "adamax")
    assert adamax["train_loss"].iloc[-1] < 0.8 * adamax["train_loss"][0]
    dsa = of(records, "dsa")["train_loss"]
    assert dsa[SCHEDULE.first + 1] < dsa[SCHEDULE.first]
    assert set(records["test_images"]) == {200}


def test_a_scheduled_rival_fades_over_all_its_steps():
    stages = runs.Schedule(64, 3, 2).stages("adamax-cosine")
    assert stages.gradients(7) == 7
    tx = stages.first_optimizer(rows=130)  # three steps an epoch
    params = jnp.zeros(2)
    state, lengths = tx.init(params), []
    for _ in range(7 * 3 + 1):
        updates, state = tx.update(jnp.ones(2), state, params)
        lengths.append(float(jnp.linalg.norm(updates)))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-2] > lengths[-1] == 0


def test_a_second_start_trains_nothing(path, digits, monkeypatch):
    monkeypatch.setattr(training, "train", None)
    before = path.read_bytes()
    names = ["dsa", "adamax"]
    done = runs.run(Records(path), digits, "dnn", names, seeds=1, schedule=SCHEDULE)
    assert len(list(done)) == 2
    assert path.read_bytes() == before


def test_a_run_leaves_no_checkpoints(path):
    assert not list((path.parent / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_epoch(path, digits, monkeypatch, tmp_path):
    """What is in the records is what an uninterrupted run has."""
    trainer = training.Trainer(dnn((24, 24, 1), 10), digits)
    stages = SCHEDULE.stages("dsa")
    evaluate, calls = trainer.evaluate, []

    def killed(params, key):
        calls.append(1)
        if len(calls) == 3:  # epoch 0 was the first
            raise KeyboardInterrupt
        return evaluate(params, key)

    monkeypatch.setattr(trainer, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train(trainer, stages, 0, tmp_path)
    calls.extend([1, 1])
    resumed = training.train(trainer, stages, 0, tmp_path)
    assert len(calls) == 5 + 3  # epoch 0, and the two that were missing
    recorded = of(pd.read_csv(path), "dsa")
    columns = ["epoch", "gradient_evaluations", "train_loss", "accuracy", "f1"]
    pd.testing.assert_frame_equal(resumed[columns], recorded[columns], rtol=1e-5)


def test_the_tables_are_at_equal_epochs_and_at_equal_gradients(records):
    (epochs, first), (gradients, second) = runs.tables(records, "mnist", NAME)
    assert "3 epochs, 500 training and 200 test images, seeds: 1" in epochs
    assert "4 gradient evaluations" in gradients
    assert list(first["optimizer"]) == list(second["optimizer"]) == ["Adamax", "DSA"]
    last = of(records, "adamax")["accuracy"].iloc[-1]
    assert second["accuracy"][0] == f"{last:.2f}"


def test_names_tell_what_is_not_the_papers():
    paper = runs.SCHEDULES["fmp"]["cifar10"]
    assert runs.run_name("fmp", "cifar10", None, None) == "fmp"
    assert runs.run_name("fmp", "cifar10", paper, 8) == "fmp-8"
    other = runs.Schedule(64, 5, 5)
    assert runs.run_name("fmp", "cifar10", other, 8) == "fmp-8 64/5/5"


def test_the_command(path, digits, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda name, data_dir: digits)
    command = "images --datasets mnist --optimizers adamax dsa --seeds 1 --schedule"
    output = ["64", "2", "1", "--output", str(path.parent)]
    assert cli.main([*command.split(), *output]) == 0
    assert "200 test images" in capsys.readouterr().out.replace("\n", " ")


def test_width_is_of_fmp(capsys):
    with pytest.raises(SystemExit):
        cli.main(["images", "--width", "8"])
    assert "--width is an option of --model fmp" in capsys.readouterr().err


# Batch sizes ----------------------------------------------------------------------


def test_every_batch_size_gets_the_same_gradients():
    for size in batch_sizes.SIZES:
        for name in batch_sizes.NAMES:
            stages = batch_sizes.stages(name, size, 60)
            epochs = stages.minibatch_epochs + stages.full_batch_updates
            assert stages.gradients(epochs) == 60
    assert batch_sizes.stages("dsa", 64, 60) == Stages("dsa", 30, 64)


@pytest.mark.slow
def test_batch_sizes_train_and_are_shown(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_sizes, "SIZES", (256, None))
    records = Records(tmp_path / "batch_sizes.csv.gz")
    done = list(batch_sizes.run(records, digits, seeds=1, passes=2))
    assert done[:2] == ["adamax, batch 256, seed 0", "dsa, batch 256, seed 0"]
    assert len(done) == 2 * 3
    updates = records.frame.groupby(["model", "optimizer"])["epoch"].max()
    assert updates["dnn batch 256", "dsa"] == updates["dnn full batch", "dsa"] == 1
    losses = records.frame.pivot_table("train_loss", "model", "optimizer", "last")
    assert losses.stack().nunique() == 6

    table = batch_sizes.table(records.frame)
    assert list(table) == ["optimizer", "batch 256", "full batch"]
    assert f"({records.frame['accuracy'].iloc[2]:.1f})" in table["batch 256"][0]
    batch_sizes.figure(records.frame, tmp_path / "batch_sizes.png")
    assert (tmp_path / "batch_sizes.png").stat().st_size > 10_000
    assert "batch_sizes.png" in "\n".join(image_sections(tmp_path))
