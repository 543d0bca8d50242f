"""Self-adapting rates and L-BFGS's direction in float64 NumPy: the referee.

From the docstrings of `adapt` and `lbfgs_direction`, coordinate by coordinate and rate
by rate, as in reference.py: every array is one flat vector, `gradient` is g(θ), and
`leaves` has the number of coordinates of each leaf of the params.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# Directions, as functions of the gradients up to now, the newest last. ----------------


def downhill(grads):
    """−g: `optax.sgd(1.0)`."""
    return -grads[-1]


def signs(grads):
    """−sign(g)."""
    return -np.sign(grads[-1])


def heavy_ball(grads, decay=0.9):
    """`optax.sgd(1.0, momentum=decay)`."""
    velocity = np.zeros_like(grads[0])
    for g in grads:
        velocity = g + decay * velocity
    return -velocity


# The rates. ---------------------------------------------------------------------------


@dataclass
class Adapt:
    """One run of `adapt`: the rates, and what they remember of the step before."""

    leaves: tuple[int, ...]
    granularity: str
    direction: Callable
    init_log2_lr: float
    decrease: float
    increase: float
    first_increase: float
    max_log2_lr: float
    max_relative_step: float
    min_log2_lr: float = -126.0
    least_rms: float = 0.05
    eps: float = np.finfo(np.float64).eps
    grads: list = field(default_factory=list)
    largest: float = 0.0

    def __post_init__(self):
        size = sum(self.leaves)
        self.tensors = np.split(np.arange(size), np.cumsum(self.leaves)[:-1])
        self.groups = {
            "parameter": [np.array([i]) for i in range(size)],
            "tensor": self.tensors,
            "global": [np.arange(size)],
        }[self.granularity]
        self.eta = np.full(len(self.groups), float(self.init_log2_lr))
        self.ever_too_high = np.zeros(len(self.groups), bool)
        self.last_g = self.last_d = np.zeros(size)

    def step(self, theta, g):
        """The step from θ with the gradient there; the rates move on."""
        finite = np.isfinite(g)
        g = np.where(finite, g, 0.0)
        self.grads.append(g)
        d = self.direction(self.grads).copy()
        self.largest = max(self.largest, np.max(np.abs(g), initial=0))
        silent = np.max(np.abs(g), initial=0) <= self.eps * self.largest

        for k, group in enumerate(self.groups):
            move, too_high = self.move(k, group, g, finite)
            self.ever_too_high[k] |= too_high
            lost = not finite[group][self.last_d[group] != 0].all()
            if too_high and self.granularity == "parameter":
                d[group] = 0.0
            if lost or not silent:
                eta = max(self.eta[k] + move, self.min_log2_lr)
                self.eta[k] = max(min(eta, self.ceiling(group, d, theta)), -126.0)
        if silent:
            d[:] = 0.0

        # Without a slope, a direction has nothing to tell.
        self.last_g, self.last_d = g, d.copy()
        for group in self.groups:
            if g[group] @ d[group] == 0:
                self.last_d[group] = 0.0
        return 2.0 ** self.rate_of_each(theta) * d

    def move(self, k, group, g, finite):
        """By how much the rate moves, and whether it was too high."""
        last = self.last_d[group]
        if not last.any():
            return 0.0, False
        if not finite[group][last != 0].all():
            return -self.decrease, True
        begin = abs(self.last_g[group] @ last)
        r = (g[group] @ last) / -begin
        too_high = r < 0
        first = not self.ever_too_high[k] and not too_high
        most = self.first_increase if first else self.increase
        wanted = np.inf if r >= 1 else -np.log2(1 - r)
        return np.clip(wanted, -self.decrease, most), too_high

    def ceiling(self, group, d, theta):
        """log2 of the longest step that each tensor that the rate is for allows."""
        ceiling = self.max_log2_lr
        for tensor in self.tensors:
            mine = np.intersect1d(tensor, group)
            if len(mine) and d[mine].any():
                rms = max(np.sqrt(np.mean(theta[tensor] ** 2)), self.least_rms)
                length = np.sqrt(np.mean(d[mine] ** 2))
                allowed = np.log2(self.max_relative_step * rms / length)
                ceiling = min(ceiling, allowed)
        return ceiling

    def rate_of_each(self, theta):
        eta = np.zeros(len(theta))
        for k, group in enumerate(self.groups):
            eta[group] = self.eta[k]
        return eta


def trajectory(run, theta, gradient, steps):
    """θ and η after each of the steps, a row per step."""
    rows = []
    for _ in range(steps):
        theta = theta + run.step(theta, gradient(theta))
        rows.append((theta, run.eta.copy()))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


# L-BFGS. ------------------------------------------------------------------------------


def two_loops(pairs, g):
    """−Hg, by the two-loop recursion over (s, y), the oldest first."""
    if not pairs:
        norm = np.linalg.norm(g)
        return -g * min(1.0, 1 / norm) if norm else -g
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alpha = (s @ q) / (s @ y)
        q = q - alpha * y
        alphas.append(alpha)
    s, y = pairs[-1]
    q = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - (y @ q) / (s @ y))
    return -q


def lbfgs_directions(thetas, grads, memory_size):
    """The direction at each of the points."""
    pairs, directions = [], []
    for t, g in enumerate(grads):
        if t:
            s, y = thetas[t] - thetas[t - 1], g - grads[t - 1]
            if s @ y > np.finfo(float).eps * np.linalg.norm(s) * np.linalg.norm(y):
                pairs = [*pairs, (s, y)][-memory_size:]
        directions.append(two_loops(pairs, g))
    return np.stack(directions)
