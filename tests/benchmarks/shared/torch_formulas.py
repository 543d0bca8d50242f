"""The baselines' published formulas in plain NumPy, to check the baselines against.

All but `Rprop` state the algorithm boxes of PyTorch's ``torch.optim`` pages, and
their states start as those pages say. `Rprop` is Rprop+ of Igel and Hüsken (2003),
which PyTorch does not have: ``torch.optim.Rprop`` is their iRprop-.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray


class Formula(Protocol):
    """An optimizer: its first state, and a step from one state to the next."""

    def init(self, params: Array) -> Any: ...

    def step(self, params: Array, grad: Array, state: Any) -> tuple[Array, Any]: ...


@dataclass(frozen=True)
class SGD:
    """b = momentum b + g (first b = g); params -= lr b."""

    lr: float = 0.01
    momentum: float = 0.0

    def init(self, params: Array) -> Array | None:
        return None

    def step(self, params, grad, state):
        buffer = grad if state is None else self.momentum * state + grad
        return params - self.lr * buffer, buffer


@dataclass(frozen=True)
class RMSprop:
    """v = alpha v + (1 - alpha) g²; params -= lr g / (√v + eps)."""

    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8

    def init(self, params: Array) -> Array:
        return np.zeros_like(params)

    def step(self, params, grad, state):
        v = self.alpha * state + (1 - self.alpha) * grad**2
        return params - self.lr * grad / (np.sqrt(v) + self.eps), v


@dataclass(frozen=True)
class Adadelta:
    """d = g √(u + eps) / √(v + eps); params -= lr d; u, v average d², g²."""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6

    def init(self, params: Array) -> tuple[Array, Array]:
        return np.zeros_like(params), np.zeros_like(params)

    def step(self, params, grad, state):
        v, u = state
        v = self.rho * v + (1 - self.rho) * grad**2
        delta = np.sqrt(u + self.eps) / np.sqrt(v + self.eps) * grad
        u = self.rho * u + (1 - self.rho) * delta**2
        return params - self.lr * delta, (v, u)


@dataclass(frozen=True)
class Adagrad:
    """s = s + g²; params -= lr g / (√s + eps)."""

    lr: float = 0.01
    eps: float = 1e-10

    def init(self, params: Array) -> Array:
        return np.zeros_like(params)

    def step(self, params, grad, state):
        total = state + grad**2
        return params - self.lr * grad / (np.sqrt(total) + self.eps), total


@dataclass(frozen=True)
class Adam:
    """params -= lr weight_decay params (AdamW); params -= lr m̂ / (√v̂ + eps)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, params: Array) -> tuple[int, Array, Array]:
        return 0, np.zeros_like(params), np.zeros_like(params)

    def step(self, params, grad, state):
        t, m, v = state
        t = t + 1
        params = params - self.lr * self.weight_decay * params
        m = self.beta1 * m + (1 - self.beta1) * grad
        v = self.beta2 * v + (1 - self.beta2) * grad**2
        m_hat = m / (1 - self.beta1**t)
        v_hat = v / (1 - self.beta2**t)
        return params - self.lr * m_hat / (np.sqrt(v_hat) + self.eps), (t, m, v)


@dataclass(frozen=True)
class Adamax:
    """u = max(beta2 u, |g| + eps); params -= lr m / ((1 - beta1^t) u)."""

    lr: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, params: Array) -> tuple[int, Array, Array]:
        return 0, np.zeros_like(params), np.zeros_like(params)

    def step(self, params, grad, state):
        t, m, u = state
        t = t + 1
        m = self.beta1 * m + (1 - self.beta1) * grad
        u = np.maximum(self.beta2 * u, np.abs(grad) + self.eps)
        return params - self.lr * m / ((1 - self.beta1**t) * u), (t, m, u)


@dataclass(frozen=True)
class Rprop:
    """On a sign change take the last update back, else params -= sign(g) d."""

    lr: float = 0.01
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)

    def init(self, params: Array) -> tuple[Array, Array, Array]:
        zeros = np.zeros_like(params)
        return zeros, np.full_like(params, self.lr), zeros

    def step(self, params, grad, state):
        previous, sizes, update = map(np.copy, state)
        grad = grad.copy()
        for i in range(grad.size):
            if grad[i] * previous[i] > 0:
                sizes[i] = min(sizes[i] * self.etas[1], self.step_sizes[1])
                update[i] = -np.sign(grad[i]) * sizes[i]
            elif grad[i] * previous[i] < 0:
                sizes[i] = max(sizes[i] * self.etas[0], self.step_sizes[0])
                update[i] = -update[i]
                grad[i] = 0
            else:
                update[i] = -np.sign(grad[i]) * sizes[i]
        return params + update, (grad, sizes, update)


@dataclass(frozen=True)
class IRpropMinus:
    """On a sign change g = 0; params -= sign(g) d."""

    lr: float = 0.01
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)

    def init(self, params: Array) -> tuple[Array, Array]:
        return np.zeros_like(params), np.full_like(params, self.lr)

    def step(self, params, grad, state):
        previous, sizes = map(np.copy, state)
        grad = grad.copy()
        for i in range(grad.size):
            if grad[i] * previous[i] > 0:
                sizes[i] = min(sizes[i] * self.etas[1], self.step_sizes[1])
            elif grad[i] * previous[i] < 0:
                sizes[i] = max(sizes[i] * self.etas[0], self.step_sizes[0])
                grad[i] = 0
        return params - sizes * np.sign(grad), (grad, sizes)


FORMULAS: Mapping[str, Formula] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "rmsprop": RMSprop(),
    "adadelta": Adadelta(),
    "adagrad": Adagrad(),
    "adam": Adam(),
    "adamw": Adam(weight_decay=0.01),
    "adamax": Adamax(),
    "rprop": Rprop(),
    "irprop-minus": IRpropMinus(),
}
