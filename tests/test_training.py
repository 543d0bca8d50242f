"""The training loop: what an epoch is, and that a killed run ends as if it wasn't."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax.training import fit

pytestmark = pytest.mark.usefixtures("as_users_run_it")

KEY = 3
ROWS, BATCH = 50, 16  # the last mini-batch has two rows
EPOCHS = {"first_epochs": 4, "second_epochs": 5}
EVEN = {"batch_size": 25, "microbatch_size": 25}
"""No short batch, for which an optimizer's step would be compiled once more."""

SETTINGS = {**EPOCHS, "batch_size": BATCH, "microbatch_size": 20, "progress": False}


def make_data():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 3)).astype(np.float32)
    return x, np.sin(x @ np.array([1, -2, 0.5], np.float32))


def make_params():
    random = np.random.default_rng(1)
    shapes = {"w": (3, 8), "b": (8,), "v": (8,)}
    return {
        name: jnp.asarray(random.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def loss(params, x, y, key):
    """A net with dropout: it is the key's business as well."""
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    kept = jax.random.bernoulli(key, 0.9, (8,))
    return jnp.mean((jnp.where(kept, hidden, 0) @ params["v"] - y) ** 2)


def plain_loss(params, x, y, key):
    del key
    return loss(params, x, y, jax.random.key(0))


def trained(**options):
    options = {"loss_fn": loss, "data": make_data(), **SETTINGS, **options}
    return fit(params=make_params(), key=jax.random.key(KEY), **options)


def norm(params):
    return {"norm": optax.tree.norm(params)}


@pytest.fixture(scope="module")
def finished(as_users_run_it, tmp_path_factory):
    """A run that came to its end, and its folder, which none may write to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, trained(checkpoint_dir=folder, evaluate=norm)


def assert_same_end(found, expected):
    """Params, best, state and history, bit for bit; the time they took is another."""
    jax.tree.map(np.testing.assert_array_equal, found[:3], expected[:3])
    without_time = [
        [{**row, "seconds": None} for row in run.history] for run in (found, expected)
    ]
    assert without_time[0] == without_time[1]


# Epochs ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [48, 50, 10])
def test_an_epoch_of_mini_batches_is_every_row_once_in_a_new_order(rows):
    seen = []

    def spying(params, x, key):
        jax.debug.callback(lambda x: seen.extend(x.tolist()), x, ordered=True)
        return params * jnp.mean(x)

    x = np.arange(rows, dtype=np.float32)
    run = fit(
        spying,
        jnp.ones(()),
        (x,),
        jax.random.key(0),
        first=optax.sgd(0.0),
        first_epochs=2,
        second_epochs=0,
        batch_size=BATCH,
        progress=False,
    )
    jax.effects_barrier()
    epochs = np.reshape(seen, (2, rows))
    assert sorted(epochs[0]) == sorted(epochs[1]) == x.tolist()
    assert (epochs[0] != epochs[1]).any()
    losses = [row["loss"] for row in run.history]
    np.testing.assert_allclose(losses, x.mean(), rtol=1e-6)  # the short batch's too


def test_the_second_stage_is_dsa_on_all_rows_from_where_the_first_ended(finished):
    first = trained(second_epochs=0)
    _, both = finished
    params, data = first.params, make_data()
    tx = dsa_optax.dsa()
    state = tx.init(params)

    @jax.jit
    def step(params, state, epoch):
        key = jax.random.fold_in(jax.random.key(KEY), epoch)
        value, grads = jax.value_and_grad(loss)(params, *data, key)
        grad_fn = dsa_optax.make_grad_fn(loss, *data, key)
        updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state, value

    for row in both.history[4:]:
        params, state, value = step(params, state, row["epoch"])
        np.testing.assert_allclose(row["loss"], value, rtol=1e-5)
    jax.tree.map(
        lambda found, ours: np.testing.assert_allclose(found, ours, rtol=1e-5),
        (both.params, both.opt_state.log2_lr),
        (params, state.log2_lr),
    )


def test_the_first_stage_hands_dsa_its_mini_batch():
    run = trained(first=dsa_optax.dsa(), first_epochs=2, second_epochs=0)
    assert run.opt_state.count == 2 * -(-ROWS // BATCH)


def test_any_optimizer_of_optax_in_either_stage():
    options = {"loss_fn": plain_loss, "second_epochs": 30, **EVEN}
    lbfgs = trained(second=optax.lbfgs(), **options)
    adam = trained(second=optax.adam(1e-3), **options)
    assert lbfgs.history[-1]["loss"] < 0.5 * adam.history[-1]["loss"]


def test_evaluate_sees_the_params_after_every_epoch(finished):
    _, run = finished
    assert [row["epoch"] for row in run.history] == list(range(1, 10))
    assert len({row["norm"] for row in run.history}) == 9
    np.testing.assert_allclose(
        run.history[-1]["norm"], norm(run.params)["norm"], rtol=1e-6
    )


def test_the_best_of_the_second_stage_by_its_loss():
    jumpy = optax.sgd(1.5)
    run = trained(loss_fn=plain_loss, second=jumpy, second_epochs=12)
    losses = [row["loss"] for row in run.history[4:]]
    assert run.best.value == min(losses) < losses[-1]
    there = plain_loss(run.best.params, *make_data(), None)
    np.testing.assert_allclose(run.best.value, there, rtol=1e-6)
    assert trained(second_epochs=0).best.value == np.inf


def test_the_best_by_a_number_of_evaluate():
    seen = []

    def evaluate(params):
        seen.append(params)  # they stay valid
        return {"size": jnp.sum(params["v"] ** 2)}

    run = trained(evaluate=evaluate, best_by="size")
    sizes = [row["size"] for row in run.history]
    assert run.best.value == min(sizes)
    best = seen[int(np.argmin(sizes))]
    jax.tree.map(np.testing.assert_array_equal, run.best.params, best)
    with pytest.raises(ValueError, match=r"`best_by` must be a number that `evaluate`"):
        trained(best_by="size")


def test_what_is_given_can_be_used_again():
    params, data = make_params(), jax.tree.map(jnp.asarray, make_data())
    fit(loss, params, data, jax.random.key(0), **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, params, make_params())
    jax.tree.map(np.testing.assert_array_equal, data, make_data())


def test_the_progress_bar_shows_epochs_and_the_loss(capsys):
    run = trained(progress=True)
    shown = capsys.readouterr().err
    assert "9/9" in shown
    assert f"loss={run.history[-1]['loss']:.3g}" in shown


# Killed and resumed ---------------------------------------------------------------


def main(folder, kill_at, kill_after):
    """Trains, and kills this process in an epoch's evaluation, or after some time."""

    def evaluate(params):
        epoch = len(os.listdir(progress)) + 1
        (progress / str(epoch)).touch()
        if epoch == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return norm(params)

    folder = Path(folder)
    progress = folder / "epochs"
    progress.mkdir(exist_ok=True)
    if kill_after:
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        timer = threading.Timer(kill_after, kill)
        timer.daemon = True
        timer.start()
    trained(checkpoint_dir=folder / "run", evaluate=evaluate)


def run_until_killed(folder, kill_at=0, kill_after=0.0):
    command = [sys.executable, __file__, str(folder), str(kill_at), str(kill_after)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if not kill_after:  # by time, a run that compiles has more moments to be killed at
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    return subprocess.run(command, env=environment, timeout=300).returncode


def resumed(folder):
    return trained(checkpoint_dir=Path(folder, "run"), evaluate=norm)


def test_a_run_killed_at_the_switch_ends_as_if_it_was_not(tmp_path, finished):
    switch = EPOCHS["first_epochs"]
    assert run_until_killed(tmp_path, kill_at=switch) == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "epochs")) == switch  # it came that far
    assert_same_end(resumed(tmp_path), finished[1])


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_it_was_not(tmp_path, finished):
    for attempt in range(60):  # later and later, until one run comes to its end
        killed = run_until_killed(tmp_path, kill_after=1 + 0.2 * attempt)
        assert killed in (0, -signal.SIGKILL)
        if not killed:
            break
    assert attempt > 2
    assert_same_end(resumed(tmp_path), finished[1])


def test_a_finished_run_is_read_and_can_go_on(tmp_path, finished):
    folder, run = finished
    shutil.copytree(folder, tmp_path / "run")
    assert_same_end(resumed(tmp_path), run)
    options = {"second_epochs": 8, "evaluate": norm}
    longer = trained(checkpoint_dir=tmp_path / "run", **options)
    assert longer.history[:9] == run.history
    assert_same_end(longer, trained(**options))


def test_the_last_epoch_is_kept_whatever_the_interval(tmp_path):
    run = trained(checkpoint_dir=tmp_path, checkpoint_every=7)
    assert_same_end(trained(checkpoint_dir=tmp_path, checkpoint_every=7), run)


@pytest.mark.parametrize("first", [optax.sgd(0.01), optax.lbfgs()])
def test_checkpoints_of_any_optimizers_state(first, tmp_path):
    options = {
        "checkpoint_dir": tmp_path,
        "loss_fn": plain_loss,
        "first": first,
        "second_epochs": 0,
        **EVEN,
    }
    run = trained(**options, first_epochs=2)
    with pytest.raises(ValueError, match="first_epochs was 2 and is 4"):
        trained(**options)
    assert_same_end(trained(**options, first_epochs=2), run)


# Errors ---------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match=r"batch_size was 16 and is 8.*Pass another"):
        trained(checkpoint_dir=folder, batch_size=8)
    with pytest.raises(ValueError, match=r"9 epochs, longer than the 6 asked for"):
        trained(checkpoint_dir=folder, second_epochs=2)


def standing(tx):
    """An optimizer with the state of another, that takes no time to compile."""

    def update(updates, state, params=None, **extra):
        del params, extra
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


INT8 = {"state_dtype": jnp.int8}
HALF = {"state_dtype": jnp.bfloat16}
RATES = r"log2_lr\['b'\] was {} of shape \(8,\), and is {}.*`state_dtype` as it was"


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (dsa_optax.dsa(**INT8), dsa_optax.dsa(), RATES.format("int8", "float32")),
        (dsa_optax.dsa(), dsa_optax.dsa(**INT8), RATES.format("float32", "int8")),
        (
            dsa_optax.auto_dsa(0),
            dsa_optax.auto_dsa(0, **HALF),
            RATES.format("float32", "bfloat16"),
        ),
        (
            dsa_optax.auto_dsa(1),
            dsa_optax.auto_dsa(0),
            "is missing.*`memory_size` and `matrix_size` as",
        ),
        (optax.lbfgs(), optax.lbfgs(memory_size=3), "`memory_size` as it was, pass"),
        (
            dsa_optax.adapt(optax.sgd(1.0), "tensor"),
            dsa_optax.adapt(optax.sgd(1.0), "parameter"),
            r"log2_lr\['b'\] was .* shape \(\), and is .* shape \(8,\)\. Pass another",
        ),
        (optax.adam(1.0), optax.sgd(1.0), r"state\[0\].count was .*missing\. Pass"),
    ],
)
def test_an_optimizer_with_another_state_is_refused(was, now, message, tmp_path):
    options = {"checkpoint_dir": tmp_path, "loss_fn": plain_loss, "first_epochs": 0}
    trained(second=standing(was), **{**options, "second_epochs": 1})
    message = f"`checkpoint_dir` holds a run with another optimizer.*{message}"
    with pytest.raises(ValueError, match=message):
        trained(second=now, **options)


