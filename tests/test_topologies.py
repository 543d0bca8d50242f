"""A state has one structure, wherever the params lie and however it is made.

What was saved on eight devices is restored on one, and the reverse, by Orbax and by
`training.fit`. The number of CPU devices is fixed when JAX starts, so that eight of
them are a process of their own, which is this file as a script.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import P

import dsa_optax
from dsa_optax.training import fit

pytestmark = pytest.mark.usefixtures("as_users_run_it")

OPTIMIZERS = {
    "auto_dsa": dsa_optax.auto_dsa(3),
    "light": dsa_optax.auto_dsa(0),
    "parameter": dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "parameter"),
    "tensor": dsa_optax.adapt(optax.contrib.muon(1.0)),
    "global": dsa_optax.adapt(optax.adam(1.0), "global"),
    "blend": dsa_optax.blend(dsa_optax.adapt(optax.sgd(1.0), "global"), optax.sgd(0.1)),
    "dsa": dsa_optax.dsa(),
    "counts": dsa_optax.dsa(state_dtype=jnp.int8),
    "warmup": dsa_optax.adaptive_warmup(optax.adam(1e-3), 10),
    "two_stage": dsa_optax.two_stage(optax.adamax(2e-3), dsa_optax.auto_dsa(3), 2),
}
SPECS = {"w": P("x"), "v": P("x"), "b": P("x"), "scale": P()}


def make_params():
    """Two large leaves of one shape, and two small ones."""
    random = np.random.default_rng(0)
    shapes = {"w": (1040, 16), "v": (1040, 16), "b": (16,), "scale": ()}
    return {
        name: jnp.asarray(random.normal(size=shape) / 4, jnp.float32)
        for name, shape in shapes.items()
    }


def spread(params):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.device_put(
        params, {name: jax.NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    )


def everywhere(params):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.device_put(params, jax.NamedSharding(mesh, P()))


def structure_of(state):
    """Every leaf's path, shape and dtype, as a text that another process can read."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype.name}{leaf.shape}"
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def first_states(params):
    """Of each optimizer, in one program where it is compiled."""
    return {name: tx.init(params) for name, tx in OPTIMIZERS.items()}


INITS = (first_states, jax.jit(first_states))


def structures(states):
    return {name: structure_of(state) for name, state in states.items()}


def trained(name, params):
    """The state after two steps: no number in it is that of the start."""
    tx = OPTIMIZERS[name]
    step = dsa_optax.make_train_step(lambda p: loss(p, *make_data()), tx, donate=False)
    state = tx.init(params)
    for _ in range(2):
        params, state, _ = step(params, state)
    return params, state


def make_data():
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(24, 1040)) / 32, jnp.float32)
    return x, jnp.sin(40 * x[:, :16])


def loss(params, x, y, key=None):
    del key
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean((hidden * (x @ params["v"]) * params["scale"] - y) ** 2)


def fitted(folder, params, epochs):
    return fit(
        loss,
        params,
        make_data(),
        jax.random.key(0),
        first_epochs=0,
        second=OPTIMIZERS["auto_dsa"],
        second_epochs=epochs,
        checkpoint_dir=folder,
        progress=False,
    )


def save(folder, name, carry):
    """By Orbax, and beside it the very numbers."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / name, carry)
    leaves = map(np.asarray, jax.tree.leaves(carry))
    np.savez(folder / f"{name}.npz", *leaves)


def assert_restored(folder, name, params):
    """As Orbax's users do: into what `tx.init` makes of the params that are here."""
    like = jax.tree.map(
        ocp.utils.to_shape_dtype_struct, (params, OPTIMIZERS[name].init(params))
    )
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder / name, like)
    saved = np.load(folder / f"{name}.npz").values()
    for leaf, expected in zip(jax.tree.leaves(restored), saved, strict=True):
        np.testing.assert_array_equal(leaf, expected)


def on_eight(folder):
    """Checks structures, saves, and restores what one device had saved."""
    assert jax.device_count() == 8
    expected = structures(jax.eval_shape(first_states, make_params()))
    for place in (lambda p: p, everywhere, spread):
        params = place(make_params())
        for init in (*INITS, partial(jax.eval_shape, first_states)):
            found = structures(init(params))
            for name in OPTIMIZERS:
                assert found[name] == expected[name], name
    for name in OPTIMIZERS:
        save(folder, name, trained(name, spread(make_params())))
        assert_restored(folder / "of one", name, spread(make_params()))
        print(name, sorted(expected[name].items()), flush=True)
    make = lambda: nnx.Optimizer(
        nnx.Linear(4, 4, rngs=nnx.Rngs(0)), OPTIMIZERS["auto_dsa"], wrt=nnx.Param
    )
    shapes, state = nnx.state(nnx.eval_shape(make)), nnx.state(make())
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    fitted(folder / "fit", spread(make_params()), 3)
    # and goes on where one device was
    fitted(folder / "of one" / "fit", spread(make_params()), 6)


@pytest.fixture(scope="module")
def eight(tmp_path_factory, as_users_run_it):
    """The folder of a process with eight devices, and what it printed."""
    folder = tmp_path_factory.mktemp("eight")
    for name in OPTIMIZERS:
        save(folder / "of one", name, trained(name, make_params()))
    fitted(folder / "of one" / "fit", make_params(), 3)
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=8",
        "NPROC": "16",  # see test_transformations
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder, done


@pytest.mark.slow
def test_what_eight_devices_made_and_restored_is_what_one_makes(eight):
    _, done = eight
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for init in INITS:
        for name, here in structures(init(make_params())).items():
            assert lines[name] == str(sorted(here.items())), name


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_eight_devices_saved_is_restored_on_one(name, eight):
    folder, _ = eight
    assert_restored(folder, name, make_params())


@pytest.mark.slow
def test_fit_goes_on_in_another_topology(eight):
    folder, done = eight
    assert done.returncode == 0, done.stderr
    alone = fitted(None, make_params(), 6)
    for begun in (folder / "fit", folder / "of one" / "fit"):
        gone_on = fitted(begun, make_params(), 6)
        losses = [[row["loss"] for row in run.history] for run in (gone_on, alone)]
        np.testing.assert_allclose(*losses, rtol=1e-4)


if __name__ == "__main__":
    on_eight(Path(sys.argv[1]))
