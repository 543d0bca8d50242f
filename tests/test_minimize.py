"""One call that ends: what it returns, why it ends, and what it refuses."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import dsa_optax
from dsa_optax import Reason, minimize
from dsa_optax._minimize import CHUNKS, PATIENCE, _auto
from tests.problems import QUADRATIC, REGRESSION, ROSENBROCK

AUTO = _auto()
"""The default, itself: what is compiled with it serves also where no `tx` is given."""

OPTIMIZERS = {
    "auto_dsa": AUTO,
    "adapt": dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "tensor"),
    "warmup": dsa_optax.adaptive_warmup(optax.sgd(0.01), 5),
    "dsa": dsa_optax.dsa(),
    "two_stage": dsa_optax.two_stage(optax.adam(0.1), dsa_optax.dsa(), 10),
    "adam": optax.adam(0.1),
    "lbfgs": optax.lbfgs(),
}


PLAIN = optax.sgd(0.1)
"""Of what doesn't depend on the optimizer: it compiles in no time."""

SOME = {name: OPTIMIZERS[name] for name in ("auto_dsa", "dsa", "lbfgs")}


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit():
    """Of Optax's own optimizers some promote dtypes silently."""
    with jax.enable_x64(True):
        yield


def parabola(w, center=3.0):
    return jnp.sum((w - center) ** 2) + 1


RAISED = {
    "quadratic": lambda params: QUADRATIC.loss(params) + 1,
    "rosenbrock": lambda params: ROSENBROCK.loss(params) + 1,
}
"""Their minimum has a size; one function for all tests, so as to be compiled once."""


def bowl(w, center, unit, scale):
    return scale * (jnp.sum((w / unit - center) ** 2) + 1)


def bowls_least(begin, center=3.0, unit=1.0, scale=1.0, **options):
    """Of many tests, and compiled once: all that varies is an argument."""
    center, unit, scale = np.full(3, center), np.float64(unit), np.float64(scale)
    return minimize(bowl, np.full(3, begin), center, unit, scale, **options)


def start(problem=REGRESSION):
    return problem.params()


# What is returned ---------------------------------------------------------------------


def spoilt_loss(params, spoilt):
    return REGRESSION.loss(params) + spoilt


value_and_gradient = jax.jit(jax.value_and_grad(spoilt_loss))


@pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_value_is_that_of_the_params_whatever_happens(tx):
    """Also where the loss is no number from step 7 on."""
    options = {"steps": 6, "tx": tx, "gtol": None, "ftol": None}
    found = minimize(spoilt_loss, start(), 0.0, **options)
    value, gradient = value_and_gradient(found.params, 0.0)
    assert found.value == value
    assert found.value == np.min(found.history)
    assert found.steps == len(found.history) == 6
    slope = np.linalg.norm(flat(gradient))
    np.testing.assert_allclose(found.grad_norm, slope, rtol=1e-9)

    spoilt = minimize(spoilt_loss, start(), np.nan, **options, state=found.state)
    assert spoilt.reason == Reason.STEPS_SPENT
    assert np.isnan(spoilt.history).all()
    assert spoilt.value == found.value
    chex.assert_trees_all_equal(spoilt.params, found.params)


@pytest.mark.parametrize("tx", SOME.values(), ids=SOME)
def test_it_is_the_loop_that_one_would_write(tx):
    loss, params = RAISED["rosenbrock"], start(ROSENBROCK)
    found = minimize(loss, params, steps=30, tx=tx, gtol=None, ftol=None)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    state, values = tx.init(params), []
    for _ in range(30):
        params, state, value = step(params, state)
        values.append(value)
    np.testing.assert_allclose(found.history, values, rtol=1e-9)
    chex.assert_trees_all_close(found.state.params, params, rtol=1e-7)


@pytest.mark.parametrize("problem", [QUADRATIC, ROSENBROCK], ids=lambda p: p.name)
def test_it_finds_the_minimum_and_says_so(problem):
    found = minimize(RAISED[problem.name], start(problem))
    value = flat_loss(problem)
    there = optimize.minimize(
        lambda x: value(x) + 1, flat(start(problem)), jac=problem.gradient
    )
    assert found.value <= there.fun * (1 + 1e-8)
    assert found.reason == Reason.CONVERGED
    assert found.steps < 150


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def flat_loss(problem):
    """A problem's loss of a vector, as SciPy wants it."""
    _, unflatten = jax.flatten_util.ravel_pytree(start(problem))
    value = jax.jit(lambda x: problem.loss(unflatten(x)))
    return lambda x: float(value(x))


