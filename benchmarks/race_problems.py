"""The problems of the race: full-batch training as the users of DSA meet it.

Every kind of problem stands in both halves: settings may be chosen on `DEVELOPMENT`,
and none was ever chosen on `TEST`. All data ships with scikit-learn or is generated
from a fixed seed. More kinds are in `race_models` and `race_fits`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import race_fits, race_models
from benchmarks.race_parts import (
    Activation,
    Weights,
    cross_entropy,
    init_mlp,
    load_table,
    make_problem,
    mlp,
    runge_kutta,
)
from benchmarks.runner import Problem

# Nets ---------------------------------------------------------------------------------


def tabular_net(
    name: str, hidden: Sequence[int], activation: Activation, standardised: bool
) -> Problem:
    """A net that tells the classes of a table apart; tested on a fifth of the rows."""
    table = load_table(name, standardised)
    x, x_test, y, y_test = train_test_split(*table, test_size=0.2, random_state=0)
    sizes = (x.shape[1], *hidden, int(y.max()) + 1)
    logits = partial(mlp, activation=activation)
    return make_problem(
        partial(init_mlp, sizes),
        lambda p: cross_entropy(logits(p, x), y),
        lambda p: jnp.mean(jnp.argmax(logits(p, x_test), axis=-1) == y_test),
    )


def tabular_regression(hidden: Sequence[int], activation: Activation) -> Problem:
    """A net on scikit-learn's diabetes table, standardised on both sides."""
    x, y = load_table("diabetes", standardised=True)
    y = (y - y.mean()) / y.std()
    sizes = (x.shape[1], *hidden, 1)
    return make_problem(
        partial(init_mlp, sizes),
        lambda p: jnp.mean((mlp(p, x, activation)[:, 0] - y) ** 2),
    )


def logistic_regression(name: str, ridge: float, standardised: bool = True) -> Problem:
    """Softmax regression with a ridge penalty: convex, its optimum above zero."""
    x, y = load_table(name, standardised)
    sizes = (x.shape[1], int(y.max()) + 1)

    def loss(params: Weights) -> jax.Array:
        penalty = jnp.sum(params[0]["w"] ** 2)
        return cross_entropy(mlp(params, x, jnp.tanh), y) + ridge / 2 * penalty

    return make_problem(partial(init_mlp, sizes), loss)


def autoencoder(code: int, activation: Activation) -> Problem:
    """Digits of 8×8 pixels through a bottleneck and back; mean squared error."""
    x, _ = load_table("digits", standardised=False)
    x = x[:600] / 16
    return make_problem(
        partial(init_mlp, (64, 32, code, 32, 64)),
        lambda p: jnp.mean((mlp(p, x, activation) - x) ** 2),
    )


def convolution_net(channels: int, rows: int) -> Problem:
    """Two 3×3 convolutions and a linear layer on digits."""
    x, y = load_table("digits", standardised=False)
    x, y = x[:rows].reshape(-1, 8, 8, 1) / 16, y[:rows]
    kernel = jax.nn.initializers.he_normal()

    def init(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 3)
        return {
            "first": kernel(keys[0], (3, 3, 1, channels)),
            "second": kernel(keys[1], (3, 3, channels, channels)),
            "linear": kernel(keys[2], (4 * channels, 10)),
            "bias": jnp.zeros(10),
        }

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # As patches times kernel: in a scan, XLA's own convolution is slow on the CPU.
        size = x.shape[1] - 2
        parts = [
            x[:, i : i + size, j : j + size] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        ]
        return jax.nn.relu(sum(parts, jnp.zeros(())))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = convolve(convolve(x, params["first"]), params["second"])
        pooled = hidden.reshape(-1, 2, 2, 2, 2, channels).mean(axis=(2, 4))
        logits = pooled.reshape(len(x), -1) @ params["linear"] + params["bias"]
        return cross_entropy(logits, y)

    return make_problem(init, loss)


