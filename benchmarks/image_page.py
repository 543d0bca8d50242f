"""The results page's sections on images and on batch sizes."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks import batch_sizes, images
from benchmarks.tables import in_markdown


def image_sections(output: Path) -> Iterator[str]:
    """What the records in `output` have on images; nothing where there are none."""
    if (path := output / "images.csv").exists():
        yield from _nets(pd.read_csv(path))
    if (path := output / "batch_sizes.csv").exists():
        yield from _batch_sizes(pd.read_csv(path))


def _nets(records: pd.DataFrame) -> Iterator[str]:
    devices = ", ".join(records["device"].unique())
    yield "## Images (Tables 1, 2, 4 to 6, Fig. 8)"
    yield f"""\
By `python -m benchmarks images --output benchmarks/results` ({devices}). DSA is the
paper's method: epochs of mini-batches with Adamax, then full-batch updates with DSA,
one an "epoch". The rivals take mini-batches all the way. A gradient evaluation is a
pass over the training set. Scores are per cent on the test images."""
    for (dataset, model), _ in records.groupby(["dataset", "model"], sort=False):
        for title, table in images.tables(records, str(dataset), str(model)):
            yield f"### {title}"
            yield in_markdown(table)
    if (records["model"] == "dnn").any():
        yield "![Training loss of the light net](fig8_dnn_loss.png)"


def _batch_sizes(records: pd.DataFrame) -> Iterator[str]:
    yield "## From which batch size on DSA makes sense"
    yield f"""\
The light net on {records["dataset"].iloc[0].upper()}, each optimizer at its default,
{records["gradient_evaluations"].max()} passes of gradient evaluations at every batch
size (seeds: {records["seed"].nunique()}): training loss (test accuracy)."""
    yield in_markdown(batch_sizes.table(records))
    yield "![Training loss by batch size](batch_sizes.png)"
