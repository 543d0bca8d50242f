"""Scores of a classifier."""

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support


def scores(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-averaged F1, recall and precision, in per cent."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    accuracy = accuracy_score(labels, predictions)
    named = {"accuracy": accuracy, "f1": f1, "recall": recall, "precision": precision}
    return {name: 100 * float(score) for name, score in named.items()}
