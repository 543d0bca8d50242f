"""The paper's claims about its tables (Sec. 3.2), judged by our records."""

import pandas as pd

from benchmarks.claims import Claim, Finding, graded
from benchmarks.optimizers import OPTIMIZERS, PAPER_OPTIMIZERS
from benchmarks.tables import at

RIVALS = tuple(name for name in PAPER_OPTIMIZERS if name != "dsa")
CONVERGED = 0.1  # training loss; the paper gives no number


def mean_by_optimizer(
    records: pd.DataFrame, dataset: str, axis: str, budget: int, column: str
) -> pd.Series:
    """Mean over the seeds of a column, at a budget, for DSA and the paper's rivals."""
    runs = at(records[records["dataset"] == dataset], axis, budget)
    runs = runs[runs["optimizer"].isin(PAPER_OPTIMIZERS)]
    return runs.groupby("optimizer")[column].mean()


def median_loss(records: pd.DataFrame, dataset: str, axis: str) -> pd.DataFrame:
    """Median over the seeds of the training loss: a row a budget, a column a rival."""
    runs = records[records["dataset"] == dataset]
    runs = runs[runs["optimizer"].isin(PAPER_OPTIMIZERS)]
    return runs.pivot_table("train_loss", axis, "optimizer", aggfunc="median")


def first_below(losses: pd.Series, target: float) -> float:
    """The first budget at which a loss trend is at or below a target; NaN if never."""
    below = losses.dropna()
    below = below[below <= target]
    return float("nan") if below.empty else float(below.index[0])


def _after(trend: pd.DataFrame, budget: int) -> "pd.Series[float]":
    """The last loss of each optimizer within a budget."""
    return trend.ffill().loc[:budget].iloc[-1]


def label(name: object) -> str:
    """An optimizer's name for people."""
    return OPTIMIZERS[str(name)].label


def best_everywhere(records: pd.DataFrame, axis: str) -> Finding:
    """Table 7: DSA's accuracy is the highest, or shared, on all four data sets."""
    parts, won = [], 0
    datasets = list(records["dataset"].unique())
    for dataset in datasets:
        accuracy = mean_by_optimizer(records, dataset, axis, 100, "accuracy")
        dsa, rivals = accuracy["dsa"], accuracy.drop("dsa")
        won += dsa >= rivals.max()
        parts.append(
            f"{dataset.upper()} {dsa:.1f} against {rivals.max():.1f} "
            f"({label(rivals.idxmax())})"
        )
    return Finding("; ".join(parts), graded(won, len(datasets)))


def all_right(records: pd.DataFrame, axis: str) -> Finding:
    """Table 7: DSA reaches these accuracies, to within one point."""
    published = {"iris": 100.0, "wine": 100.0, "car": 98.55, "agaricus": 100.0}
    reached = {
        dataset: mean_by_optimizer(records, dataset, axis, 100, "accuracy")["dsa"]
        for dataset in published
    }
    held = sum(reached[name] >= published[name] - 1 for name in published)
    measured = "; ".join(f"{name.upper()} {reached[name]:.1f}" for name in published)
    return Finding(measured, graded(held, len(published)))