def attention_net(width: int, rows: int) -> Problem:
    """One block of self-attention over the eight pixel rows of a digit."""
    x, y = load_table("digits", standardised=False)
    x, y = x[:rows].reshape(-1, 8, 8) / 16, y[:rows]
    kernel = jax.nn.initializers.glorot_normal()
    shapes = {
        "embed": (8, width),
        "place": (8, width),
        "query": (width, width),
        "key": (width, width),
        "values": (width, width),
        "up": (width, 2 * width),
        "down": (2 * width, width),
        "head": (width, 10),
    }

    def init(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {
            name: kernel(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def norm(h: jax.Array) -> jax.Array:
        return jax.nn.standardize(h, axis=-1, epsilon=1e-5)

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        h = x @ p["embed"] + p["place"]
        seen = norm(h)
        scores = (seen @ p["query"]) @ (seen @ p["key"]).mT / width**0.5
        h = h + jax.nn.softmax(scores) @ (seen @ p["values"])
        h = h + jax.nn.gelu(norm(h) @ p["up"]) @ p["down"]
        return cross_entropy(norm(h).mean(axis=1) @ p["head"], y)

    return make_problem(init, loss)


# Differential equations ---------------------------------------------------------------


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


def _predator_prey(state: jax.Array, t: jax.Array, params: jax.Array) -> jax.Array:
    """Lotka and Volterra's equations."""
    del t
    (prey, hunter), (a, b, c, d) = state, params
    return jnp.stack([a * prey - b * prey * hunter, c * prey * hunter - d * hunter])


def _damped_pendulum(state: jax.Array, t: jax.Array, params: jax.Array) -> jax.Array:
    """A pendulum with friction, driven at a frequency of 1."""
    (angle, speed), (stiffness, friction, drive) = state, params
    force = drive * jnp.cos(t) - stiffness * jnp.sin(angle) - friction * speed
    return jnp.stack([speed, force])


# Fits ---------------------------------------------------------------------------------


def gaussian_process(rows: int, dimensions: int) -> Problem:
    """Log hyper-parameters of an ARD kernel on diabetes: the negative log likelihood.

    The params are the logarithms of a length scale a feature, amplitude and noise.
    """
    x, y = load_table("diabetes", standardised=True)
    x, y = x[:rows, :dimensions], y[:rows]
    y = (y - y.mean()) / y.std()

    def init(key: jax.Array) -> dict[str, jax.Array]:
        scales = 0.3 * jax.random.normal(key, (dimensions,))
        return {"scales": scales, "amplitude": jnp.zeros(()), "noise": jnp.zeros(())}

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        scaled = x / jnp.exp(p["scales"])
        squares = jnp.sum((scaled[:, None] - scaled) ** 2, axis=-1)
        kernel = jnp.exp(2 * p["amplitude"] - squares / 2)
        noise = jnp.exp(2 * p["noise"]) + 1e-5
        factor = jnp.linalg.cholesky(kernel + noise * jnp.eye(rows))
        white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return jnp.mean(white**2) / 2 + jnp.mean(jnp.log(jnp.diag(factor)))

    return make_problem(init, loss)


def matrix_factorisation(rows: int, columns: int, rank: int, seen: float) -> Problem:
    """Two thin factors of a matrix of that rank, of which a share is seen."""
    random = np.random.default_rng(0)
    left, right = random.normal(size=(rows, rank)), random.normal(size=(rank, columns))
    matrix = jnp.asarray(left @ right / rank**0.5, jnp.float32)
    mask = jnp.asarray(random.uniform(size=(rows, columns)) < seen)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        one, two = jax.random.split(key)
        return {
            "left": 0.1 * jax.random.normal(one, (rows, rank)),
            "right": 0.1 * jax.random.normal(two, (rank, columns)),
        }

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean((p["left"] @ p["right"] - matrix) ** 2, where=mask)

    return make_problem(init, loss)


def peaks_fit(count: int) -> Problem:
    """Height, place and log width of Gaussian peaks, from a noisy spectrum."""
    random = np.random.default_rng(count)
    axis = jnp.linspace(0, 1, 200)
    places = (jnp.arange(count) + 0.5) / count

    def spectrum(p: dict[str, jax.Array]) -> jax.Array:
        distance = (axis[:, None] - p["place"]) / jnp.exp(p["log_width"])
        return jnp.exp(-(distance**2) / 2) @ p["height"]

    truth = {
        "height": jnp.asarray(random.uniform(0.5, 2, count), jnp.float32),
        "place": places,
        "log_width": jnp.asarray(
            np.log(random.uniform(0.02, 0.06, count)), jnp.float32
        ),
    }
    noise = jnp.asarray(random.normal(size=200), jnp.float32)
    seen = spectrum(truth) + 0.01 * noise

    def init(key: jax.Array) -> dict[str, jax.Array]:
        off = 0.02 * jax.random.normal(key, (count,))
        wide = jnp.full(count, np.log(0.05), jnp.float32)
        return {"height": jnp.ones(count), "place": places + off, "log_width": wide}

    return make_problem(init, lambda p: jnp.mean((spectrum(p) - seen) ** 2))


def decays_fit() -> Problem:
    """Two exponential decays and a constant: amplitudes and log rates, nearly alike."""
    axis = jnp.linspace(0, 5, 120)

    def curve(p: jax.Array) -> jax.Array:
        fast, slow = jnp.exp(-jnp.exp(p[3]) * axis), jnp.exp(-jnp.exp(p[4]) * axis)
        return p[0] * fast + p[1] * slow + p[2]

    noise = np.random.default_rng(1).normal(size=120).astype(np.float32)
    seen = curve(jnp.array([3.0, 1.0, 0.2, 1.0, -0.7])) + 0.01 * noise
    start = jnp.array([1.0, 1.0, 0.0, 0.5, -0.5])
    return make_problem(
        lambda key: start + 0.1 * jax.random.normal(key, (5,)),
        lambda p: jnp.mean((curve(p) - seen) ** 2),
    )


# Test functions -----------------------------------------------------------------------


def quadratic(condition: float, rotated: bool, size: int = 50) -> Problem:
    """½ wᵀHw, its eigenvalues spread evenly in the logarithm from 1/condition to 1."""
    values = np.logspace(-np.log10(condition), 0, size)
    random = np.random.default_rng(int(np.log10(condition)))
    basis = np.linalg.qr(random.normal(size=(size, size)))[0] if rotated else None
    hessian = np.diag(values) if basis is None else basis * values @ basis.T
    h = jnp.asarray(hessian, jnp.float32)
    return make_problem(
        lambda key: jax.random.normal(key, (size,)),
        lambda w: w @ h @ w / 2,
    )


def rosenbrock(size: int) -> Problem:
    """The chained banana valley, from (−1.2, 1, −1.2, 1, …) and a little noise."""
    start = jnp.tile(jnp.array([-1.2, 1.0]), size // 2)
    return make_problem(
        lambda key: start + 0.1 * jax.random.normal(key, (size,)),
        lambda w: jnp.mean(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2),
    )


def powell(size: int) -> Problem:
    """Powell's singular function: its Hessian at the optimum has no full rank."""
    start = jnp.tile(jnp.array([3.0, -1.0, 0.0, 1.0]), size // 4)

    def loss(w: jax.Array) -> jax.Array:
        a, b, c, d = w.reshape(-1, 4).T
        parts = (a + 10 * b) ** 2 + 5 * (c - d) ** 2
        return jnp.mean(parts + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)

    return make_problem(lambda key: start + 0.1 * jax.random.normal(key, (size,)), loss)


DEVELOPMENT: Mapping[str, Callable[[], Problem]] = {
    "wine-raw-deep": partial(tabular_net, "wine", (32, 64, 32), jax.nn.sigmoid, False),
    "digits-shallow": partial(tabular_net, "digits", (32,), jnp.tanh, True),
    "diabetes-net": partial(tabular_regression, (32, 32), jnp.tanh),
    "logistic-cancer": partial(logistic_regression, "breast_cancer", 1e-3),
    "autoencoder-8": partial(autoencoder, 8, jnp.tanh),
    "convolutions": partial(convolution_net, 4, 250),
    "pinn-poisson": poisson,
    "pinn-burgers": burgers,
    "ode-predator-prey": partial(
        ode_fit, _predator_prey, (1.0, 0.5, 0.3, 0.8), (2.0, 1.0), 10.0
    ),
    "gp-diabetes-4": partial(gaussian_process, 40, 4),
    "factors-full": partial(matrix_factorisation, 40, 30, 4, 1.0),
    "peaks-3": partial(peaks_fit, 3),
    "axes-1e4": partial(quadratic, 1e4, False),
    "rotated-1e2": partial(quadratic, 1e2, True),
    "rotated-1e6": partial(quadratic, 1e6, True),
    "rosenbrock-2": partial(rosenbrock, 2),
    "growth-raw": race_fits.growth,
    "diabetes-raw-net": race_models.diabetes_raw,
    "neural-ode-spiral": partial(
        race_models.neural_ode, race_models.spiral, (1.2, 0.0), 5.0, (16,)
    ),
    "elman-chaos": partial(race_models.elman_net, 12),
    "flow-moons": race_models.moons_flow,
    "vae-digits": partial(race_models.digits_vae, 2),
    "survival-diabetes": partial(race_fits.survival, "diabetes", 300, ()),
    "counts-wine": partial(race_fits.poisson_counts, "wine"),
    "kalman-level": partial(race_fits.kalman, [[1.0]], (0.5, 1.5)),
    "tensor-3": partial(race_fits.tensor_factors, (12, 10, 8), 3, 0.0),
    "heat-cooling": partial(race_fits.heat_inversion, 20, heated=False),
}
"""Settings may be chosen on these."""

TEST: Mapping[str, Callable[[], Problem]] = {
    "cancer-raw-shallow": partial(tabular_net, "breast_cancer", (32,), jnp.tanh, False),
    "iris-raw-deep": partial(tabular_net, "iris", (32, 64, 32), jax.nn.relu, False),
    "wine-deep": partial(tabular_net, "wine", (32, 64, 32), jax.nn.sigmoid, True),
    "logistic-digits": partial(logistic_regression, "digits", 1e-2),
    "autoencoder-16": partial(autoencoder, 16, jax.nn.gelu),
    "attention": partial(attention_net, 16, 200),
    "pinn-helmholtz": helmholtz,
    "pinn-wave": wave,
    "ode-pendulum": partial(
        ode_fit, _damped_pendulum, (2.0, 0.3, 1.0), (0.5, 0.0), 15.0
    ),
    "gp-diabetes-10": partial(gaussian_process, 50, 10),
    "factors-half": partial(matrix_factorisation, 60, 40, 5, 0.5),
    "decays": decays_fit,
    "axes-1e2": partial(quadratic, 1e2, False),
    "axes-1e6": partial(quadratic, 1e6, False),
    "rotated-1e4": partial(quadratic, 1e4, True),
    "powell-8": partial(powell, 8),
    "rosenbrock-10": partial(rosenbrock, 10),
    "cooling-raw": race_fits.cooling,
    "proline-raw-net": race_models.proline_raw,
    "neural-ode-pendulum": partial(
        race_models.neural_ode, race_models.pendulum, (2.0, 0.0), 6.0, (12, 12)
    ),
    "gru-digits": partial(race_models.gated_net, 12, 200),
    "flow-wine": race_models.wine_flow,
    "vae-cancer": partial(race_models.cancer_vae, 4),
    "survival-cancer": partial(race_fits.survival, "breast_cancer", 250, (12,)),
    "counts-cancer": partial(race_fits.spread_counts, "breast_cancer"),
    "kalman-trend": partial(
        race_fits.kalman, [[1.0, 1.0], [0.0, 1.0]], (0.5, 0.1, 2.0)
    ),
    "tensor-4": partial(race_fits.tensor_factors, (15, 12, 9), 4, 0.5),
    "heat-heated": partial(race_fits.heat_inversion, 32, heated=True),
}
"""No setting was chosen on these."""
