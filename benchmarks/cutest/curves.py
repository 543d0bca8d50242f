"""The lowest loss by evaluations, in few characters."""

from typing import NamedTuple

import numpy as np

EXACT = 40
"""Up to here every evaluation is on the grid, and then each 7 % farther."""

_NEGLIGIBLE = 1e-10  # of the way down


class Curve(NamedTuple):
    """How much of a run's whole way down was still to go.

    Attributes:
      evaluations: of the grid; increasing from 1.
      shares: 1 at the start, and 0 where the run's lowest loss was seen.
    """

    evaluations: np.ndarray
    shares: np.ndarray


def grid(budget: int) -> np.ndarray:
    """The counts of evaluations that are told apart; the last is the budget."""
    steps = np.arange(1, 1 + int(np.log(max(budget, EXACT) / EXACT) / np.log(1.07)))
    beyond = np.round(EXACT * 1.07**steps)
    counts = np.concatenate([np.arange(1, EXACT + 1), beyond, [budget]])
    return np.unique(counts[counts <= budget].astype(int))


def pack(evaluations: np.ndarray, losses: np.ndarray, budget: int) -> str:
    """The curve of a run as text, such as `1:1 2:0.25 7:0`.

    A pair is a count of the grid and the share, in three digits, when that changed.

    Args:
      evaluations: when a point was seen; increasing from 1.
      losses: the loss there; infinite for one that doesn't count, but for the first.
      budget: of the run.
    """
    counts = grid(budget)
    lowest = np.minimum.accumulate(losses)
    seen = np.searchsorted(evaluations, counts, side="right") - 1
    whole = losses[0] - lowest[-1]
    left = (lowest[seen] - lowest[-1]) / (whole if whole > 0 else 1.0)
    texts = [f"{share:.3g}" if share > _NEGLIGIBLE else "0" for share in left]
    changes = [i for i in range(len(texts)) if i == 0 or texts[i] != texts[i - 1]]
    return " ".join(f"{counts[i]}:{texts[i]}" for i in changes)


def unpack(text: str) -> Curve:
    """The curve of `pack`."""
    pairs = np.array([pair.split(":") for pair in text.split()], float)
    return Curve(pairs[:, 0], pairs[:, 1])
