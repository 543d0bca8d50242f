"""What a claim of the paper is, and how it is judged.

Every claim is judged twice: with epochs as the budget, as the paper does, and with
gradient evaluations, of which DSA spends two an epoch.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import pandas as pd

Verdict = Literal["holds", "in part", "does not hold"]


class Finding(NamedTuple):
    """What we measured, and what follows for the claim."""

    measured: str
    verdict: Verdict


class Claim(NamedTuple):
    """A claim of the paper.

    Attributes:
      source: where it stands.
      text: what it says.
      published: the paper's figure.
      criterion: when we say that it holds, in words.
      judge: from the records of the experiment and the column that counts the budget
        ("epoch" or "gradient_evaluations") to what we found.
    """

    source: str
    text: str
    published: str
    criterion: str
    judge: Callable[[pd.DataFrame, str], Finding]


def graded(held: int, of: int) -> Verdict:
    """All held: holds. None: does not hold. Else: in part."""
    if held == of:
        return "holds"
    return "in part" if held else "does not hold"