def test_going_on_is_one_long_run():
    loss, params = RAISED["rosenbrock"], start(ROSENBROCK)
    whole, part = minimize(loss, params), minimize(loss, params, steps=30)
    rest = minimize(loss, params, state=part.state)
    history = np.concatenate([part.history, rest.history])
    np.testing.assert_array_equal(history, whole.history)
    chex.assert_trees_all_equal(rest.params, whole.params)
    assert rest.value == whole.value < part.value
    chex.assert_tree_all_finite(part.state.params)  # its memory wasn't reused


def test_a_run_that_came_to_an_end_may_go_on():
    tx = optax.sgd(0.0)
    first = minimize(parabola, jnp.zeros(2), tx=tx)
    assert (first.steps, first.reason) == (PATIENCE + 1, Reason.NO_PROGRESS)
    second = minimize(parabola, jnp.zeros(2), tx=tx, state=first.state)
    assert second.steps == PATIENCE


def test_the_auxiliary_is_dropped():
    def with_aux(w):
        return parabola(w), {"w": w}

    found = minimize(with_aux, jnp.zeros(2), has_aux=True, steps=10, tx=PLAIN)
    assert found.value == minimize(parabola, jnp.zeros(2), steps=10, tx=PLAIN).value


def test_arguments_do_not_compile_anew():
    traces = []

    def loss(w, center):
        traces.append(w)
        return parabola(w, center)

    def found(center):
        return minimize(loss, jnp.zeros(2), jnp.array(center), tx=PLAIN).params

    np.testing.assert_allclose(found(1.0), 1, rtol=1e-6)
    count = len(traces)
    np.testing.assert_allclose(found(2.0), 2, rtol=1e-6)
    assert len(traces) == count


def test_a_loss_that_cannot_be_hashed():
    class Loss:
        __hash__ = None

        def __call__(self, w):
            return parabola(w)

    assert minimize(Loss(), jnp.zeros(2), tx=PLAIN).reason == Reason.CONVERGED


# Why it ends --------------------------------------------------------------------------


def test_reasons_read_as_sentences():
    for reason in Reason:
        assert str(reason).endswith(".")
        assert Reason(int(jnp.int32(reason))) is reason


def test_spent():
    found = minimize(ROSENBROCK.loss, start(ROSENBROCK), steps=5, tx=PLAIN)
    assert (found.reason, found.steps) == (Reason.STEPS_SPENT, 5)


def test_convergence_knows_no_units():
    center = np.arange(1.0, 4)
    for unit, scale in itertools.product([1e-9, 1.0, 1e9], repeat=2):
        found = bowls_least(unit, center, unit, scale, gtol=1e-6, ftol=None)
        assert found.reason == Reason.CONVERGED, (unit, scale)
        np.testing.assert_allclose(found.value, scale, rtol=1e-9)


def test_gtol_is_what_the_formula_says():
    def loss(params):
        return QUADRATIC.loss(params) + 2

    slopes = jax.jit(jax.value_and_grad(loss))

    def change(found):
        value, grads = slopes(found.params)
        norms = [
            np.linalg.norm(grads[key]) * np.linalg.norm(found.params[key])
            for key in found.params
        ]
        return max(norms) / value

    options = {"tx": optax.sgd(0.01), "ftol": None}  # each step is the best
    found = minimize(loss, start(QUADRATIC), gtol=1e-3, **options)
    assert found.reason == Reason.CONVERGED
    assert change(found) <= 1e-3
    before = minimize(loss, start(QUADRATIC), steps=found.steps - 1, **options)
    assert change(before) > 1e-3


def two_parabolas(params):
    return parabola(params["small"]) + parabola(params["other"])


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3])
def test_a_start_near_zero_is_no_convergence(size):
    """A gradient beside params of such a size is as small as one likes."""
    np.testing.assert_allclose(bowls_least(size).params, 3, rtol=1e-7)
    tree = {"small": np.full(2, size), "other": np.full(2, 2.0)}
    found = minimize(two_parabolas, tree)
    np.testing.assert_allclose(found.params["small"], 3, rtol=1e-7)


