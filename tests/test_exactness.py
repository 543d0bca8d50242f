"""The library walks the very trajectories of the paper's equations (reference.py).

In float64 every step of more than 300 is compared, parameters and rates alike. Sign
methods amplify rounding where a gradient crosses ε or zero, so the cases are ones
whose reference is insensitive: perturbing the start by 1e-13 moves no step by more
than 2e-12, and no η by more than 1e-9.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax.paper import basic_dsa, exponential_dsa, parameterwise_dsa
from tests import reference
from tests.problems import (
    PROBLEMS,
    QUADRATIC,
    REGRESSION,
    ROSENBROCK,
    Problem,
    flatten,
    flatten_rows,
)

STEPS = 320
F32 = np.float32


def library(tx, problem, steps=STEPS, dtype=np.float64, **extra):
    """θ, η and the rates after each step of `tx`, a row per step."""
    extra = extra or {"grad_fn": jax.grad(problem.loss)}

    def step(carry, _):
        params, state = carry
        grads = jax.grad(problem.loss)(params)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        eta = state.lr if hasattr(state, "lr") else state.log2_lr
        return (params, state), (params, eta, dsa_optax.learning_rates(state))

    @jax.jit
    def run(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]

    return tuple(flatten_rows(tree) for tree in run(problem.params(dtype)))


def referee(equation, problem, steps=STEPS):
    """The same three of the reference."""
    start = flatten(problem.start)
    rows = reference.trajectory(equation, start, problem.gradient, steps)
    return tuple(row.reshape(steps, -1) for row in rows)


def assert_same(found, expected, rtol=1e-12):
    for name, a, b in zip(("params", "state", "rates"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=rtol, err_msg=name)
    np.testing.assert_allclose(found[2], expected[2], rtol=10 * rtol, atol=0)


def float64(factory, *args, **options):
    return factory(*args, state_dtype=jnp.float64, **options)


def name(value):
    return value.name if isinstance(value, Problem) else None


# Equations 3 and 4. -------------------------------------------------------------------

LINEAR = [(QUADRATIC, 1e-3, 1e-5), (ROSENBROCK, 3e-4, 1e-8), (REGRESSION, 1e-3, 1e-3)]


@pytest.mark.parametrize(("problem", "init_lr", "step_size"), LINEAR, ids=name)
def test_equation_3(problem, init_lr, step_size):
    found = library(float64(basic_dsa, init_lr, step_size), problem)
    assert_same(found, referee(reference.Basic(init_lr, step_size), problem))


@pytest.mark.parametrize(("problem", "init_lr", "step_size"), LINEAR, ids=name)
def test_equation_4(problem, init_lr, step_size):
    found = library(float64(parameterwise_dsa, init_lr, step_size), problem)
    assert_same(found, referee(reference.Parameterwise(init_lr, step_size), problem))


# Equations 5 and 6. -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "eps", "init", "step_size"),
    [
        (QUADRATIC, 0.0, -12.0, 0.06),
        (QUADRATIC, 1e-8, -12.0, 0.04),
        (QUADRATIC, 1e-2, -12.0, 0.3),
        (ROSENBROCK, 0.0, -12.0, 0.3),
        (ROSENBROCK, 1e-8, -10.0, 0.06),
        (REGRESSION, 0.0, -12.0, 0.3),
        (REGRESSION, 1e-2, -12.0, 0.3),
    ],
    ids=name,
)
def test_equation_5(problem, eps, init, step_size):
    found = library(float64(exponential_dsa, init, step_size, eps=eps), problem)
    assert_same(found, referee(reference.Exponential(init, step_size, eps), problem))


@pytest.mark.parametrize(
    ("problem", "eps", "init", "decrease", "increase"),
    [
        (QUADRATIC, 0.0, -12.0, 0.1, 0.05),
        (QUADRATIC, 1e-8, -12.0, 0.06, 0.03),
        (QUADRATIC, 1e-2, -12.0, 0.6, 0.3),
        (ROSENBROCK, 0.0, -12.0, 0.6, 0.3),
        (ROSENBROCK, 1e-8, -12.0, 0.6, 0.3),
        (REGRESSION, 0.0, -12.0, 0.6, 0.3),
        (REGRESSION, 1e-2, -12.0, 0.6, 0.3),
    ],
    ids=name,
)
def test_equation_6(problem, eps, init, decrease, increase):
    """Algorithm 1, for every ε."""
    found = library(float64(dsa_optax.dsa, init, decrease, increase, eps=eps), problem)
    equation = reference.Algorithm1(init, decrease, increase, eps=eps)
    assert_same(found, referee(equation, problem))


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_the_papers_defaults(problem):
    """`dsa()` is Algorithm 1 with η₀ = -12, β₁ = 0.6, β₂ = 0.3 (Sec. 3.1)."""
    found = library(dsa_optax.dsa(state_dtype=jnp.float64), problem, steps=100)
    assert_same(found, referee(reference.Algorithm1(), problem, steps=100))


# Every option of Algorithm 1. ---------------------------------------------------------

DECAYED = {"bias": False, "kernel": True, "readout": True, "unused": True}
MASK = np.repeat([False, True], [3, 11])  # DECAYED, flattened


@pytest.mark.parametrize(
    "options",
    [
        {"min_log2_lr": -14.0, "max_log2_lr": -8.5},
        {"min_log2_lr": -14.0, "max_log2_lr": -8.5, "eps": 1e-2},
        {"zero_product": "hold"},
        {"zero_product": "hold", "eps": 1e-2},
        {"learning_rate": 0.37},
        {"learning_rate": 4.0, "init_log2_lr": -9.5},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "eps": 1e-2, "learning_rate": 0.37},
        {"weight_decay": 2.5, "zero_product": "hold", "max_log2_lr": -6.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(options):
    """Each constant option of Algorithm 1 acts as in the reference."""
    found = library(float64(dsa_optax.dsa, **options), REGRESSION)
    assert_same(found, referee(reference.Algorithm1(**options), REGRESSION))


@pytest.mark.parametrize("mask", [DECAYED, lambda params: DECAYED], ids=["tree", "fn"])
def test_weight_decay_mask(mask):
    """Only parameters where the mask is True decay, by their own rate."""
    tx = float64(dsa_optax.dsa, weight_decay=0.3, weight_decay_mask=mask)
    equation = reference.Algorithm1(weight_decay=0.3, weight_decay_mask=MASK)
    assert_same(library(tx, REGRESSION), referee(equation, REGRESSION))


def linear(first, last, steps):
    """`optax.linear_schedule` in NumPy."""
    return lambda t: first + (last - first) * min(t / steps, 1.0)


SCHEDULES = {  # dyadic values, for Optax computes them in float32
    "decrease": (0.875, 0.25, 256),
    "increase": (0.0625, 0.375, 128),
    "learning_rate": (3.0, 0.25, 256),
}


@pytest.mark.parametrize(
    ("scheduled", "eps"),
    [
        (["decrease"], 0.0),
        (["increase"], 0.0),
        (["learning_rate"], 0.0),
        (["decrease", "increase", "learning_rate"], 0.0),
        (["decrease"], 1e-2),
        (["increase"], 1e-2),
        (["learning_rate"], 1e-2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_schedules(scheduled, eps):
    """Strides and multiplier may be schedules; the first update sees count 0."""
    found, expected = (
        {key: schedule(*SCHEDULES[key]) for key in scheduled}
        for schedule in (optax.linear_schedule, linear)
    )
    tx = float64(dsa_optax.dsa, eps=eps, weight_decay=0.1, **found)
    equation = reference.Algorithm1(eps=eps, weight_decay=0.1, **expected)
    assert_same(library(tx, REGRESSION), referee(equation, REGRESSION))


def test_value_fn():
    """`value_fn=loss` stands for `grad_fn=jax.grad(loss)`."""
    for tx in (basic_dsa(1e-3, 1e-3), dsa_optax.dsa()):
        by_value = library(tx, REGRESSION, 30, F32, value_fn=REGRESSION.loss)
        by_gradient = library(tx, REGRESSION, 30, F32)
        jax.tree.map(np.testing.assert_array_equal, by_value, by_gradient)


# Float32, as users run it. ------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
@pytest.mark.parametrize(
    ("factory", "equation", "arguments"),
    [
        (basic_dsa, reference.Basic, (3e-4, 1e-8)),
        (parameterwise_dsa, reference.Parameterwise, (3e-4, 1e-8)),
        (exponential_dsa, reference.Exponential, (-12.0, 0.125)),
        (dsa_optax.dsa, reference.Algorithm1, (-12.0, 0.25, 0.125)),
    ],
    ids=["eq3", "eq4", "eq5", "eq6"],
)
def test_float32(problem, factory, equation, arguments):
    """Float32 parameters and state stay near for a hundred steps (dyadic strides)."""
    found = library(factory(*arguments), problem, steps=100, dtype=F32)
    expected = referee(equation(*arguments), problem, steps=100)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)


# Non-finite gradients. ----------------------------------------------------------------

THETA = np.array([1.0, -2.0, 3.0, 4.0])
GRADIENT = np.array([0.5, -2.0, 0.25, 0.0])
PROBE_GRADIENT = np.array([0.4, 1.0, 3.0, 0.7])

EQUATIONS = {
    "eq3": (basic_dsa, reference.Basic, (0.125, 0.05), {}),
    "eq4": (
        parameterwise_dsa,
        reference.Parameterwise,
        (0.125, 0.05),
        {},
    ),
    "eq5": (exponential_dsa, reference.Exponential, (-3.0, 0.25), {}),
    "eq5-eps": (
        exponential_dsa,
        reference.Exponential,
        (-3.0, 0.25),
        {"eps": 0.01},
    ),
    "eq6": (dsa_optax.dsa, reference.Algorithm1, (-3.0,), {}),
    "eq6-eps": (dsa_optax.dsa, reference.Algorithm1, (-3.0,), {"eps": 0.01}),
    "eq6-options": (
        dsa_optax.dsa,
        reference.Algorithm1,
        (-3.0, 0.5, 0.25),
        {"weight_decay": 0.1, "learning_rate": 0.5, "zero_product": "hold"},
    ),
}
BAD = [np.nan, np.inf, -np.inf]
WHERE = [[1], [3], [0, 1, 2, 3]]  # one, one whose gradient is zero, all


def tree(vector):
    """A flat vector as a tree of two leaves."""
    vector = jnp.asarray(vector)
    return {"a": vector[:2], "b": vector[2:]}


def spoilt(gradient):
    """The gradient with what isn't finite in all of these places, and the places."""
    rows = []
    for where in WHERE:
        for bad in BAD:
            row = gradient.copy()
            row[where] = bad
            rows.append((row, where))
    return rows