def test_a_memory_of_another_size_is_refused(tmp_path):
    def of_large(params, x, key):
        return jnp.mean((params["w"] - x[0]) ** 2)

    def trained(tx):
        options = {**SETTINGS, "first_epochs": 0, "second_epochs": 1}
        options["checkpoint_dir"] = tmp_path
        params, data = {"w": jnp.zeros((64, 64))}, (np.ones(3, np.float32),)
        fit(of_large, params, data, jax.random.key(0), second=tx, **options)

    trained(dsa_optax.auto_dsa(3, matrix_size=0))
    trained(dsa_optax.auto_dsa(3, matrix_size=0))
    message = r"parts\[2\].* was .*\(3, .*\), and is .*\(2, .*`memory_size` as it was"
    with pytest.raises(ValueError, match=message):
        trained(dsa_optax.auto_dsa(2, matrix_size=0))


def test_the_second_optimizer_may_be_another_while_the_first_is_at_work(tmp_path):
    trained(checkpoint_dir=tmp_path, second_epochs=0)
    run = trained(checkpoint_dir=tmp_path, second=optax.sgd(0.1))
    assert_same_end(run, trained(second=optax.sgd(0.1)))


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, lambda x: np.concatenate([x[:-1], x[-1:] + 1])),
        (1, lambda y: np.nextafter(y, np.float32(np.inf))),
        (1, lambda y: y.astype(np.float16)),
        (1, lambda y: y[:, None]),
    ],
)
def test_other_data_of_as_many_rows_are_refused(place, change, finished):
    folder, run = finished
    data = list(make_data())
    same = [data[0].astype(np.float64), jnp.asarray(data[1])]  # float32 when they go in
    assert_same_end(trained(checkpoint_dir=folder, data=same), run)
    data[place] = change(data[place])
    message = rf"run with other data: data\[{place}\] was float32 .*Pass another `check"
    with pytest.raises(ValueError, match=message):
        trained(checkpoint_dir=folder, data=data)


