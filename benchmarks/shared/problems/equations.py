"""Differential equations: physics-informed nets, an ODE's parameters, a heat source."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import (
    Weights,
    init_mlp,
    make_problem,
    mlp,
    runge_kutta,
)
from benchmarks.shared.runner import Problem


def _physics_net(
    inputs: int,
    residual: Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array],
    interior: np.ndarray,
    boundary: np.ndarray,
    values: np.ndarray,
    weight: float,
) -> Problem:
    """A net u(x) whose residual is zero inside, and which is `values` on the boundary.

    Args:
      inputs: dimensions of x.
      residual: from u and one point to the residual of the equation there.
      interior: points, shape (n, inputs).
      boundary: points, shape (m, inputs).
      values: u there, shape (m,).
      weight: of the boundary's mean square beside the residual's.
    """
    inside, edge = (jnp.asarray(p, jnp.float32) for p in (interior, boundary))
    wanted = jnp.asarray(values, jnp.float32)

    def loss(params: Weights) -> jax.Array:
        u = lambda x: mlp(params, x, jnp.tanh)[0]
        inner = jax.vmap(lambda x: residual(u, x))(inside)
        outer = jax.vmap(u)(edge) - wanted
        return jnp.mean(inner**2) + weight * jnp.mean(outer**2)

    return make_problem(partial(init_mlp, (inputs, 24, 24, 1)), loss)


def _second(u: Callable[[jax.Array], jax.Array], x: jax.Array, i: int) -> jax.Array:
    """∂²u/∂xᵢ²."""
    along = jnp.zeros_like(x).at[i].set(1)
    slope = lambda x: jax.jvp(u, (x,), (along,))[1]
    return jax.jvp(slope, (x,), (along,))[1]


def _square(n: int) -> np.ndarray:
    """n × n points inside the unit square."""
    axis = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def _edges(n: int, sides: str) -> np.ndarray:
    """n points on each of the sides of the unit square: l, r (of x₀), b, t (of x₁)."""
    axis = np.linspace(0, 1, n)
    end = {"l": (0, 0), "r": (0, 1), "b": (1, 0), "t": (1, 1)}
    parts = []
    for side in sides:
        i, value = end[side]
        part = np.empty((n, 2))
        part[:, i], part[:, 1 - i] = value, axis
        parts.append(part)
    return np.concatenate(parts)


def poisson() -> Problem:
    """−u″ = π² sin πx + 16 π² sin 4πx on [0, 1], u = 0 at both ends."""

    def residual(u: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        source = jnp.sin(jnp.pi * x[0]) + 16 * jnp.sin(4 * jnp.pi * x[0])
        return _second(u, x, 0) / jnp.pi**2 + source

    inside = np.linspace(0, 1, 66)[1:-1, None]
    return _physics_net(1, residual, inside, np.array([[0], [1]]), np.zeros(2), 10)


def helmholtz() -> Problem:
    """∇²u + 4π² u = 2π² sin πx sin 2πy·(−0.5) on the square, u = 0 on its edge."""

    def residual(u: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        wave = jnp.sin(jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])
        laplacian = _second(u, x, 0) + _second(u, x, 1)
        return laplacian / jnp.pi**2 + 4 * u(x) + wave

    edge = _edges(16, "lrbt")
    return _physics_net(2, residual, _square(12), edge, np.zeros(len(edge)), 10)


def burgers() -> Problem:
    """u_t + u u_x = 0.02 u_xx from −sin 2πx, zero at both ends; x₀ is t, x₁ is x."""

    def residual(u: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        u_t, u_x = jax.grad(u)(x)
        return u_t + u(x) * u_x - 0.02 * _second(u, x, 1)

    edge = _edges(24, "lbt")
    start = np.where(edge[:, 0] == 0, -np.sin(2 * np.pi * edge[:, 1]), 0)
    return _physics_net(2, residual, _square(14), edge, start, 10)


def wave() -> Problem:
    """u_tt = u_xx from sin πx at rest, zero at both ends; x₀ is t, x₁ is x."""

    def residual(u: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        return (_second(u, x, 0) - _second(u, x, 1)) / jnp.pi**2

    edge = _edges(24, "lbtr")
    standing = np.sin(np.pi * edge[:, 1]) * np.cos(np.pi * edge[:, 0])
    return _physics_net(2, residual, _square(12), edge, standing, 10)


def ode_fit(
    field: Callable[..., jax.Array],
    truth: Sequence[float],
    start: Sequence[float],
    end: float,
) -> Problem:
    """The positive parameters of an ODE, from 40 noisy points of its solution.

    The params are their logarithms, off by up to a factor of two to begin with.
    """
    times = jnp.linspace(0, end, 40)
    first, log_truth = jnp.asarray(start), jnp.log(jnp.asarray(truth))

    def solve(log_params: jax.Array) -> jax.Array:
        flow = partial(field, params=jnp.exp(log_params))
        return runge_kutta(flow, first, times)

    path = solve(log_truth)
    noise = np.random.default_rng(0).normal(size=path.shape).astype(np.float32)
    seen = path + 0.02 * path.std(axis=0) * noise
    scale = seen.std(axis=0)

    def init(key: jax.Array) -> jax.Array:
        factor = jax.random.uniform(key, log_truth.shape, minval=-1, maxval=1)
        return log_truth + jnp.log(2) * factor

    return make_problem(init, lambda p: jnp.mean(((solve(p) - seen) / scale) ** 2))


def predator_prey(state: jax.Array, t: jax.Array, params: jax.Array) -> jax.Array:
    """Lotka and Volterra's equations."""
    del t
    (prey, hunter), (a, b, c, d) = state, params
    return jnp.stack([a * prey - b * prey * hunter, c * prey * hunter - d * hunter])


