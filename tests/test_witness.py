"""The loss is a witness where slopes alone deceive, and the reach finds itself.

The fits are those whose parameters' sizes aren't their scales: a line of a spectrum at
a wavelength, a sine whose period is nearly known, a resonance.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax
from dsa_optax._reach import reaching
from dsa_optax._step_back import guarded
from tests import reference_adapt as reference

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def losses_of(tx, loss, params, steps, with_value=True):
    """The loss before every step, and the state at the end, of one run."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value} if with_value else {}
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), value

    (_, state), values = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return values, state


# The referee. -------------------------------------------------------------------------


def basin(theta):
    """A minimum in a plain: far from it there is no slope."""
    return jnp.sum(1 - jnp.exp(-(theta**2) / 2))


@pytest.mark.parametrize("granularity", ["parameter", "tensor", "global"])
@pytest.mark.parametrize("first", [3.0, 5.0])
def test_what_the_loss_refuses_is_shortened_to_the_cubics_minimum(granularity, first):
    options = {"init_log2_lr": first, "max_relative_step": 1e3}
    theta, steps = np.array([1.5, -0.7, 0.4]), 40
    tx = dsa_optax.adapt(
        optax.sgd(1.0), granularity, state_dtype=jnp.float64, **options
    )

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(basin)(params)
            updates, state = tx.update(grads, state, params, value=value)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        carry = (params, tx.init(params))
        (_, state), rows = jax.lax.scan(step, carry, length=steps)
        return rows, state.backs

    rows, backs = run(jnp.asarray(theta))
    referee = reference.Adapt(
        (3,), granularity, reference.downhill, decrease=1.0, increase=0.3,
        first_increase=1.0, max_log2_lr=126.0, **options,
    )  # fmt: skip
    expected, _ = reference.trajectory(
        referee,
        theta,
        lambda t: t * np.exp(-(t**2) / 2),
        steps,
        loss=lambda t: np.sum(1 - np.exp(-(t**2) / 2)),
    )
    assert referee.backs == int(backs) > 0
    np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-9)


def test_the_reach_is_the_referees():
    random = np.random.default_rng(0)
    theta = random.normal(size=7)
    tensors = [np.arange(3), np.arange(3, 7)]
    sizes = np.array([np.sqrt(np.mean(theta[t] ** 2)) for t in tensors])
    downhill = optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda updates, state, *_, **__: (
            jax.tree.map(jnp.negative, updates),
            state,
        ),
    )
    tx = guarded(reaching(downhill, 7, jnp.float64))
    update = jax.jit(tx.update)
    split = lambda t: {"a": jnp.asarray(t[:3]), "b": jnp.asarray(t[3:])}
    params, referee = split(theta), reference.Reach(sizes)
    state, cuts = tx.init(params), []
    grad = random.normal(size=7) * 30
    for t in range(40):
        # It turns and shrinks, so that the direction is cut at first and not at last.
        grad = 0.8 * grad + 0.3 * np.linalg.norm(grad) / 7 * random.normal(size=7)
        value = jnp.asarray(-1e9 * t)  # which nobody refuses
        updates, state = update(split(grad), state, params, value=value)
        params = optax.apply_updates(params, updates)
        expected = referee.step(theta, grad, -grad, tensors)
        theta = theta + expected
        found = np.concatenate([updates["a"], updates["b"]])
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert bool(state.inner.cut) == referee.cut
        cuts.append(referee.cut)
    assert 0 < sum(cuts) < len(cuts)
    assert int(state.backs) == 0


@pytest.mark.parametrize(("few", "with_value"), [(3, False), (2, True)])
def test_a_step_is_cautious_without_the_loss_and_for_many(few, with_value):
    def downhill(updates, state, *_, **__):
        return jax.tree.map(jnp.negative, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, downhill)
    tx, params = guarded(reaching(inner, few)), np.ones(3)
    extra = {"value": np.float64(1.0)} if with_value else {}
    updates, _ = jax.jit(tx.update)(100 * params, tx.init(params), params, **extra)
    np.testing.assert_allclose(updates, -0.4 / 8, rtol=1e-6)


# Laws. --------------------------------------------------------------------------------

ROUGH = {
    "auto_dsa": dsa_optax.auto_dsa(),
    "light": dsa_optax.auto_dsa(0),
    "descent": dsa_optax.adapt(optax.sgd(1.0), "global", init_log2_lr=0.0),
    "adam": dsa_optax.adapt(optax.adam(1.0)),
    "blend": dsa_optax.blend(
        dsa_optax.adapt(optax.sgd(1.0), "global"), dsa_optax.adapt(optax.adam(1.0))
    ),
}


def rough(params, waves):
    """Hills without end around a bowl, and plains."""
    x = params["x"]
    hills = jnp.sum(jnp.sin(waves[:, None] * x) ** 2) + jnp.sum(jnp.tanh(x**2))
    return hills + 1e-3 * jnp.sum(x**2)


@functools.cache
def rough_run(name):
    def run(x, waves):
        tx, loss = ROUGH[name], lambda params: rough(params, waves)
        values, state = losses_of(tx, loss, {"x": x}, 150)
        return values, state.values

    return jax.jit(run)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(ROUGH)),
    st.integers(0, 10**6),
    st.sampled_from([1e-6, 1.0, 1e3]),
)
def test_no_run_ends_above_its_start(name, seed, unit):
    random = np.random.default_rng(seed)
    x = unit * random.normal(size=4)
    waves = random.uniform(0.5, 20, size=3) / unit
    values, accepted = rough_run(name)(jnp.asarray(x), jnp.asarray(waves))
    start = float(values[0])
    # The last evaluation may be a trial; what was accepted is what the user is left at.
    assert np.max(accepted) <= start + 1e-12 * abs(start)
    assert np.min(values[-12:]) <= start