def ten_points(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2: on WINE and CAR, DSA's accuracy is about 10 points above any other."""
    gains = {}
    for dataset in ("wine", "car"):
        accuracy = mean_by_optimizer(records, dataset, axis, 100, "accuracy")
        gains[dataset] = accuracy["dsa"] - accuracy.drop("dsa").max()
    held = sum(gain >= 8 for gain in gains.values())
    measured = "; ".join(f"{name.upper()} {gain:+.1f}" for name, gain in gains.items())
    return Finding(measured + " points over the best rival", graded(held, 2))


def double_f1(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2: on WINE and CAR, DSA doubles F1 and recall."""
    parts, held = [], 0
    for dataset in ("wine", "car"):
        for metric in ("f1", "recall"):
            scores = mean_by_optimizer(records, dataset, axis, 100, metric)
            dsa, rivals = scores["dsa"], scores.drop("dsa")
            held += dsa >= 1.8 * rivals.max()
            parts.append(
                f"{dataset.upper()} {metric} ×{dsa / rivals.max():.2f} the best rival, "
                f"×{dsa / rivals.median():.2f} the median"
            )
    return Finding("; ".join(parts), graded(held, 4))


def converges_soon(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2: DSA converges in 50, 60, 30 epochs, and no other in 100: six claims."""
    parts, held = [], 0
    for dataset, soon in {"wine": 50, "car": 60, "agaricus": 30}.items():
        trend = median_loss(records, dataset, axis)
        reached = trend.apply(first_below, target=CONVERGED)
        rival = reached.drop("dsa").min()
        held += bool(reached["dsa"] <= soon) + (not rival <= 100)
        fastest = (
            f"{label(reached.drop('dsa').idxmin())} at {rival:.0f}"
            if rival == rival
            else "no rival"
        )
        parts.append(f"{dataset.upper()}: DSA at {reached['dsa']:.0f}, {fastest}")
    return Finding("; ".join(parts), graded(held, 6))


def only_dsa_to_zero(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2: after 1,000 epochs on IRIS the others are near 0.1, DSA is at 0.

    In part where some seeds of DSA are far from 0: its loss spikes late in training.
    """
    final = _after(median_loss(records, "iris", axis), 1000)
    dsa, rivals = final["dsa"], final.drop("dsa")
    held = bool(dsa < 1e-3) + bool(rivals.min() > 0.03)
    runs = at(records[records["dataset"] == "iris"], axis, 1000)
    losses = runs.loc[runs["optimizer"] == "dsa", "train_loss"]
    spiked = int((losses > CONVERGED).sum())
    steady = spiked == 0
    measured = (
        f"median loss: DSA {dsa:.1g}, best rival {rivals.min():.1g} "
        f"({label(rivals.idxmin())}); of DSA's {len(losses)} seeds {spiked} ended "
        f"above {CONVERGED}, the worst at {losses.max():.1g}"
    )
    return Finding(measured, graded(held + steady, 3))


def thirty_times(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2: on AGARICUS DSA needs 1/30 of the others' epochs for the same loss.

    Against the best rival: in part from 15 times on.
    """
    trend = median_loss(records, "agaricus", axis)
    final = _after(trend, 1000)
    ratios = {name: 1000 / first_below(trend["dsa"], final[name]) for name in RIVALS}
    speedup = pd.Series(ratios).fillna(0)  # a loss that DSA never reaches
    held = bool(speedup.min() >= 30) + bool(speedup.min() >= 15)
    return Finding(
        f"×{speedup.min():.0f} against {label(speedup.idxmin())}, the best rival, "
        f"×{speedup.median():.0f} against the median one",
        graded(held, 2),
    )


CLAIMS = (
    Claim(
        "Table 7",
        "DSA has the best accuracy on all four tables after 100 epochs",
        "100, 100, 98.55, 100 against at best 100, 83.33, 88.73, 99.94",
        best_everywhere,
    ),
    Claim(
        "Table 7",
        "DSA reaches the accuracies printed",
        "IRIS 100; WINE 100; CAR 98.55; AGARICUS 100",
        all_right,
    ),
    Claim(
        "Sec. 3.2",
        "On WINE and CAR accuracy rises by about 10 points",
        "WINE +16.67; CAR +9.82",
        ten_points,
    ),
    Claim(
        "Sec. 3.2",
        "On WINE and CAR F1 and recall double",
        "against the best rival WINE ×1.26, CAR ×1.62",
        double_f1,
    ),
    Claim(
        "Sec. 3.2, Fig. 3",
        "DSA converges within 50 (WINE), 60 (CAR), 30 (AGARICUS) epochs, which is "
        f"impossible for the others (training loss below {CONVERGED})",
        "50, 60, 30; others not in 100",
        converges_soon,
    ),
    Claim(
        "Sec. 3.2, Fig. 4",
        "On IRIS the others stop near 0.1 after 1,000 epochs, only DSA goes to 0",
        "0.1 and 0",
        only_dsa_to_zero,
    ),
    Claim(
        "Sec. 3.2, Fig. 4",
        "On AGARICUS DSA is 30 times faster than the others in 1,000 epochs",
        "×30",
        thirty_times,
    ),
)
