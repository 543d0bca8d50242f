"""Draws README's picture, docs/pictures/the_net.png: loss against time.

The net is the race's on Burgers' equation, and trains as users train: a jitted step, or
a jitted gradient, called from Python. Four minutes on two cores; let nothing else run.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import dsa_optax
from benchmarks.shared.problems.equations import burgers

PICTURE = Path(__file__).parent / "pictures" / "the_net.png"
SEEDS, SECONDS = 5, 6.0
TICKS = np.linspace(0, SECONDS, 400)

PROBLEM = burgers()
RATES, STEPS = (0.01, 0.03, 0.1, 0.3), 11_000  # as many as Adam takes in that time

Losses = list[tuple[float, float]]
"""Seconds, compilation apart, and the loss met there."""


class TimeIsUpError(Exception):
    """Ends SciPy."""


def by_steps(tx: optax.GradientTransformation, params: optax.Params) -> Losses:
    """Trains by an Optax optimizer."""
    step = dsa_optax.make_train_step(PROBLEM.loss, tx, donate=False)
    state, met = tx.init(params), []
    step(params, state)
    began = time.perf_counter()
    while not met or met[-1][0] < SECONDS:
        params, state, value = jax.block_until_ready(step(params, state))
        met.append((time.perf_counter() - began, float(value)))
    return met


def by_bfgs(params: optax.Params) -> Losses:
    """Trains by SciPy, which goes on from where it stopped while that helps."""
    start, unravel = ravel_pytree(params)
    call = jax.jit(jax.value_and_grad(lambda flat: PROBLEM.loss(unravel(flat))))
    jax.block_until_ready(call(start))
    met: Losses = []
    began = time.perf_counter()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = call(flat.astype(np.float32))
        met.append((time.perf_counter() - began, float(value)))
        if met[-1][0] > SECONDS:
            raise TimeIsUpError
        return met[-1][1], np.asarray(grad, np.float64)

    point, before = np.asarray(start, np.float64), np.inf
    with suppress(TimeIsUpError):
        while True:
            found = minimize(
                objective, point, jac=True, method="BFGS", options={"gtol": 0}
            )
            if not found.fun < before:
                break
            point, before = found.x, found.fun
    return met


def median(train: Callable[[optax.Params], Losses]) -> np.ndarray:
    """Over the seeds, of the lowest loss so far at each of the ticks."""
    curves = []
    for seed in range(SEEDS):
        seconds, losses = np.transpose(train(PROBLEM.init(jax.random.key(seed))))
        lowest = np.minimum.accumulate(losses)
        places = np.searchsorted(seconds, TICKS, side="right") - 1
        curves.append(lowest[np.maximum(places, 0)])
    return np.median(curves, axis=0)


def adam_by_its_best_rate() -> tuple[float, np.ndarray]:
    """Of four, each decayed by a cosine."""
    curves = {}
    for rate in RATES:
        tx = optax.adam(optax.cosine_decay_schedule(rate, STEPS))
        curves[rate] = median(lambda params, tx=tx: by_steps(tx, params))
    best = min(curves, key=lambda rate: curves[rate][-1])
    return best, curves[best]


def main() -> None:
    """Trains from every seed, and draws the medians."""
    rate, adam = adam_by_its_best_rate()
    curves = {
        f"Adam, the best of four rates ({rate:g}, cosine)": (adam, "#009E73", 1.8),
        "BFGS, SciPy": (median(by_bfgs), "#0072B2", 1.8),
        "auto_dsa(), nothing to set": (
            median(lambda params: by_steps(dsa_optax.auto_dsa(), params)),
            "#D55E00",
            3.0,
        ),
    }
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, (curve, color, width) in curves.items():
        print(f"{name}: {curve[-1]:.1e} after {SECONDS:g} s")
        axes.plot(TICKS, curve, color=color, linewidth=width, label=name)
    axes.set(yscale="log", xlim=(0, SECONDS), ylabel="lowest training loss so far")
    axes.set_xlabel("seconds, compilation apart")
    axes.set_title("A physics-informed net (Burgers' equation): median of five seeds")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