DESCENT = dsa_optax.adapt(optax.sgd(1.0), "global")
descend = jax.jit(DESCENT.update)


def test_without_the_value_no_loss_is_remembered():
    tx = ROUGH["auto_dsa"]
    run = jax.jit(lambda params: losses_of(tx, basin, params, 5, with_value=False))
    _, state = run(np.ones(3))
    assert np.all(state.values == np.finfo(np.float64).min)


def test_a_loss_may_rise_where_it_is_not_asked():
    """New data, a penalty that grows: the window is what forgets them."""
    params = np.ones(3)
    state = DESCENT.init(params)
    for t in range(30):
        extra = {} if t >= 15 else {"value": 0.5 * np.sum(params**2)}
        updates, state = descend(params, state, params, **extra)
        params = params + np.asarray(updates)
    assert int(state.backs) == 0
    assert np.all(state.values == np.finfo(np.float64).min)


def test_a_value_that_is_no_number_is_not_remembered():
    params = np.ones(3)
    state = DESCENT.init(params)
    for value in (np.inf, 1.0):
        updates, state = descend(params, state, params, value=np.float64(value))
        params = params + np.asarray(updates)
    assert int(np.sum(state.values > np.finfo(np.float64).min)) == 1


# Fits. --------------------------------------------------------------------------------

UNITS = [1e-6, 1.0, 1e6]


class Fit(NamedTuple):
    """What is fitted: a model at points, the parameters of its data, and the starts.

    Of "center" the spread is around the truth, of the others around zero.
    """

    model: Callable
    x: np.ndarray
    truth: dict[str, float]
    spread: dict[str, tuple[float, float]]

    def starts(self, size):
        random = np.random.default_rng(0)
        return {
            key: (self.truth[key] if key == "center" else 0)
            + random.uniform(low, high, size)
            for key, (low, high) in self.spread.items()
        }


def line(p, x):
    return p["height"] * jnp.exp(-0.5 * ((x - p["center"]) / p["width"]) ** 2)


def line_at(center):
    """A Gaussian line 2 wide."""
    return Fit(
        line,
        np.linspace(center - 10, center + 10, 200),
        {"height": 3.0, "center": center, "width": 2.0},
        {"height": (1, 5), "center": (-2.0, 2.0), "width": (1, 4)},
    )


def sine(p, t):
    return p["height"] * jnp.sin(2 * jnp.pi * t / p["center"] + p["phase"])


def resonance(p, u):
    return p["height"] / (1 + ((u - p["center"]) / p["width"]) ** 2)


FITS = {
    "line at 0": line_at(0.0),
    "line at 300": line_at(300.0),
    "line at 1000": line_at(1000.0),
    "line at 6563": line_at(6563.0),
    "sine": Fit(  # its period is 0.3% off
        sine,
        np.arange(0, 3652.0, 7.0),
        {"height": 1.5, "center": 365.25, "phase": 0.4},
        {"height": (0.7, 2.5), "center": (-1.1, 1.1), "phase": (0.0, 0.8)},
    ),
    "resonance": Fit(
        resonance,
        np.linspace(99.5, 100.5, 400),
        {"height": 2.0, "center": 100.02, "width": 0.05},
        {"height": (1, 3), "center": (-0.06, 0.06), "width": (0.03, 0.1)},
    ),
}


@functools.cache
def fitting(model, steps):
    """Runs from many starts: one program for all units, points and data."""

    def run(start, unit, x, data):
        def loss(params):
            plain = jax.tree.map(lambda p: p / unit, params)
            return jnp.mean((model(plain, x) - data) ** 2)

        return losses_of(ROUGH["auto_dsa"], loss, start, steps)

    return jax.jit(jax.vmap(run, in_axes=(0, None, None, None)))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_fit_far_from_zero_is_solved_from_every_start(fit, unit):
    starts = jax.tree.map(lambda start: unit * start, fit.starts(12))
    data = fit.model(fit.truth, fit.x)
    values, state = fitting(fit.model, 150)(starts, unit, fit.x, data)
    values, lowest = np.asarray(values), np.min(values, axis=1)
    assert (lowest <= 1e-8 * values[:, 0]).all(), lowest / values[:, 0]
    assert (np.max(state.values, axis=1) <= values[:, 0]).all()


def straight(p, x):
    return p["a"] * x + p["b"]


def exponential(p, x):
    return p["c"] * jnp.exp(-p["a"] * x) + p["b"]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("model", "truth"),
    [(straight, {"a": 2.0, "b": 1.0}), (exponential, {"a": 1.3, "b": 0.5, "c": 2.0})],
)
def test_a_tensor_that_begins_near_zero_holds_up_nobody(model, truth, unit):
    near = np.array([1.0, 0.0, 1e-3, 1e-6, 1e-9, 1e-12])
    starts = {key: unit * (near if key == "a" else np.ones(6)) for key in truth}
    x = np.linspace(0, 3, 60)
    values, _ = fitting(model, 300)(starts, unit, x, model(truth, x))
    lowest = np.min(values, axis=1)
    assert (lowest <= 1e-8 * values[:, 0]).all(), lowest / values[:, 0]
