"""The paper's equations in float64 NumPy: the referee of the library.

Section 2.2 and Algorithm 1 of "Differentiable Self-Adaptive Learning Rate", plus
the rules that the paper leaves open (bounds, weight decay, zero products, non-finite
gradients). Every array is one flat vector with a coordinate per parameter, `gradient`
is g(θ), and `t` counts the updates from 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Schedule = float | Callable[[int], float]


def at(value: Schedule, t: int) -> float:
    """The value of a constant or of a schedule at update t."""
    return value(t) if callable(value) else value


def direction(g, eps):
    """g / (|g| + ε) of Eq. 5, or its limit for ε = 0."""
    return np.sign(g) if eps == 0 else g / (np.abs(g) + eps)


def agreement(g_probe, g, eps):
    """g̃g / (|g̃g| + ε) of Eqs. 5 and 6; a non-finite g̃ is an overshoot, -1."""
    with np.errstate(all="ignore"):
        product = g_probe * g
        exact = (eps == 0) | np.isinf(product)  # an infinite product is past any ε
        smooth = product / (np.abs(product) + (eps or 1.0))
    signs = np.sign(g_probe) * np.sign(g)
    return np.where(np.isfinite(g_probe), np.where(exact, signs, smooth), -1.0)


def known(g):
    """Where g is finite, and g with the rest put to zero."""
    finite = np.isfinite(g)
    return finite, np.where(finite, g, 0.0)


@dataclass(frozen=True)
class Basic:
    """Eq. 3: one rate η for all, moved by β Σ g̃g."""

    init_lr: float
    step_size: float

    def init(self, theta):
        return np.float64(self.init_lr)

    def step(self, t, theta, eta, gradient):
        finite, g = known(gradient(theta))
        g_probe = gradient(theta - eta * g)
        with np.errstate(all="ignore"):
            adapted = eta + self.step_size * np.sum((g_probe * g)[finite])
        eta = adapted if np.isfinite(adapted) else eta / 2
        return theta - eta * g, eta

    def rate(self, t, eta):
        return eta


@dataclass(frozen=True)
class Parameterwise:
    """Eq. 4: a rate η per parameter, moved by β g̃g."""

    init_lr: float
    step_size: float

    def init(self, theta):
        return np.full(theta.shape, float(self.init_lr))

    def step(self, t, theta, eta, gradient):
        finite, g = known(gradient(theta))
        g_probe = gradient(theta - eta * g)
        with np.errstate(all="ignore"):
            adapted = eta + self.step_size * (g_probe * g)
        adapted = np.where(np.isfinite(adapted), adapted, eta / 2)
        eta = np.where(finite, adapted, eta)
        return theta - eta * g, eta

    def rate(self, t, eta):
        return eta


@dataclass(frozen=True)
class Exponential:
    """Eq. 5: steps of 2^η along g / (|g| + ε), η moved by ±β."""

    init_log2_lr: float = -12.0
    step_size: float = 0.3
    eps: float = 0.0

    def init(self, theta):
        return np.full(theta.shape, float(self.init_log2_lr))

    def step(self, t, theta, eta, gradient):
        finite, g = known(gradient(theta))
        d = direction(g, self.eps)
        g_probe = gradient(theta - 2**eta * d)
        s = agreement(g_probe, g, self.eps)
        eta = np.where(finite, eta + self.step_size * s, eta)
        return theta - 2**eta * d, eta

    def rate(self, t, eta):
        return 2**eta


@dataclass(frozen=True)
class Algorithm1:
    """Eq. 6: as Eq. 5, but η falls by β₁ (`decrease`) and rises by β₂ (`increase`)."""

    init_log2_lr: float = -12.0
    decrease: Schedule = 0.6
    increase: Schedule = 0.3
    learning_rate: Schedule = 1.0
    eps: float = 0.0
    min_log2_lr: float = -126.0
    max_log2_lr: float = 126.0
    weight_decay: float = 0.0
    weight_decay_mask: np.ndarray | None = None
    zero_product: str = "drift"

    def init(self, theta):
        return np.full(theta.shape, float(self.init_log2_lr))

    def step(self, t, theta, eta, gradient):
        finite, g = known(gradient(theta))
        masked = True if self.weight_decay_mask is None else self.weight_decay_mask
        d = direction(g, self.eps) + np.where(masked, self.weight_decay * theta, 0.0)
        d = np.where(finite, d, 0.0)

        g_probe = gradient(theta - self.rate(t, eta) * d)
        adapted = self.adapt(t, eta, agreement(g_probe, g, self.eps))
        eta = np.where(finite, adapted, eta)
        return theta - self.rate(t, eta) * d, eta

    def adapt(self, t, eta, s):
        beta_1, beta_2 = at(self.decrease, t), at(self.increase, t)
        move = (beta_1 + beta_2) / 2 * s + (beta_2 - beta_1) / 2
        if self.zero_product == "hold":
            move = np.where(s == 0, 0.0, move)
        return np.clip(eta + move, self.min_log2_lr, self.max_log2_lr)

    def rate(self, t, eta):
        return at(self.learning_rate, t) * 2**eta


def trajectory(equation, theta, gradient, steps):
    """θ, η and the rates after each of the steps, a row per step."""
    eta, rows = equation.init(theta), []
    for t in range(steps):
        theta, eta = equation.step(t, theta, eta, gradient)
        rows.append((theta, eta, equation.rate(t, eta)))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))
