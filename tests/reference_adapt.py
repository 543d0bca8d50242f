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
    init_log2_lr: float | None
    decrease: float
    increase: float
    first_increase: float
    max_log2_lr: float
    max_relative_step: float
    min_log2_lr: float = -126.0
    least_size: float = 0.05
    grads: list = field(default_factory=list)
    values: list = field(default_factory=list)
    sizes: np.ndarray | None = None
    backs: int = 0

    def begin(self, theta):
        size = sum(self.leaves)
        self.tensors = np.split(np.arange(size), np.cumsum(self.leaves)[:-1])
        self.groups = {
            "parameter": [np.array([i]) for i in range(size)],
            "tensor": self.tensors,
            "global": [np.arange(size)],
        }[self.granularity]
        own = [np.sqrt(np.mean(theta[tensor] ** 2)) for tensor in self.tensors]
        together = np.sqrt(np.mean(theta**2)) if theta.any() else 1.0
        self.sizes = np.array([one if one > 0 else together for one in own])
        self.eta = np.array(
            [
                float(self.init_log2_lr)
                if self.init_log2_lr is not None
                else np.log2(together if self.granularity == "global" else own) - 10
                for own in (self.size_of(group) for group in self.groups)
            ]
        )
        self.ever_too_high = np.zeros(len(self.groups), bool)
        self.last_g = self.last_d = self.before = np.zeros(size)
        self.slope, self.square, self.spoilt, self.left = 0.0, 0.0, 0, 1.0

    def size_of(self, group):
        return next(
            size
            for size, tensor in zip(self.sizes, self.tensors, strict=True)
            if group[0] in tensor
        )

    def step(self, theta, g, value=None):
        """The step from θ with the gradient (and the loss) there; the rates move on."""
        if self.sizes is None:
            self.begin(theta)
        spoilt = np.sum(~np.isfinite(g))
        g = np.where(np.isfinite(g), g, 0.0)
        moved = theta - self.before
        share = self.share_to_keep(g, moved, spoilt, value)
        if share < 1:
            return self.back(share, moved)
        if value is not None:
            self.values.append(value)
        step = self.on(theta, g)
        self.before, self.square = theta, step @ step
        self.slope, self.spoilt, self.left = g @ step, spoilt, 1.0
        return step

    def share_to_keep(self, g, moved, spoilt, value):
        """How much of the last step may stay."""
        as_meant = self.square / 4 < moved @ moved < 4 * self.square
        gone = self.left <= np.finfo(np.float64).eps
        if self.slope == 0 or gone or not as_meant:
            return 1.0
        r = (g @ moved) / -abs(self.slope)
        if spoilt > self.spoilt or r > 1000:
            return 0.1
        if r < -100:
            return 1 / 32
        if value is not None and self.slope < 0 and self.refused(value):
            return np.clip(self.cubic(value, g @ moved), 0.1, 0.5)
        return 1.0

    def refused(self, value):
        """By the rule of Grippo, Lampariello and Lucidi, over ten losses."""
        highest = max(self.values[-10:])
        slack = 8 * np.finfo(np.float64).eps * abs(highest)
        return value > highest + slack + 0.1 * self.slope

    def cubic(self, value, reached):
        """Where the cubic is least that fits losses and slopes at 0 and 1."""
        last = self.values[-1]
        c = np.linalg.solve(
            [[0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1], [3, 2, 1, 0]],
            [last, self.slope, value, reached],
        )
        a, b = 3 * c[0], c[1]
        inner = max(b * b - a * c[2], 0.0)
        return (np.sqrt(inner) - b) / a

    def back(self, share, moved):
        """Shortens the last step, and the rates with it."""
        self.slope, self.left = share * self.slope, share * self.left
        self.square = share**2 * self.square
        self.eta = np.maximum(self.eta + np.log2(share), self.min_log2_lr)
        self.ever_too_high[:] = True
        self.backs += 1
        return (share - 1) * moved

    def on(self, theta, g):
        """The next step."""
        self.grads.append(g)
        d = self.direction(self.grads).copy()
        for k, group in enumerate(self.groups):
            move, too_high = self.move(k, group, g)
            self.ever_too_high[k] |= too_high
            if too_high and self.granularity == "parameter":
                d[group] = 0.0
            eta = max(self.eta[k] + move, self.min_log2_lr)
            self.eta[k] = max(min(eta, self.ceiling(group, d, theta)), -126.0)

        # Uphill, or without a slope, a direction has nothing to tell.
        self.last_g, self.last_d = g, d.copy()
        for group in self.groups:
            if g[group] @ d[group] >= 0:
                self.last_d[group] = 0.0
        return 2.0 ** self.rate_of_each(theta) * d

    def move(self, k, group, g):
        """By how much the rate moves, and whether it was too high."""
        last = self.last_d[group]
        if not last.any():
            return 0.0, False
        r = (g[group] @ last) / (self.last_g[group] @ last)
        too_high = r < 0
        first = not self.ever_too_high[k] and not too_high
        most = self.first_increase if first else self.increase
        wanted = np.inf if r >= 1 else -np.log2(1 - r)
        return np.clip(wanted, -self.decrease, most), too_high

    def ceiling(self, group, d, theta):
        """log2 of the longest step that each tensor that the rate is for allows."""
        ceiling = self.max_log2_lr
        for size, tensor in zip(self.sizes, self.tensors, strict=True):
            mine = np.intersect1d(tensor, group)
            if len(mine) and d[mine].any():
                now = np.sqrt(np.mean(theta[tensor] ** 2))
                length = np.sqrt(np.mean(d[mine] ** 2))
                room = self.max_relative_step * max(now, self.least_size * size)
                ceiling = min(ceiling, np.log2(room / length))
        return ceiling

    def rate_of_each(self, theta):
        eta = np.zeros(len(theta))
        for k, group in enumerate(self.groups):
            eta[group] = self.eta[k]
        return eta


