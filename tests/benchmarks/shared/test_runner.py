"""The runner, and the paper's MLP."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from benchmarks.shared.data.tables import load
from benchmarks.shared.models.mlp import MLP
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.runner import Problem, train

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def count_params(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_mlp_is_the_papers_with_pytorchs_initialisation():
    iris = load("iris")
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