def steps(key, pairs):
    """θ and η after one step of library and reference from each pair of gradients."""
    factory, equation, arguments, options = EQUATIONS[key]
    tx = float64(factory, *arguments, **options)
    params = tree(THETA)

    @jax.jit
    @jax.vmap
    def found(g, g_probe):
        updates, state = tx.update(
            g, tx.init(params), params, grad_fn=lambda _: g_probe
        )
        eta = state.lr if hasattr(state, "lr") else state.log2_lr
        return optax.apply_updates(params, updates), eta

    many = jax.vmap(tree)
    thetas, etas = found(*(many(np.stack(side)) for side in zip(*pairs, strict=True)))
    equation = equation(*arguments, **options)
    start = equation.init(THETA)
    for i, pair in enumerate(pairs):
        gradients = iter(pair)
        theta, eta = equation.step(0, THETA, start, lambda _, g=gradients: next(g))
        mine = (flatten(jax.tree.map(lambda x, i=i: x[i], t)) for t in (thetas, etas))
        yield tuple(mine), (theta, np.ravel(eta)), np.ravel(start)


@pytest.mark.parametrize("key", EQUATIONS)
def test_non_finite_gradient(key):
    """Where g is not finite nothing moves, decay included, and η stays."""
    rows = spoilt(GRADIENT)
    found = steps(key, [(g, PROBE_GRADIENT) for g, _ in rows])
    for (_, where), ((theta, eta), expected, start) in zip(rows, found, strict=True):
        assert_same((theta, eta, eta), (*expected, expected[1]))
        np.testing.assert_array_equal(theta[where], THETA[where])
        if key != "eq3":
            np.testing.assert_array_equal(eta[where], start[where])
        elif where == WHERE[-1]:
            np.testing.assert_array_equal(eta, start)


