"""What explains the tables: variants of DSA on the paper's MLP."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from benchmarks.paper.tables import overview
from benchmarks.shared.optimizers.defaults import PAPER_OPTIMIZERS, Optimizer
from dsa_optax import dsa
from dsa_optax.paper import basic_dsa, exponential_dsa, parameterwise_dsa

VARIANTS_EXPERIMENT = "variants"
STANDARDIZED_EXPERIMENT = "standardized"
EPOCHS = 100
DATASETS = ("wine", "car")  # "the most discriminative", Sec. 3.2

# The paper gives neither η₀ nor β for Eqs. 3 and 4: η₀ from SGD's rate up.
_LINEAR_SETTINGS = tuple(product((0.01, 0.1, 1.0), (0.01, 1.0, 100.0)))

_CALLS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "The exact sign against ε > 0": {
        "dsa eps=0": dsa,
        "dsa eps=1e-12": partial(dsa, eps=1e-12),
        "dsa eps=1e-8": partial(dsa, eps=1e-8),
    },
    "Where the rates start (η₀; the paper's is -12)": {
        f"dsa init_log2_lr={start}": partial(dsa, start)
        for start in (-16, -12, -9, -6, -3)
    },
    "Two strides (Eq. 6) against one (Eq. 5)": {
        "dsa decrease=0.6 increase=0.3": dsa,
        **{
            f"exponential_dsa step_size={step}": partial(exponential_dsa, -12.0, step)
            for step in (0.3, 0.45, 0.6)
        },
    },
    "One linear rate for all (Eq. 3) against one for each (Eq. 4)": {
        f"{name} init_lr={lr:g} step_size={step:g}": partial(make, lr, step)
        for name, make in (
            ("basic_dsa", basic_dsa),
            ("parameterwise_dsa", parameterwise_dsa),
        )
        for lr, step in _LINEAR_SETTINGS
    },
}

QUESTIONS: Mapping[str, Mapping[str, Optimizer]] = {
    question: {
        name: Optimizer(name, call, gradients_per_step=2)
        for name, call in variants.items()
    }
    for question, variants in _CALLS.items()
}
"""Each question, with the variants that answer it."""

VARIANTS: Mapping[str, Optimizer] = {
    name: variant
    for variants in QUESTIONS.values()
    for name, variant in variants.items()
}


def findings(records: pd.DataFrame, tabular: pd.DataFrame) -> Iterator[str]:
    """What each of the tables says, in one line with its figures.

    Args:
      records: of both experiments.
      tabular: the records of the experiment "tabular", on raw features.
    """
    final = records[records["epoch"] == EPOCHS]
    variants = _accuracy(final[final["experiment"] == VARIANTS_EXPERIMENT])
    sign, start, strides, linear = (
        variants[list(names)] for names in QUESTIONS.values()
    )
    yield "ε = 1e-8 in place of the exact sign: " + _points(
        sign["dsa eps=1e-8"] - sign["dsa eps=0"]
    )
    yield "η₀ = -3 in place of -12: " + _points(
        start["dsa init_log2_lr=-3"] - start["dsa init_log2_lr=-12"]
    )
    two = strides.pop("dsa decrease=0.6 increase=0.3")
    yield "The best single stride in place of the paper's two: " + _points(
        strides.max(axis=1) - two
    )
    shared = linear.filter(like="basic_dsa").max(axis=1)
    separate = linear.filter(like="parameterwise_dsa").max(axis=1)
    yield (
        "One rate for each in place of one for all, each at its best setting: "
        f"{_points(separate - shared)}; the paper's DSA in place of the better: "
        + _points(two - linear.max(axis=1))
    )
    raw = _lead(tabular[tabular["epoch"] == EPOCHS])[list(variants.index)]
    scaled = _lead(final[final["experiment"] == STANDARDIZED_EXPERIMENT])
    yield (
        f"DSA's lead over the best of the paper's other eight: raw {_points(raw)}; "
        f"standardised {_points(scaled)}"
    )


def _accuracy(records: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy: a row a data set, a column an optimizer."""
    return records.pivot_table("accuracy", "dataset", "optimizer", sort=False)


def _lead(records: pd.DataFrame) -> "pd.Series[float]":
    accuracy = _accuracy(records)[list(PAPER_OPTIMIZERS)]
    return accuracy["dsa"] - accuracy.drop(columns="dsa").max(axis=1)


def _points(gains: "pd.Series[float]") -> str:
    by_dataset = (f"{str(name).upper()} {gain:+.1f}" for name, gain in gains.items())
    return ", ".join(by_dataset) + " points"


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each question with its table, at the end of training.

    Args:
      records: of both experiments.
    """
    final = records[records["epoch"] == EPOCHS]
    variants = final[final["experiment"] == VARIANTS_EXPERIMENT]
    for question, names in QUESTIONS.items():
        yield question, overview(variants[variants["optimizer"].isin(names)])
    yield (
        "Standardised features",
        overview(final[final["experiment"] == STANDARDIZED_EXPERIMENT]),
    )
