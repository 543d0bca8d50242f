"""The problems of the race: full-batch training as the users of DSA meet it.

Every kind of problem stands in both halves: settings may be chosen on `DEVELOPMENT`,
and none on `TEST` (which was seen once, while one number was weighed). All data ships
with scikit-learn or is generated from a fixed seed.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.shared.problems import models
from benchmarks.shared.problems.curve_fits import cooling, decays_fit, growth, peaks_fit
from benchmarks.shared.problems.equations import (
    burgers,
    damped_pendulum,
    heat_inversion,
    helmholtz,
    ode_fit,
    poisson,
    predator_prey,
    wave,
)
from benchmarks.shared.problems.factors import matrix_factorisation, tensor_factors
from benchmarks.shared.problems.functions import powell, quadratic, rosenbrock
from benchmarks.shared.problems.likelihoods import (
    gaussian_process,
    kalman,
    poisson_counts,
    spread_counts,
    survival,
)
from benchmarks.shared.problems.nets import (
    attention_net,
    autoencoder,
    convolution_net,
    logistic_regression,
    tabular_net,
    tabular_regression,
)
from benchmarks.shared.runner import Problem

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
        ode_fit, predator_prey, (1.0, 0.5, 0.3, 0.8), (2.0, 1.0), 10.0
    ),
    "gp-diabetes-4": partial(gaussian_process, 40, 4),
    "factors-full": partial(matrix_factorisation, 40, 30, 4, 1.0),
    "peaks-3": partial(peaks_fit, 3),
    "axes-1e4": partial(quadratic, 1e4, False),
    "rotated-1e2": partial(quadratic, 1e2, True),
    "rotated-1e6": partial(quadratic, 1e6, True),
    "rosenbrock-2": partial(rosenbrock, 2),
    "growth-raw": growth,
    "diabetes-raw-net": models.diabetes_raw,
    "neural-ode-spiral": partial(
        models.neural_ode, models.spiral, (1.2, 0.0), 5.0, (16,)
    ),
    "elman-chaos": partial(models.elman_net, 12),
    "flow-moons": models.moons_flow,
    "vae-digits": partial(models.digits_vae, 2),
    "survival-diabetes": partial(survival, "diabetes", 300, ()),
    "counts-wine": partial(poisson_counts, "wine"),
    "kalman-level": partial(kalman, [[1.0]], (0.5, 1.5)),
    "tensor-3": partial(tensor_factors, (12, 10, 8), 3, 0.0),
    "heat-cooling": partial(heat_inversion, 20, heated=False),
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
        ode_fit, damped_pendulum, (2.0, 0.3, 1.0), (0.5, 0.0), 15.0
    ),
    "gp-diabetes-10": partial(gaussian_process, 50, 10),
    "factors-half": partial(matrix_factorisation, 60, 40, 5, 0.5),
    "decays": decays_fit,
    "axes-1e2": partial(quadratic, 1e2, False),
    "axes-1e6": partial(quadratic, 1e6, False),
    "rotated-1e4": partial(quadratic, 1e4, True),
    "powell-8": partial(powell, 8),
    "rosenbrock-10": partial(rosenbrock, 10),
    "cooling-raw": cooling,
    "proline-raw-net": models.proline_raw,
    "neural-ode-pendulum": partial(
        models.neural_ode, models.pendulum, (2.0, 0.0), 6.0, (12, 12)
    ),
    "gru-digits": partial(models.gated_net, 12, 200),
    "flow-wine": models.wine_flow,
    "vae-cancer": partial(models.cancer_vae, 4),
    "survival-cancer": partial(survival, "breast_cancer", 250, (12,)),
    "counts-cancer": partial(spread_counts, "breast_cancer"),
    "kalman-trend": partial(kalman, [[1.0, 1.0], [0.0, 1.0]], (0.5, 0.1, 2.0)),
    "tensor-4": partial(tensor_factors, (15, 12, 9), 4, 0.5),
    "heat-heated": partial(heat_inversion, 32, heated=True),
}
"""No setting may be chosen on these."""