def test_a_plateau_above_the_best_is_no_convergence():
    """A step may lead where the slope is nothing; it is not the end."""

    def loss(w):  # flat, and high, beyond 4
        return jnp.where(w > 4, 100.0, (w - 3) ** 2)

    class Leap(optax.GradientTransformation):
        pass

    def update(updates, state, params):
        step = jnp.where(state == 1, 10.0, jnp.where(params > 4, -10.0, -0.4 * updates))
        return step, state + 1

    leap = Leap(lambda params: jnp.zeros([], jnp.int32), update)
    found = minimize(loss, jnp.array(1.0), tx=leap)
    assert found.history[2] == 100
    assert found.value < 1e-8


def test_a_plateau_below_the_start_is_no_convergence():
    """A line begun too high: a step beyond its reach lowers the loss, and is level."""
    x = np.linspace(-5, 5, 60)

    def line(height, center):
        return height * jnp.exp(-(((x - center) / 1.5) ** 2))

    @jax.jit
    def loss(params):
        return jnp.mean((line(**params) - line(1.0, 0.0)) ** 2)

    begin = {"height": np.array(3.0), "center": np.array(0.9)}
    assert loss(begin | {"center": np.array(100.0)}) < loss(begin)
    found = minimize(loss, begin)
    assert found.value < 1e-12


def test_no_progress():
    options = {"tx": optax.sgd(0.9), "gtol": None, "steps": 300}
    found = minimize(parabola, jnp.zeros(2), ftol=0.5, **options)
    assert found.reason == Reason.NO_PROGRESS
    assert minimize(parabola, jnp.zeros(2), ftol=None, **options).steps == 300


def test_a_point_passed_on_the_way_to_a_higher_minimum_is_not_the_end():
    """Rastrigin's function: from some starts the best is on the slope of a well."""

    def rastrigin(x):
        return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))

    shape, dtype = (200, 2), jnp.float32
    starts = jax.random.uniform(jax.random.key(0), shape, dtype, -5, 5)
    found = jax.jit(jax.vmap(functools.partial(minimize, rastrigin)))(starts)
    assert found.params.dtype == found.value.dtype == dtype
    assert np.max(found.grad_norm) < 0.1  # curvature 400, a float32's rounding 1e-7
    chex.assert_trees_all_equal(found.value, np.nanmin(found.history, axis=1))


def test_a_line_search_leaves_what_it_evaluated():
    """As in the loop that Optax's documentation writes for its L-BFGS."""
    evaluations = []

    def loss(params):
        jax.debug.callback(lambda: evaluations.append(1))
        return ROSENBROCK.loss(params)

    tx = optax.lbfgs()

    @jax.jit
    def step(params, state):
        evaluated = optax.value_and_grad_from_state(loss)
        value, grad = evaluated(params, state=state)
        known = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = tx.update(grad, state, params, **known)
        return optax.apply_updates(params, updates), state

    params = start(ROSENBROCK)
    state = tx.init(params)
    for _ in range(20):
        params, state = step(params, state)
    jax.effects_barrier()
    wanted = len(evaluations)
    minimize(loss, start(ROSENBROCK), tx=tx, steps=20, gtol=None, ftol=None)
    jax.effects_barrier()
    assert len(evaluations) == 2 * wanted


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: jnp.sum(w) * jnp.nan,
        lambda w: jnp.sum(jnp.log(w)),
        lambda w: jnp.sum(jnp.sqrt(w)),  # no slope at zero, though a value
    ],
)
def test_not_finite_from_the_start(loss):
    found = minimize(loss, jnp.zeros(2), tx=PLAIN)
    assert (found.reason, found.steps) == (Reason.NOT_FINITE, 1)
    chex.assert_trees_all_equal(found.params, jnp.zeros(2))


@pytest.mark.parametrize("tx", SOME.values(), ids=SOME)
def test_a_loss_that_falls_for_ever(tx):
    found = bowls_least(1.0, center=0.0, scale=-1.0, tx=tx)
    assert np.isfinite(found.value)
    chex.assert_tree_all_finite(found.params)
    np.testing.assert_allclose(found.value, -np.sum(np.square(found.params)) - 1)