def test_of_large_data_some_rows_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("dsa_optax.training._MOST_BYTES", 100)
    x, y = make_data()
    options = {"checkpoint_dir": tmp_path, "first_epochs": 1, "second_epochs": 0}
    run = trained(**options)
    assert_same_end(trained(**options), run)
    with pytest.raises(ValueError, match=r"run with other data: data\[0\]"):
        trained(data=(x + 1, y), **options)


def test_data_may_be_anything_with_rows(tmp_path):
    rows = {
        "keys": jax.random.split(jax.random.key(0), 6),
        "half": jnp.ones((6, 2), jnp.bfloat16),
        "flag": np.ones(6, bool),
        "none": np.ones((6, 0), np.float32),
    }

    def rows_loss(params, rows, key):
        return jnp.mean(params["b"]) + jnp.mean(rows["half"], dtype=jnp.float32)

    options = {"loss_fn": rows_loss, "checkpoint_dir": tmp_path}
    options |= {"first_epochs": 1, "second_epochs": 1}
    trained(data=(rows,), **options)
    other = {**rows, "keys": jax.random.split(jax.random.key(1), 6)}
    with pytest.raises(ValueError, match=r"other data: data\[0\]\['keys'\] was key"):
        trained(data=(other,), **options)


def test_other_params_are_refused(finished):
    folder, _ = finished
    options = {"checkpoint_dir": folder, "key": jax.random.key(KEY), **SETTINGS}
    more = {**make_params(), "c": jnp.ones(())}
    with pytest.raises(ValueError, match=r"other params: params\['c'\] was missing"):
        fit(loss, more, make_data(), **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, r"`batch_size` must be positive.*=64"),
        ({"second_epochs": -1}, ValueError, "`second_epochs` must be finite and at"),
        ({"first_epochs": 1.5}, TypeError, "`first_epochs` must be an integer"),
        ({"data": (np.ones(3), np.ones(2))}, ValueError, "`data` must be arrays with"),
        ({"evaluate": lambda _: {"loss": 1}}, ValueError, "test_loss"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        trained(**options)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