@pytest.mark.parametrize("key", EQUATIONS)
def test_non_finite_probe_gradient(key):
    """A non-finite g̃ is an overshoot: rates fall (Eqs. 5, 6) or halve (Eqs. 3, 4)."""
    rows = spoilt(PROBE_GRADIENT)
    each = steps(key, [(GRADIENT, g_probe) for g_probe, _ in rows])
    for (_, where), (found, expected, _) in zip(rows, each, strict=True):
        assert_same((*found, found[1]), (*expected, expected[1]))
        assert np.isfinite(np.concatenate(found)).all()
        eta = found[1] if key == "eq3" else found[1][where]
        if key in ("eq3", "eq4"):
            np.testing.assert_array_equal(eta, 0.0625)
        else:
            fall = {"eq5": 0.25, "eq5-eps": 0.25, "eq6-options": 0.5}.get(key, 0.6)
            np.testing.assert_allclose(eta, -3.0 - fall, rtol=1e-15)


def with_second(first, second):
    """Both gradients with these numbers in the second place."""
    g, g_probe = GRADIENT.copy(), PROBE_GRADIENT.copy()
    g[1], g_probe[1] = first, second
    return g, g_probe


@pytest.mark.parametrize("key", EQUATIONS)
def test_both_gradients_non_finite(key):
    """A non-finite g wins over a non-finite g̃: η stays, and Eq. 3 omits the term."""
    pairs = [with_second(bad, bad) for bad in BAD]
    for (theta, eta), expected, start in steps(key, pairs):
        assert_same((theta, eta, eta), (*expected, expected[1]))
        assert theta[1] == THETA[1]
        if key == "eq3":
            assert eta == pytest.approx(0.125 + 0.05 * (0.5 * 0.4 + 0.25 * 3.0))
        else:
            assert eta[1] == start[1]


