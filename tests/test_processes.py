"""Data-parallel training across two processes is that of one, within rounding.

Each of the processes holds half of the rows. The mean over them, and with it the
agreement of the two gradients, is JAX's own business: the train step is the same.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsa_optax

ROWS, STEPS = 64, 40


def data():
    x = np.linspace(-1, 1, ROWS)[:, None]
    return x, np.sin(3 * x)


def make_params():
    return {
        "hidden": jnp.asarray(np.linspace(-1.0, 1.2, 8)[None]),
        "bias": jnp.asarray(np.linspace(0.5, -0.4, 8)),
        "out": jnp.asarray(np.cos(np.arange(8.0))[:, None]),
    }


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["hidden"] + params["bias"])
    return jnp.mean((hidden @ params["out"] - y) ** 2)


def train(params, x, y):
    tx = dsa_optax.two_stage(dsa_optax.dsa(-8.0), dsa_optax.dsa(), STEPS // 2)
    step = dsa_optax.make_train_step(loss, tx)
    state = tx.init(params)
    for _ in range(STEPS):
        params, state, value = step(params, state, x, y)
    return params, value


def one_of_two(process, port, folder):
    """What each process runs; the first one saves the params."""
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    assert jax.process_count() == 2
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    everywhere = jax.NamedSharding(mesh, jax.P())
    half = slice(process * ROWS // 2, (process + 1) * ROWS // 2)
    x, y = (jax.make_array_from_process_local_data(rows, a[half]) for a in data())
    params = jax.jit(make_params, out_shardings=everywhere)()
    with jax.set_mesh(mesh):
        params, value = train(params, x, y)
    found = {name: np.asarray(leaf) for name, leaf in params.items()}
    np.savez(Path(folder) / f"{process}.npz", loss=np.asarray(value), **found)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(process), port, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
    expected, value = train(make_params(), *map(jnp.asarray, data()))
    assert value < loss(make_params(), *data()) / 20
    for process in range(2):
        found = np.load(tmp_path / f"{process}.npz")
        np.testing.assert_allclose(found["loss"], value, rtol=1e-9)
        for name, leaf in expected.items():
            np.testing.assert_allclose(found[name], leaf, rtol=1e-9)


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