def test_a_loss_that_rises_for_ever():
    found = minimize(parabola, jnp.zeros(2), tx=optax.sgd(-0.1))
    chex.assert_trees_all_equal(found.params, jnp.zeros(2))
    assert (found.reason, found.value) == (Reason.NO_PROGRESS, parabola(jnp.zeros(2)))


def test_the_callback_stops_it_and_sees_the_best():
    seen = []

    def callback(so_far):
        seen.append(so_far)
        return so_far.value < 1 + 1e-6

    far = {"begin": 1e6, "center": np.array([1e-6, 1.0, 1e6])}
    found = bowls_least(**far, callback=callback)
    assert found.reason == Reason.STOPPED
    assert [so_far.steps for so_far in seen] == list(range(10, found.steps + 1, 10))
    assert len(seen) > 3
    loss = jax.jit(bowl)
    for so_far in seen:  # still there, though the run reused its memory
        value = loss(so_far.params, far["center"], 1.0, 1.0)
        np.testing.assert_allclose(so_far.value, value, rtol=1e-6)
    plain = bowls_least(**far)
    assert plain.steps > found.steps
    np.testing.assert_array_equal(plain.history[: found.steps], found.history)


def test_progress_is_shown(capsys):
    found = minimize(parabola, jnp.zeros(2), progress=True, steps=3 * CHUNKS, tx=PLAIN)
    assert found.reason == Reason.CONVERGED
    assert "loss=1" in capsys.readouterr().err


# Transformations ----------------------------------------------------------------------


def test_under_vmap_each_ends_by_itself():
    centers = np.array([0.5, 3.0, 40.0])

    @jax.jit
    @jax.vmap
    def found_for(center):
        return minimize(bowl, jnp.ones(3), center, 1.0, 1.0)

    together = jax.tree.map(np.asarray, found_for(centers))
    for i, center in enumerate(centers):
        alone = bowls_least(1.0, center)
        assert together.steps[i] == alone.steps
        assert Reason(int(together.reason[i])) == alone.reason == Reason.CONVERGED
        np.testing.assert_allclose(together.params[i], alone.params, rtol=1e-9)
        history = together.history[i]
        np.testing.assert_allclose(history[: alone.steps], alone.history, rtol=1e-9)
        assert np.isnan(history[alone.steps :]).all()
    of_all = jax.vmap(bowl, in_axes=(0, 0, None, None))
    values = jax.jit(of_all)(together.params, centers, 1.0, 1.0)
    chex.assert_trees_all_equal(together.value, values)


def test_inside_jit():
    found = jax.jit(lambda w: minimize(parabola, w, tx=PLAIN))(jnp.zeros(2))
    assert Reason(int(found.reason)) == Reason.CONVERGED
    np.testing.assert_allclose(found.params, 3, rtol=1e-8)


def test_params_keep_their_dtype():
    """Those of float32 do above, among many starts."""
    dtype = jnp.bfloat16
    found = minimize(lambda w: parabola(w, dtype(3)), jnp.zeros(2, dtype), steps=200)
    assert found.params.dtype == found.value.dtype == dtype
    np.testing.assert_allclose(np.asarray(found.params, float), 3, rtol=0.02)


def test_the_start_is_not_used_up():
    params = start()
    minimize(REGRESSION.loss, params, steps=3, tx=PLAIN)
    chex.assert_trees_all_equal(params, start())


# Bounds -------------------------------------------------------------------------------


def three(least, most):
    """Numbers whose sizes are no further apart than those of a user's."""
    numbers = st.floats(least, most).map(lambda x: round(x, 6))
    return st.lists(numbers, min_size=3, max_size=3).map(np.array)


@settings(max_examples=40, deadline=None)
@given(low=three(-4, 4), width=three(0, 5), begin=three(-9, 9))
def test_a_parabola_in_a_box_ends_at_the_nearest_point(low, width, begin):
    high = low + width
    center = np.array([1.0, -2.0, 0.5])
    found = minimize(parabola, begin, center, bounds=(low, high))
    params = np.asarray(found.params)
    assert np.all((params >= low) & (params <= high))
    np.testing.assert_allclose(params, np.clip(center, low, high), atol=1e-6)
    assert found.reason == Reason.CONVERGED