def damped_pendulum(state: jax.Array, t: jax.Array, params: jax.Array) -> jax.Array:
    """A pendulum with friction, driven at a frequency of 1."""
    (angle, speed), (stiffness, friction, drive) = state, params
    force = drive * jnp.cos(t) - stiffness * jnp.sin(angle) - friction * speed
    return jnp.stack([speed, force])


def heat_inversion(cells: int, heated: bool) -> Problem:
    """The log conductivity of a rod, from its temperatures; both ends are at zero.

    The params are one logarithm a face between cells, smooth by a small penalty; every
    second cell is seen, at 20 times.

    Args:
      cells: of the rod.
      heated: all along, about a third of the way; else it cools from a bump there.
    """
    place = (np.arange(cells) + 0.5) / cells
    bump = jnp.asarray(np.exp(-(((place - 0.3) / 0.15) ** 2)), jnp.float32)
    start, source = (jnp.zeros(cells), 5 * bump) if heated else (bump, jnp.zeros(cells))
    faces = np.linspace(0, 1, cells + 1)
    differences = jnp.asarray(
        cells * np.diff(np.eye(cells), axis=0, prepend=0, append=0)
    )
    duration = 0.02

    def temperatures(log_conductivity: jax.Array) -> jax.Array:
        flows = jnp.exp(log_conductivity)[:, None] * differences
        # Backward in time, which stays finite at any conductivity.
        stiffness = jnp.eye(cells) + duration * differences.T @ flows
        backward = jnp.linalg.inv(stiffness)

        def step(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            state = backward @ (state + duration * source)
            return state, state[::2]

        return jax.lax.scan(step, start, length=20)[1]

    truth = jnp.asarray(np.sin(2 * np.pi * faces) - 0.5 * (faces > 0.6), jnp.float32)
    seen = temperatures(truth)
    scale = seen.std()
    noise = np.random.default_rng(cells).normal(size=seen.shape).astype(np.float32)
    seen = seen + 0.01 * scale * noise

    def loss(log_conductivity: jax.Array) -> jax.Array:
        off = (temperatures(log_conductivity) - seen) / scale
        rough = jnp.diff(log_conductivity)
        return jnp.mean(off**2) + 1e-4 * jnp.mean(rough**2)

    return make_problem(lambda key: 0.1 * jax.random.normal(key, (cells + 1,)), loss)
