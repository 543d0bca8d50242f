"""The paper's claims about images (Sec. 3.2), judged by our records."""

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmarks.paper.claims import Claim, Finding, graded
from benchmarks.paper.images.runs import last_of_dsa
from benchmarks.paper.published import DNN, FMP, Scores
from benchmarks.paper.tables import at, label
from benchmarks.shared.optimizers.defaults import PAPER_OPTIMIZERS

FAILED = 12.0
"""Accuracy below which a classifier of ten classes has learned nothing."""

UNTESTED = (
    "DSA on SVHN (Tables 1, 2, 5)",
    "the FMP on all of CIFAR-100's training images, five times those here (Table 1)",
)


def image_claims(records: pd.DataFrame) -> Iterator[Claim]:
    """The claims that the records say something about."""
    if _by_dataset(records):
        yield from DNN_CLAIMS
    if _fmp_by_dataset(records):
        yield from FMP_CLAIMS


def _mean(records: pd.DataFrame, axis: str, column: str) -> "pd.Series[float]":
    """Mean over the seeds at DSA's end, by optimizer, of one net on one data set."""
    final = at(records, axis, last_of_dsa(records, axis))
    return final.groupby("optimizer")[column].mean()


def _runs_of(model: str, records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of a net by the paper's optimizers, by data set."""
    nine = records["optimizer"].isin(PAPER_OPTIMIZERS)
    datasets = records[nine & (records["model"] == model)].groupby(
        "dataset", sort=False
    )
    return {str(name): runs for name, runs in datasets}


def _by_dataset(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The light net's runs on each of the paper's data sets, if all nine have run."""
    return {
        name: runs
        for name, runs in _runs_of("dnn", records).items()
        if name in DNN and set(PAPER_OPTIMIZERS) <= set(runs["optimizer"])
    }


def best_of_nine(records: pd.DataFrame, axis: str) -> Finding:
    """Tables 2, 4 and 6: DSA has the best accuracy."""
    parts, held = [], 0
    datasets = _by_dataset(records)
    for name, runs in datasets.items():
        accuracy = _mean(runs, axis, "accuracy")
        rivals = accuracy.drop("dsa")
        held += accuracy["dsa"] >= rivals.max()
        parts.append(
            f"{name.upper()} {accuracy['dsa']:.2f} against {rivals.max():.2f} "
            f"({label(rivals.idxmax())})"
        )
    return Finding("; ".join(parts), graded(held, len(datasets)))


def as_printed(records: pd.DataFrame, axis: str) -> Finding:
    """Tables 2, 4 and 6: DSA's accuracies, to within one point."""
    return _to_within_a_point(_by_dataset(records), DNN, axis)


def _to_within_a_point(
    datasets: Mapping[str, pd.DataFrame],
    published: Mapping[str, Mapping[str, Scores]],
    axis: str,
) -> Finding:
    """Whether DSA's mean accuracy is at most one point below that printed."""
    parts, held = [], 0
    for name, runs in datasets.items():
        accuracy = _mean(runs, axis, "accuracy")["dsa"]
        held += accuracy >= published[name]["dsa"].accuracy - 1
        parts.append(f"{name.upper()} {accuracy:.2f}")
    return Finding("; ".join(parts), graded(held, len(datasets)))


def fastest(records: pd.DataFrame, axis: str) -> Finding:
    """Sec. 3.2, Fig. 8: DSA touches the net's limit more quickly than any other."""
    parts, held = [], 0
    datasets = _by_dataset(records)
    for name, runs in datasets.items():
        loss = _mean(runs, axis, "train_loss")
        rivals = loss.drop("dsa")
        held += loss["dsa"] < rivals.min()
        parts.append(
            f"{name.upper()} {loss['dsa']:.1e} against {rivals.min():.1e} "
            f"({label(rivals.idxmin())})"
        )
    return Finding("; ".join(parts), graded(held, len(datasets)))


def many_fail(records: pd.DataFrame, axis: str) -> Finding:
    """Tables 4 and 6: RMSprop, and on CIFAR-10 Adam and AdamW, learn nothing."""
    failing = {"mnist": ("rmsprop",), "cifar10": ("rmsprop", "adam", "adamw")}
    parts, held, of = [], 0, 0
    for name, runs in _by_dataset(records).items():
        accuracy = _mean(runs, axis, "accuracy")
        for optimizer in failing.get(name, ()):
            of += 1
            held += accuracy[optimizer] < FAILED
            parts.append(f"{name.upper()} {label(optimizer)} {accuracy[optimizer]:.2f}")
    return Finding("; ".join(parts), graded(held, of))


def _fmp_by_dataset(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The FMP's runs at the paper's own width and length, by data set."""
    runs_by_name = _runs_of("fmp", records)
    return {name: runs for name, runs in runs_by_name.items() if name in FMP}


def best_with_fmp(records: pd.DataFrame, axis: str) -> Finding:
    """Table 1: with FMP, DSA is ahead of Adamax, and Adam far behind on MNIST."""
    parts, held = [], 0
    datasets = _fmp_by_dataset(records)
    for name, runs in datasets.items():
        accuracy = _mean(runs, axis, "accuracy")
        held += accuracy["dsa"] > accuracy.drop("dsa").max()
        scores = ", ".join(
            f"{label(name)} {accuracy[name]:.2f}" for name in accuracy.index
        )
        parts.append(f"{name.upper()}: {scores}")
    return Finding("; ".join(parts), graded(held, len(datasets)))


def fmp_as_printed(records: pd.DataFrame, axis: str) -> Finding:
    """Table 1: DSA's accuracies with FMP, to within one point."""
    return _to_within_a_point(_fmp_by_dataset(records), FMP, axis)


DNN_CLAIMS = (
    Claim(
        "Tables 2, 4, 6",
        "On the light net DSA has the best accuracy of the nine",
        "MNIST 98.93 against 99.02 (98.80 in Table 2); CIFAR10 62.15 against 60.23",
        "DSA's mean is at least that of each other, on each data set",
        best_of_nine,
    ),
    Claim(
        "Tables 2, 4, 6",
        "DSA reaches the accuracies printed",
        "MNIST 98.93; CIFAR10 62.15",
        "DSA's mean is at most one point below, on each data set",
        as_printed,
    ),
    Claim(
        "Sec. 3.2, Fig. 8",
        "DSA touches the limit of the light net far more quickly than any other",
        "curves only",
        "DSA's mean training loss is the lowest at the end, on each data set",
        fastest,
    ),
    Claim(
        "Tables 4, 6",
        "RMSprop learns nothing on MNIST, nor do RMSprop, Adam and AdamW on CIFAR-10",
        "11.35; 10, 10, 10",
        f"a mean accuracy below {FAILED:g}, for each of them",
        many_fail,
    ),
)

FMP_CLAIMS = (
    Claim(
        "Table 1",
        "With the fractional max-pooling net DSA is ahead of Adamax and Adam",
        "MNIST 99.73 against 99.52 and 70.21; CIFAR10 88.84 against 86.91; CIFAR100 "
        "59.50 against 51.13",
        "DSA's mean is above theirs, on each data set (of CIFAR-100 a sample)",
        best_with_fmp,
    ),
    Claim(
        "Table 1",
        "DSA reaches the accuracies printed for the fractional max-pooling net",
        "MNIST 99.73; CIFAR10 88.84; CIFAR100 59.50",
        "DSA's mean is at most one point below, on each data set (of CIFAR-100 a "
        "sample)",
        fmp_as_printed,
    ),
)