def trajectory(run, theta, gradient, steps, loss=None):
    """θ and η after each of the steps, a row per step."""
    rows = []
    for _ in range(steps):
        value = None if loss is None else loss(theta)
        theta = theta + run.step(theta, gradient(theta), value)
        rows.append((theta, run.eta.copy()))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


@dataclass
class Reach:
    """The rate and the reach of one direction for all, with the loss asked."""

    sizes: np.ndarray
    eta: float = 0.0
    reach: float = np.log2(0.4)
    cut: bool = False
    last: tuple | None = None

    def step(self, theta, g, direction, tensors):
        """The step; `tensors` has the places of each, `direction` is g's."""
        if self.last is not None:
            last_g, last_d = self.last
            r = (g @ last_d) / (last_g @ last_d)
            move = np.inf if r >= 1 else -np.log2(1 - r)
            if self.cut and self.eta >= -3:
                moved = self.reach + np.clip(move, -1, 0.5)
                self.reach = min(moved, np.log2(10))
            else:
                self.eta = min(self.eta + np.clip(move, -1, 1), 1.0)
        shares = [1.0]
        for size, tensor in zip(self.sizes, tensors, strict=True):
            now = np.sqrt(np.mean(theta[tensor] ** 2))
            longest = 2.0**self.reach * max(now, 0.05 * size)
            shares.append(longest / np.sqrt(np.mean(direction[tensor] ** 2)))
        self.cut = min(shares) < 1
        d = min(shares) * direction
        self.last = (g, d)
        return 2.0**self.eta * d


# Quasi-Newton. ------------------------------------------------------------------------


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


def self_scaled(h, s, y, b, few=False):
    """H after a pair, by the formulas of Urbán, Stefanou and Pons (2025)."""
    n, ys, hy = len(s), y @ s, h @ y
    yhy = y @ hy
    k = yhy / ys
    a = max(b * k - 1, np.finfo(float).eps)
    c = np.sqrt(a / (1 + a))
    rho_minus = min(1.0, k * (1 - c))
    theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b))
    theta = min(theta, 0.0) if few else theta
    sigma, rho_plus = 1 + theta * a, min(1.0, 1 / b)
    if theta <= 0:
        tau = min(rho_plus * sigma ** (-1 / (n - 1)), sigma)
    else:
        tau = rho_plus * min(sigma ** (-1 / (n - 1)), 1 / theta)
    phi = (1 - theta) / (1 + a * theta)
    v = np.sqrt(yhy) * (s / ys - hy / yhy)
    inner = h - np.outer(hy, hy) / yhy + phi * np.outer(v, v)
    return inner / tau + np.outer(s, s) / ys


def bfgs(h, s, y):
    """H after a pair, in its product form."""
    left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
    return left @ h @ left.T + np.outer(s, s) / (s @ y)


def self_scaled_directions(thetas, grads, units, blocks=None):
    """The self-scaled direction at each of the points, in these units of the params.

    Of several tensors, which have several units, the first pair scales down to a
    quarter at most. `blocks` has the places of the params of each matrix.
    """
    down = 0.0 if len(set(units)) == 1 else 0.25
    thetas, grads = thetas / units, grads * units
    found = np.zeros_like(grads)
    for block in [np.arange(len(units))] if blocks is None else blocks:
        h = np.eye(len(block)) * max(1.0, 1 / np.linalg.norm(grads[0]))
        first = True
        for t, g in enumerate(grads[:, block]):
            if t:
                before = grads[t - 1, block]
                s, y = thetas[t, block] - thetas[t - 1, block], g - before
                if s @ y > np.finfo(float).eps * np.linalg.norm(s) * np.linalg.norm(y):
                    if first:
                        growth = (s @ y) / (y @ h @ y)
                        h = h * max(growth, down if len(block) > 10 else 1.0)
                        h, first = bfgs(h, s, y), False
                    else:
                        b = (s @ before) ** 2 / (s @ y * (before @ h @ before))
                        h = self_scaled(
                            h, s, y, max(b, (s @ y) / (y @ h @ y)), len(block) <= 10
                        )
            found[t, block] = -h @ g
    return found * units