@pytest.mark.parametrize("name", ["dsa", "lbfgs"])
def test_bounds_whatever_the_optimizer(name):
    """The default's are below, beside those of SciPy."""
    tx = OPTIMIZERS[name]
    low = {"bias": -0.05, "kernel": None, "readout": np.full(3, -0.7), "unused": None}
    steps = minimize(REGRESSION.loss, start(), steps=40, tx=tx, bounds=(low, 0.75))
    assert np.all(steps.params["bias"] >= -0.05)
    assert np.all(steps.params["readout"] >= -0.7)
    assert max(map(np.max, jax.tree.leaves(steps.params))) <= 0.75
    assert steps.value == value_and_gradient(steps.params, 0.0)[0]


@pytest.mark.parametrize("problem", [QUADRATIC, ROSENBROCK], ids=lambda p: p.name)
def test_bounds_beside_those_of_scipy(problem):
    bounds = (-0.5, 0.6)
    found = minimize(problem.loss, start(problem), bounds=bounds)
    x = np.clip(flat(start(problem)), *bounds)
    theirs = optimize.minimize(
        flat_loss(problem),
        x,
        jac=problem.gradient,
        method="L-BFGS-B",
        bounds=[bounds] * len(x),
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    assert found.value <= theirs.fun * (1 + 1e-6) + 1e-15
    ours = flat(found.params)
    assert np.all((ours >= bounds[0]) & (ours <= bounds[1]))
    np.testing.assert_allclose(found.value, flat_loss(problem)(ours), rtol=1e-12)


def test_bounds_may_be_traced():
    def found_for(high):
        return minimize(parabola, jnp.zeros(1), bounds=(None, high), tx=PLAIN)

    found = jax.vmap(found_for)(jnp.array([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(found.params[:, 0], [1, 2, 3], rtol=1e-7)


# Bad input ----------------------------------------------------------------------------

BAD = {
    "no params": ({}, {}, ValueError, "params"),
    "integers": (jnp.zeros(2, int), {}, TypeError, "real floating"),
    "complex": (jnp.zeros(2, complex), {}, TypeError, "real floating"),
    "steps 0": (jnp.zeros(2), {"steps": 0}, ValueError, "positive"),
    "steps 1.5": (jnp.zeros(2), {"steps": 1.5}, TypeError, "integer"),
    "tx": (jnp.zeros(2), {"tx": optax.adam}, TypeError, "optimizer of Optax"),
    "gtol": (jnp.zeros(2), {"gtol": -1.0}, ValueError, "gtol"),
    "ftol": (jnp.zeros(2), {"ftol": "small"}, TypeError, "ftol"),
    "no pair": (jnp.zeros(2), {"bounds": 3.0}, TypeError, "a pair"),
    "crossed": (jnp.zeros(2), {"bounds": (1, 0)}, ValueError, "low <= high"),
    "no number": (jnp.zeros(2), {"bounds": (jnp.nan, 0)}, ValueError, "low <= high"),
    "shape": (jnp.zeros(2), {"bounds": (np.zeros(3), 1)}, ValueError, "its shape"),
    "tree": (jnp.zeros(2), {"bounds": ({"w": 0}, 1)}, ValueError, "like the params"),
    "state": (jnp.zeros(2), {"state": 1}, TypeError, "state"),
}


@pytest.mark.parametrize(("params", "options", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input(params, options, error, words):
    with pytest.raises(error, match=words):
        minimize(lambda w: jnp.sum(jnp.square(w)), params, **options)


@pytest.mark.parametrize(
    ("loss", "has_aux"),
    [
        (lambda w: w, False),
        (lambda w: (jnp.sum(w), w), False),
        (lambda w: jnp.sum(w), True),
        (lambda w: jnp.sum(w).astype(int), False),
        (lambda w: None, False),
    ],
)
def test_a_loss_that_is_no_scalar(loss, has_aux):
    with pytest.raises(TypeError, match="`loss_fn` must return"):
        minimize(loss, jnp.ones(2), has_aux=has_aux)


def test_the_state_of_another_optimizer():
    found = minimize(parabola, jnp.zeros(2), steps=10, tx=PLAIN)
    with pytest.raises(ValueError, match="same `tx`"):
        minimize(parabola, jnp.zeros(2), state=found.state)


def test_the_host_can_not_look_into_jit():
    with pytest.raises(ValueError, match=r"inside jax\.jit"):
        jax.jit(lambda w: minimize(parabola, w, progress=True))(jnp.zeros(2))