@pytest.mark.parametrize("key", ["eq3", "eq4"])
def test_overflowing_product(key):
    """Finite gradients whose product overflows halve the rate of Eqs. 3 and 4."""
    ((found, expected, _),) = steps(key, [with_second(-1e200, -1e200)])
    assert_same((*found, found[1]), (*expected, expected[1]))
    assert found[1][0 if key == "eq3" else 1] == 0.0625


@pytest.mark.parametrize("key", ["eq5-eps", "eq6-eps"])
def test_overflowing_product_with_eps(key):
    """g̃g / (|g̃g| + ε) tends to ±1: an infinite product is no NaN in Eqs. 5 and 6."""
    signs = (1, -1)
    each = steps(key, [with_second(1e200, sign * 1e200) for sign in signs])
    for sign, (found, expected, start) in zip(signs, each, strict=True):
        assert_same((*found, found[1]), (*expected, expected[1]))
        assert np.sign(found[1][1] - start[1]) == sign


@pytest.mark.parametrize("key", EQUATIONS)
def test_the_probe_leaves_a_non_finite_coordinate(key):
    """Where g is not finite the probe θ̃ equals θ, weight decay or not."""
    factory, _, arguments, options = EQUATIONS[key]
    tx = float64(factory, *arguments, **options)
    params = tree(THETA)

    def grad_fn(point):
        kept = point["a"][1] == THETA[1]
        return jax.tree.map(lambda leaf: jnp.where(kept, 1.0, -1.0) + 0 * leaf, point)

    @jax.jit
    @jax.vmap
    def rates(bad):
        g = tree(jnp.array([0.5, 0.0, 0.25, 1.0]).at[1].set(bad))
        _, state = tx.update(g, tx.init(params), params, grad_fn=grad_fn)
        return dsa_optax.learning_rates(state)

    before = flatten(dsa_optax.learning_rates(tx.init(params)))
    each = rates(jnp.array(BAD))
    for i in range(len(BAD)):
        grown = flatten(jax.tree.map(lambda leaf, i=i: leaf[i], each)) > before
        np.testing.assert_array_equal(grown, True if key == "eq3" else [1, 0, 1, 1])


# Trajectories that leave the loss's domain. -------------------------------------------


def arcs_loss(params):
    x = params["x"]
    return -jnp.sum(jnp.sqrt(1 - x**2)) + 0.1 * jnp.sum(x[1:] * x[:-1]) + 0.2 * x[0]


def arcs_gradient(x):
    with np.errstate(invalid="ignore"):
        slope = x / np.sqrt(1 - x**2)
    near = np.concatenate([[0.0], x, [0.0]])
    return slope + 0.1 * (near[2:] + near[:-2]) + 0.2 * (np.arange(len(x)) == 0)


ARCS = Problem(
    "arcs", {"x": np.array([0.9, -0.5, 0.2, 0.05])}, arcs_loss, arcs_gradient
)


def test_trajectory_out_of_the_domain():
    """Probes and steps that leave the domain, where ∇L is NaN, poison nothing."""
    start = ARCS.start["x"]
    probe = start - 2**0.7 * np.sign(arcs_gradient(start))
    expected = referee(reference.Algorithm1(0.7), ARCS, steps=25)
    assert np.isnan(arcs_gradient(probe)).any()  # an overshoot at the first probe,
    assert (np.abs(expected[0][-1]) > 1).any()  # and a step out of the domain
    found = library(float64(dsa_optax.dsa, 0.7), ARCS, steps=25)
    assert np.isfinite(found).all()
    assert_same(found, expected)
